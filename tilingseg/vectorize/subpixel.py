"""Outlines between the pixels: where the probability crosses the threshold.

An outline along pixel edges knows nothing finer than a pixel; the probabilities on both sides of an
edge do. Each edge of length one gives one point, on the line between the centres of its two pixels,
where a linear probability passes the threshold: the vertices of marching squares (Lorensen and
Cline 1987), linked as the traced rings are. So shapes and holes stay what they were, nothing is
joined or lost, and no point moves by more than half a pixel.

Edges of a background pixel move. Where the scene or its data end, or another class begins, there is
no such point: the edge itself stays, and neighbours keep it in common.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.grid import Window
from tilingseg.records import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from shapely import Polygon

    from tilingseg.records import MaskReader

_NEAREST = 0.02
"""Least distance from a pixel's centre, px: outlines that reached it could touch one another."""
_BLOCK_PX = 512
_ROWS_KEPT = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Edges:
    """The pixel edges of rings, in their order."""

    ring: NDArray[np.intp]
    """Ring of every edge."""
    start: NDArray[np.float64]
    """(n, 2) x and y of the lattice point where it begins, px."""
    step: NDArray[np.float64]
    """(n, 2) from there to where it ends; the shape is on the right hand (y points down)."""


class SubpixelOutlines:
    """Moves outlines of one class to its threshold; pixels are read in blocks that are kept."""

    def __init__(self, mask: MaskReader, value: int, threshold: float) -> None:
        """Begin with no block.

        Args:
            mask: a mask with probabilities.
            value: mask value of the class.
            threshold: probability from which a pixel belongs to the class, 0…1.
        """
        self._mask = mask
        self._class_index = value - 1
        self._level = 255 * threshold
        self._blocks: OrderedDict[tuple[int, int], NDArray[np.int16]] = OrderedDict()
        self._limit = _ROWS_KEPT * (-(-mask.width // _BLOCK_PX) + 1)

    def of(self, polygons: Sequence[Polygon]) -> NDArray[np.object_]:
        """Return the outlines of traced shapes.

        Args:
            polygons: of the class, along pixel edges, as `trace` gives them.

        Returns:
            One valid polygon for each, with as many holes.
        """
        if not len(polygons):
            return np.empty(0, dtype=np.object_)
        parts = np.array(polygons, dtype=np.object_)
        rings, owner = shapely.get_rings(parts, return_index=True)
        edges = _unit_edges(rings)
        inward = np.stack([-edges.step[:, 1], edges.step[:, 0]], axis=1)
        middle = edges.start + edges.step / 2
        inside = self._values(middle + inward / 2)
        outside = self._values(middle - inward / 2)
        moves = (outside >= 0) & (inside > outside)
        fall = np.where(moves, inside - outside, 1)
        along = np.clip((inside - self._level) / fall, _NEAREST, 1 - _NEAREST)
        crossing = middle + inward * (0.5 - along)[:, None]

        first = np.where(moves[:, None], crossing, edges.start)
        points = np.stack([first, edges.start + edges.step], axis=1).reshape(-1, 2)
        is_point = np.stack([np.ones(len(moves), dtype=np.bool_), ~moves], axis=1).reshape(-1)
        points, ring = points[is_point], np.repeat(edges.ring, 2)[is_point]
        return _polygons(points, ring, owner)

    def _values(self, at: NDArray[np.float64]) -> NDArray[np.int16]:
        """Return the probability around points, 255 = 1; −1 where no outline may move into."""
        cols, rows = np.floor(at).astype(np.intp).T
        found = np.full(len(at), -1, dtype=np.int16)
        known = (rows >= 0) & (rows < self._mask.height) & (cols >= 0) & (cols < self._mask.width)
        n_across = -(-self._mask.width // _BLOCK_PX)
        number = np.where(known, rows // _BLOCK_PX * n_across + cols // _BLOCK_PX, -1)
        order = np.argsort(number, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
            if len(group) and known[group[0]]:
                i, j = divmod(int(number[group[0]]), n_across)
                block = self._block(i, j)
                found[group] = block[rows[group] - i * _BLOCK_PX, cols[group] - j * _BLOCK_PX]
        return found

    def _block(self, i: int, j: int) -> NDArray[np.int16]:
        if (i, j) in self._blocks:
            self._blocks.move_to_end((i, j))
            return self._blocks[i, j]
        row, col = i * _BLOCK_PX, j * _BLOCK_PX
        window = Window(
            row=row,
            col=col,
            height=min(_BLOCK_PX, self._mask.height - row),
            width=min(_BLOCK_PX, self._mask.width - col),
        )
        values = self._mask.read_mask(window)
        probability = self._mask.read_probability(self._class_index, window)
        is_open = (values == BACKGROUND) | (values == self._class_index + 1)
        block = np.where(is_open, -1 if probability is None else probability, -1).astype(np.int16)
        self._blocks[i, j] = block
        if len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)
        return block


def _unit_edges(rings: NDArray[np.object_]) -> _Edges:
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    start, step = corners[:-1][same], np.diff(corners, axis=0)[same]
    length = np.abs(step).sum(axis=1).astype(np.intp)
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    unit = np.repeat(np.sign(step), length, axis=0)
    return _Edges(
        ring=np.repeat(ring[1:][same], length),
        start=np.repeat(start, length, axis=0) + unit * place[:, None],
        step=unit,
    )


def _polygons(
    points: NDArray[np.float64], ring: NDArray[np.intp], owner: NDArray[np.intp]
) -> NDArray[np.object_]:
    """Close rings of points, without the repetitions, and put them together to polygons."""
    is_first = np.concatenate([[True], ring[1:] != ring[:-1]])
    repeats = np.concatenate([[False], (points[1:] == points[:-1]).all(axis=1)]) & ~is_first
    points, ring = points[~repeats], ring[~repeats]
    counts = np.bincount(ring, minlength=len(owner))
    stops = np.cumsum(counts)
    # A ring ends where it began: often it does already, at a lattice point.
    is_closed = (points[stops - 1] == points[stops - counts]).all(axis=1)
    index = np.insert(np.arange(len(points)), stops[~is_closed], (stops - counts)[~is_closed])
    ring_offsets = np.concatenate([[0], np.cumsum(counts + ~is_closed)])
    polygon_offsets = np.concatenate([[0], np.cumsum(np.bincount(owner))])
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, points[index], (ring_offsets, polygon_offsets)
    )
