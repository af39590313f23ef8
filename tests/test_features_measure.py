import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tilingseg.features.layer import Layer
from tilingseg.features.measure import ground_area, ground_length, measure
from tilingseg.records import Feature, Georef

GEOD = pyproj.Geod(ellps="WGS84")


def star(lon, lat, radius_m, n_corners, seed):
    """A polygon of random corners around a place, in degrees."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, n_corners))
    radius = radius_m * rng.uniform(0.5, 1, n_corners)
    azimuth = 90 - np.degrees(angle)
    size = np.full(n_corners, float(lon)), np.full(n_corners, float(lat))
    east, north, _ = GEOD.fwd(*size, azimuth, radius)
    return shapely.Polygon(np.stack([east, north], axis=1))


def measured(geometry, georef, geometry_type="Polygon"):
    layer = Layer(name="x", georef=georef, geometry_type=geometry_type)
    one = Feature(class_name="a", geometry=geometry, confidence=None)
    (batch,) = measure([one], layer)
    return {name: values[0] for name, values in batch.columns.items()}


def utm(transform, gsd_m):
    return Georef(crs="EPSG:32633", transform=transform, pixel_m=(gsd_m, gsd_m))


class TestIdentity:
    def uid(self, box, left=500_000, name="a"):
        layer = Layer(name="x", georef=utm((0.5, 0, left, 0, -0.5, 5_000_000), 0.5))
        one = Feature(class_name=name, geometry=shapely.box(*box), confidence=None)
        (batch,) = measure([one], layer)
        return batch.columns["uid"][0]

    def test_is_of_class_and_place(self):
        here = self.uid((10, 20, 30, 40))
        assert self.uid((10, 20, 30, 40), name="b") != here
        assert self.uid((11, 20, 31, 40)) != here
        assert self.uid((10, 20, 30, 40.01)) != here

    def test_does_not_depend_on_where_the_picture_begins(self):
        assert self.uid((17.3, 20, 37.3, 40), 499_996.5) == self.uid((10.3, 20, 30.3, 40))


class TestOnTheEllipsoid:
    @settings(max_examples=150)
    @given(
        lon=st.floats(-180, 180),
        lat=st.floats(-80, 80),
        radius_m=st.floats(20, 90),
        n_corners=st.integers(5, 30),
        seed=st.integers(0, 1000),
    )
    def test_areas_and_lengths_agree_with_geodesics(self, lon, lat, radius_m, n_corners, seed):
        polygon = star(lon, lat, radius_m, n_corners, seed)
        area, length = GEOD.geometry_area_perimeter(polygon)
        array = np.array([polygon])
        assert ground_area(array)[0] == pytest.approx(abs(area), rel=2e-4, abs=1e-3)
        assert ground_length(array)[0] == pytest.approx(length, rel=1e-6)

    @settings(max_examples=60)
    @given(lon=st.floats(-180, 180), lat=st.floats(-85, 85), side_m=st.floats(0.05, 50))
    def test_small_squares_keep_their_digits(self, lon, lat, side_m):
        # radii of curvature, from the textbook
        s = np.sin(np.radians(lat))
        across = GEOD.a / np.sqrt(1 - GEOD.es * s**2) * np.cos(np.radians(lat))
        along = GEOD.a * (1 - GEOD.es) / (1 - GEOD.es * s**2) ** 1.5
        half = np.degrees(side_m / 2 / across), np.degrees(side_m / 2 / along)
        square = shapely.box(lon - half[0], lat - half[1], lon + half[0], lat + half[1])
        assert ground_area(np.array([square]))[0] == pytest.approx(side_m**2, rel=1e-5)
        assert ground_length(np.array([square]))[0] == pytest.approx(4 * side_m, rel=1e-5)

    def test_the_whole_earth(self):
        steps = np.arange(-180, 181, 10.0)
        ring = [(x, -90) for x in steps] + [(x, 90) for x in steps[::-1]]
        area = ground_area(np.array([shapely.Polygon(ring)]))[0]
        assert area == pytest.approx(5.10065621724e14, rel=1e-11)

    def test_a_cap_around_a_pole(self):
        steps = np.arange(0, 360, 1.0)
        ring = shapely.Polygon([(x if x <= 180 else x - 360, 80) for x in steps])
        area, _ = GEOD.polygon_area_perimeter(steps, np.full(360, 80.0))
        assert ground_area(np.array([ring]))[0] == pytest.approx(abs(area), rel=1e-4)

    def test_holes_are_taken_off_the_area_and_added_to_the_perimeter(self):
        shell, hole = star(10, 50, 500, 12, 0), star(10, 50, 20, 8, 1)
        both = ground_area(np.array([shell, hole]))
        lengths = ground_length(np.array([shell, hole]))
        ring = np.array([shell - hole])
        assert ground_area(ring)[0] == pytest.approx(both[0] - both[1], rel=1e-9)
        assert ground_length(ring)[0] == pytest.approx(lengths.sum(), rel=1e-9)

    def test_parts_are_summed_and_an_empty_array_has_no_measures(self):
        parts = star(10, 50, 50, 7, 0), star(11, 50, 50, 7, 1)
        whole = np.array([shapely.MultiPolygon(parts)])
        assert ground_area(whole)[0] == pytest.approx(ground_area(np.array(parts)).sum())
        assert ground_area(np.array([], dtype=object)).tolist() == []
        assert ground_length(np.array([], dtype=object)).tolist() == []


class TestScenes:
    def test_utm_is_corrected_for_its_scale(self):
        found = measured(shapely.box(0, 0, 100, 40), utm((0.5, 0, 500_000, 0, -0.5, 5e6), 0.5))
        assert found["area_m2"] == pytest.approx(1000 / 0.9996**2, rel=1e-5)
        assert found["perimeter_m"] == pytest.approx(140 / 0.9996, rel=1e-5)

    def test_a_rotated_transform_keeps_areas(self):
        turned = (0.4, 0.3, 500_000, 0.3, -0.4, 5e6)
        found = measured(shapely.box(0, 0, 100, 40), utm(turned, 0.5))
        assert found["area_m2"] == pytest.approx(1000 / 0.9996**2, rel=1e-5)

    def test_web_mercator_metres_are_not_metres(self):
        # 60° north, where web mercator is stretched by two
        x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, 60)
        georef = Georef(crs="EPSG:3857", transform=(1, 0, x, 0, -1, y), pixel_m=(0.5, 0.5))
        found = measured(shapely.box(0, 0, 20, 20), georef)
        assert found["area_m2"] == pytest.approx(100, rel=5e-3)
        assert found["perimeter_m"] == pytest.approx(40, rel=5e-3)

    def test_degrees_are_measured_in_metres(self):
        georef = Georef(crs="EPSG:4326", transform=(1e-5, 0, 10, 0, -1e-5, 0.0002), pixel_m=(1, 1))
        found = measured(shapely.box(0, 0, 10, 10), georef)
        assert found["area_m2"] == pytest.approx(11.1319 * 11.0574, rel=1e-4)

    def test_long_straight_edges_follow_the_map(self):
        georef = utm((10, 0, 200_000, 0, -10, 7e6), 10)
        long = measured(shapely.box(0, 0, 20_000, 100), georef)["area_m2"]
        tiles = [
            measured(shapely.box(x, 0, x + 100, 100), georef)["area_m2"]
            for x in range(0, 20_000, 100)
        ]
        assert long == pytest.approx(sum(tiles), rel=1e-6)

    def test_lines_have_a_length_only(self):
        georef = utm((1, 0, 500_000, 0, -1, 5e6), 1)
        found = measured(shapely.LineString([(0, 0), (30, 40), (30, 50)]), georef, "LineString")
        assert found["length_m"] == pytest.approx(60 / 0.9996, rel=1e-5)
        assert not {"area_m2", "perimeter_m"} & set(found)

    def test_lines_in_pixels(self):
        georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(2, 2))
        found = measured(shapely.LineString([(0, 0), (3, 4)]), georef, "LineString")
        assert (found["length_px"], found["length_m"]) == (5, 10)
