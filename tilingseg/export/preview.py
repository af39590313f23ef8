"""A picture of the result to look at: the scene, its classes tinted and outlined, as PNG.

Brightness is for the eye only; the picture is small and carries no georeference. Pillow writes it:
GDAL's driver would leave a side file beside it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from PIL import Image
from rasterio.features import rasterize

from tilingseg.atomic import whole
from tilingseg.export.windows import moved, windows
from tilingseg.palette import class_colour
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.grid import Window
    from tilingseg.quicklook import Quicklook
    from tilingseg.records import MaskReader

PNG_LEVEL = 2
"""A third of the time of the usual level for pictures as small."""
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
    result: MaskReader,
    extent: Window,
    outlines: Iterable[BaseGeometry] = (),
) -> None:
    """Write a PNG of the scene with the mask over it, as large as the reduced copy of the scene.

    Args:
        path: file to write; an existing one is replaced when the new one is whole.
        scene: reduced copy of `extent`, three bands or one.
        result: the mask.
        extent: the part of the scene and of `result` that is shown, px.
        outlines: polygons or lines to draw, in pixels of the scene: x = column, y = row.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    picture, shape = _scene_picture(scene), scene.valid.shape
    mask = _reduced_mask(result, extent, shape)
    for k in range(len(result.classes)):
        where = mask == BACKGROUND + 1 + k
        colour = np.array(class_colour(k), np.float32)[:, None]
        picture[:, where] = (1 - TINT) * picture[:, where] + TINT * colour
    picture[:, mask == NODATA] = (picture[:, mask == NODATA] + np.array(EMPTY)[:, None]) / 2
    drawn = _drawn(outlines, extent, shape)
    weight = min(1.0, OUTLINE_SHRINK * max(shape) / max(extent.height, extent.width))
    picture[:, drawn] += weight * (np.array(OUTLINE)[:, None] - picture[:, drawn])
    with whole(path) as part:
        pixels = np.moveaxis(np.rint(picture).astype(np.uint8), 0, -1)
        Image.fromarray(pixels).save(part, "PNG", compress_level=PNG_LEVEL)


def _scene_picture(scene: Quicklook) -> NDArray[np.float32]:
    """Return the scene as float32 (3, height, width), 0…255."""
    valid = scene.valid
    picture = np.empty((3, *valid.shape), np.float32)
    picture[:] = scene.pixels
    if scene.pixels.dtype != np.uint8:
        picture = np.stack([_stretched(band, valid) for band in picture])
    picture[:, ~valid] = np.array(EMPTY)[:, None]
    return picture


def _centres(length_px: float, count: int) -> NDArray[np.float64]:
    """Return the centres of `count` equal parts of a length, px."""
    return (np.arange(count, dtype=np.float64) + 0.5) * (length_px / count)


def _inside(
    rows: NDArray[np.float64], cols: NDArray[np.float64], window: Window
) -> tuple[slice, slice]:
    """Return which of the ascending `rows` and `cols` lie in a window."""
    top, bottom = np.searchsorted(rows, (window.row, window.row_stop))
    left, right = np.searchsorted(cols, (window.col, window.col_stop))
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _stretched(band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a band with its 2nd to 98th percentile on 0…255, float32."""
    if not valid.any():
        return band
    low, high = np.percentile(band[valid], (2, 98))
    factor = np.float32(255 / max(float(high - low), 1e-12))
    stretched: NDArray[np.float32] = (band - np.float32(low)) * factor
    return stretched.clip(0, 255)


def _reduced_mask(result: MaskReader, extent: Window, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask value at the centre of every preview pixel, uint8 of `shape`."""
    rows, cols = _centres(extent.height, shape[0]), _centres(extent.width, shape[1])
    reduced = np.full(shape, NODATA, np.uint8)
    for window in windows(extent.height, extent.width):
        to = _inside(rows, cols, window)
        if reduced[to].size:
            row, col = rows[to[0]].astype(int) - window.row, cols[to[1]].astype(int) - window.col
            reduced[to] = result.read_mask(moved(window, extent))[row[:, None], col]
    return reduced


def _drawn(
    outlines: Iterable[BaseGeometry], extent: Window, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which preview pixels the outlines run through, bool of `shape`."""
    grid = Affine(extent.width / shape[1], 0, extent.col, 0, extent.height / shape[0], extent.row)
    drawn = np.zeros(shape, np.uint8)
    lines = (shape.boundary if shape.geom_type.endswith("Polygon") else shape for shape in outlines)
    full = (line for line in lines if not line.is_empty)
    while batch := list(islice(full, OUTLINES_AT_ONCE)):
        rasterize(batch, out=drawn, transform=grid, default_value=1)
    return drawn.astype(bool)
