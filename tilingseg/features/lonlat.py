"""The rules of RFC 7946 for geometry: cut at the antimeridian, closed at poles, rounded, valid.

Coordinates are rounded to seven decimals, about a centimetre. Rounding can make a valid polygon
invalid, or leave nothing of a tiny one: the former is built anew on the rounded grid, the latter
is left out and counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import shapely
import shapely.affinity

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

DECIMALS = 7
"""Decimals of degrees in GeoJSON."""
_AT_POLE = 90 - 1e-9


def inside_the_world(lonlat: NDArray[np.object_]) -> NDArray[np.object_]:
    """Cut geometries at the antimeridian, so that longitudes lie in −180…180.

    Args:
        lonlat: polygons or lines in degrees, as projected: they may jump from 180 to −180, run
            beyond 180, or lie around a pole.

    Returns:
        The geometries that need no cut as they are, the others in parts.
    """
    bounds = shapely.bounds(lonlat)
    west, south, east, north = bounds.T
    odd = (east - west > 180) | (west < -180) | (east > 180)
    odd |= np.maximum(north, -south) > _AT_POLE
    if not odd.any():
        return lonlat
    lonlat = lonlat.copy()
    for index in np.flatnonzero(odd).tolist():
        lonlat[index] = _cut(lonlat[index])
    return lonlat


def round_coordinates(
    geometries: NDArray[np.object_], decimals: int
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Round coordinates and keep polygons valid, with the inside on the left hand.

    Args:
        geometries: polygons or lines, valid.
        decimals: how many to keep.

    Returns:
        The geometries, and which of them are still there.
    """
    rounded = _round(geometries, decimals)
    broken = np.flatnonzero(~shapely.is_valid(rounded))
    for index in broken.tolist():
        rounded[index] = _rebuild(geometries[index], decimals)
    there = ~shapely.is_empty(rounded) & shapely.is_valid(rounded)
    rounded[there] = shapely.orient_polygons(shapely.remove_repeated_points(rounded[there]))
    return rounded, there


def _round(geometries: NDArray[np.object_], decimals: int) -> NDArray[np.object_]:
    result: NDArray[np.object_] = shapely.transform(
        geometries,
        lambda points: np.round(points, decimals) + 0.0,  # no −0.0
    )
    return result


def _rebuild(geometry: BaseGeometry, decimals: int) -> BaseGeometry:
    """Snap a geometry to the grid of rounded coordinates; parts that vanish there are dropped."""
    dimension = shapely.get_dimensions(geometry)
    snapped = shapely.set_precision(shapely.make_valid(geometry), 10.0**-decimals)
    snapped = _round(np.array([snapped], dtype=np.object_), decimals)[0]
    return _of_dimension(snapped, int(dimension))


def _cut(geometry: BaseGeometry) -> BaseGeometry:
    """Bring one geometry into −180…180, in as many parts as it takes."""
    if shapely.get_dimensions(geometry) == 1:
        lines = [_fold(shapely.LineString(_unroll(line))) for line in shapely.get_parts(geometry)]
        return _of_dimension(shapely.union_all(lines), 1)
    polygons = [
        _region(polygon.exterior).difference(
            shapely.union_all(list(map(_region, polygon.interiors)))
        )
        for polygon in shapely.get_parts(geometry)
    ]
    return _of_dimension(shapely.union_all(polygons), 2)


def _region(ring: BaseGeometry) -> BaseGeometry:
    """Return what a ring encloses, inside −180…180."""
    points = _unroll(ring)
    if abs(points[-1, 0] - points[0, 0]) > 180:  # once around the globe: it encloses a pole
        pole = math.copysign(90, points[:, 1].mean())
        points = np.concatenate([points, [[points[-1, 0], pole], [points[0, 0], pole]], points[:1]])
    return _fold(_of_dimension(shapely.make_valid(shapely.Polygon(points)), 2))


def _unroll(line: BaseGeometry) -> NDArray[np.float64]:
    """Return the points of a line with each longitude within 180° of the one before."""
    points = _part_meridians_at_pole(shapely.get_coordinates(line))
    points[1:, 0] -= 360 * np.cumsum(np.round(np.diff(points[:, 0]) / 360))
    return points


def _part_meridians_at_pole(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Let a line that passes through a pole arrive and leave along its own meridians.

    A pole has every longitude; the one that a projection names leads the line astray.
    """
    at_pole = np.abs(points[:, 1]) > _AT_POLE
    if not at_pole.any() or at_pole.all():
        return points
    is_ring = np.array_equal(points[0], points[-1])
    if is_ring:  # begin elsewhere, so that both neighbours of a pole are at hand
        points, at_pole = points[:-1], at_pole[:-1]
        first = int(np.flatnonzero(~at_pole)[0])
        points, at_pole = np.roll(points, -first, axis=0), np.roll(at_pole, -first)
        points = np.concatenate([points, points[:1]])
        at_pole = np.append(at_pole, at_pole[0])
    alone = np.flatnonzero(at_pole)
    alone = alone[~(at_pole[np.maximum(alone - 1, 0)] & (alone > 0))]
    before = np.maximum(alone - 1, 0)
    after = np.minimum(alone + 1, len(points) - 1)
    arriving = np.stack([points[before, 0], points[alone, 1]], axis=1)
    points[alone, 0] = points[after, 0]
    return np.insert(points, alone, arriving, axis=0)


def _fold(geometry: BaseGeometry) -> BaseGeometry:
    """Move the parts of a geometry that lie beyond −180…180 by whole turns."""
    west, _, east, _ = geometry.bounds
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    parts = [
        shapely.affinity.translate(
            geometry.intersection(shapely.box(360 * turn - 180, -91, 360 * turn + 180, 91)),
            -360 * turn,
        )
        for turn in turns
    ]
    return shapely.union_all(parts)


def _of_dimension(geometry: BaseGeometry, dimension: int) -> BaseGeometry:
    """Keep the polygons (2) or lines (1) of a geometry that may be a collection."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # a collection may hold multi-geometries
    parts = parts[shapely.get_dimensions(parts) == dimension]
    if len(parts) == 1:
        single: BaseGeometry = parts[0]
        return single
    collect = shapely.MultiPolygon if dimension == 2 else shapely.MultiLineString
    return collect(list(parts))
