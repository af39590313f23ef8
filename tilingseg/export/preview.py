"""A picture of the result to look at: the scene, its classes tinted and outlined, as PNG.

Brightness is for the eye only; the picture is small and carries no georeference. Pillow writes it:
GDAL's driver would leave a side file beside it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING
from zlib import Z_RLE

import numpy as np
from affine import Affine
from PIL import Image
from rasterio.features import rasterize

from tilingseg.atomic import whole
from tilingseg.palette import class_colour
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.grid import Window
    from tilingseg.quicklook import Quicklook

PNG_LEVEL = 1
"""With runs alone instead of repeated strings: a third of the usual time for pictures as small."""
TINT = 0.45
"""Share of the class colour in a tinted pixel, 0…1."""
OUTLINE = (255, 255, 255)
OUTLINE_SHRINK = 3.0
"""Outlines fade where more scene pixels than this fall on one: they would hide small objects."""
EMPTY = (236, 236, 236)
"""Colour of what holds no data."""
OUTLINES_AT_ONCE = 10_000


def write_preview(
    path: Path,
    scene: Quicklook,
    n_classes: int,
    extent: Window,
    drawn: NDArray[np.bool_],
) -> None:
    """Write a PNG of the scene with the mask over it, as large as the reduced copy of the scene.

    Args:
        path: file to write; an existing one is replaced when the new one is whole.
        scene: reduced copy of `extent` and its mask, three bands or one.
        n_classes: classes that the mask may hold.
        extent: the part of the scene that is shown, px.
        drawn: where outlines run, as from `draw_outlines`.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    shape = scene.valid.shape
    colours, shares = _tints(n_classes)
    values = scene.mask.astype(np.intp)
    rest = (1 - shares)[values]
    weight = min(1.0, OUTLINE_SHRINK * max(shape) / max(extent.height, extent.width))
    picture = np.empty((*shape, 3), np.uint8)
    for k in range(3):
        layer = _layer(scene, k)
        layer *= rest
        layer += (shares * colours[k])[values]
        layer[drawn] += weight * (OUTLINE[k] - layer[drawn])
        picture[:, :, k] = np.rint(layer, out=layer)
    with whole(path) as part:
        Image.fromarray(picture).save(part, "PNG", compress_level=PNG_LEVEL, compress_type=Z_RLE)


def draw_outlines(
    outlines: Iterable[BaseGeometry], extent: Window, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which preview pixels outlines run through, bool of `shape`.

    Not beside another thread that uses rasterio: both would mute warnings, which Python does for
    all threads at once.

    Args:
        outlines: polygons or lines, in pixels of the scene: x = column, y = row.
        extent: the part of the scene that is shown, px.
        shape: rows and columns of the preview.
    """
    grid = Affine(extent.width / shape[1], 0, extent.col, 0, extent.height / shape[0], extent.row)
    drawn = np.zeros(shape, np.uint8)
    lines = (shape.boundary if shape.geom_type.endswith("Polygon") else shape for shape in outlines)
    full = (line for line in lines if not line.is_empty)
    while batch := list(islice(full, OUTLINES_AT_ONCE)):
        rasterize(batch, out=drawn, transform=grid, default_value=1)
    return drawn.astype(bool)


def _tints(n_classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a colour, float32 (3, 256), and its share, float32 (256,), for every mask value."""
    colours, shares = np.zeros((3, 256), np.float32), np.zeros(256, np.float32)
    for k in range(n_classes):
        colours[:, BACKGROUND + 1 + k], shares[BACKGROUND + 1 + k] = class_colour(k), TINT
    colours[:, NODATA], shares[NODATA] = EMPTY, 0.5
    return colours, shares


def _layer(scene: Quicklook, k: int) -> NDArray[np.float32]:
    """Return red, green or blue of the scene as float32 (height, width), 0…255."""
    layer: NDArray[np.float32] = scene.pixels[k % len(scene.pixels)].astype(np.float32)
    if scene.pixels.dtype != np.uint8:
        layer = _stretched(layer, scene.valid)
    layer[~scene.valid] = EMPTY[k]
    return layer


def _stretched(band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a band with its 2nd to 98th percentile on 0…255, float32."""
    if not valid.any():
        return band
    low, high = np.percentile(band[valid], (2, 98))
    factor = np.float32(255 / max(float(high - low), 1e-12))
    stretched: NDArray[np.float32] = (band - np.float32(low)) * factor
    return stretched.clip(0, 255)
