"""Traced polygons become footprints: right angles, diagonals, courtyards, round tanks, oval halls.

Every ring is fitted by `fits`, the courtyards in the frame of the shell. A fit is kept where it
describes the traced outline well (see `_accepted`); otherwise the walls are fitted without a common
frame, and where even that fails the traced outline loses no more than the steps of its pixels. The
results are always valid.

All polygons of a batch take each step together, since a step costs little more for a hundred rings
than for one. A footprint does not depend on its company, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from shapely import Polygon

from tilingseg.vectorize.fits import fit_rings, settled_corners
from tilingseg.vectorize.outlines import (
    Outlines,
    boundary_points,
    cross_threshold,
    turning_points,
)
from tilingseg.vectorize.partition import FREE
from tilingseg.vectorize.ragged import first_largest, offsets_of, spread
from tilingseg.vectorize.walls import main_directions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Points, Probability
    from tilingseg.vectorize.ragged import Indexes

Regularize = Literal["off", "auto", "strict"]

_FRAME_TOLERANCE_PX = 2.0
"""Simplification before the main direction is measured: coarse, for wobble turns short edges."""
_MIN_POINTS = 8
"""A ring of fewer boundary points has no direction to speak of."""
_HOPELESS_PX = 1.0
"""Root mean square distance from which on the walls do not describe the outline."""
_STEP_PX = 0.7
"""Simplification of an outline that keeps its own shape."""
_LONG_PX = 3.0
"""Pixel edges as long as this on both sides of a corner are no steps."""
_MAX_LOSS = 0.1
"""Share of the area that this may change."""

_ALL = np.ones(9, bool)
_RIGHT = np.arange(9) % 2 == 0
_RIGHT[FREE] = False
_ANY = np.arange(9) == FREE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A traced polygon that is to become one footprint."""

    polygon: Polygon
    """Valid, along pixel edges, px."""
    probability: Probability | None = None
    """Of the class around the polygon; makes the walls more exact."""
    cuts: NDArray[np.float64] | None = None
    """float64 (k, 2, 2), straight lines along which the polygon was cut from its neighbours, px;
    walls there stay on them, so that both sides keep a common wall."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rings:
    """The rings of a batch of parts, in pixels that are square on the ground."""

    outlines: Outlines
    """Boundary points, counted from the origin of the part."""
    counts: Indexes
    """Rings of every part; the first one is the shell."""

    def take(self, parts: Indexes) -> _Rings:
        """Return those of some parts."""
        first = np.cumsum(self.counts) - self.counts
        part, place = spread(self.counts[parts])
        rings = first[parts][part] + place
        return _Rings(outlines=self.outlines.take(rings), counts=self.counts[parts])


def fit_footprints(
    parts: Sequence[Part],
    regularize: Regularize = "auto",
    scale: tuple[float, float] = (1.0, 1.0),
) -> list[Polygon]:
    """Fit straight walls to traced polygons.

    Args:
        parts: the polygons.
        regularize: `auto`: right angles, and diagonals, free directions and ovals where the
            outline asks for them; `strict`: right angles alone, and the outline where they cannot
            follow it; `off`: the outline. Outlines are those of `without_steps`.
        scale: relative size of a pixel along x and y on the ground: right angles are right there.

    Returns:
        Valid polygons in the same coordinates, one for each part.
    """
    traced = np.array([part.polygon for part in parts], object)
    result = np.full(len(parts), None, object)
    if regularize != "off" and len(parts):
        # Numbers stay small, and a footprint does not depend on where in the scene it lies.
        origins = np.floor(shapely.bounds(traced)[:, :2])
        rings = _rings_of(parts, traced, origins, scale)
        left = np.flatnonzero(
            np.minimum.reduceat(rings.outlines.n_points, _first(rings.counts)) >= _MIN_POINTS
        )
        for kinds in (_RIGHT,) if regularize == "strict" else (_ALL, _ANY):
            if not len(left):
                break
            pins = [
                None if (cuts := parts[k].cuts) is None else (cuts - origins[k]) * scale
                for k in left.tolist()
            ]
            fitted = _fit_parts(rings.take(left), kinds, regularize == "auto", pins)
            placed = _polygons(fitted, origins[left], scale)
            good = _accepted(placed, traced[left])
            result[left[good]] = placed[good]
            left = left[~good]
    missing = np.flatnonzero(shapely.is_missing(result))
    if len(missing):
        result[missing] = without_steps(traced[missing])
    return result.tolist()


def without_steps(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return traced polygons without the steps of pixels: nearer to the truth, with fewer corners.

    The middles of pixel edges lie nearer to a smooth outline than their ends. Corners between long
    edges are real.
    """
    rings, part = shapely.get_rings(polygons, return_index=True)
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    is_edge = ring[1:] == ring[:-1]
    start, ring = corners[:-1][is_edge], ring[:-1][is_edge]
    step = corners[1:][is_edge] - start
    length = np.hypot(*step.T)
    n_edges = np.bincount(ring, minlength=len(rings))
    before = np.arange(-1, len(length) - 1)
    before[_first(n_edges)] += n_edges
    is_real = np.minimum(length, length[before]) >= _LONG_PX
    n_middles = np.maximum(1, np.rint(length)).astype(np.intp)
    edge, place = spread(n_middles + is_real)
    along = np.maximum(0.0, place - is_real[edge] + 0.5) / n_middles[edge]
    points = start[edge] + step[edge] * along[:, None]
    n = np.bincount(ring[edge], minlength=len(rings))
    ring, place = spread(n + 1)
    points = points[_first(n)[ring] + place % n[ring]]
    levels = offsets_of(n + 1), offsets_of(np.bincount(part, minlength=len(polygons)))
    result = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, levels)
    result = shapely.simplify(result, _STEP_PX, preserve_topology=True)
    # The corners that are lost are much of what is only a few pixels large.
    area = shapely.area(polygons)
    kept = (np.abs(shapely.area(result) - area) <= _MAX_LOSS * area) & shapely.is_valid(result)
    return np.asarray(np.where(kept, result, polygons))


def begun_at_the_top(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Let every ring begin at its first corner in row-major order, as traced shells do."""
    kind, corners, offsets = shapely.to_ragged_array(polygons)
    x, y = corners.T
    rings = offsets[0].astype(np.intp)
    highest = first_largest(-y, rings)
    row, place = spread(np.diff(rings) - 1)
    level = y == np.repeat(y[highest], np.diff(rings))
    start = first_largest(np.where(level, -x, -np.inf), rings) - rings[:-1]
    moved = rings[row] + (place + start[row]) % (np.diff(rings) - 1)[row]
    result = corners.copy()
    result[rings[row] + place] = corners[moved]
    result[rings[1:] - 1] = result[rings[:-1]]
    return np.asarray(shapely.from_ragged_array(kind, result, offsets))


def _first(counts: Indexes) -> Indexes:
    return np.cumsum(counts) - counts


def _rings_of(
    parts: Sequence[Part],
    traced: NDArray[np.object_],
    origins: Points,
    scale: tuple[float, float],
) -> _Rings:
    rings, part = shapely.get_rings(shapely.orient_polygons(traced), return_index=True)
    outlines, along = boundary_points(rings)
    points = outlines.points
    counts = np.bincount(part, minlength=len(parts))
    ends = outlines.offsets[np.cumsum(counts)]
    for (start, stop), each in zip(pairwise([0, *ends.tolist()]), parts, strict=True):
        if each.probability is not None:
            near, own = points[:, start:stop], along[:, start:stop]
            points[:, start:stop] = cross_threshold(near, own, each.probability)
    owner = np.repeat(part, outlines.n_points)
    points = (points - origins.T[:, owner]) * np.array(scale)[:, None]
    return _Rings(outlines=Outlines(points=points, offsets=outlines.offsets), counts=counts)


def _fit_parts(
    rings: _Rings,
    kinds: NDArray[np.bool_],
    round_shapes: bool,
    pins: list[NDArray[np.float64] | None],
) -> list[list[Points] | None]:
    """Return the corners of shell and holes of each part, float64 (2, k); None: no fit."""
    first, (part, _) = _first(rings.counts), spread(rings.counts)
    shells = rings.outlines.take(first)
    places, n_corners = turning_points(shells, _FRAME_TOLERANCE_PX)
    ring, _ = spread(n_corners)
    angle = main_directions(shells.points[:, shells.offsets[ring] + places], n_corners)
    pinned = np.array([pin is not None for pin in pins])
    may_be_round = ~pinned[part] & round_shapes
    fit = fit_rings(rings.outlines.turned(angle[part]), kinds, may_be_round)
    failed = ~np.isfinite(fit.stray_px)
    if kinds[FREE]:
        failed |= fit.stray_px > _HOPELESS_PX
    failed = np.logical_or.reduceat(failed, first)
    cos, sin = np.cos(angle), np.sin(angle)
    corners = fit.corners
    if rings.counts.max() > 1 or pinned.any():
        turned = [
            pin if pin is None else pin @ np.array([[c, -s], [s, c]])
            for pin, c, s in zip(pins, cos, sin, strict=True)
        ]
        corners = settled_corners(fit, part, turned)
    result: list[list[Points] | None] = []
    for k, rings_of_part in enumerate(np.split(np.arange(len(part)), first[1:])):
        placed = []
        for ring in rings_of_part.tolist():
            x, y = fit.corners_of_ring(ring, corners)
            placed.append(np.stack([x * cos[k] - y * sin[k], x * sin[k] + y * cos[k]]))
        result.append(None if failed[k] else placed)
    return result


def _polygons(
    fitted: list[list[Points] | None], origins: Points, scale: tuple[float, float]
) -> NDArray[np.object_]:
    """Put rings in their place; None where there are none."""
    result = np.full(len(fitted), None, object)
    for k, rings in enumerate(fitted):
        if rings is not None:
            placed = [ring.T / scale + origins[k] for ring in rings]
            result[k] = Polygon(placed[0], placed[1:])
    return result


def _accepted(fitted: NDArray[np.object_], traced: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Tell which fits are valid polygons with about the area that was traced."""
    ratio = shapely.area(fitted) / shapely.area(traced)
    return np.asarray(shapely.is_valid(fitted) & (ratio > 0.75) & (ratio < 1.33))
