"""Whether something that is measured was learnt: refuses splits that share or touch ground.

A model that has seen a place scores better there than anywhere else, and nobody notices. Three
things are looked at, for every pair of a training and a held-out raster:

- ground: rectangles on the map, or in one file, that overlap or touch;
- duplicates: the same picture under two names, whatever its size and encoding;
- neighbours without a place: one's last row or column continues in the other's first.

Files of a source that is split by blocks may touch each other, as the blocks in one file do; they
may not overlap, nor show the same picture.

The last two compare pixels, and their limits were chosen on 222,000 pairs of edges of aerial and
microscope images: of neighbouring parts of one mosaic about half are recognised, of unrelated ones
none. Some pair of a careless split is therefore found, not every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import shapely
import shapely.affinity
from pyproj import Transformer
from scipy import ndimage

from tilingseg.affine import moved
from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.training.sources import LabelledRaster, Place

CONTINUES = 0.65
"""Correlation of their details from which two edges may be one…"""
STEP = 1.35
"""…if the step between them is at most so large, in steps between neighbouring rows inside."""
DUPLICATE = 0.95
"""Correlation from which two reduced copies are one picture."""
_SMOOTH_PX = 31
_DEPTH_PX = 2
_REDUCED_PX = 32
_LEAST_SHARED = 0.25
"""Of the pixels of two reduced copies: fewer that both know say nothing."""
_TOUCHING_PX = 0.5
"""Both rectangles are grown by this, so that rounding parts no neighbours, or drawn in by it."""
_POINTS_A_SIDE = 64
_LEAST_DEVIATION = 1e-3
"""Of values in 0…1: what is flatter has no features to compare."""


@dataclass(frozen=True, slots=True, eq=False)
class _Edge:
    """The outermost rows or columns of a raster."""

    values: NDArray[np.float64]
    details: NDArray[np.float64] | None
    """Without what is smooth, length 1; None: nothing to see."""
    step: float
    """Mean square difference to the next ones inside."""


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What is compared of one raster."""

    raster: LabelledRaster
    reduced: NDArray[np.float64]
    """Small copy, NaN where the raster is mostly without data."""
    edges: dict[str, _Edge]
    """Top, bottom, left, right."""


def refuse_leaks(
    training: tuple[LabelledRaster, ...], held_out: tuple[LabelledRaster, ...]
) -> None:
    """Refuse held-out rasters that a training raster shows, or touches.

    Args:
        training: rasters that weights are fitted to.
        held_out: rasters that are measured.

    Raises:
        TrainingError: naming both rasters and what they share.
    """
    looks = [_look(raster) for raster in held_out]
    for raster in training if looks else ():
        mine = _look(raster)
        for other in looks:
            if why := _shared(mine, other):
                raise TrainingError(
                    f"training raster {raster.name!r} of {raster.source.name!r} and held-out "
                    f"raster {other.raster.name!r} of {other.raster.source.name!r} {why}: what is "
                    "measured must not be learnt, leave one of them out"
                )


def _shared(one: _Look, other: _Look) -> str | None:
    """Say what two rasters have in common; None: nothing that was found."""
    a, b = one.raster.place, other.raster.place
    by_blocks = one.raster.source is other.raster.source
    meet = None
    if a is None or b is None or a.uri == b.uri:
        if by_blocks:
            return None  # training does not see the pixels of the held-out blocks
        if a is not None and b is not None and _meet_in_file(a, b):
            return "overlap or touch in one file"
    else:
        meet = _meet_on_map(a, b, -_TOUCHING_PX if by_blocks else _TOUCHING_PX)
    if meet:
        return "overlap on the map" if by_blocks else "overlap or touch on the map"
    if _is_same(one.reduced, other.reduced):
        return "show the same picture"
    if by_blocks or meet is not None:
        return None  # neighbours are allowed, or the map has said that they are none
    for edge, opposite in (("bottom", "top"), ("right", "left")):
        for first, second in ((one, other), (other, one)):
            if _is_one(first.edges[edge], second.edges[opposite]):
                return "continue in each other"
    return None


def _meet_in_file(a: Place, b: Place) -> bool:
    rows = a.window.row <= b.window.row_stop and b.window.row <= a.window.row_stop
    cols = a.window.col <= b.window.col_stop and b.window.col <= a.window.col_stop
    return rows and cols


def _meet_on_map(a: Place, b: Place, grown_px: float) -> bool | None:
    """Return whether two places meet when they are grown by some pixels; None: nobody can say."""
    if a.crs is None or b.crs is None:
        return None
    one, other = _ground(a, grown_px), _ground(b, grown_px)
    if a.crs != b.crs:
        one, other = _degrees(a, grown_px), _degrees(b, grown_px)
        if one.is_empty or other.is_empty:
            return None
        turns = round((one.centroid.x - other.centroid.x) / 360)
        other = shapely.affinity.translate(other, 360.0 * turns)
    return bool(one.intersects(other))


@cache
def _degrees(place: Place, grown_px: float) -> BaseGeometry:
    assert place.crs is not None
    return _in_degrees(_ground(place, grown_px), place.crs)


@cache
def _ground(place: Place, grown_px: float) -> BaseGeometry:
    """Return the outline of a place in its CRS."""
    window = place.window
    frame = shapely.box(
        window.col - grown_px,
        window.row - grown_px,
        window.col_stop + grown_px,
        window.row_stop + grown_px,
    )
    outline: BaseGeometry = moved(frame, place.transform)
    return outline


def _in_degrees(outline: BaseGeometry, crs: str) -> BaseGeometry:
    """Bring an outline to longitude and latitude, with the bends that its sides have there.

    Points without an answer, as beside the Earth's disc, are left out; it is empty without any.
    """
    fine = outline.segmentize(outline.length / (4 * _POINTS_A_SIDE))
    x, y = shapely.get_coordinates(fine).T
    points = np.stack(_to_degrees(crs).transform(x, y), axis=1)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 4:
        return shapely.Polygon()
    # Across the date line longitudes run on instead of jumping back.
    points[:, 0] = np.unwrap(points[:, 0], period=360)
    return shapely.Polygon(points)


@lru_cache(maxsize=64)
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _is_same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Return whether two reduced copies agree where both are known."""
    if a.shape != b.shape:
        return False
    known = ~np.isnan(a) & ~np.isnan(b)
    if np.count_nonzero(known) < _LEAST_SHARED * known.size:
        return False
    one, other = a[known], b[known]
    return _alike(_unit(one - one.mean()), _unit(other - other.mean())) > DUPLICATE


def _is_one(a: _Edge, b: _Edge) -> bool:
    if _alike(a.details, b.details) <= CONTINUES:
        return False
    return bool(np.square(a.values - b.values).mean() <= STEP**2 * max(a.step, b.step))


def _alike(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> float:
    return 0.0 if a is None or b is None or a.shape != b.shape else float((a * b).sum())


def _look(raster: LabelledRaster) -> _Look:
    low, high = raster.scaling.low[0], raster.scaling.high[0]
    grey = np.where(raster.valid, (raster.pixels.mean(axis=0) - low) / (high - low), 0.0)
    sides = {"top": grey, "bottom": grey[::-1], "left": grey.T, "right": grey.T[::-1]}
    return _Look(
        raster,
        _reduced(grey, raster.valid),
        {name: _edge(rows) for name, rows in sides.items()},
    )


def _reduced(grey: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the means of the valid pixels of cells; NaN where most of a cell is not valid."""
    size = min(_REDUCED_PX, *grey.shape)
    rows, cols = (np.arange(size) * side // size for side in grey.shape)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, axis=0), cols, axis=1))

    n_valid, n_all = summed(valid.astype(np.float64)), summed(np.ones(grey.shape))
    return np.where(2 * n_valid >= n_all, summed(grey) / np.maximum(n_valid, 1), np.nan)


def _edge(rows: NDArray[np.float64]) -> _Edge:
    values = rows[:_DEPTH_PX].mean(axis=0)
    inside = rows[_DEPTH_PX : 2 * _DEPTH_PX].mean(axis=0) if len(rows) > _DEPTH_PX else values
    return _Edge(
        values,
        _unit(values - ndimage.uniform_filter1d(values, _SMOOTH_PX)),
        float(np.square(values - inside).mean()),
    )


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if values.std() < _LEAST_DEVIATION:
        return None
    unit: NDArray[np.float64] = values / np.sqrt((values**2).sum())
    return unit
