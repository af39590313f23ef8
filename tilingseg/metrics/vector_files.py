"""Two vector files, brought to one plane in metres: what `tilingseg evaluate-vectors` compares.

Truth and result seldom share a CRS: footprints drawn in a national grid, GeoJSON in degrees. Both
are projected to an equal-area plane around the truth, in which a metre is a metre on the ground,
whatever the files are in (Web Mercator too, where it is not). Without a CRS the unit is the pixel.

Parts of a multi-part geometry are objects of their own; those of one cut at the antimeridian are
joined first. What is compared, and how, is left to `polygons` and `roads`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import geopandas
import numpy as np
import pyogrio
import pyogrio.errors
import pyproj
import pyproj.exceptions
import shapely

from tilingseg.errors import EvaluationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Kind = Literal["polygons", "lines"]
_KINDS: dict[int, Kind] = {1: "lines", 2: "polygons"}
_GRID = 1e-4
"""Coordinates of lines and of parts to join are rounded to this, metres: those of the two sides of
the antimeridian differ in their last digits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vectors:
    """What one file holds, in the plane of comparison."""

    crs: str | None
    """The file's own CRS; None: pixels."""
    geometries: NDArray[np.object_]
    """Valid Polygons, or LineStrings."""
    confidence: NDArray[np.float64] | None
    """Of every geometry, from the attribute of that name; None: not known for all."""
    n_repaired: int
    """Features whose polygon was invalid and was made valid."""
    n_left_out: int
    """Features without an area (polygons) or a length (lines)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorPair:
    """Truth and result in one plane."""

    kind: Kind
    """What both hold."""
    unit: Literal["m", "px"]
    """Unit of the plane."""
    truth: Vectors
    """What is right."""
    found: Vectors
    """What is compared with it."""


def read_pair(truth: Path, found: Path) -> VectorPair:
    """Read two vector files into one plane.

    Args:
        truth: any vector format that GDAL reads, or GeoParquet, with one layer.
        found: the same; in another CRS if need be.

    Raises:
        EvaluationError: a file cannot be read or has several layers; they hold different kinds of
            geometry, or neither holds any; only one of them has a CRS.
    """
    frames = _read(truth), _read(found)
    kinds = {kind for kind in map(_kind, (truth, found), frames) if kind is not None}
    if len(kinds) != 1:
        what = "polygons in one and lines in the other" if kinds else "neither polygons nor lines"
        raise EvaluationError(f"{truth} and {found} cannot be compared: {what}")
    kind = kinds.pop()
    filled = [frame for frame in frames if len(frame)]
    if len({frame.crs is None for frame in filled}) > 1:
        pixels, other = (truth, found) if frames[0].crs is None else (found, truth)
        raise EvaluationError(f"{pixels} has no CRS, unlike {other}: they cannot be compared")
    plane = None if filled[0].crs is None else _plane(filled[0])
    return VectorPair(
        kind=kind,
        unit="px" if plane is None else "m",
        truth=_vectors(truth, frames[0], kind, plane),
        found=_vectors(found, frames[1], kind, plane),
    )


def _read(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".geojsonl" and path.stat().st_size == 0:
            # A sequence of no features as GDAL writes it: no bytes, in which it sees no format.
            return geopandas.GeoDataFrame(geometry=[], crs="EPSG:4326")
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            frame = geopandas.read_parquet(path)
        else:
            names = pyogrio.list_layers(path)[:, 0]
            if len(names) != 1:
                raise EvaluationError(
                    f"{path} has {len(names)} layers ({', '.join(map(str, names))}); "
                    "give a file with one"
                )
            frame = geopandas.read_file(path)
    except (pyogrio.errors.DataSourceError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EvaluationError(f"cannot read vectors from {path}: {reason}") from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise EvaluationError(f"{path} holds a table without geometries")
    if "objectType" in frame:  # QuPath's GeoJSON, in pixels; GDAL takes any GeoJSON for degrees
        frame = frame.set_crs(None, allow_override=True)
    return frame


def _kind(path: Path, frame: Any) -> Kind | None:
    """Return what a file holds; None: nothing, or points."""
    found = {_KINDS[n] for n in np.unique(shapely.get_dimensions(frame.geometry)) if n in _KINDS}
    if len(found) > 1:
        raise EvaluationError(f"{path} holds both polygons and lines; give a file with one of them")
    return found.pop() if found else None


def _plane(frame: Any) -> pyproj.CRS:
    """Return an equal-area plane around the features of a file."""
    bounds = shapely.bounds(frame.geometry.to_numpy())
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    to_degrees = pyproj.Transformer.from_crs(frame.crs, "EPSG:4326", always_xy=True)
    lon, lat = np.radians(
        to_degrees.transform(bounds[:, [0, 2]].mean(axis=1), bounds[:, [1, 3]].mean(axis=1))
    )
    known = np.isfinite(lon)
    lon, lat = lon[known], lat[known]
    # As directions from the centre of the Earth: degrees jump at the antimeridian.
    x, y = (np.cos(lat) * np.cos(lon)).sum(), (np.cos(lat) * np.sin(lon)).sum()
    lon_0, lat_0 = math.atan2(y, x), math.atan2(np.sin(lat).sum(), math.hypot(x, y))
    return pyproj.CRS.from_proj4(
        f"+proj=laea +lon_0={math.degrees(lon_0):.6f} +lat_0={math.degrees(lat_0):.6f} +units=m"
    )


def _vectors(path: Path, frame: Any, kind: Kind, plane: pyproj.CRS | None) -> Vectors:
    geometries, crs = shapely.force_2d(frame.geometry.to_numpy()), frame.crs
    broken = ~shapely.is_valid(geometries) & (shapely.get_dimensions(geometries) == 2)
    geometries[broken] = shapely.make_valid(geometries[broken])
    if plane is not None and crs is not None:
        to_plane = pyproj.Transformer.from_crs(crs, plane, always_xy=True)
        geometries = shapely.transform(
            geometries, lambda xy: np.column_stack(to_plane.transform(xy[:, 0], xy[:, 1]))
        )
        if not np.isfinite(shapely.get_coordinates(geometries)).all():
            raise EvaluationError(f"{path}: coordinates do not lie in its CRS, {crs.to_string()}")
    if kind == "lines":
        geometries = shapely.transform(geometries, lambda xy: np.round(xy / _GRID) * _GRID)
    for index in np.flatnonzero(shapely.get_num_geometries(geometries) > 1).tolist():
        parts = shapely.get_parts(geometries[index])
        geometries[index] = shapely.union_all(parts, grid_size=_GRID)
    parts, owner = shapely.get_parts(geometries, return_index=True)
    good = (shapely.area(parts) if kind == "polygons" else shapely.length(parts)) > 0
    owner = owner[good]
    confidence = None
    if "confidence" in frame:
        with suppress(ValueError, TypeError):  # words, in files of others
            confidence = frame["confidence"].to_numpy(np.float64, na_value=np.nan)[owner]
    return Vectors(
        crs=None if crs is None else crs.to_string(),
        geometries=parts[good],
        confidence=None if confidence is None or np.isnan(confidence).any() else confidence,
        n_repaired=int(broken.sum()),
        n_left_out=len(frame) - len(np.unique(owner)),
    )
