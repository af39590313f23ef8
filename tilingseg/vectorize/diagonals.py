"""8-connected components: groups of traced shapes that meet in corners.

Pixels that touch only diagonally would make a polygon that touches itself, which is invalid. The
valid form of an 8-connected component is therefore its 4-connected shapes, which touch each other
in single points: a MultiPolygon. So nothing is traced anew; shapes are gathered.

A lattice point where two pixels of the class meet only diagonally is a corner of the shapes of
both. All such points are noted while the mask is read from top to bottom. A group is complete when
every one of them on its outlines has been seen from both sides. The memory holds what `trace`
holds, and the points and groups that are not complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.records import MaskView
from tilingseg.vectorize.trace import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import MaskReader, Shape
    from tilingseg.vectorize.trace import TraceOptions


def trace_diagonal(
    mask: MaskReader, value: int, options: TraceOptions | None = None
) -> Iterator[tuple[Shape, ...]]:
    """Trace every 8-connected component of one class.

    Args:
        mask: mask of any size; read once from top to bottom.
        value: mask value of the class, 1…254.
        options: how to walk through the mask; changes neither the groups nor their order.

    Yields:
        The 4-connected shapes of each component, in the order of their last pixels; components in
        the order of theirs. `shapely.MultiPolygon` of a group's polygons is valid.

    Raises:
        VectorizeError: `value` is no class value.
    """
    watched = _Watched(mask, value)
    groups: dict[int, _Group] = {}  # by every point that has been seen from one side
    for shape in trace(watched, value, options):
        group = _Group(shapes=[shape])
        for point in watched.meetings(shape):
            other = groups.pop(point, None)
            if other is None:
                group.points.add(point)
                groups[point] = group
                continue
            other.points.discard(point)
            watched.points.discard(point)
            if other is not group:
                small, group = sorted((group, other), key=_Group.size)
                group.shapes += small.shapes
                group.points |= small.points
                groups.update(dict.fromkeys(small.points, group))
        if not group.points:
            yield tuple(sorted(group.shapes, key=lambda shape: shape.last))


@dataclass(slots=True)
class _Group:
    """Shapes that meet, and the points where one more does."""

    shapes: list[Shape]
    points: set[int] = field(default_factory=set)

    def size(self) -> int:
        """Return what it costs to move it into another group."""
        return len(self.shapes) + len(self.points)


class _Watched(MaskView):
    """A mask that notes, while it is read from top to bottom, where pixels meet diagonally."""

    def __init__(self, mask: MaskReader, value: int) -> None:
        super().__init__(mask)
        self._value = value
        self._above = np.zeros((1, mask.width), dtype=np.bool_)
        self.points: set[int] = set()

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): background, class values from 1, nodata."""
        values = self._mask.read_mask(window)
        rows = np.concatenate([self._above, values == self._value])
        self._above = rows[-1:].copy()
        falls = rows[:-1, :-1] & rows[1:, 1:] & ~rows[:-1, 1:] & ~rows[1:, :-1]
        rises = rows[:-1, 1:] & rows[1:, :-1] & ~rows[:-1, :-1] & ~rows[1:, 1:]
        row, col = np.nonzero(falls | rises)
        self.points.update(((row + window.row) * (self.width + 1) + col + 1).tolist())
        return values

    def meetings(self, shape: Shape) -> Iterator[int]:
        """Yield the points on a shape's outline where pixels meet diagonally.

        One where both pixels are of the shape comes twice.
        """
        for ring in shapely.get_rings(shape.polygon):
            x, y = shapely.get_coordinates(ring)[:-1].T
            codes = (y * (self.width + 1) + x).astype(np.int64).tolist()
            for code in codes:
                if code in self.points:
                    yield code
