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

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

FREE = 8
"""Kind of a wall with a direction of its own; kinds 0…7 run at 45° · kind in the main frame."""

_RELATIVE_PRICE = np.array([1, 1.8, 1, 1.8, 1, 1.8, 1, 1.8, 2.35])
"""Price of each kind of wall in terms of one along the main frame."""
_MAX_EDGES = 512
"""Longest edges that decide on the main direction."""
_MAX_BREAKS = 160
"""Most break candidates that one wall may run over: the work stays linear in the outline."""

_NEAR = np.arange(-8, 9)
_ANGLES = np.arange(8) * (np.pi / 4)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_ON_PIN_PX = 0.3
"""Boundary points this near to a pin lie on it."""
_BARRED = np.zeros((9, 9))
_BARRED[:8, :8][(np.arange(8)[:, None] - np.arange(8)) % 4 == 0] = np.inf
"""Added to a change from one kind to another: parallel walls do not meet."""
_UPRIGHT = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0], bool)
_ALONG_AXIS = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0], bool)


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
    if len(edges) > _MAX_EDGES:  # every edge is compared with every other one
        longest = np.argsort(-weight, kind="stable")[:_MAX_EDGES]
        edges, weight = edges[longest], weight[longest]
    angle = np.arctan2(edges[:, 1], edges[:, 0])
    difference = np.abs((angle[:, None] - angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    closeness = np.maximum(0.0, 1 - (difference / np.radians(12)) ** 2)
    best = int(np.argmax(closeness @ weight))
    share = closeness[best] * weight
    turned = 4 * angle
    return float(np.arctan2(share @ np.sin(turned), share @ np.cos(turned)) / 4)


def running_sums(points: Points) -> NDArray[np.float64]:
    """Sum up a ring, twice around, so that the moments of any stretch are one difference.

    Args:
        points: float64 (n, 2), boundary points, px.

    Returns:
        float64 (6, 2n + 1): count, Σx, Σy, Σx², Σy², Σxy of the first k points.
    """
    n = len(points)
    x, y = points[:, 0], points[:, 1]
    sums = np.zeros((6, 2 * n + 1))
    terms = sums[:, 1 : n + 1]
    terms[0], terms[1], terms[2] = 1.0, x, y
    terms[3], terms[4], terms[5] = x * x, y * y, x * y
    np.cumsum(terms, axis=1, out=terms)
    np.add(terms, terms[:, -1:], out=sums[:, n + 1 :])
    return sums


def partition(
    points: Points,
    sums: NDArray[np.float64],
    breaks: NDArray[np.intp],
    kinds: NDArray[np.bool_],
    price: float,
) -> Walls | None:
    """Cut a ring into the cheapest sequence of walls.

    Args:
        points: float64 (n, 2), boundary points in the main frame, px; the first one lies in the
            middle of a wall along an axis and the ring is closed implicitly.
        sums: float64 (6, 2n + 1), their running sums.
        breaks: intp (m,), ascending indices above 0 where walls may meet.
        kinds: bool (9,), which kinds of wall are allowed.
        price: cost of one wall, px²: what a jog must explain for each wall that it adds.

    Returns:
        The walls, or None where no allowed sequence exists.
    """
    knots = np.concatenate([[0], breaks, [len(points)]])
    squares = _squared_distances(points, sums, knots)
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


def _squared_distances(
    points: Points, sums: NDArray[np.float64], knots: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the cost of every wall that may be, px².

    Returns:
        float64 (m, w, 9): [j, k, kind] for a wall from knot j − w + k to knot j; infinite where
        that knot is before the first. w is at most `_MAX_BREAKS`, which keeps it linear.
    """
    m = len(knots)
    reach = min(m - 1, _MAX_BREAKS)
    first = np.arange(m)[:, None] - reach + np.arange(reach)
    start = np.maximum(first, 0)
    at = sums[:, knots]
    n, sx, sy, sxx, syy, sxy = at[:, :, None] - at[:, start]
    n = np.maximum(n, 1)
    mx, my = sx / n, sy / n
    sxx, syy, sxy = sxx - sx * mx, syy - sy * my, sxy - sx * my
    half, skew = (sxx + syy) / 2, (sxx - syy) / 2
    result = np.empty((m, reach, 9))
    for kind, variance in enumerate((syy, half - sxy, sxx, half + sxy)):
        result[:, :, kind] = result[:, :, kind + 4] = variance
    corners = points[knots % len(points)]
    chord = corners[:, None, :] - corners[start]
    length = np.sqrt(np.einsum("jkc,jkc->jk", chord, chord))
    backward = chord @ _DIRECTIONS <= 0.6 * length[:, :, None]
    result[:, :, :8][backward] = np.inf
    result[:, :, FREE] = half - np.sqrt(skew * skew + sxy * sxy)
    result[first < 0] = np.inf
    return result


def _cheapest_path(
    squares: NDArray[np.float64], anchor: int, price: NDArray[np.float64]
) -> tuple[float, NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the cost, the end knot of every wall and its kind; None where there is no path."""
    m, reach = squares.shape[:2]
    arrive = np.full((m, 9), np.inf)
    depart = np.full((m, 9), np.inf)
    depart[0, anchor] = 0.0
    least = np.minimum.reduce
    for j in range(1, m):
        low = max(0, j - reach)
        arrive[j] = least(squares[j, low - j :] + depart[low:j])
        depart[j] = least(arrive[j] + _BARRED, axis=1) + price
    cost = arrive[m - 1, anchor]
    if not np.isfinite(cost):
        return None
    # Where each minimum came from is worked out again along the path: few of the steps lie on it.
    ends, kinds, j, kind = [], [], m - 1, anchor
    while j > 0:
        ends.append(j)
        kinds.append(kind)
        low = max(0, j - reach)
        j = low + int((squares[j, low - j :, kind] + depart[low:j, kind]).argmin())
        kind = int((arrive[j] + _BARRED[kind]).argmin())
    return float(cost), np.array(ends[::-1]), np.array(kinds[::-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """One straight line for each wall."""

    normals: Points
    """float64 (w, 2), unit normals, pointing to the left of the ring's sense."""
    offsets: NDArray[np.float64]
    """float64 (w,), normal · point of every point on the line, px."""
    evidence: complex
    """Where the points want the axes: its phase is twice the turn of the frame, its size says how
    firmly; evidence of several rings adds up."""


def fit_lines(
    sums: NDArray[np.float64], walls: Walls, trim_px: float, turn: float | None = None
) -> Lines:
    """Put a least-squares line through the points of every wall.

    Args:
        sums: float64 (6, 2n + 1), running sums of the points in the main frame.
        walls: their partition.
        trim_px: points nearer than this to the end of a wall are left out, since blurred masks
            round their corners; at most a quarter of the wall on either side.
        turn: of all walls but the free ones against the frame, radians; None: what fits best.
    """
    n = sums.shape[1] // 2
    kinds = walls.kinds
    stop = np.append(walls.starts[1:], walls.starts[0] + n)
    trim = np.minimum(trim_px, (stop - walls.starts) // 4).astype(np.intp)
    total, sx, sy, sxx, syy, sxy = sums[:, stop - trim] - sums[:, walls.starts + trim]
    mx, my = sx / total, sy / total
    skew, sxy = sxx - syy - sx * mx + sy * my, sxy - sx * my
    # Upright walls count as if turned by 90° into the others.
    sign = np.where(_UPRIGHT[kinds], -1.0, 1.0) * _ALONG_AXIS[kinds]
    evidence = complex(sign @ skew, 2 * (sign @ sxy))
    if turn is None:
        turn = turn_of(evidence)
    angle = kinds * (np.pi / 4) + turn
    free = kinds == FREE
    if free.any():
        own = 0.5 * np.arctan2(2 * sxy[free], skew[free])
        middle = (walls.starts + stop) // 2
        ahead = _point(sums, (stop - 1) % n) - _point(sums, middle % n)
        back = ahead[0, free] * np.cos(own) + ahead[1, free] * np.sin(own) < 0
        angle[free] = own + np.where(back, np.pi, 0.0)
    normals = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    offsets = normals[:, 0] * mx + normals[:, 1] * my
    return Lines(normals=normals, offsets=offsets, evidence=evidence)


def wall_of(n_points: int, walls: Walls) -> NDArray[np.intp]:
    """Return the wall of every point of the ring, intp (n,)."""
    before = np.searchsorted(walls.starts, np.arange(n_points), side="right") - 1
    return before % len(walls.starts)


def pin_lines(lines: Lines, points: Points, walls: Walls, pins: NDArray[np.float64]) -> Lines:
    """Put the walls that run along given segments exactly on them.

    Args:
        lines: fitted to the walls.
        points: float64 (n, 2), boundary points in the main frame.
        walls: their partition.
        pins: float64 (k, 2, 2), segments in the main frame, px.
    """
    normals, offsets = lines.normals.copy(), lines.offsets.copy()
    wall = wall_of(len(points), walls)
    for start, end in pins:
        length = float(np.hypot(*(end - start)))
        along = (end - start) / length
        normal = np.array([-along[1], along[0]])
        near = np.abs((points - start) @ normal) < _ON_PIN_PX
        near &= np.abs((points - (start + end) / 2) @ along) <= length / 2
        shared = np.bincount(wall[near], minlength=len(offsets))
        best = int(shared.argmax())
        if 2 * shared[best] > length:
            sign = -1.0 if lines.normals[best] @ normal < 0 else 1.0
            normals[best], offsets[best] = sign * normal, sign * (normal @ start)
    return Lines(normals=normals, offsets=offsets, evidence=lines.evidence)


def turn_of(evidence: complex) -> float:
    """Return the turn of the frame that the evidence asks for, radians."""
    return math.atan2(evidence.imag, evidence.real) / 2


def _point(sums: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    return sums[1:3, index + 1] - sums[1:3, index]


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
    (bx, by), b = lines.normals.T, lines.offsets
    before = np.arange(-1, len(b) - 1)
    ax, ay, a = bx[before], by[before], b[before]
    determinant = ax * by - ay * bx
    flat = np.abs(determinant) < 0.1
    determinant[flat] = 1.0
    corner = np.stack([a * by - b * ay, b * ax - a * bx], axis=1) / determinant[:, None]
    meeting = (points[walls.starts] + points[walls.starts - 1]) / 2
    far = flat | (((corner - meeting) ** 2).sum(1) > reach_px * reach_px)
    corner[far] = meeting[far]
    return np.asarray(corner)


def reassign(points: Points, walls: Walls, corners: Points) -> Walls:
    """Move the start of every wall to the boundary point nearest to its corner."""
    n = len(points)
    starts = walls.starts
    reach = np.minimum(np.diff(np.append(starts, starts[0] + n)), 16) // 2
    before = -reach[np.arange(-1, len(reach) - 1)]
    difference = points[(starts[:, None] + _NEAR) % n] - corners[:, None, :]
    away = np.einsum("wkc,wkc->wk", difference, difference)
    away[(before[:, None] >= _NEAR) | (reach[:, None] <= _NEAR)] = np.inf
    # A wall of one or two points has no room: argmin of nothing but infinities would move it.
    away[:, 8] = np.minimum(away[:, 8], 1e9)
    moved = (starts + _NEAR[away.argmin(1)]) % n
    order = np.argsort(moved)
    return Walls(starts=moved[order], kinds=walls.kinds[order], cost=walls.cost)
