"""One traced polygon becomes one footprint: right angles, diagonals, courtyards, round tanks.

Every ring is fitted by `walls`, the courtyards in the frame of the shell. A fit is kept where it
describes the traced outline well (see `_accept`); otherwise the walls are fitted without a common
frame, and where even that fails the traced outline is simplified. The result is always valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    corners_of,
    fit_lines,
    main_direction,
    partition,
    reassign,
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
_REACH_PX = 6.0
"""How far a corner may lie outside the traced outline."""
_MIN_POINTS = 8
"""A ring of fewer boundary points has no direction to speak of."""
_MIN_RADIUS_PX = 4.0
"""A smaller circle cannot be told from a square with rounded corners."""

_PRICE_PX2 = 6.0
"""Price of a wall in a clean outline: a jog of 2 px pays for itself from about 8 px of length."""
_MAX_PRICE_PX2 = 36.0
"""Price of a wall in an outline that wobbles like that of a network."""
_CLEAN_PX2 = 0.05
"""Roughness of a staircase of pixels."""
_SHARE = 0.25
"""Share of the price at which a ring is fitted again where the first fit strays."""
_STRAY_PX = 0.65
"""Mean distance between outline and walls that wobble explains."""

_ALL = np.ones(9, bool)
_RIGHT = np.arange(9) % 2 == 0
_RIGHT[FREE] = False
_ANY = np.arange(9) == FREE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ring:
    """A fitted ring."""

    corners: Points
    """float64 (k, 2), not closed, px."""
    turn: float
    """Correction of the main direction, radians."""
    cost: float
    """Squared distances and prices, px²."""
    stray_px: float
    """Mean distance of the boundary points from their walls."""


def fit_footprint(
    polygon: Polygon,
    *,
    regularize: Regularize = "auto",
    scale: tuple[float, float] = (1.0, 1.0),
    probability: Probability | None = None,
) -> Polygon:
    """Fit straight walls to a traced polygon.

    Args:
        polygon: valid, along pixel edges, px.
        regularize: `auto`: right angles, and diagonals, free directions and circles where the
            outline asks for them; `strict`: right angles alone; `off`: the outline, simplified.
        scale: relative size of a pixel along x and y on the ground: right angles are right there.
        probability: of the class around the polygon; makes the walls more exact.

    Returns:
        A valid polygon in the same coordinates.
    """
    polygon = shapely.orient_polygons(polygon)
    if regularize != "off":
        attempts = (_RIGHT,) if regularize == "strict" else (_ALL, _ANY)
        rings = [
            _points(ring, scale, probability) for ring in (polygon.exterior, *polygon.interiors)
        ]
        for kinds in attempts:
            fitted = _fit_rings(rings, kinds, round_shapes=regularize == "auto")
            if fitted is not None and _accept(fitted, polygon, scale):
                return _scaled(fitted, 1 / scale[0], 1 / scale[1])
    return simplified(polygon)


def simplified(polygon: Polygon, tolerance_px: float = 1.0) -> Polygon:
    """Simplify a polygon without changing its topology."""
    result = shapely.simplify(polygon, tolerance_px, preserve_topology=True)
    return result if result.is_valid and not result.is_empty else polygon


def _points(
    ring: shapely.LinearRing, scale: tuple[float, float], probability: Probability | None
) -> Points:
    points, along = boundary_points(shapely.get_coordinates(ring))
    if probability is not None:
        points = cross_threshold(points, along, probability)
    return points * scale


def _fit_rings(
    rings: list[Points], kinds: NDArray[np.bool_], *, round_shapes: bool
) -> Polygon | None:
    """Fit the shell, then the holes in its frame; None where a ring cannot be fitted."""
    if len(rings[0]) < _MIN_POINTS:
        return None
    direction = main_direction(rings[0][turning_points(rings[0], _FRAME_TOLERANCE_PX)])
    fitted: list[Points] = []
    for points in rings:
        ring = _fit_ring(points, kinds, direction, round_shapes)
        if ring is None:
            return None
        if not fitted:
            direction += ring.turn
        fitted.append(ring.corners)
    return Polygon(fitted[0], fitted[1:])


def _fit_ring(
    points: Points, kinds: NDArray[np.bool_], direction: float, round_shapes: bool
) -> _Ring | None:
    if len(points) < _MIN_POINTS:
        return None
    rough = roughness(points)
    price = min(_MAX_PRICE_PX2, _PRICE_PX2 * max(1.0, rough / _CLEAN_PX2) ** 3)
    cos, sin = math.cos(direction), math.sin(direction)
    frame = np.array([[cos, -sin], [sin, cos]])
    framed = points @ frame
    breaks = turning_points(framed, _BREAK_TOLERANCE_PX)
    start = _middle_of_a_wall(framed, breaks)
    framed = np.roll(framed, -start, axis=0)
    breaks = np.sort((breaks - start) % len(points))
    breaks = breaks[breaks > 0]
    ring = _fit_walls(framed, breaks, kinds, price)
    if round_shapes:
        circle = _fit_circle(framed, price, rough)
        if circle is not None and (ring is None or circle.cost < ring.cost):
            return replace(circle, corners=circle.corners @ frame.T)
    if ring is None or ring.stray_px > _STRAY_PX:
        # Small parts of a small building cannot pay the full price, yet leaving them out shows.
        finer = _fit_walls(framed, breaks, kinds, price * _SHARE)
        if finer is not None and (ring is None or finer.stray_px < ring.stray_px - 0.1):
            ring = finer
    return None if ring is None else replace(ring, corners=ring.corners @ frame.T)


def _fit_walls(
    points: Points, breaks: NDArray[np.intp], kinds: NDArray[np.bool_], price: float
) -> _Ring | None:
    walls = partition(points, breaks, kinds, price)
    if walls is None or len(walls.starts) < 3:
        return None
    for _ in range(2):
        lines = fit_lines(points, walls, _TRIM_PX)
        walls = reassign(points, walls, corners_of(points, walls, lines, _REACH_PX))
    lines = fit_lines(points, walls, _TRIM_PX)
    wall = np.searchsorted(walls.starts, np.arange(len(points)), side="right") - 1
    away = (points * lines.normals[wall]).sum(1) - lines.offsets[wall]
    return _Ring(
        corners=corners_of(points, walls, lines, _REACH_PX),
        turn=lines.turn,
        cost=walls.cost,
        stray_px=float(np.abs(away).mean()),
    )


def _middle_of_a_wall(points: Points, breaks: NDArray[np.intp]) -> int:
    """Return a point in the middle of the longest stretch along an axis of the frame."""
    corners = points[breaks]
    step = np.abs(np.roll(corners, -1, axis=0) - corners)
    best = int(np.argmax(step.max(1) - 3 * step.min(1)))
    length = int(breaks[(best + 1) % len(breaks)] - breaks[best]) % len(points)
    return int(breaks[best] + length // 2) % len(points)


def _fit_circle(points: Points, price: float, rough: float) -> _Ring | None:
    """Fit a circle by linear least squares; None where it is too small or too far off to be one."""
    centre = points.mean(0)
    x, y = (points - centre).T
    design = np.stack([x, y, np.ones_like(x)], axis=1)
    solution = np.linalg.lstsq(design, x * x + y * y, rcond=None)[0]
    middle = solution[:2] / 2
    radius = math.sqrt(max(0.0, solution[2] + middle @ middle))
    if radius < _MIN_RADIUS_PX:
        return None
    away = np.hypot(x - middle[0], y - middle[1]) - radius
    squares = float(away @ away)
    if squares > 4 * len(points) * max(rough, _CLEAN_PX2):
        return None
    sides = 4 * max(3, math.ceil(math.pi / math.acos(1 - 0.2 / radius) / 4))
    angle = np.arange(sides) * (2 * math.pi / sides)
    # The polygon gets the circle's area, so its corners lie a little outside.
    out = radius * math.sqrt(2 * math.pi / sides / math.sin(2 * math.pi / sides))
    corners = centre + middle + out * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # A circle has fewer parameters than four walls but is rarer: the price of five.
    return _Ring(
        corners=corners, turn=0.0, cost=squares + 5 * price, stray_px=float(np.abs(away).mean())
    )


def _accept(fitted: Polygon, polygon: Polygon, scale: tuple[float, float]) -> bool:
    """Tell whether a fit is a valid polygon that covers what was traced."""
    if not fitted.is_valid or fitted.is_empty:
        return False
    traced = _scaled(polygon, *scale)
    common = fitted.intersection(traced).area
    return bool(common >= 0.8 * (fitted.area + traced.area - common))


def _scaled(polygon: Polygon, x: float, y: float) -> Polygon:
    if x == y == 1:
        return polygon
    return shapely.transform(polygon, lambda xy: xy * (x, y))
