"""Straight walls through a noisy outline: least squares, with the number of walls chosen by cost.

An outline is a ring of boundary points, one for each pixel edge. A partition of the ring into walls
costs the squared distance of every point from its wall plus a price for each wall; dynamic
programming finds the cheapest one. A wall along the building's main direction, or square to it, is
cheap, a 45° diagonal dearer and a free direction dearest, so that right angles win unless the
points speak clearly against them: minimum description length, with no angle snapped afterwards.

Coordinates are those of the caller, with equal scales along x and y and noise of about a pixel.
Which outlines are fitted, what a bad fit means and what becomes of neighbours is for `buildings`.
Pure NumPy on one ring at a time: no geometry object is built here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

FREE = 8
"""Kind of a wall with a direction of its own; kinds 0…7 run at 45° · kind in the main frame."""

_RELATIVE_PRICE = np.array([1, 1.8, 1, 1.8, 1, 1.8, 1, 1.8, 2.2])
"""Price of each kind of wall in terms of one along the main frame."""
_MAX_BREAKS = 160
"""Break candidates treated at once; longer rings are cut at long walls, to stay linear."""

_ANGLES = np.arange(8) * (np.pi / 4)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_PARALLEL = (np.arange(8)[:, None] - np.arange(8)) % 4 == 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walls:
    """A partition of a ring into walls and the lines through them."""

    starts: NDArray[np.intp]
    """First point of every wall, ascending; the last wall runs on over the end of the ring."""
    kinds: NDArray[np.intp]
    """0…7 for 45° · kind in the main frame, oriented along the ring; `FREE`."""
    cost: float
    """Squared distances plus prices, px²."""


def main_direction(corners: Points) -> float:
    """Return the direction of most walls, radians, modulo 90°.

    Args:
        corners: float64 (n, 2), vertices of the roughly simplified ring, not closed.
    """
    edges = np.roll(corners, -1, axis=0) - corners
    # A direction measured over a length is certain in proportion to it: squares are the weights.
    weight = (edges * edges).sum(1)
    angle = np.arctan2(edges[:, 1], edges[:, 0])
    difference = np.abs((angle[:, None] - angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    closeness = np.maximum(0.0, 1 - (difference / np.radians(12)) ** 2)
    best = int(np.argmax(closeness @ weight))
    share = closeness[best] * weight
    turned = 4 * angle
    return float(np.arctan2(share @ np.sin(turned), share @ np.cos(turned)) / 4)


def partition(
    points: Points, breaks: NDArray[np.intp], kinds: NDArray[np.bool_], price: float
) -> Walls | None:
    """Cut a ring into the cheapest sequence of walls.

    Args:
        points: float64 (n, 2), boundary points in the main frame, px; the first one lies in the
            middle of a wall of kind 0, 2, 4 or 6 and the ring is closed implicitly.
        breaks: intp (m,), ascending indices where walls may meet; 0 is left out.
        kinds: bool (9,), which kinds of wall are allowed.
        price: cost of one wall, px²: what a jog must explain for each wall that it adds.

    Returns:
        The walls, or None where no allowed sequence exists.
    """
    knots = np.concatenate([[0], breaks, [len(points)]])
    squares = _squared_distances(points, knots)
    squares[:, :, ~kinds] = np.inf
    # The direction at point 0 comes from both sides of it.
    direction = points[int(knots[1])] - points[int(knots[-2])]
    anchor = int(np.argmax(direction @ _DIRECTIONS[:, ::2])) * 2
    if not kinds[anchor]:
        anchor = FREE
    path = _cheapest_path(squares, anchor, price * _RELATIVE_PRICE)
    if path is None:
        return None
    cost, ends, sequence = path
    # First and last wall are the two halves of the one that holds point 0.
    return Walls(starts=knots[ends[:-1]], kinds=np.append(sequence[1:-1], anchor), cost=cost)


def _squared_distances(points: Points, knots: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return float64 (m, m, 9): cost [j, i, kind] of one wall from knot i to knot j, px²."""
    x, y = points[:, 0], points[:, 1]
    moments = np.zeros((6, len(points) + 1))
    np.cumsum(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y]), axis=1, out=moments[:, 1:])
    at = moments[:, knots]
    n, sx, sy, sxx, syy, sxy = at[:, :, None] - at[:, None, :]
    n = np.maximum(n, 1)
    sxx, syy, sxy = sxx - sx * sx / n, syy - sy * sy / n, sxy - sx * sy / n
    half = (sxx + syy) / 2
    result = np.full((len(knots), len(knots), 9), np.inf)
    corners = points[knots % len(points)]
    chord = corners[:, None, :] - corners
    along = chord @ _DIRECTIONS
    length = np.hypot(chord[..., 0], chord[..., 1])
    forward = along > 0.6 * length[:, :, None]
    variance = np.stack([syy, half - sxy, sxx, half + sxy] * 2, axis=-1)
    result[:, :, :8] = np.where(forward, variance, np.inf)
    result[:, :, FREE] = half - np.hypot((sxx - syy) / 2, sxy)
    return result


def _cheapest_path(
    squares: NDArray[np.float64], anchor: int, price: NDArray[np.float64]
) -> tuple[float, NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the cost, the end knot of every wall and its kind; None where there is no path."""
    m = len(squares)
    barred = np.zeros((9, 9))
    barred[:8, :8][_PARALLEL] = np.inf
    arrive = np.full((m, 9), np.inf)
    depart = np.full((m, 9), np.inf)
    came_kind = np.zeros((m, 9), np.intp)
    came_knot = np.zeros((m, 9), np.intp)
    depart[0, anchor] = 0.0
    columns = np.arange(9)
    for j in range(1, m):
        through = squares[j, :j] + depart[:j]
        knot = through.argmin(0)
        came_knot[j] = knot
        arrive[j] = through[knot, columns]
        turn = arrive[j] + barred
        kind = turn.argmin(1)
        came_kind[j] = kind
        depart[j] = turn[columns, kind] + price
    cost = arrive[m - 1, anchor]
    if not np.isfinite(cost):
        return None
    ends, kinds, j, k = [], [], m - 1, anchor
    while j > 0:
        ends.append(j)
        kinds.append(k)
        j = came_knot[j, k]
        k = came_kind[j, k]
    return float(cost), np.array(ends[::-1]), np.array(kinds[::-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """One straight line for each wall."""

    normals: Points
    """float64 (w, 2), unit normals, pointing to the left of the ring's sense."""
    offsets: NDArray[np.float64]
    """float64 (w,), normal · point of every point on the line, px."""
    turn: float
    """Correction of the main direction that the points ask for, radians."""


def fit_lines(points: Points, walls: Walls, trim_px: float) -> Lines:
    """Put a least-squares line through the points of every wall, directions shared.

    Args:
        points: float64 (n, 2), boundary points in the main frame.
        walls: their partition.
        trim_px: points nearer than this to the end of a wall are left out, since blurred masks
            round their corners; at most a quarter of the wall on either side.
    """
    n = len(points)
    starts, kinds = walls.starts, walls.kinds
    order = np.roll(np.arange(n), -int(starts[0]))
    first = starts - starts[0]
    counts = np.diff(np.append(first, n))
    position = np.arange(n) - np.repeat(first, counts)
    size = np.repeat(counts, counts)
    trim = np.minimum(trim_px, 0.25 * size)
    weight = ((position + 0.5 >= trim) & (size - position - 0.5 >= trim)).astype(np.float64)
    x, y = points[order].T
    sums = np.add.reduceat(
        np.stack([weight, weight * x, weight * y, weight * x * x, weight * y * y, weight * x * y]),
        first,
        axis=1,
    )
    total = sums[0]
    mx, my = sums[1] / total, sums[2] / total
    sxx, syy, sxy = sums[3] - total * mx * mx, sums[4] - total * my * my, sums[5] - total * mx * my
    upright = np.isin(kinds, (2, 6))
    axis = upright | np.isin(kinds, (0, 4))
    along = np.where(upright, syy - sxx, sxx - syy)[axis].sum()
    cross = np.where(upright, -sxy, sxy)[axis].sum()
    turn = 0.5 * np.arctan2(2 * cross, along) if axis.any() else 0.0
    angle = kinds * (np.pi / 4) + turn
    free = kinds == FREE
    if free.any():
        chord = points[np.roll(starts, -1)[free]] - points[starts[free]]
        own = 0.5 * np.arctan2(2 * sxy[free], (sxx - syy)[free])
        back = chord[:, 0] * np.cos(own) + chord[:, 1] * np.sin(own) < 0
        angle[free] = own + np.where(back, np.pi, 0.0)
    normals = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    return Lines(normals=normals, offsets=normals[:, 0] * mx + normals[:, 1] * my, turn=float(turn))


def corners_of(points: Points, walls: Walls, lines: Lines, reach_px: float) -> Points:
    """Intersect every wall with the one before it.

    Args:
        points: float64 (n, 2), boundary points in the main frame.
        walls: their partition.
        lines: the lines through the walls.
        reach_px: where the intersection is farther than this from the point where the walls meet
            (nearly parallel walls), the meeting point itself becomes the corner.

    Returns:
        float64 (w, 2): corner at the start of every wall.
    """
    before = np.roll(lines.normals, 1, axis=0), np.roll(lines.offsets, 1)
    (ax, ay), a = before[0].T, before[1]
    (bx, by), b = lines.normals.T, lines.offsets
    determinant = ax * by - ay * bx
    flat = np.abs(determinant) < 0.1
    safe = np.where(flat, 1.0, determinant)
    corner = np.stack([(a * by - b * ay) / safe, (b * ax - a * bx) / safe], axis=1)
    meeting = (points[walls.starts] + points[walls.starts - 1]) / 2
    far = flat | (np.abs(corner - meeting).max(1) > reach_px)
    if far.any():
        corner[far] = meeting[far]
    return corner


def reassign(points: Points, walls: Walls, corners: Points) -> Walls:
    """Move the start of every wall to the boundary point nearest to its corner."""
    n = len(points)
    starts = walls.starts
    reach = np.minimum(np.diff(np.append(starts, starts[0] + n)), 16) // 2
    left = -np.roll(reach, 1)
    window = np.arange(-8, 9)
    index = starts[:, None] + window
    away = ((points[index % n] - corners[:, None, :]) ** 2).sum(2)
    away[(window <= left[:, None]) | (window >= reach[:, None])] = np.inf
    away[:, 8] = np.minimum(away[:, 8], 1e9)
    moved = (starts + window[away.argmin(1)]) % n
    order = np.argsort(moved)
    return Walls(starts=moved[order], kinds=walls.kinds[order], cost=walls.cost)
