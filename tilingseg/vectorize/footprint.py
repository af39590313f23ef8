"""One traced polygon becomes one footprint: right angles, diagonals, courtyards, round tanks.

Every ring is fitted by `walls`, the courtyards in the frame of the shell. A fit is kept where it
describes the traced outline well (see `_accept`); otherwise the walls are fitted without a common
frame, and where even that fails the traced outline is simplified. The result is always valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from shapely import Polygon

from tilingseg.vectorize.outlines import (
    boundary_points,
    cross_threshold,
    roughness,
    turning_points,
)
from tilingseg.vectorize.walls import (
    FREE,
    Walls,
    corners_of,
    fit_lines,
    main_direction,
    partition,
    pin_lines,
    reassign,
    running_sums,
    turn_of,
    wall_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Probability

    Points = NDArray[np.float64]

Regularize = Literal["off", "auto", "strict"]

_FRAME_TOLERANCE_PX = 2.0
"""Simplification before the main direction is measured: coarse, for wobble turns short edges."""
_BREAK_TOLERANCE_PX = 1.0
"""Simplification that leaves the points where walls may meet."""
_TRIM_PX = 2.0
"""Points of a wall this near to a corner are not fitted: blur rounds corners by about this much."""
_REACH_PX = 5.0
"""How far a corner may lie outside the traced outline."""
_MIN_POINTS = 8
"""A ring of fewer boundary points has no direction to speak of."""
_MIN_RADIUS_PX = 4.0
"""A smaller circle cannot be told from a square with rounded corners."""

_PRICE_PX2 = 6.0
"""Price of a wall in a clean outline: a jog of 2 px pays for itself from about 8 px of length."""
_MAX_PRICE_PX2 = 50.0
"""Price of a wall in an outline that wobbles like that of a network."""
_PRICE_PER_POINT_PX2 = 0.25
"""Price of a wall for each boundary point: a small building has small walls."""
_CLEAN_PX2 = 0.05
"""Roughness of a staircase of pixels."""
_SHARE = 0.25
"""Share of the price at which a ring is fitted again where the first fit strays."""
_STRAY_PX = 0.8
"""Root mean square distance between outline and walls that wobble explains."""
_HOPELESS_PX = 1.0
"""Root mean square distance from which on the walls do not describe the outline."""

_MAX_LOSS = 0.1
"""Share of the area that simplification may change."""

_ALL = np.ones(9, bool)
_RIGHT = np.arange(9) % 2 == 0
_RIGHT[FREE] = False
_ANY = np.arange(9) == FREE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ring:
    """Walls, or a circle, through one ring."""

    points: Points
    """float64 (n, 2), boundary points in the main frame, px."""
    walls: Walls | None
    """None: a circle."""
    corners: Points
    """float64 (k, 2), not closed, in the main frame, px."""
    evidence: complex
    """What the ring says about the direction of the frame."""
    cost: float
    """Squared distances and prices, px²."""
    stray_px: float
    """Root mean square distance of the boundary points from their walls."""


def fit_footprint(
    polygon: Polygon,
    *,
    regularize: Regularize = "auto",
    scale: tuple[float, float] = (1.0, 1.0),
    probability: Probability | None = None,
    cuts: NDArray[np.float64] | None = None,
) -> Polygon:
    """Fit straight walls to a traced polygon.

    Args:
        polygon: valid, along pixel edges, px.
        regularize: `auto`: right angles, and diagonals, free directions and circles where the
            outline asks for them; `strict`: right angles alone, and the outline where they cannot
            follow it; `off`: the outline, simplified.
        scale: relative size of a pixel along x and y on the ground: right angles are right there.
        probability: of the class around the polygon; makes the walls more exact.
        cuts: float64 (k, 2, 2), straight lines along which the polygon was cut from its neighbours,
            px; walls there stay on them, so that both sides keep a common wall.

    Returns:
        A valid polygon in the same coordinates.
    """
    if regularize != "off":
        # Numbers stay small, and a footprint does not depend on where in the scene it lies.
        origin = np.floor(shapely.bounds(polygon)[:2])
        rings = [
            _points(ring, origin, scale, probability)
            for ring in shapely.get_rings(shapely.orient_polygons(polygon))
        ]
        pins = None if cuts is None else (cuts - origin) * scale
        for kinds in (_RIGHT,) if regularize == "strict" else (_ALL, _ANY):
            corners = _fit_rings(rings, kinds, regularize == "auto", pins)
            if corners is not None:
                placed = [ring / scale + origin for ring in corners]
                fitted = Polygon(placed[0], placed[1:])
                if _accept(fitted, polygon):
                    return fitted
    return simplified(polygon)


def simplified(polygon: Polygon, tolerance_px: float = 1.0) -> Polygon:
    """Simplify a polygon without changing its topology."""
    result = shapely.simplify(polygon, tolerance_px, preserve_topology=True)
    # A tolerance of a pixel can halve what is only a few pixels large.
    kept = abs(result.area - polygon.area) <= _MAX_LOSS * polygon.area
    return result if kept and result.is_valid else polygon


def _points(
    ring: shapely.LinearRing,
    origin: NDArray[np.float64],
    scale: tuple[float, float],
    probability: Probability | None,
) -> Points:
    points, along = boundary_points(shapely.get_coordinates(ring))
    if probability is not None:
        points = cross_threshold(points, along, probability)
    return (points - origin) * scale


def _fit_rings(
    rings: list[Points],
    kinds: NDArray[np.bool_],
    round_shapes: bool,
    pins: NDArray[np.float64] | None,
) -> list[Points] | None:
    """Return the corners of shell and holes, fitted in one frame; None where that is impossible."""
    if min(len(points) for points in rings) < _MIN_POINTS:
        return None
    direction = main_direction(rings[0][turning_points(rings[0], _FRAME_TOLERANCE_PX)])
    cos, sin = math.cos(direction), math.sin(direction)
    frame = np.array([[cos, -sin], [sin, cos]])
    fitted = []
    for points in rings:
        ring = _fit_ring(points @ frame, kinds, round_shapes and pins is None)
        if ring is None or (kinds[FREE] and ring.stray_px > _HOPELESS_PX):
            return None
        fitted.append(ring)
    corners = [ring.corners for ring in fitted]
    if len(rings) > 1 or pins is not None:
        turn = turn_of(sum(ring.evidence for ring in fitted))
        placed = None if pins is None else pins @ frame
        corners = [_settled(ring, turn, placed) for ring in fitted]
    return [ring @ frame.T for ring in corners]


def _settled(ring: _Ring, turn: float, pins: NDArray[np.float64] | None) -> Points:
    """Return the corners of a ring in the frame that all rings share, its cuts kept."""
    if ring.walls is None:
        return ring.corners
    lines = fit_lines(running_sums(ring.points), ring.walls, _TRIM_PX, turn)
    if pins is not None:
        lines = pin_lines(lines, ring.points, ring.walls, pins)
    return corners_of(ring.points, ring.walls, lines, _REACH_PX)


def _fit_ring(points: Points, kinds: NDArray[np.bool_], round_shapes: bool) -> _Ring | None:
    breaks = turning_points(points, _BREAK_TOLERANCE_PX)
    start = _middle_of_a_wall(points, breaks)
    points = np.concatenate([points[start:], points[:start]])
    breaks = np.sort((breaks - start) % len(points))
    breaks = breaks[breaks > 0]
    sums = running_sums(points)
    rough = roughness(sums)
    price = _price(rough, len(points))
    ring = _fit_walls(points, sums, breaks, kinds, price)
    if round_shapes:
        circle = _fit_circle(points, price, rough)
        if circle is not None and (ring is None or circle.cost < ring.cost):
            return circle
    strict = not kinds[FREE]
    if ring is None or ring.stray_px > _STRAY_PX or (strict and not _is_right(ring)):
        # Small parts of a small building cannot pay the full price, yet leaving them out shows.
        finer = _fit_walls(points, sums, breaks, kinds, price * _SHARE)
        if finer is not None and (ring is None or finer.stray_px < ring.stray_px - 0.1 or strict):
            ring = finer
    return None if strict and ring is not None and not _is_right(ring) else ring


def _is_right(ring: _Ring) -> bool:
    """Tell whether all angles are right; they are not where a corner was out of reach."""
    edges = np.concatenate([ring.corners[1:], ring.corners[:1]]) - ring.corners
    after = np.concatenate([edges[1:], edges[:1]])
    return bool(np.abs(np.einsum("wc,wc->w", edges, after)).max() < 1e-6)


def _fit_walls(
    points: Points,
    sums: NDArray[np.float64],
    breaks: NDArray[np.intp],
    kinds: NDArray[np.bool_],
    price: float,
) -> _Ring | None:
    walls = partition(points, sums, breaks, kinds, price)
    if walls is None or len(walls.starts) < 3:
        return None
    lines = fit_lines(sums, walls, _TRIM_PX)
    walls = reassign(points, walls, corners_of(points, walls, lines, _REACH_PX))
    lines = fit_lines(sums, walls, _TRIM_PX)
    corners = corners_of(points, walls, lines, _REACH_PX)
    return _Ring(
        points=points,
        walls=walls,
        corners=corners,
        evidence=lines.evidence,
        cost=walls.cost,
        stray_px=_stray(points, corners, wall_of(len(points), walls)),
    )


def _stray(points: Points, corners: Points, wall: NDArray[np.intp]) -> float:
    """Return the root mean square distance of the points from their walls, px."""
    edges = np.concatenate([corners[1:], corners[:1]]) - corners
    length = np.sqrt(np.einsum("wc,wc->w", edges, edges)) + 1e-9
    along = (edges / length[:, None])[wall]
    offset = points - corners[wall]
    ahead = np.einsum("nc,nc->n", offset, along)
    # Beyond its corners a wall has ended: the distance is to the corner.
    beyond = np.maximum(0.0, np.maximum(-ahead, ahead - length[wall]))
    across = offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]
    return math.sqrt((across @ across + beyond @ beyond) / len(points))


def _price(rough: float, n_points: int) -> float:
    """Return the price of a wall, px²: more for a rough outline, less for a small one."""
    by_size = max(_PRICE_PX2, _PRICE_PER_POINT_PX2 * n_points)
    by_noise = _PRICE_PX2 * max(1.0, rough / _CLEAN_PX2) ** 3
    return min(_MAX_PRICE_PX2, by_size, by_noise)


def _middle_of_a_wall(points: Points, breaks: NDArray[np.intp]) -> int:
    """Return a point in the middle of the longest stretch along an axis of the frame."""
    corners = points[breaks]
    step = np.abs(np.roll(corners, -1, axis=0) - corners)
    best = int(np.argmax(step.max(1) - 3 * step.min(1)))
    length = int(breaks[(best + 1) % len(breaks)] - breaks[best]) % len(points)
    return int(breaks[best] + length // 2) % len(points)


def _fit_circle(points: Points, price: float, rough: float) -> _Ring | None:
    """Fit a circle by linear least squares; None where it is too small or too far off to be one."""
    n = len(points)
    centre = np.add.reduce(points) / n
    x, y = (points - centre).T
    square = x * x + y * y
    # Normal equations of x² + y² = 2ax + 2by + c about the centroid, where Σx = Σy = 0.
    sxx, syy, sxy = x @ x, y @ y, x @ y
    determinant = sxx * syy - sxy * sxy
    if determinant <= 0:
        return None
    p, q = x @ square / 2, y @ square / 2
    a, b = (p * syy - q * sxy) / determinant, (q * sxx - p * sxy) / determinant
    radius = math.sqrt((sxx + syy) / n + a * a + b * b)
    away = np.hypot(x - a, y - b) - radius
    squares = float(away @ away)
    if radius < _MIN_RADIUS_PX or squares > 3 * n * max(rough, _CLEAN_PX2):
        return None
    sides = 4 * max(3, math.ceil(math.pi / math.acos(1 - 0.2 / radius) / 4))
    angle = np.arange(sides) * (2 * math.pi / sides)
    # The polygon gets the circle's area, so its corners lie a little outside.
    out = radius * math.sqrt(2 * math.pi / sides / math.sin(2 * math.pi / sides))
    corners = centre + (a, b) + out * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # A circle has fewer parameters than four walls but is rarer: the price of five.
    return _Ring(
        points=points,
        walls=None,
        corners=corners,
        evidence=0j,
        cost=squares + 5 * price,
        stray_px=math.sqrt(squares / n),
    )


def _accept(fitted: Polygon, polygon: Polygon) -> bool:
    """Tell whether a fit is a valid polygon with about the area that was traced."""
    ratio = shapely.area(fitted) / shapely.area(polygon)
    return bool(shapely.is_valid(fitted) and 0.75 < ratio < 1.33)
