"""From pixels to the map and the ground: coordinates, areas, lengths.

Areas and lengths are those on the WGS84 ellipsoid, whatever the CRS: a square metre of web mercator
is not one, and degrees are no unit of length. They are computed for all coordinates of a batch at
once: areas in the cylindrical equal-area projection, lengths by the local radii of curvature at an
edge's middle. Long edges are divided along their straight line on the map first, so that both are
good to a few parts in a million.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely

from tilingseg.affine import moved
from tilingseg.features.layer import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tilingseg.features.layer import Layer
    from tilingseg.records import Feature, Georef

BATCH = 2048
"""Features measured at a time."""
LONGEST_EDGE_M = 1000.0
"""Edges are divided to this length before they are written in degrees: a straight line on the map
is curved there, by 3 cm in the middle of a kilometre at 55° of latitude."""
LONGEST_EDGE_DEG = 10.0
"""The same for scenes in degrees, whose edges are not curved but must show their way around."""
NEAR_POLE_DEG = 89.0
"""From this latitude on, 111 km from a pole, edges are divided further, to `_polar_edge`."""
MEASURED_EDGE_M = 100.0
"""Edges are divided to this length before they are measured, at most into tenths of a pixel."""

_ELLIPSOID = pyproj.Geod(ellps="WGS84")
_A, _E2 = _ELLIPSOID.a, _ELLIPSOID.es
_E = math.sqrt(_E2)


def measure(features: Iterable[Feature], layer: Layer) -> Iterator[Batch]:
    """Locate and measure features, batch by batch.

    Args:
        features: geometries in pixel coordinates of `layer.georef`.
        layer: where they lie and what they are.

    Yields:
        Batches in the order of the features; one empty batch if there are none, so that a file
        without features still has its columns. `id` counts from 1; `uid` is of the object alone
        and stays what it is when others are found or left out. Attributes are `area_m2` and
        `perimeter_m` (holes included) of polygons, `length_m` of lines. Without a CRS they are in
        pixels (`area_px`), and besides in metres, or micrometres for microscopy, where the size of
        a pixel is known.
    """
    iterator = iter(features)
    project = _projection(layer.georef)
    n_before = 0
    while (group := list(islice(iterator, BATCH))) or n_before == 0:
        pixels = np.array([feature.geometry for feature in group], dtype=np.object_)
        columns: dict[str, NDArray[Any]] = {
            "id": n_before + 1 + np.arange(len(group), dtype=np.int64),
            "class": np.array([feature.class_name for feature in group], dtype=np.object_),
        }
        transform = layer.georef.to_coordinates
        geometries = moved(pixels, transform)
        step = math.hypot(transform[0], transform[3])
        columns["uid"] = identities(geometries, columns["class"], step)
        if project is None:
            lonlat = None
            columns |= _plane_measures(pixels, geometries, layer)
        else:
            lonlat, fine = _in_degrees(pixels, geometries, layer.georef, project)
            columns |= _ground_measures(fine, layer.geometry_type)
        confidence = np.array([feature.confidence for feature in group], dtype=np.float64)
        columns["confidence"] = np.round(confidence, 4)
        names = [name for name, _ in group[0].properties] if group else layer.numbers
        for index, name in enumerate(names):
            if name not in columns:
                columns[name] = _column([feature.properties[index][1] for feature in group])
        yield Batch(geometries=geometries, lonlat=lonlat, columns=columns)
        n_before += len(group) or 1


def identities(
    geometries: NDArray[np.object_], names: NDArray[np.object_], step: float
) -> NDArray[np.object_]:
    """Return what an object can be known by in any run: 16 hex digits of its class and corners.

    Args:
        geometries: on the map, or in pixels where there is none.
        names: class of each.
        step: size of a pixel in their unit; corners count to a thousandth of it.
    """
    corners = np.round(shapely.get_coordinates(geometries) * (1000 / step)).astype("<i8")
    content = corners.tobytes()
    stops = (np.cumsum(shapely.get_num_coordinates(geometries)) * 2 * 8).tolist()
    found = np.empty(len(geometries), dtype=np.object_)
    start = 0
    for index, (name, stop) in enumerate(zip(names.tolist(), stops, strict=True)):
        seen = hashlib.blake2b(name.encode() + content[start:stop], digest_size=8)
        found[index], start = seen.hexdigest(), stop
    return found


def _column(values: list[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=np.object_)
    if values and all(isinstance(value, int) for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _projection(georef: Georef) -> pyproj.Transformer | None:
    if georef.crs is None:
        return None
    return pyproj.Transformer.from_crs(georef.crs, "EPSG:4326", always_xy=True)


def _in_degrees(
    pixels: NDArray[np.object_],
    mapped: NDArray[np.object_],
    georef: Georef,
    project: pyproj.Transformer,
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Return geometries in degrees with edges short enough to write, and to measure.

    Args:
        pixels: in pixel coordinates.
        mapped: the same in the CRS.
        georef: where they lie.
        project: from the CRS to degrees.
    """
    pixel_m = max(georef.pixel_m or (math.inf,))
    if project.source_crs is not None and project.source_crs.is_geographic:
        a, b, _, d, e, _ = georef.transform
        longest_px = LONGEST_EDGE_DEG / max(math.hypot(a, d), math.hypot(b, e))
    else:
        longest_px = max(LONGEST_EDGE_M / pixel_m, 1.0)
    written = _divided(pixels, longest_px)
    lonlat = _project(mapped if written is pixels else moved(written, georef.transform), project)
    south, north = shapely.bounds(lonlat)[:, [1, 3]].T
    polar = np.maximum(north, -south) > NEAR_POLE_DEG
    if polar.any() and math.isfinite(pixel_m):
        shorter_px = np.maximum(_polar_edge(np.maximum(north, -south)[polar]) / pixel_m, 1.0)
        written = written.copy()
        written[polar] = shapely.segmentize(written[polar], np.minimum(shorter_px, longest_px))
        lonlat[polar] = _project(moved(written[polar], georef.transform), project)
    fine = _divided(written, max(MEASURED_EDGE_M / pixel_m, 0.1))
    if fine is written:
        return lonlat, lonlat
    divided = shapely.get_num_coordinates(fine) > shapely.get_num_coordinates(written)
    measured = lonlat.copy()
    measured[divided] = _project(moved(fine[divided], georef.transform), project)
    return lonlat, measured


def _divided(geometries: NDArray[np.object_], longest: float) -> NDArray[np.object_]:
    """Divide long edges; a geometry that is too small to have one is not looked at."""
    left, top, right, bottom = shapely.bounds(geometries).T
    large = np.hypot(right - left, bottom - top) > longest
    if large.any():
        geometries = geometries.copy()
        geometries[large] = shapely.segmentize(geometries[large], longest)
    return geometries


def _polar_edge(latitude_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how long edges may be so that degrees bend them by 3 cm, metres, at least 1.

    Args:
        latitude_deg: of the corner nearest to the pole; edges of 1 km may pass it 0.5 km nearer.
    """
    from_pole_m = np.radians(90 - latitude_deg) * _A - LONGEST_EDGE_M / 2
    edge_m: NDArray[np.float64] = np.sqrt(8 * 0.03 * np.maximum(from_pole_m, 4.0))
    return edge_m


def _project(mapped: NDArray[np.object_], project: pyproj.Transformer) -> NDArray[np.object_]:
    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(project.transform(points[:, 0], points[:, 1]), axis=1)

    result: NDArray[np.object_] = shapely.transform(mapped, apply)
    # Beyond the edge of a projection, such as the limb of a geostationary view, there is no place.
    result[~np.isfinite(shapely.bounds(result)).all(axis=1)] = shapely.Polygon()
    return result


def _plane_measures(
    pixels: NDArray[np.object_], full_resolution: NDArray[np.object_], layer: Layer
) -> dict[str, NDArray[np.float64]]:
    measures = _measures(
        shapely.area(full_resolution), shapely.length(full_resolution), layer.geometry_type, "px", 2
    )
    if layer.georef.pixel_m is not None:
        is_microscopy = max(layer.georef.pixel_m) < 1e-4
        unit, factor = ("um", 1e6) if is_microscopy else ("m", 1.0)
        along_x, along_y = (factor * size for size in layer.georef.pixel_m)
        scaled = moved(pixels, (along_x, 0.0, 0.0, 0.0, along_y, 0.0))
        measures |= _measures(
            shapely.area(scaled), shapely.length(scaled), layer.geometry_type, unit, 3
        )
    return measures


def _ground_measures(
    lonlat: NDArray[np.object_], geometry_type: str
) -> dict[str, NDArray[np.float64]]:
    edges = _edges(lonlat)
    area = np.zeros(len(lonlat)) if geometry_type == "LineString" else _area(edges)
    length = _length(edges)
    area[shapely.is_empty(lonlat)] = length[shapely.is_empty(lonlat)] = np.nan
    return _measures(area, length, geometry_type, "m", 3)


def _measures(
    area: NDArray[np.float64],
    length: NDArray[np.float64],
    geometry_type: str,
    unit: str,
    decimals: int,
) -> dict[str, NDArray[np.float64]]:
    lengths = np.round(length, decimals)
    if geometry_type == "LineString":
        return {f"length_{unit}": lengths}
    square = "px" if unit == "px" else f"{unit}2"
    return {f"area_{square}": np.round(area, decimals), f"perimeter_{unit}": lengths}


def ground_area(lonlat: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return areas on the WGS84 ellipsoid, m².

    Args:
        lonlat: polygons in degrees; edges take the short way around the globe.
    """
    return _area(_edges(lonlat))


def ground_length(lonlat: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return lengths of lines, or of all rings of polygons, on the WGS84 ellipsoid, m."""
    return _length(_edges(lonlat))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Edges:
    """The lines and rings of many geometries, point by point."""

    lat: NDArray[np.float64]
    """(points,) radians."""
    east: NDArray[np.float64]
    """(points − 1,) way east from each point to the next, radians; 0 between lines."""
    line: NDArray[np.intp]
    """(points,) the line or ring of each point."""
    owner: NDArray[np.intp]
    """(lines,) the geometry of each."""
    is_hole: NDArray[np.bool_]
    """(lines,)"""
    n_geometries: int


def _edges(lonlat: NDArray[np.object_]) -> _Edges:
    """Take geometries in degrees, lines or polygons, apart."""
    kinds = shapely.get_type_id(lonlat)
    if (kinds == shapely.GeometryType.POLYGON).all():
        parts, owner = lonlat, np.arange(len(lonlat))
    else:
        parts, owner = shapely.get_parts(lonlat, return_index=True)
        kinds = shapely.get_type_id(parts)
    is_polygon = kinds == shapely.GeometryType.POLYGON
    rings, part = shapely.get_rings(parts[is_polygon], return_index=True)
    lines = np.concatenate([parts[~is_polygon], rings])
    n_lines = len(lines) - len(rings)
    is_hole = np.zeros(len(lines), dtype=np.bool_)
    is_hole[n_lines + 1 :] = part[1:] == part[:-1]
    points, line = shapely.get_coordinates(lines, return_index=True)
    east = np.diff(points[:, 0])
    east -= 360 * np.round(east / 360)  # exact for the short steps, on which areas depend
    east[line[1:] != line[:-1]] = 0.0
    return _Edges(
        lat=np.radians(points[:, 1]),
        east=np.radians(east),
        line=line,
        owner=np.concatenate([owner[~is_polygon], owner[is_polygon][part]]),
        is_hole=is_hole,
        n_geometries=len(lonlat),
    )


def _area(edges: _Edges) -> NDArray[np.float64]:
    q = _authalic(edges.lat)
    n_lines, line = len(edges.owner), edges.line[1:]
    turn = np.abs(np.bincount(line, edges.east, n_lines))
    swept = np.abs(np.bincount(line, edges.east * (q[1:] + q[:-1]) / 2, n_lines))
    # A ring around a pole sweeps the zone between it and the equator: the cap is the rest.
    swept = np.where(turn > math.pi, 2 * math.pi * _authalic(math.pi / 2) - swept, swept)
    area = np.where(edges.is_hole, -swept, swept) * _A**2 / 2
    return np.bincount(edges.owner, area, edges.n_geometries).astype(np.float64)


def _length(edges: _Edges) -> NDArray[np.float64]:
    north, latitude = np.diff(edges.lat), (edges.lat[1:] + edges.lat[:-1]) / 2
    north[edges.line[1:] != edges.line[:-1]] = 0.0
    root = np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    along_x = _A / root * np.cos(latitude) * edges.east
    along_y = _A * (1 - _E2) / root**3 * north
    length = np.hypot(along_x, along_y)
    owner = edges.owner[edges.line[1:]]
    return np.bincount(owner, length, edges.n_geometries).astype(np.float64)


def _authalic(latitude: Any) -> Any:
    """Return the q of equal-area projections: the area from the equator is a²/2 · q · radians."""
    s = np.sin(latitude)
    return (1 - _E2) * (s / (1 - _E2 * s * s) + np.arctanh(_E * s) / _E)
