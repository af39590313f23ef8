"""Which stretches of a noisy outline are walls: the number of walls and their kinds, by cost.

An outline is a ring of boundary points, one for each pixel edge. A partition of the ring into walls
costs the squared distance of every point from its wall plus a price for each wall; dynamic
programming finds the cheapest one. A wall along the building's main direction, or square to it, is
cheap, a 45° diagonal dearer and a free direction dearest, so that right angles win unless the
points speak clearly against them: minimum description length, with no angle snapped afterwards.

Rings with about as many candidates for corners are done together, the ring along the last axis:
a step of the programme is the same few array operations for a hundred rings as for one. Putting
lines through the walls is for `walls`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.ragged import groups, offsets_of, replaced, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Moments, Outlines
    from tilingseg.vectorize.ragged import Indexes

FREE = 8
"""Kind of a wall with a direction of its own; kinds 0…7 run at 45° · kind in the main frame."""

_RELATIVE_PRICE = np.array([1, 1.8, 1, 1.8, 1, 1.8, 1, 1.8, 2.35])
"""Price of each kind of wall in terms of one along the main frame."""
_MAX_BREAKS = 160
"""Most break candidates that one wall may run over: the work stays linear in the outline."""
_MIN_WALLS = 3
"""Fewer enclose nothing."""
_GROUP = 1 << 17
"""Pairs of candidates looked at together; a pair takes some 200 bytes."""

_ANGLES = np.arange(8) * (np.pi / 4)
DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
"""float64 (2, 8), along walls of the kinds 0…7 in the main frame."""
_BARRED = np.zeros((9, 9))
_BARRED[:8, :8][(np.arange(8)[:, None] - np.arange(8)) % 4 == 0] = np.inf
"""Added to a change from one kind to another: parallel walls do not meet."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walls:
    """Partitions of rings into walls."""

    starts: Indexes
    """Place in its ring of the first point of every wall, ascending ring after ring; the last wall
    of a ring runs on over its end."""
    kinds: Indexes
    """0…7 for 45° · kind in the main frame, oriented along the ring; `FREE`."""
    offsets: Indexes
    """intp (rings + 1,): the first wall of every ring; a ring that no partition fits has none."""
    cost: NDArray[np.float64]
    """Per ring, squared distances plus prices, px²; infinite without walls."""

    @property
    def counts(self) -> Indexes:
        """Walls of every ring."""
        return np.diff(self.offsets)

    @property
    def ring(self) -> Indexes:
        """The ring of every wall."""
        return np.repeat(np.arange(len(self.cost)), self.counts)

    def places(self, rings: Indexes) -> Indexes:
        """Return the walls of some rings."""
        ring, place = spread(self.counts[rings])
        return self.offsets[rings][ring] + place

    def take(self, rings: Indexes) -> Walls:
        """Return some of the rings."""
        places = self.places(rings)
        return Walls(
            starts=self.starts[places],
            kinds=self.kinds[places],
            offsets=offsets_of(self.counts[rings]),
            cost=self.cost[rings],
        )

    def with_rings(self, rings: Indexes, other: Walls) -> Walls:
        """Return the walls with those of some rings replaced by others."""
        offsets, place = replaced(self.offsets, rings, other.offsets)
        cost = self.cost.copy()
        cost[rings] = other.cost
        return Walls(
            starts=np.concatenate([self.starts, other.starts])[place],
            kinds=np.concatenate([self.kinds, other.kinds])[place],
            offsets=offsets,
            cost=cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Breaks:
    """Where walls may meet."""

    places: Indexes
    """Places in their rings, all above 0, ascending ring after ring."""
    counts: Indexes
    """How many each ring has."""

    def take(self, rings: Indexes) -> Breaks:
        """Return those of some rings."""
        counts = self.counts[rings]
        ring, place = spread(counts)
        first = np.cumsum(self.counts) - self.counts
        return Breaks(places=self.places[first[rings][ring] + place], counts=counts)


def partition(
    outlines: Outlines,
    moments: Moments,
    breaks: Breaks,
    kinds: NDArray[np.bool_],
    price: NDArray[np.float64],
) -> Walls:
    """Cut rings into the cheapest sequences of walls.

    Args:
        outlines: in the main frame, px; the first point of a ring lies in the middle of a wall
            along an axis.
        moments: of the outlines.
        breaks: where walls may meet.
        kinds: bool (9,), which kinds of wall are allowed.
        price: float64 (rings,), cost of one wall, px²: what a jog must explain for each wall that
            it adds.
    """
    cost = np.full(len(price), np.inf)
    parts = []
    for rings in groups(breaks.counts + 2, _GROUP):
        knots = _knots(outlines, breaks, rings)
        index = outlines.offsets[rings] + knots % outlines.n_points[rings]
        x, y = outlines.points[:, index]
        squares = _squared_distances(moments.until(rings, knots), x, y)
        squares[:, :, ~kinds] = np.inf
        last = breaks.counts[rings] + 1
        anchor = _anchors(x, y, last, kinds)
        prices = _RELATIVE_PRICE[:, None] * price[rings]
        cost[rings], (column, knot, kind) = _cheapest_paths(squares, last, anchor, prices)
        parts.append((rings[column], knots[knot, column], kind))
    ring, end, kind = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((end, ring))
    ring, end, kind = ring[order], end[order], kind[order]
    # The first and the last wall are the two halves of the one that holds the first point.
    inner = end < outlines.n_points[ring]
    counts = np.bincount(ring[inner], minlength=len(price))
    cost[counts < _MIN_WALLS] = np.inf
    inner &= counts[ring] >= _MIN_WALLS
    return Walls(
        starts=end[inner],
        kinds=kind[np.flatnonzero(inner) + 1],
        offsets=offsets_of(np.where(counts < _MIN_WALLS, 0, counts)),
        cost=cost,
    )


def _knots(outlines: Outlines, breaks: Breaks, rings: Indexes) -> Indexes:
    """Return the ends of what may be walls, intp (knots, rings); filled up with the last one."""
    chosen = breaks.take(rings)
    knots = np.repeat(outlines.n_points[rings][None], chosen.counts.max() + 2, axis=0)
    knots[0] = 0
    column, place = spread(chosen.counts)
    knots[place + 1, column] = chosen.places
    return knots


def _anchors(
    x: NDArray[np.float64], y: NDArray[np.float64], last: Indexes, kinds: NDArray[np.bool_]
) -> Indexes:
    """Return the kind of the wall that holds the first point of each ring."""
    before = last - 1, np.arange(len(last))
    # The direction at the first point comes from both sides of it.
    ahead = DIRECTIONS[0, ::2, None] * (x[1] - x[before])
    ahead += DIRECTIONS[1, ::2, None] * (y[1] - y[before])
    anchor = 2 * ahead.argmax(0)
    return np.where(kinds[anchor], anchor, FREE)


def _squared_distances(
    at: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the cost of every wall that may be, px².

    Args:
        at: float64 (6, m, rings), sums up to the m knots.
        x: float64 (m, rings), of the points at the knots.
        y: float64 (m, rings).

    Returns:
        float64 (m, w, 9, rings): [j, k, kind] for a wall from knot j − w + k to knot j; infinite
        where that knot is before the first. w is at most `_MAX_BREAKS`, which keeps it linear.
    """
    m, n_rings = x.shape
    reach = min(m - 1, _MAX_BREAKS)
    first = np.arange(m)[:, None] - reach + np.arange(reach)
    start = np.maximum(first, 0)
    n, sx, sy, sxx, syy, sxy = at[:, :, None] - at[:, start]
    n = np.maximum(n, 1)
    mx, my = sx / n, sy / n
    sxx, syy, sxy = sxx - sx * mx, syy - sy * my, sxy - sx * my
    half, skew = (sxx + syy) / 2, (sxx - syy) / 2
    result = np.empty((m, reach, 9, n_rings))
    dx, dy = x[:, None] - x[start], y[:, None] - y[start]
    least = 0.6 * np.sqrt(dx * dx + dy * dy)
    for kind, squares in enumerate((syy, half - sxy, sxx, half + sxy)):
        ahead = DIRECTIONS[0, kind] * dx + DIRECTIONS[1, kind] * dy
        result[:, :, kind] = np.where(ahead > least, squares, np.inf)
        result[:, :, kind + 4] = np.where(-ahead > least, squares, np.inf)
    result[:, :, FREE] = half - np.sqrt(skew * skew + sxy * sxy)
    result[first < 0] = np.inf
    return result


def _cheapest_paths(
    squares: NDArray[np.float64], last: Indexes, anchor: Indexes, price: NDArray[np.float64]
) -> tuple[NDArray[np.float64], tuple[Indexes, Indexes, Indexes]]:
    """Find the cheapest sequence of walls around every ring.

    Args:
        squares: float64 (m, w, 9, rings), cost of the walls.
        last: intp (rings,), the knot that closes the ring; later ones are not looked at.
        anchor: intp (rings,), kind of the first and the last wall.
        price: float64 (9, rings), of a wall of each kind.

    Returns:
        The cost per ring, infinite where there is no path; and for every wall of those that there
        are its ring, the knot where it ends and its kind.
    """
    m, reach, _, n_rings = squares.shape
    arrive = np.full((m, 9, n_rings), np.inf)
    depart = np.full((m, 9, n_rings), np.inf)
    column = np.arange(n_rings)
    depart[0, anchor, column] = 0.0
    least, barred = np.minimum.reduce, _BARRED[:, :, None]
    for j in range(1, m):
        low = max(0, j - reach)
        arrive[j] = least(squares[j, low - j :] + depart[low:j])
        depart[j] = least(arrive[j] + barred, axis=1) + price
    cost = arrive[last, anchor, column]
    # Where each minimum came from is worked out again along the path: few of the steps lie on it.
    column = column[np.isfinite(cost)]
    knot, kind = last[column], anchor[column]
    steps = []
    while len(column):
        steps.append((column, knot, kind))
        first = knot[:, None] - reach + np.arange(reach)
        ways = squares[knot, :, kind, column]
        ways += depart[np.maximum(first, 0), kind[:, None], column[:, None]]
        knot = knot - reach + ways.argmin(1)
        kind = (arrive[knot, :, column] + _BARRED[kind]).argmin(1)
        column, knot, kind = (each[knot > 0] for each in (column, knot, kind))
    steps.append((column, knot, kind))  # empty: there is always something to join
    ring, end, kinds = (np.concatenate(part) for part in zip(*steps, strict=True))
    return cost, (ring, end, kinds)
