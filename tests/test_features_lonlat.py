import json
import math

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.rfc7946 import problems
from tilingseg.features import Layer, write_features
from tilingseg.features.lonlat import inside_the_world, round_coordinates
from tilingseg.features.measure import ground_area
from tilingseg.records import Feature, Georef
from tilingseg.vectorize.rings import close_rings


def written(tmp_path, geometries, georef, geometry_type="Polygon"):
    """Write pixel geometries as GeoJSON, check the text, return the shapes and the report."""
    path = tmp_path / "scene.geojson"
    features = [Feature(class_name="a", geometry=one, confidence=None) for one in geometries]
    layer = Layer(name="scene_a", georef=georef, geometry_type=geometry_type)
    report = write_features(features, path, layer)
    text = path.read_text()
    assert problems(text) == []
    found = json.loads(text)["features"]
    return [shapely.geometry.shape(one["geometry"]) for one in found], found, report


def degrees(size, lon, lat):
    pixel_m = (size * 111_000 * math.cos(math.radians(lat)), size * 111_000)
    return Georef(crs="EPSG:4326", transform=(size, 0, lon, 0, -size, lat), pixel_m=pixel_m)


FIJI = Georef(crs="EPSG:32701", transform=(100, 0, 150_000, 0, -100, 8_120_000), pixel_m=(100, 100))
"""UTM zone 1 south, begun west of the antimeridian."""
ARCTIC = Georef(crs="EPSG:3413", transform=(1e3, 0, -1e4, 0, -1e3, 1e4), pixel_m=(1e3, 1e3))
"""Polar stereographic, the pole at pixel corner 10, 10."""
ANTARCTIC = Georef(crs="EPSG:3031", transform=(1e3, 0, -1e4, 0, -1e3, 1e4), pixel_m=(1e3, 1e3))


class TestAntimeridian:
    def test_a_polygon_across_is_cut_in_two(self, tmp_path):
        (found,), (feature,), _ = written(tmp_path, [shapely.box(0, 0, 400, 20)], FIJI)
        assert found.geom_type == "MultiPolygon"
        west, east = sorted(found.geoms, key=lambda part: part.bounds[0])
        assert (west.bounds[0], east.bounds[2]) == (-180, 180)
        area = ground_area(np.array([found]))[0]
        assert area == pytest.approx(feature["properties"]["area_m2"], rel=1e-5)

    def test_holes_are_cut_with_it(self, tmp_path):
        ring = shapely.box(0, 0, 400, 40) - shapely.box(5, 5, 395, 35)
        (found,), (feature,), _ = written(tmp_path, [ring], FIJI)
        area = ground_area(np.array([found]))[0]
        assert area == pytest.approx(feature["properties"]["area_m2"], rel=1e-4)

    def test_a_line_across_is_cut_in_two(self, tmp_path):
        line = shapely.LineString([(0, 5), (400, 15)])
        (found,), _, _ = written(tmp_path, [line], FIJI, "LineString")
        assert found.geom_type == "MultiLineString"
        assert (found.bounds[0], found.bounds[2]) == (-180, 180)

    def test_longitudes_beyond_180_are_moved_by_a_turn(self, tmp_path):
        georef = degrees(0.01, 179.5, 10)
        boxes = [shapely.box(0, 0, 10, 10), shapely.box(60, 0, 70, 10), shapely.box(40, 0, 60, 10)]
        (west, east, both), _, _ = written(tmp_path, boxes, georef)
        assert west.bounds == (179.5, 9.9, 179.6, 10)
        assert east.bounds == (-179.9, 9.9, -179.8, 10)
        assert both.geom_type == "MultiPolygon"

    def test_a_polygon_that_ends_at_180_is_not_cut(self, tmp_path):
        (found,), _, _ = written(tmp_path, [shapely.box(0, 0, 50, 10)], degrees(0.01, 179.5, 10))
        assert found.equals(shapely.box(179.5, 9.9, 180, 10))

    @settings(max_examples=80)
    @given(
        seed=st.integers(0, 10_000), lat=st.floats(-70, 70), shift=st.sampled_from([-360, 0, 360])
    )
    def test_cutting_keeps_the_area(self, seed, lat, shift):
        rng = np.random.default_rng(seed)
        angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(0.2, 1, 12)
        points = np.stack([180 + radius * np.cos(angle), lat + radius * np.sin(angle)], axis=1)
        whole = shapely.Polygon(points)
        assume(whole.is_valid)
        points[:, 0] = (points[:, 0] + 180) % 360 - 180 + shift
        (found,) = inside_the_world(np.array([shapely.Polygon(points)]))
        assert found.is_valid
        assert -180 <= found.bounds[0] <= found.bounds[2] <= 180
        assert found.area == pytest.approx(whole.area, rel=1e-9)


class TestPoles:
    @pytest.mark.parametrize(("georef", "pole"), [(ARCTIC, 90), (ANTARCTIC, -90)])
    def test_a_polygon_around_a_pole_reaches_it_on_every_meridian(self, tmp_path, georef, pole):
        (found,), (feature,), _ = written(tmp_path, [shapely.box(4, 5, 15, 13)], georef)
        assert (found.bounds[0], found.bounds[2]) == (-180, 180)
        near_pole = shapely.points(np.arange(-179.5, 180, 10), math.copysign(89.99, pole))
        assert shapely.contains(found, near_pole).all()
        area = ground_area(np.array([found]))[0]
        assert area == pytest.approx(feature["properties"]["area_m2"], rel=0.02)

    def test_a_hole_around_the_pole_stays_open(self, tmp_path):
        ring = shapely.box(4, 5, 16, 15) - shapely.box(8, 7, 13, 12)
        (found,), (feature,), _ = written(tmp_path, [ring], ARCTIC)
        assert found.bounds[3] < 90
        area = ground_area(np.array([found]))[0]
        assert area == pytest.approx(feature["properties"]["area_m2"], rel=0.02)

    def test_corners_at_the_pole_are_legal(self, tmp_path):
        corners = [
            shapely.box(10, 10, 14, 14),
            shapely.box(4, 4, 16, 16) - shapely.box(4, 4, 10, 10),
        ]
        found, _, report = written(tmp_path, corners, ARCTIC)
        assert report.left_out == ()
        assert all(one.bounds[3] == 90 for one in found)

    def test_the_whole_world(self, tmp_path):
        (found,), _, _ = written(tmp_path, [shapely.box(0, 0, 360, 180)], degrees(1, -180, 90))
        assert found.equals(shapely.box(-180, -90, 180, 90))


class TestBeyondTheProjection:
    def test_what_has_no_place_on_the_earth_is_left_out_and_counted(self, tmp_path):
        crs = "+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84"
        disc = Georef(
            crs=crs, transform=(3000, 0, -5.6e6, 0, -3000, 5.6e6), pixel_m=(3000.0, 3000.0)
        )
        boxes = [shapely.box(0, 0, 9, 9), shapely.box(1800, 1800, 1809, 1809)]
        found, features, report = written(tmp_path, boxes, disc)
        assert len(found) == 1
        assert features[0]["properties"]["area_m2"] > 0
        assert [count for _, count in report.left_out] == [1]
        write_features(
            [Feature(class_name="a", geometry=boxes[0], confidence=None)],
            tmp_path / "scene.gpkg",
            Layer(name="scene_a", georef=disc),
        )
        (area,) = pyogrio.read_dataframe(tmp_path / "scene.gpkg")["area_m2"]
        assert np.isnan(area)


class TestRounding:
    def test_shapes_below_the_grid_are_left_out_and_counted(self, tmp_path):
        georef = degrees(1e-9, 10, 50)
        boxes = [shapely.box(0, 0, 20, 20), shapely.box(0, 0, 2000, 2000)]
        found, features, report = written(tmp_path, boxes, georef)
        assert len(found) == report.n_features == 1
        ((reason, count),) = report.left_out
        assert (reason.startswith("features too small"), count) == (True, 1)
        assert features[0]["id"] == 2

    def test_a_thin_hole_may_vanish(self, tmp_path):
        ring = shapely.box(0, 0, 4000, 4000) - shapely.box(1010, 1010, 1020, 3000)
        (found,), _, _ = written(tmp_path, [ring], degrees(1e-9, 10, 50))
        assert len(found.interiors) == 0

    def test_parts_with_a_thin_neck_come_apart(self, tmp_path):
        bell = shapely.union_all(
            [
                shapely.box(0, 0, 1000, 1000),
                shapely.box(1000, 500, 3000, 501),
                shapely.box(3000, 0, 4000, 1000),
            ]
        )
        (found,), _, _ = written(tmp_path, [bell], degrees(1e-9, 10, 50))
        assert found.geom_type == "MultiPolygon"

    @settings(max_examples=100)
    @given(seed=st.integers(0, 10_000), size=st.sampled_from([1e-8, 3e-8, 1e-7, 2.5e-7, 1e-6]))
    def test_noise_stays_valid_at_any_pixel_size(self, tmp_path_factory, seed, size):
        rng = np.random.default_rng(seed)
        points = rng.uniform(0, 20, (12, 2))
        polygon = shapely.make_valid(shapely.Polygon(points)).buffer(0.01)
        polygons = list(shapely.get_parts(polygon))
        written(tmp_path_factory.mktemp("noise"), polygons, degrees(size, 33.3, -12.1))

    def test_lines_of_one_point_are_left_out(self):
        line = shapely.LineString([(10, 50), (10 + 1e-9, 50)])
        rounded, there = round_coordinates(np.array([line]), 7)
        assert there.tolist() == [False]
        assert len(rounded) == 1

    def test_traced_holes_that_touch_survive(self, tmp_path):
        assert len(close_rings(np.array([], np.int64), np.array([], np.intp), 4)) == 0
        touching = shapely.Polygon(
            [(0, 0), (4, 0), (4, 4), (0, 4)],
            [[(1, 1), (1, 2), (2, 2), (2, 1)], [(2, 2), (2, 3), (3, 3), (3, 2)]],
        )
        (found,), _, _ = written(tmp_path, [touching], degrees(1e-5, 10, 50))
        assert len(found.interiors) == 2
