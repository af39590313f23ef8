"""Label vectors of one raster: polygons as they are, lines at the width that the recipe gives.

A file that lies elsewhere, in a CRS that nobody can bring to the raster's, or with shapes that have
no area is refused: it would be learnt as "nothing is there". What is made of the shapes is left to
others; they keep their corners here, whatever the size of the pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas
import numpy as np
import shapely
from pyogrio.errors import DataSourceError
from pyproj.exceptions import ProjError
from rasterio import Affine

from tilingseg.affine import moved
from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Scene

_LINES = ("LineString", "LinearRing")


def vector_labels(path: Path, scene: Scene, width_m: float | None = None) -> list[BaseGeometry]:
    """Read the polygons of a label file and bring them to the scene's CRS.

    Args:
        path: GeoJSON, GeoPackage, or whatever else GDAL reads.
        scene: where they must lie.
        width_m: lines become polygons of this width, metres on the ground, or pixels where their
            size is not known; None: there are none.

    Raises:
        TrainingError: it cannot be read, nobody can say where it lies, it lies elsewhere, or it
            holds points, or lines of which nobody says the width.
    """
    frame = _read(path, scene)
    kept = [item for item in frame.geometry if item is not None and not item.is_empty]
    if not kept:
        return []
    crs = scene.georef.crs
    if crs is not None:
        try:
            kept = list(geopandas.GeoSeries(kept, crs=frame.crs).to_crs(crs))
        except ProjError as error:
            raise TrainingError(f"labels {path} do not fit {_short(crs)}: {error}") from error
    _refuse_elsewhere(path, shapely.total_bounds(kept), scene)
    parts = shapely.get_parts(np.array(kept, object))
    kinds = np.array([part.geom_type for part in parts])
    is_line = np.isin(kinds, _LINES)
    if (other := kinds[~is_line & (kinds != "Polygon")]).size:
        raise TrainingError(
            f"labels {path} hold {other[0]} geometries, which have no area: give polygons, or "
            "lines with width_m"
        )
    if is_line.any():
        if width_m is None:
            raise TrainingError(
                f"labels {path} hold lines: give their class a width_m in metres, or polygons"
            )
        parts[is_line] = _widened(parts[is_line], width_m, scene)
    return list(parts)


def _read(path: Path, scene: Scene) -> geopandas.GeoDataFrame:
    """Read a file and refuse one of which nobody can say where it lies."""
    try:
        frame = geopandas.read_file(path, columns=[])
    except (DataSourceError, OSError, ValueError) as error:
        raise TrainingError(f"labels {path} cannot be read: {error}") from error
    crs = scene.georef.crs
    if crs is not None and frame.crs is None:
        raise TrainingError(f"labels {path} have no CRS, {scene.name} is in {_short(crs)}")
    if crs is None and frame.crs is not None and not _is_plain_geojson(path):
        raise TrainingError(
            f"labels {path} are in {_short(frame.crs.to_string())}, but {scene.name} has no CRS: "
            "give labels in pixels, without a CRS"
        )
    return frame


def _is_plain_geojson(path: Path) -> bool:
    # GeoJSON cannot say that its coordinates are pixels: readers take it for degrees.
    return path.suffix.lower() in (".geojson", ".json")


def _short(crs: str) -> str:
    return crs if len(crs) < 30 else f"{crs[:30]}…"


def _refuse_elsewhere(path: Path, bounds: NDArray[np.float64], scene: Scene) -> None:
    a, b, c, d, e, f = scene.georef.transform
    corners = [(x, y) for x in (0, scene.width) for y in (0, scene.height)]
    xs, ys = zip(*((a * x + b * y + c, d * x + e * y + f) for x, y in corners), strict=True)
    apart = bounds[0] > max(xs) or bounds[2] < min(xs) or bounds[1] > max(ys) or bounds[3] < min(ys)
    in_pixels = scene.georef.crs is None
    # Degrees are near 0 in pixels: they often lie on the picture, all within one pixel of it.
    in_a_pixel = in_pixels and np.max(bounds[2:] - bounds[:2]) < max(abs(a), abs(e))
    if not (apart or in_a_pixel or not np.isfinite(bounds).all()):
        return
    here = f"{min(xs):.10g},{min(ys):.10g},{max(xs):.10g},{max(ys):.10g}"
    there = ",".join(f"{value:.10g}" for value in bounds)
    unit = _short(scene.georef.crs or "pixels, down from the top left corner")
    what = "within one pixel of" if in_a_pixel and not apart else "and do not overlap"
    degrees = in_pixels and np.abs(bounds).max() <= 180
    why = ": they look like degrees, and it has no CRS; give labels in pixels" if degrees else ""
    raise TrainingError(f"labels {path} lie at {there} {what} {scene.name} at {here} ({unit}){why}")


def _widened(lines: NDArray[np.object_], width_m: float, scene: Scene) -> NDArray[np.object_]:
    """Return polygons around lines; they are widened on the scene's grid, in metres."""
    to_map, (x_m, y_m) = Affine(*scene.georef.transform), scene.georef.pixel_m or (1.0, 1.0)
    on_ground = moved(moved(lines, ~to_map), Affine.scale(x_m, y_m))
    widened = shapely.buffer(on_ground, width_m / 2)
    polygons: NDArray[np.object_] = moved(moved(widened, Affine.scale(1 / x_m, 1 / y_m)), to_map)
    return polygons
