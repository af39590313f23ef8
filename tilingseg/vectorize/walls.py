"""Straight walls through noisy outlines: directions, least-squares lines, corners.

What `partition` has cut into walls gets one line for each wall, all but the free ones in one frame,
and a corner wherever two lines meet. Coordinates are those of the caller, with equal scales along x
and y and noise of about a pixel. Which outlines are fitted, what a bad fit means and what becomes
of neighbours is for `footprint`. Pure NumPy on a batch of rings: no geometry object is built here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.partition import FREE, Walls
from tilingseg.vectorize.ragged import first_largest, offsets_of, spread, totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Moments, Outlines
    from tilingseg.vectorize.ragged import Indexes

    Points = NDArray[np.float64]

_MAX_EDGES = 512
"""Longest edges that decide on the main direction."""
_PAIRS = 1 << 20
"""Pairs of edges compared at a time."""
_NEAR = np.arange(-8, 9)
"""How far the start of a wall may move along the ring, points."""
_ON_PIN_PX = 0.3
"""Boundary points this near to a pin lie on it."""
_UPRIGHT = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0], bool)
_ALONG_AXIS = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0], bool)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """One straight line for each wall."""

    normals: Points
    """float64 (2, w), unit normals, pointing to the left of the ring's sense."""
    distances: NDArray[np.float64]
    """float64 (w,), normal · point of every point on the line, px."""
    evidence: NDArray[np.complex128]
    """Per ring, where the points want the axes: its phase is twice the turn of the frame, its size
    says how firmly; evidence of several rings adds up."""


def main_directions(corners: Points, counts: Indexes) -> NDArray[np.float64]:
    """Return the direction of most walls of every ring, radians, modulo 90°.

    Args:
        corners: float64 (2, n), vertices of roughly simplified rings, none closed.
        counts: vertices of every ring, at least 1.
    """
    offsets = offsets_of(counts)
    ring, place = spread(counts)
    following = offsets[ring] + (place + 1) % counts[ring]
    edges = corners[:, following] - corners
    # A direction measured over a length is certain in proportion to it: squares are the weights.
    weight = edges[0] * edges[0] + edges[1] * edges[1]
    angle = np.arctan2(edges[1], edges[0])
    if counts.max(initial=0) > _MAX_EDGES:  # every edge is compared with every other one
        rank = np.lexsort((-weight, ring))
        longest = np.sort(rank[place < _MAX_EDGES])
        weight, angle, ring = weight[longest], angle[longest], ring[longest]
        counts = np.minimum(counts, _MAX_EDGES)
    ends, start = np.cumsum(counts * counts), 0
    found = []
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        chosen = slice(counts[:start].sum(), counts[:stop].sum())
        found.append(_directions(angle[chosen], weight[chosen], counts[start:stop]))
        start = stop
    return np.concatenate(found) if found else np.zeros(0)


def _directions(
    angle: NDArray[np.float64], weight: NDArray[np.float64], counts: Indexes
) -> NDArray[np.float64]:
    offsets = offsets_of(counts)
    ring, _ = spread(counts)
    edge, place = spread(counts[ring])
    other = offsets[ring][edge] + place
    difference = np.abs((angle[edge] - angle[other] + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    share = np.maximum(0.0, 1 - (difference / np.radians(12)) ** 2) * weight[other]
    best = first_largest(totals(edge, share, len(angle)), offsets)
    first = np.cumsum(counts[ring]) - counts[ring]
    share = share[np.repeat(first[best], counts) + spread(counts)[1]]
    across = totals(ring, share * np.sin(4 * angle), len(counts))
    along = totals(ring, share * np.cos(4 * angle), len(counts))
    return np.arctan2(across, along) / 4


def fit_lines(
    moments: Moments, walls: Walls, trim_px: float, turn: NDArray[np.float64] | None = None
) -> Lines:
    """Put a least-squares line through the points of every wall.

    Args:
        moments: of the outlines in their main frames.
        walls: their partitions.
        trim_px: points nearer than this to the end of a wall are left out, since blurred masks
            round their corners; at most a quarter of the wall on either side.
        turn: float64 (rings,), of all walls but the free ones against the frame, radians; None:
            what fits each ring best.
    """
    ring, kinds = walls.ring, walls.kinds
    n = np.diff(moments.offsets)[ring]
    stop = _following(walls, walls.starts, n)
    trim = np.minimum(trim_px, (stop - walls.starts) // 4).astype(np.intp)
    stretch = moments.until(ring, stop - trim) - moments.until(ring, walls.starts + trim)
    total, sx, sy, sxx, syy, sxy = stretch
    mx, my = sx / total, sy / total
    skew, sxy = sxx - syy - sx * mx + sy * my, sxy - sx * my
    # Upright walls count as if turned by 90° into the others.
    sign = np.where(_UPRIGHT[kinds], -1.0, 1.0) * _ALONG_AXIS[kinds]
    n_rings = len(walls.cost)
    evidence = totals(ring, sign * skew, n_rings) + 2j * totals(ring, sign * sxy, n_rings)
    if turn is None:
        turn = turns(evidence)
    angle = kinds * (np.pi / 4) + turn[ring]
    free = np.flatnonzero(kinds == FREE)
    if len(free):
        own = 0.5 * np.arctan2(2 * sxy[free], skew[free])
        ahead = _point(moments, ring[free], (stop[free] - 1) % n[free])
        ahead -= _point(moments, ring[free], (walls.starts[free] + stop[free]) // 2 % n[free])
        back = ahead[0] * np.cos(own) + ahead[1] * np.sin(own) < 0
        angle[free] = own + np.where(back, np.pi, 0.0)
    normals = np.stack([-np.sin(angle), np.cos(angle)])
    return Lines(normals=normals, distances=normals[0] * mx + normals[1] * my, evidence=evidence)


def turns(evidence: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return the turns of the frames that the evidence asks for, radians."""
    return np.arctan2(np.ascontiguousarray(evidence.imag), np.ascontiguousarray(evidence.real)) / 2


def pin_lines(
    lines: Lines, outlines: Outlines, walls: Walls, ring: int, pins: NDArray[np.float64]
) -> None:
    """Put the walls of a ring that run along given segments exactly on them, in place.

    Args:
        lines: fitted to the walls of all rings; those of the ring are changed.
        outlines: in their main frames.
        walls: their partitions; the ring has some.
        ring: which ring.
        pins: float64 (k, 2, 2), segments in the main frame of the ring, px.
    """
    points = outlines.points[:, outlines.offsets[ring] : outlines.offsets[ring + 1]]
    first, last = walls.offsets[ring], walls.offsets[ring + 1]
    before = np.searchsorted(walls.starts[first:last], np.arange(points.shape[1]), side="right") - 1
    wall = before % (last - first)
    for start, end in pins:
        length = float(np.hypot(*(end - start)))
        along = (end - start) / length
        normal = np.array([-along[1], along[0]])
        offset = points - start[:, None]
        near = np.abs(normal @ offset) < _ON_PIN_PX
        near &= np.abs(along @ offset - length / 2) <= length / 2
        shared = np.bincount(wall[near], minlength=1)
        if 2 * shared.max() > length:
            best = first + shared.argmax()
            sign = -1.0 if lines.normals[:, best] @ normal < 0 else 1.0
            lines.normals[:, best] = sign * normal
            lines.distances[best] = sign * (normal @ start)


def _wall_of(outlines: Outlines, walls: Walls) -> Indexes:
    """Return the wall of every boundary point, intp (n,); every ring must have walls."""
    ring, _ = spread(outlines.n_points)
    starts = outlines.offsets[walls.ring] + walls.starts
    before = np.searchsorted(starts, np.arange(len(ring)), side="right") - 1
    return np.where(before < walls.offsets[ring], walls.offsets[ring + 1] - 1, before)


def corners_of(outlines: Outlines, walls: Walls, lines: Lines, reach_px: float) -> Points:
    """Intersect every wall with the one before it.

    Args:
        outlines: in their main frames.
        walls: their partitions.
        lines: the lines through the walls.
        reach_px: where the intersection is farther than this from the point where the walls meet
            (nearly parallel walls), the meeting point itself becomes the corner.

    Returns:
        float64 (2, w): corner at the start of every wall.
    """
    (bx, by), b = lines.normals, lines.distances
    before = _before(walls)
    ax, ay, a = bx[before], by[before], b[before]
    determinant = ax * by - ay * bx
    flat = np.abs(determinant) < 0.1
    determinant[flat] = 1.0
    corner = np.stack([a * by - b * ay, b * ax - a * bx]) / determinant
    ring, offsets = walls.ring, outlines.offsets
    last = offsets[ring] + (walls.starts - 1) % outlines.n_points[ring]
    meeting = (outlines.points[:, offsets[ring] + walls.starts] + outlines.points[:, last]) / 2
    dx, dy = corner - meeting
    far = flat | (dx * dx + dy * dy > reach_px * reach_px)
    return np.where(far, meeting, corner)


def reassign(outlines: Outlines, walls: Walls, corners: Points) -> Walls:
    """Move the start of every wall to the boundary point nearest to its corner."""
    ring, starts = walls.ring, walls.starts
    n = outlines.n_points[ring]
    reach = np.minimum(_following(walls, starts, n) - starts, 2 * _NEAR[-1]) // 2
    place = (starts[:, None] + _NEAR) % n[:, None]
    near = outlines.points[:, outlines.offsets[ring][:, None] + place]
    dx, dy = near - corners[:, :, None]
    away = dx * dx + dy * dy
    away[(-reach[_before(walls)][:, None] >= _NEAR) | (reach[:, None] <= _NEAR)] = np.inf
    # A wall of one or two points has no room: argmin of nothing but infinities would move it.
    away[:, 8] = np.minimum(away[:, 8], 1e9)
    moved = (starts + _NEAR[away.argmin(1)]) % n
    order = np.argsort(outlines.offsets[ring] + moved, kind="stable")
    return Walls(
        starts=moved[order], kinds=walls.kinds[order], offsets=walls.offsets, cost=walls.cost
    )


def strays(outlines: Outlines, walls: Walls, corners: Points) -> NDArray[np.float64]:
    """Return the root mean square distance of each ring's points from their walls, px.

    Infinite for rings without walls.
    """
    if not len(walls.starts):
        return np.full(len(walls.cost), np.inf)
    edges = corners[:, _after(walls)] - corners
    length = np.sqrt(edges[0] * edges[0] + edges[1] * edges[1]) + 1e-9
    wall = _wall_of(outlines, walls)
    ax, ay = (edges / length)[:, wall]
    x, y = outlines.points - corners[:, wall]
    ahead = x * ax + y * ay
    # Beyond its corners a wall has ended: the distance is to the corner.
    beyond = np.maximum(0.0, np.maximum(-ahead, ahead - length[wall]))
    across = x * ay - y * ax
    ring, _ = spread(outlines.n_points)
    squares = totals(ring, across * across + beyond * beyond, len(walls.cost))
    return np.where(walls.counts > 0, np.sqrt(squares / outlines.n_points), np.inf)


def are_right(walls: Walls, corners: Points) -> NDArray[np.bool_]:
    """Tell of which rings all angles are right; not where a corner was out of reach."""
    edges = corners[:, _after(walls)] - corners
    after = edges[:, _after(walls)]
    skew = np.abs(edges[0] * after[0] + edges[1] * after[1])
    crooked = np.bincount(walls.ring[skew > 1e-6], minlength=len(walls.cost))
    return np.asarray(crooked == 0)


def _before(walls: Walls) -> Indexes:
    """Return the wall before each wall of a ring."""
    before = np.arange(-1, len(walls.starts) - 1)
    some = walls.counts > 0
    before[walls.offsets[:-1][some]] = walls.offsets[1:][some] - 1
    return before


def _after(walls: Walls) -> Indexes:
    """Return the wall after each wall of a ring."""
    after = np.arange(1, len(walls.starts) + 1)
    some = walls.counts > 0
    after[walls.offsets[1:][some] - 1] = walls.offsets[:-1][some]
    return after


def _following(walls: Walls, starts: Indexes, n: Indexes) -> Indexes:
    """Return where each wall stops: the start of the next one, once around for the last."""
    after = _after(walls)
    return starts[after] + np.where(after <= np.arange(len(after)), n, 0)


def _point(moments: Moments, ring: Indexes, place: Indexes) -> Points:
    return moments.until(ring, place + 1)[1:3] - moments.until(ring, place)[1:3]
