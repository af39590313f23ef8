"""What fits a ring of boundary points best: walls, at what price, or a circle or an ellipse.

The price of a wall follows from how rough the outline is. A ring that strays from its walls is
fitted once more at a lower price. All rings of a batch are fitted together; which of them belong
to one footprint, and which footprints are good enough, is for `footprint`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.outlines import Moments, Outlines, roughness, turning_points
from tilingseg.vectorize.ovals import fit_circles, fit_ellipses
from tilingseg.vectorize.partition import FREE, Breaks, Walls, partition
from tilingseg.vectorize.ragged import first_largest, offsets_of, replaced, spread, totals
from tilingseg.vectorize.walls import (
    are_right,
    corners_of,
    fit_lines,
    pin_lines,
    reassign,
    strays,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Points
    from tilingseg.vectorize.ragged import Indexes

_BREAK_TOLERANCE_PX = 1.0
"""Simplification that leaves the points where walls may meet."""
_TRIM_PX = 2.0
"""Points of a wall this near to a corner are not fitted: blur rounds corners by about this much."""
_REACH_PX = 5.0
"""How far a corner may lie outside the traced outline."""
_MIN_RADIUS_PX = 4.0
"""A rounder shape that is narrower cannot be told from a square with rounded corners."""
_ROUND = 3.0
"""An oval strays from its points by no more than this times what the outline does locally, px²
each ..."""
_ROUND_PX2 = 0.5
"""... or by this, for wobble is longer than what is local."""
_CIRCLE_PRICE = 5
"""A circle has fewer parameters than four walls but is rarer: the price of five."""
_ELLIPSE_PRICE = 7
"""Two parameters more."""

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
_GAIN_PX = 0.1
"""... and by how much the second fit must be nearer."""
_STAIRCASE_PX = 0.33
"""The same for what steps of pixels explain, in any direction ..."""
_GAIN_SHARE = 0.6
"""... and the share of it that the second fit must come down to: a few more walls follow a shape
that is there, but not noise."""
_MOST_SIDES = 8
"""What looks round and has no more sides than this is a polygon ..."""
_SIDES_GAIN = 0.7
"""... if the outline strays from them by less than this share of what it does from an oval."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Walls, or an oval, through every ring."""

    outlines: Outlines
    """In the main frames."""
    moments: Moments
    """Of the outlines."""
    walls: Walls
    """A ring that could not be fitted has none."""
    corners: Points
    """float64 (2, walls), in the main frames, px."""
    evidence: NDArray[np.complex128]
    """What each ring says about the direction of its frame."""
    stray_px: NDArray[np.float64]
    """Root mean square distance of each ring's boundary points from their walls; infinite where
    there are none."""
    ovals: dict[int, Points]
    """Corners of the rings that are round, float64 (2, k)."""

    def corners_of_ring(self, ring: int, corners: Points) -> Points:
        """Return those of a ring among the corners of all walls; those of its oval if round."""
        first, last = self.walls.offsets[ring], self.walls.offsets[ring + 1]
        return self.ovals.get(ring, corners[:, first:last])


def fit_rings(outlines: Outlines, kinds: NDArray[np.bool_], may_be_round: NDArray[np.bool_]) -> Fit:
    """Fit walls, or ovals, to rings.

    Args:
        outlines: in their main frames, px.
        kinds: bool (9,), which kinds of wall are allowed; without free ones, rings whose angles are
            not all right are not fitted.
        may_be_round: bool (rings,), whether ovals are allowed.
    """
    places, counts = turning_points(outlines, _BREAK_TOLERANCE_PX)
    start = _middles_of_walls(outlines, places, counts)
    outlines = outlines.begun_at(start)
    breaks = _breaks_from(outlines, places, counts, start)
    moments = Moments.of(outlines)
    rough = roughness(moments)
    price = _prices(rough, outlines.n_points)
    fit = _fit_walls(outlines, moments, breaks, kinds, price)
    if may_be_round.any():
        fit = _with_ovals(fit, may_be_round, price, rough)
    strict = not kinds[FREE]
    again = ~(fit.stray_px <= _STAIRCASE_PX)
    again[list(fit.ovals)] = True
    if strict:
        again |= ~are_right(fit.walls, fit.corners)
    rings = np.flatnonzero(again)
    if len(rings):
        # Small parts of a small building cannot pay the full price, yet leaving them out shows.
        few = outlines.take(rings)
        finer = _fit_walls(few, Moments.of(few), breaks.take(rings), kinds, price[rings] * _SHARE)
        better = np.flatnonzero(_is_better(finer, fit, rings, strict))
        fit = _with_rings(fit, rings[better], finer, better)
    if strict:
        fit.stray_px[~are_right(fit.walls, fit.corners)] = np.inf
    return fit


def _is_better(finer: Fit, fit: Fit, rings: Indexes, strict: bool) -> NDArray[np.bool_]:
    """Tell which rings are described better by walls at a lower price."""
    if strict:
        return np.isfinite(finer.stray_px)
    before, now = fit.stray_px[rings], finer.stray_px
    # The sides of a hexagon are dear; a tank would take more of them and gain little.
    has_sides = (finer.walls.counts <= _MOST_SIDES) & (now < _SIDES_GAIN * before)
    is_round = np.isin(rings, list(fit.ovals))
    nearer = (now < _GAIN_SHARE * before) | ((before > _STRAY_PX) & (now < before - _GAIN_PX))
    return np.where(is_round, has_sides, np.isfinite(now) & nearer)


def settled_corners(
    fit: Fit,
    owner: Indexes,
    pins: Sequence[NDArray[np.float64] | None],
) -> Points:
    """Return the corners in the frame that all rings of an owner share, its pins kept.

    Args:
        fit: of all rings.
        owner: which rings belong together: per ring, the index of what it is part of.
        pins: per owner, float64 (k, 2, 2): segments in the main frame that walls along them take.
    """
    real, imag = (totals(owner, part, len(pins)) for part in (fit.evidence.real, fit.evidence.imag))
    lines = fit_lines(fit.moments, fit.walls, _TRIM_PX, turns(real + 1j * imag)[owner])
    for ring, index in enumerate(owner.tolist()):
        pin = pins[index]
        if pin is not None and fit.walls.counts[ring]:
            pin_lines(lines, fit.outlines, fit.walls, ring, pin)
    return corners_of(fit.outlines, fit.walls, lines, _REACH_PX)


def _fit_walls(
    outlines: Outlines,
    moments: Moments,
    breaks: Breaks,
    kinds: NDArray[np.bool_],
    price: NDArray[np.float64],
) -> Fit:
    walls = partition(outlines, moments, breaks, kinds, price)
    lines = fit_lines(moments, walls, _TRIM_PX)
    walls = reassign(outlines, walls, corners_of(outlines, walls, lines, _REACH_PX))
    lines = fit_lines(moments, walls, _TRIM_PX)
    corners = corners_of(outlines, walls, lines, _REACH_PX)
    return Fit(
        outlines=outlines,
        moments=moments,
        walls=walls,
        corners=corners,
        evidence=lines.evidence,
        stray_px=strays(outlines, walls, corners),
        ovals={},
    )


def _with_rings(fit: Fit, rings: Indexes, other: Fit, chosen: Indexes) -> Fit:
    """Return the fit with some rings replaced by those chosen of another fit."""
    walls = other.walls.take(chosen)
    _, place = replaced(fit.walls.offsets, rings, walls.offsets)
    corners = np.concatenate([fit.corners, other.corners[:, other.walls.places(chosen)]], axis=1)
    evidence, stray_px = fit.evidence.copy(), fit.stray_px.copy()
    evidence[rings], stray_px[rings] = other.evidence[chosen], other.stray_px[chosen]
    return replace(
        fit,
        walls=fit.walls.with_rings(rings, walls),
        corners=corners[:, place],
        evidence=evidence,
        stray_px=stray_px,
        ovals={ring: fit.ovals[ring] for ring in fit.ovals.keys() - set(rings.tolist())},
    )


def _with_ovals(
    fit: Fit,
    may_be_round: NDArray[np.bool_],
    price: NDArray[np.float64],
    rough: NDArray[np.float64],
) -> Fit:
    """Return the fit with circles and ellipses where they are cheaper than walls."""
    n = fit.outlines.n_points
    cost, stray_px = fit.walls.cost, fit.stray_px
    ovals: dict[int, Points] = {}
    for found, share in (
        (fit_circles(fit.outlines), _CIRCLE_PRICE),
        (fit_ellipses(fit.outlines), _ELLIPSE_PRICE),
    ):
        cheaper = may_be_round & (found.squares + share * price < cost)
        cheaper &= found.radii_px.min(1) >= _MIN_RADIUS_PX
        cheaper &= found.squares <= n * np.maximum(_ROUND * rough, _ROUND_PX2)
        cost = np.where(cheaper, found.squares + share * price, cost)
        stray_px = np.where(cheaper, np.sqrt(found.squares / n), stray_px)
        ovals |= {ring: found.polygon(ring) for ring in np.flatnonzero(cheaper).tolist()}
    evidence = fit.evidence.copy()
    evidence[list(ovals)] = 0
    return replace(fit, evidence=evidence, stray_px=stray_px, ovals=ovals)


def _prices(rough: NDArray[np.float64], n_points: Indexes) -> NDArray[np.float64]:
    """Return the price of a wall, px²: more for a rough outline, less for a small one."""
    by_size = np.maximum(_PRICE_PX2, _PRICE_PER_POINT_PX2 * n_points)
    by_noise = _PRICE_PX2 * np.maximum(1.0, rough / _CLEAN_PX2) ** 3
    return np.asarray(np.minimum(_MAX_PRICE_PX2, np.minimum(by_size, by_noise)))


def _middles_of_walls(outlines: Outlines, places: Indexes, counts: Indexes) -> Indexes:
    """Return a point in the middle of each ring's longest stretch along an axis of the frame."""
    offsets = offsets_of(counts)
    ring, place = spread(counts)
    following = offsets[ring] + (place + 1) % counts[ring]
    corners = outlines.points[:, outlines.offsets[ring] + places]
    across, down = np.abs(corners[:, following] - corners)
    best = first_largest(np.maximum(across, down) - 3 * np.minimum(across, down), offsets)
    n = outlines.n_points
    length = (places[following[best]] - places[best]) % n
    return (places[best] + length // 2) % n


def _breaks_from(outlines: Outlines, places: Indexes, counts: Indexes, start: Indexes) -> Breaks:
    """Count the places of breaks from another point of their ring."""
    ring, _ = spread(counts)
    moved = (places - start[ring]) % outlines.n_points[ring]
    ring, moved = ring[moved > 0], moved[moved > 0]
    order = np.argsort(outlines.offsets[ring] + moved, kind="stable")
    return Breaks(places=moved[order], counts=np.bincount(ring, minlength=len(counts)))
