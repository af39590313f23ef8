"""Write a finished result as COG, Zarr or preview: by window, in bounded memory.

Every writer takes a path, a `MaskReader` and the window of it that becomes the output (an area of
interest crops). Files and folders appear under their final name when they are whole or not at all;
a full disk is an `OutputError`. The same input gives the same bytes: nothing here writes a date.
Vectors are left to `features`.
"""

from tilingseg.export.cog import write_mask_cog, write_probability_cog
from tilingseg.export.preview import draw_outlines, write_preview
from tilingseg.export.zarr import write_mask_zarr

__all__ = [
    "draw_outlines",
    "write_mask_cog",
    "write_mask_zarr",
    "write_preview",
    "write_probability_cog",
]
