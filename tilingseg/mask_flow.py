"""From a mask raster to vectors: the stages without a network, and without what a network needs.

What `tilingseg vectorize` calls. A run calls the same writers on its work store (`outputs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tilingseg.errors import PlanError
from tilingseg.output_folder import OutputFolder, OutputOptions
from tilingseg.progress import silent
from tilingseg.readers.mask_file import open_mask
from tilingseg.vector_outputs import Results, Wanted, write_vectors

if TYPE_CHECKING:
    from tilingseg.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorizeOptions:
    """What the user may ask of `vectorize`."""

    classes: tuple[str, ...] | None = None
    """Classes to vectorise; None: all. For a mask that does not name its classes: what they are
    called, in the order of their values."""
    pixel_m: float | None = None
    """Pixel size of a mask that does not say its own, metres."""
    outputs: OutputOptions = field(default_factory=lambda: OutputOptions(formats=("geojson",)))
    """Formats, and how the vectors are made."""
    overwrite: bool = False
    """Replace files that exist."""


def vectorize(
    uri: str | Path,
    out_dir: str | Path | None = None,
    *,
    options: VectorizeOptions | None = None,
    progress: Progress = silent,
) -> Results:
    """Turn the classes of any mask raster into vectors.

    Args:
        uri: path or URL of a raster of whole numbers; classes are named by the file or its values.
        out_dir: folder of the outputs; None: the current one.
        options: what to do other than by default.
        progress: told how far each stage is.

    Returns:
        Paths and counts.

    Raises:
        TilingSegError: the file is no mask, or the outputs cannot be written.
    """
    options = options or VectorizeOptions()
    mask = open_mask(uri, pixel_m=options.pixel_m, names=options.classes)
    try:
        names = options.classes or mask.classes
        for name in names:
            if name not in mask.classes:
                raise PlanError(
                    f"{uri} has no class {name!r}; it has {', '.join(mask.classes) or 'none'}"
                )
        name = Path(uri).stem.removesuffix("_mask")
        folder = OutputFolder(path=Path(out_dir or "."), scene=name)
        layers = tuple(mask.classes.index(name) for name in names)
        folder.check_layers(names, options.outputs, overwrite=options.overwrite)
        results = Results()
        wanted = Wanted(class_indexes=layers, thresholds=(0.5,) * len(mask.classes))
        write_vectors(mask, wanted, folder, options.outputs, results, progress)
        return results
    finally:
        mask.close()
