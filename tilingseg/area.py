"""The area of interest: from a box or a vector file to pixels of the scene.

The network sees the scene as it is; the area decides what is written. A result inside the area is
therefore the same as that of a run over the whole scene.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import geometry_mask

from tilingseg.affine import moved
from tilingseg.errors import PlanError
from tilingseg.grid import Window

if TYPE_CHECKING:
    from pathlib import Path

    import pyproj
    from geopandas.array import GeometryArray
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Scene

_TURNS_DEG = (-360.0, 0.0, 360.0)
"""Longitudes that are the same meridian: scenes and areas may count from −180, from 0, or on past
180."""


def area_from_box(scene: Scene, box: tuple[float, float, float, float]) -> BaseGeometry:
    """Return the area of a box in the scene's CRS (the file's own pixels where it has none).

    Args:
        scene: the pixel grid.
        box: min x, min y, max x, max y.

    Returns:
        Geometry in pixel coordinates (x = column, y = row).

    Raises:
        PlanError: the box is empty or lies outside the scene.
    """
    min_x, min_y, max_x, max_y = box
    if not np.isfinite(box).all():
        raise PlanError(f"the box {_numbers(box)} must have finite numbers")
    if not (min_x < max_x and min_y < max_y):
        raise PlanError(f"the box {_numbers(box)} is empty; give min x, min y, max x, max y")
    return _in_scene(shapely.box(*box), scene, f"the box {_numbers(box)}")


def area_from_file(scene: Scene, path: Path) -> BaseGeometry:
    """Return the area of all polygons of a vector file, brought to the scene's CRS.

    Raises:
        PlanError: the file cannot be read, holds no polygon, is a map of a scene that is none, or
            lies outside the scene.
    """
    # A third of the start of a run, which most runs have no use for.
    import geopandas
    import pyogrio.errors

    try:
        frame = geopandas.read_file(path)
    except (pyogrio.errors.DataSourceError, OSError) as error:
        raise PlanError(f"cannot read the area of interest {path}: {error}") from error
    # a table, such as CSV, is read too
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise PlanError(f"the area of interest {path} holds no geometry; give a file of polygons")
    shapes = frame.geometry[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
    if shapes.empty:
        raise PlanError(f"the area of interest {path} holds no polygon")
    if not _is_finite(shapes.array):
        raise PlanError(f"the area of interest {path} has coordinates that are no finite numbers")
    geometry = shapes.make_valid().union_all()
    if scene.georef.crs is None:
        _refuse_map(path, shapes.crs)
    elif shapes.crs is None:
        raise PlanError(f"the area of interest {path} has no CRS; write it with one")
    else:
        geometry = _to_scene_crs(geometry, shapes.crs, scene, path)
    return _in_scene(geometry, scene, str(path))


def area_window(area: BaseGeometry, scene: Scene) -> Window:
    """Return the pixels that the area's bounds touch, inside the scene."""
    min_x, min_y, max_x, max_y = area.bounds
    row, col = max(0, math.floor(min_y)), max(0, math.floor(min_x))
    row_stop = min(scene.height, math.ceil(max_y))
    col_stop = min(scene.width, math.ceil(max_x))
    return Window(row=row, col=col, height=row_stop - row, width=col_stop - col)


def area_mask(area: BaseGeometry | None, window: Window) -> NDArray[np.bool_] | None:
    """Return which pixels of a window have their centre in the area; None: not one.

    Args:
        area: in pixel coordinates; None: everything.
        window: pixels of the scene.

    Returns:
        bool (height, width), True = inside.
    """
    shape = (window.height, window.width)
    if area is None:
        return np.ones(shape, dtype=bool)
    frame = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
    if not area.intersects(frame):
        return None
    if area.contains(frame):
        return np.ones(shape, dtype=bool)
    # GDAL takes the identity for "lies nowhere" and warns: there one more row is drawn on top.
    above = int(window.row == window.col == 0)
    inside: NDArray[Any] = geometry_mask(
        [area],
        out_shape=(window.height + above, window.width),
        transform=Affine(1, 0, window.col, 0, 1, window.row - above),
        invert=True,
    )[above:]
    return inside if inside.any() else None


def _refuse_map(path: Path, crs: pyproj.CRS | None) -> None:
    """Refuse an area that lies on the Earth, as the scene does not.

    GeoJSON cannot say that it holds pixels: it has longitudes and latitudes where it says nothing.
    """
    import pyogrio

    by_default = crs == "EPSG:4326" and "GeoJSON" in pyogrio.read_info(path)["driver"]
    if crs is not None and not by_default:
        raise PlanError(
            f"the area of interest {path} has the CRS {crs.name!r}, and the scene has none; write "
            "it in pixels of the scene, without a CRS"
        )


def _to_scene_crs(
    geometry: BaseGeometry, crs: pyproj.CRS, scene: Scene, path: Path
) -> BaseGeometry:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    # Longitudes go on past 180°: there are scenes that lie across the date line.
    on_past = bool(crs.is_geographic)
    try:
        to_file = Transformer.from_crs(scene.georef.crs, crs, always_xy=True, force_over=on_past)
        # Far from the scene its CRS may lead anywhere: what lies there must not come along.
        if (near := _around(scene, to_file)) is None:
            on_past = False
        else:
            geometry = (_all_turns(geometry) if on_past else geometry).intersection(near)
        to_scene = Transformer.from_crs(crs, scene.georef.crs, always_xy=True, force_over=on_past)
        brought = shapely.transform(
            geometry, lambda xy: np.column_stack(to_scene.transform(xy[:, 0], xy[:, 1]))
        )
    except ProjError as error:
        raise PlanError(f"cannot bring {path} from {crs} to {scene.georef.crs}: {error}") from error
    if not _is_finite(brought):
        raise PlanError(
            f"{path} reaches where {scene.georef.crs} has no coordinates; cut it to the scene"
        )
    return shapely.make_valid(brought)


def _around(scene: Scene, to_file: pyproj.Transformer) -> BaseGeometry | None:
    """Return the scene's surroundings in the CRS of an area; None: they are no box there."""
    west, south, east, north = to_file.transform_bounds(*_bounds(scene))
    if not np.isfinite((west, south, east, north)).all() or west >= east:
        return None  # beyond the reach of the CRS, or across the date line beside a pole
    dx, dy = east - west, north - south
    return shapely.box(west - dx, south - dy, east + dx, north + dy)


def _all_turns(geometry: BaseGeometry) -> BaseGeometry:
    """Return what longitudes and latitudes mean, on all meridians that are the same."""
    turned = [shapely.affinity.translate(geometry, turn) for turn in _TURNS_DEG]
    return shapely.union_all(turned)


def _is_finite(geometry: BaseGeometry | GeometryArray) -> bool:
    return bool(np.isfinite(shapely.get_coordinates(geometry)).all())


def _in_scene(geometry: BaseGeometry, scene: Scene, what: str) -> BaseGeometry:
    if scene.georef.crs is not None and CRS.from_user_input(scene.georef.crs).is_geographic:
        geometry = _all_turns(geometry)
    geometry = moved(geometry, ~Affine(*scene.georef.to_coordinates))
    area = geometry.intersection(shapely.box(0, 0, scene.width, scene.height))
    if area.area == 0:
        raise PlanError(
            f"{what} does not overlap the scene {scene.uri}; its bounds are "
            f"{_numbers(_bounds(scene))} in {scene.georef.crs or 'pixels'}"
        )
    return area


def _bounds(scene: Scene) -> tuple[float, float, float, float]:
    frame = shapely.box(0, 0, scene.width, scene.height)
    min_x, min_y, max_x, max_y = moved(frame, scene.georef.to_coordinates).bounds
    return min_x, min_y, max_x, max_y


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.10g}" for value in values)
