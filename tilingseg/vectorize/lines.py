"""Cut lines where a strip of the scene ends, and join them again when the next strip is known.

A strip keeps the points of its own rows alone. Where a line crosses its border, the last points
inside and the first outside name the joint; the neighbouring strip finds the same points and so
the same name. Lines come out once both of their ends are known, turned to a direction that
depends on their points alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.junctions import edge_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.vectorize.network import Network

Joint = tuple[tuple[tuple[float, float], ...], int]
"""Up to two points on each side of a strip's border, and how many of them come before it; of both
directions the one that sorts first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """A line, or the part of it that has been seen."""

    values: NDArray[np.float64]
    """(n, 4): x and y, metres; radius, metres; probability, 0…1. NaN: not known."""
    first: Joint | None = None
    """Where it goes on before its first point; None: it starts there."""
    last: Joint | None = None
    """Where it goes on after its last point; None: it ends there."""
    ring: bool = False
    """Closed and without a junction: any of its points could be the first."""

    def reversed(self) -> Line:
        """Return the line in the other direction."""
        return Line(values=self.values[::-1], first=self.last, last=self.first, ring=self.ring)


class Lines:
    """Lines that have begun in the strips so far and have not ended yet."""

    def __init__(self) -> None:
        """Start at the top of a scene, without any line."""
        self._open: dict[Joint, Line] = {}

    def advance(self, network: Network, top_m: float, bottom_m: float) -> Iterator[Line]:
        """Take in the lines of one strip and yield those that have ended.

        Args:
            network: clean graph of the strip and its surroundings.
            top_m: upper border of the strip, metres from the top of the scene.
            bottom_m: its lower border, metres; must be the next strip's `top_m`.
        """
        for path in edge_paths(network):
            free_ring = path.start == path.stop and network.degree(path.start) == 2
            values = np.column_stack([path.points, path.radii, path.probabilities])
            for part in _parts(values, top_m, bottom_m, ring=free_ring):
                ended = self._take(part)
                if ended is not None:
                    yield _turned(ended)

    def rest(self) -> Iterator[Line]:
        """Yield the lines whose end was never seen; there are none after the last strip."""
        for line in {id(line): line for line in self._open.values()}.values():
            yield _turned(line)
        self._open.clear()

    def _take(self, part: Line) -> Line | None:
        """Join a part to what waits for it; return the line if that has ended it."""
        if part.first is not None and part.first in self._open:
            before = self._open.pop(part.first)
            before = before if before.last == part.first else before.reversed()
            part = _joined(before, part)
        closes = part.first is not None and part.first == part.last
        if part.last is not None and not closes and part.last in self._open:
            after = self._open.pop(part.last)
            after = after if after.first == part.last else after.reversed()
            part = _joined(part, after)
        return self._kept(part)

    def _kept(self, part: Line) -> Line | None:
        if part.first is not None and part.first == part.last:
            self._open.pop(part.first, None)
            closed = np.concatenate([part.values, part.values[:1]])
            return Line(values=closed, ring=True)
        for joint in (part.first, part.last):
            if joint is not None:
                self._open[joint] = part
        return part if part.first is None and part.last is None else None


def _joined(before: Line, after: Line) -> Line:
    values = np.concatenate([before.values, after.values])
    return Line(values=values, first=before.first, last=after.last)


def _parts(
    values: NDArray[np.float64], top_m: float, bottom_m: float, *, ring: bool
) -> Iterator[Line]:
    """Yield the stretches of a line that lie in a strip."""
    inside = (values[:, 1] >= top_m) & (values[:, 1] < bottom_m)
    if inside.all():
        yield Line(values=values, ring=ring)
        return
    if ring:  # start outside, so that the stretch across the first point stays whole
        turn = int(np.argmin(inside))
        values = np.concatenate([values[turn:-1], values[: turn + 1]])
        inside = np.concatenate([inside[turn:-1], inside[: turn + 1]])
    change = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    for start, stop in change.reshape(-1, 2):
        yield Line(
            values=values[start:stop],
            first=_joint(values, start, ring=ring) if start > 0 else None,
            last=_joint(values, stop, ring=ring) if stop < len(values) else None,
        )


def _joint(values: NDArray[np.float64], index: int, *, ring: bool) -> Joint:
    """Name the border between the points before and at `index`."""
    first = index - 2 if ring else max(index - 2, 0)
    wanted = np.arange(first, index + 2 if ring else min(index + 2, len(values)))
    near = values[wanted % (len(values) - 1) if ring else wanted, :2].tolist()
    forth, n_before = tuple((x, y) for x, y in near), index - first
    return min((forth, n_before), (forth[::-1], len(forth) - n_before))


def _turned(line: Line) -> Line:
    """Give a line the direction, and a ring the first point, that its points ask for."""
    values = line.values
    if line.ring:
        first = int(np.lexsort((values[:-1, 1], values[:-1, 0]))[0])
        values = np.concatenate([values[first:-1], values[: first + 1]])
    forward = values[:2, :2].tolist(), values[-2:, :2][::-1].tolist()
    if forward[0] > forward[1]:
        values = values[::-1]
    return Line(values=values, first=line.first, last=line.last, ring=line.ring)
