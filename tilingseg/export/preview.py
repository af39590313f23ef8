"""A picture of the result to look at: the scene, its classes tinted and outlined, as PNG.

Brightness is for the eye only; the picture is small and carries no georeference. The encoder is a
few lines over zlib, so that a picture needs neither Pillow nor a GDAL driver with its side files.
"""

from __future__ import annotations

import struct
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.features import rasterize

from tilingseg.export.palette import class_colour
from tilingseg.export.whole import whole
from tilingseg.export.windows import moved, windows
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.grid import Window
    from tilingseg.records import MaskReader, Scene, SceneReader

PREVIEW_PX = 1600
"""Longer side of a picture, px."""
READ_WHOLE_PX = 4096
"""An extent with a longer side is read reduced."""
TINT = 0.45
"""Share of the class colour in a tinted pixel, 0…1."""
OUTLINE = (255, 255, 255)
EMPTY = (236, 236, 236)
"""Colour of what holds no data."""
OUTLINES_AT_ONCE = 10_000


def write_preview(
    path: Path,
    reader: SceneReader,
    result: MaskReader,
    extent: Window,
    outlines: Iterable[BaseGeometry] = (),
) -> None:
    """Write a PNG of the scene with the mask over it, its longer side at most `PREVIEW_PX`.

    Args:
        path: file to write; an existing one is replaced when the new one is whole.
        reader: the scene that `result` was made from.
        result: the mask.
        extent: the part of both that is shown, px.
        outlines: polygons or lines to draw, in pixels of the scene: x = column, y = row.

    Raises:
        OutputError: the disk is full or cannot be written.
        SceneError: the scene cannot be read.
    """
    shrink = max(1.0, max(extent.height, extent.width) / PREVIEW_PX)
    shape = max(1, int(extent.height / shrink)), max(1, int(extent.width / shrink))
    picture = _scene_picture(reader, extent, shape)
    mask = _reduced_mask(result, extent, shape)
    for k in range(len(result.classes)):
        where = mask == BACKGROUND + 1 + k
        colour = np.array(class_colour(k), np.float32)[:, None]
        picture[:, where] = (1 - TINT) * picture[:, where] + TINT * colour
    picture[:, mask == NODATA] = (picture[:, mask == NODATA] + np.array(EMPTY)[:, None]) / 2
    picture[:, _drawn(outlines, extent, shape)] = np.array(OUTLINE)[:, None]
    with whole(path) as part:
        part.write_bytes(_png(np.moveaxis(np.rint(picture).astype(np.uint8), 0, -1)))


def _scene_picture(
    reader: SceneReader, extent: Window, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the scene as float32 (3, *shape), 0…255."""
    scene = reader.scene
    longest = max(extent.height, extent.width)
    if longest <= READ_WHOLE_PX:
        pixels, valid = reader.read(extent)
        part = (0.0, 0.0, 1.0, 1.0)
    else:
        # a small extent of a large scene needs more of it, within what memory is meant for
        wanted = -(-PREVIEW_PX * max(scene.height, scene.width) // longest)
        pixels, valid = reader.read_reduced(min(wanted, 2 * READ_WHOLE_PX))
        part = (
            extent.row / scene.height,
            extent.col / scene.width,
            extent.row_stop / scene.height,
            extent.col_stop / scene.width,
        )
    bands = _shown_bands(scene)
    colours = np.stack([_stretched(pixels[band], valid) for band in bands])
    colours[:, ~valid] = np.array(EMPTY, np.float32)[:, None]
    step = max(1, int(valid.shape[0] * (part[2] - part[0]) / shape[0]))
    rows = _centres(part[0] * valid.shape[0], part[2] * valid.shape[0], shape[0], step)
    cols = _centres(part[1] * valid.shape[1], part[3] * valid.shape[1], shape[1], step)
    total = np.zeros((len(colours), *shape), np.float32)
    for down in range(step):
        for right in range(step):
            at_row = np.minimum(rows + down, valid.shape[0] - 1)
            at_col = np.minimum(cols + right, valid.shape[1] - 1)
            total += colours[:, at_row[:, None], at_col[None, :]]
    total /= step**2
    return np.broadcast_to(total, (3, *shape)).copy()


def _centres(start: float, stop: float, count: int, step: int) -> NDArray[np.int64]:
    """Return the first of the `step` pixels around the centre of each of `count` equal parts."""
    at = start + (np.arange(count) + 0.5) * ((stop - start) / count) - step / 2 + 0.5
    first: NDArray[np.int64] = np.maximum(np.floor(at), 0).astype(np.int64)
    return first


def _shown_bands(scene: Scene) -> tuple[int, ...]:
    names = [band.name for band in scene.bands]
    if {"red", "green", "blue"} <= set(names):
        return tuple(names.index(name) for name in ("red", "green", "blue"))
    return (0, 1, 2) if len(names) >= 3 else (0,)


def _stretched(band: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a band as float32 0…255; other types than uint8 from their 2nd to 98th percentile."""
    values = band.astype(np.float32)
    if band.dtype == np.uint8 or not valid.any():
        return values
    low, high = np.percentile(values[valid], (2, 98))
    scale = 255 / max(float(high - low), 1e-12)
    stretched: NDArray[np.float32] = np.nan_to_num((values - low) * np.float32(scale))
    return stretched.clip(0, 255)


def _reduced_mask(result: MaskReader, extent: Window, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask value at the centre of every preview pixel, uint8 of `shape`."""
    rows = ((np.arange(shape[0]) + 0.5) * (extent.height / shape[0])).astype(np.int64)
    cols = ((np.arange(shape[1]) + 0.5) * (extent.width / shape[1])).astype(np.int64)
    reduced = np.full(shape, NODATA, np.uint8)
    for window in windows(extent.height, extent.width):
        top, bottom = np.searchsorted(rows, (window.row, window.row_stop))
        left, right = np.searchsorted(cols, (window.col, window.col_stop))
        if top < bottom and left < right:
            mask = result.read_mask(moved(window, extent))
            picked = mask[rows[top:bottom, None] - window.row, cols[None, left:right] - window.col]
            reduced[top:bottom, left:right] = picked
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


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (height, width, 3) as PNG (W3C PNG 3rd edition)."""
    height, width, _ = pixels.shape
    # filter 1: every pixel as the difference to its left neighbour
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    rows = np.insert(differences.reshape(height, -1), 0, 1, axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    packed = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + packed
