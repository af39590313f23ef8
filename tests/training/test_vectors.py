"""Label files as polygons where the scene is, or one line that says what is wrong with them."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from shapely import LineString, MultiLineString, MultiPolygon, Point, box

from tests.makers import make_geotiff
from tilingseg.errors import TrainingError
from tilingseg.readers import open_scene
from tilingseg.training.vectors import vector_labels

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning", "ignore:'crs' was not provided:UserWarning"
)


def make_scene(folder, crs="EPSG:32633", pixel_m=None, **profile):
    pixels = np.ones((3, 60, 80), np.uint8)
    path = make_geotiff(folder / "s.tif", pixels, gsd_m=1.0, crs=crs, **profile)
    reader = open_scene(path, pixel_m=pixel_m)
    reader.close()
    return reader.scene


def write(folder, *geometries, crs="EPSG:32633", suffix="gpkg"):
    path = folder / f"labels.{suffix}"
    geopandas.GeoDataFrame(geometry=list(geometries), crs=crs).to_file(path)
    return path


def test_polygons_come_one_by_one(tmp_path):
    one, two = (
        box(x, 4_999_950, x + width, 4_999_960) for x, width in ((500_001, 8), (500_020, 9))
    )
    path = write(tmp_path, MultiPolygon([one, two]), None)
    found = vector_labels(path, make_scene(tmp_path))
    assert [polygon.area for polygon in found] == pytest.approx([80, 90])
    assert vector_labels(write(tmp_path, None), make_scene(tmp_path)) == []


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine(1, 0, 500_000, 0, -1, 5_000_000)),
        ("EPSG:3857", Affine(2, 0, 500_000, 0, -2, 8_000_000)),
        ("EPSG:4326", Affine(1.4e-5, 0, 15, 0, -9e-6, 50)),
    ],
)
def test_lines_are_widened_in_metres_on_the_ground(tmp_path, crs, transform):
    scene = make_scene(tmp_path, crs, transform=transform)
    ends = [transform @ end for end in ((10, 30), (70, 30), (70, 50))]
    path = write(tmp_path, MultiLineString([ends[:2], ends[1:]]), crs=crs)
    along, down = vector_labels(path, scene, 6.0)
    across = LineString([transform @ (40, 0), transform @ (40, 60)])
    beside = LineString([transform @ (0, 40), transform @ (80, 40)])
    for polygon, cut in ((along, across), (down, beside)):
        crossing = geopandas.GeoSeries([polygon.intersection(cut)], crs=crs).to_crs("EPSG:4326")
        width_m = Geod(ellps="WGS84").geometry_length(crossing[0])
        assert width_m == pytest.approx(6, rel=0.005)


def test_lines_in_a_picture_are_widened_in_its_pixels_or_its_metres(tmp_path):
    path = write(tmp_path, LineString([(10, 30), (70, 30)]), crs=None, suffix="geojson")
    for pixel_m, wide_px in ((None, 6), (0.5, 12)):
        (polygon,) = vector_labels(path, make_scene(tmp_path, None, pixel_m, transform=None), 6.0)
        assert polygon.bounds[3] - polygon.bounds[1] == pytest.approx(wide_px)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (Point(500_010, 4_999_950), "labels.gpkg hold Point geometries, which have no area: give"),
        (
            LineString([(500_010, 4_999_950), (500_030, 4_999_950)]),
            "hold lines: give their class a",
        ),
        (box(600_000, 4_999_950, 600_030, 4_999_960), "lie at 600000,.* and do not overlap s at"),
    ],
)
def test_what_has_no_area_here_is_refused(tmp_path, geometry, message):
    path = write(tmp_path, box(500_001, 4_999_950, 500_009, 4_999_960), geometry)
    if geometry.geom_type == "Polygon":
        path = write(tmp_path, geometry)
    with pytest.raises(TrainingError, match=message) as caught:
        vector_labels(path, make_scene(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (box(100, 10, 140, 40), r"do not overlap s at 0,0,80,60 \(pixels, down from the top left"),
        (box(10, -40, 40, -10), "lie at 10,-40,40,-10 and do not overlap s"),
        (
            box(-73.99, 40.7, -73.98, 40.71),
            "do not overlap s .*: they look like degrees, and it has",
        ),
        (
            box(12.4, 41.8, 12.6, 41.9),
            "within one pixel of s at .*: they look like degrees, and it",
        ),
    ],
)
def test_labels_beside_a_picture_are_refused(tmp_path, geometry, message):
    scene = make_scene(tmp_path, None, transform=None)
    path = write(tmp_path, box(10, 10, 40, 40), crs=None, suffix="geojson")
    assert [polygon.area for polygon in vector_labels(path, scene)] == [900]
    path = write(tmp_path, geometry, crs=None, suffix="geojson")
    with pytest.raises(TrainingError, match=message) as caught:
        vector_labels(path, scene)
    assert "\n" not in str(caught.value)
