"""Polygons end where the data ends.

Fitted walls and smoothed outlines move by a pixel or so, and some would move over pixels that hold
no data. What lies there is cut off, block by block, so that a polygon as large as the scene needs
no more memory than a small one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
import shapely.geometry
from affine import Affine
from rasterio.features import shapes

from tilingseg.grid import Window
from tilingseg.records import NODATA

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Feature, MaskReader

OVER_NODATA = "polygons that nodata has cut away"
CUT_OFF = "parts below the minimum area that nodata has cut off polygons"
_BLOCK_PX = 512
_ROWS_KEPT = 3


def keep_to_data(
    features: Iterable[Feature], mask: MaskReader, min_area_px: float, left_out: Counter[str]
) -> Iterator[Feature]:
    """Cut off what lies over nodata; of a polygon that falls apart every part is a feature.

    Args:
        features: valid polygons in pixel coordinates.
        mask: that they were made from.
        min_area_px: smaller parts are left out, px², but for the largest of each polygon.
        left_out: counts the polygons of which nothing is left, and the parts that are left out.
    """
    blocks = _Blocks(mask)
    for feature in features:
        geometry = feature.geometry
        for hole in blocks.under(geometry):
            if shapely.intersects(geometry, hole):
                geometry = shapely.difference(geometry, hole)
        if geometry is feature.geometry:
            yield feature
            continue
        parts = [part for part in shapely.get_parts(geometry) if part.area > 0]
        if not parts:
            left_out[OVER_NODATA] += 1
            continue
        enough = min(min_area_px, max(part.area for part in parts))
        kept = [part for part in parts if part.area >= enough]
        if len(kept) < len(parts):
            left_out[CUT_OFF] += len(parts) - len(kept)
        for part in kept:
            yield replace(feature, geometry=part)


class _Blocks:
    """The nodata of blocks of the mask, as geometry; a few rows of blocks are kept."""

    def __init__(self, mask: MaskReader) -> None:
        self._mask = mask
        self._known: OrderedDict[tuple[int, int], BaseGeometry | None] = OrderedDict()
        self._limit = _ROWS_KEPT * (-(-mask.width // _BLOCK_PX) + 1)

    def under(self, geometry: BaseGeometry) -> Iterator[BaseGeometry]:
        """Yield the nodata of every block that the bounds of a geometry touch."""
        left, top, right, bottom = geometry.bounds
        height, width = self._mask.height, self._mask.width
        for i in range(
            max(0, int(top)) // _BLOCK_PX, min(height - 1, int(bottom)) // _BLOCK_PX + 1
        ):
            for j in range(
                max(0, int(left)) // _BLOCK_PX, min(width - 1, int(right)) // _BLOCK_PX + 1
            ):
                hole = self._of(i, j)
                if hole is not None:
                    yield hole

    def _of(self, i: int, j: int) -> BaseGeometry | None:
        if (i, j) in self._known:
            self._known.move_to_end((i, j))
            return self._known[i, j]
        row, col = i * _BLOCK_PX, j * _BLOCK_PX
        window = Window(
            row=row,
            col=col,
            height=min(_BLOCK_PX, self._mask.height - row),
            width=min(_BLOCK_PX, self._mask.width - col),
        )
        empty = self._mask.read_mask(window) == NODATA
        self._known[i, j] = _outline(empty, row, col) if empty.any() else None
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return self._known[i, j]


def _outline(
    empty: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], row: int, col: int
) -> BaseGeometry:
    if empty.all():
        return shapely.box(col, row, col + empty.shape[1], row + empty.shape[0])
    # Traced with a row to spare above: GDAL takes the identity for "lies nowhere" and warns.
    spare = np.pad(empty, ((1, 0), (0, 0))).astype(np.uint8)
    traced = shapes(spare, transform=Affine(1, 0, col, 0, 1, row - 1))
    return shapely.union_all([shapely.geometry.shape(part) for part, value in traced if value])
