import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from tilingseg.errors import SceneError
from tilingseg.readers.georef import fit_grid, in_scene_pixels, locate
from tilingseg.readers.source import ReadOptions
from tilingseg.records import IDENTITY, Georef

NONE = ReadOptions()


def pixel_m(crs, transform, shape=(100, 100), **options):
    return locate(crs, transform, shape, ReadOptions(**options), "scene.tif").pixel_m


def test_web_mercator_is_measured_on_the_ground():
    along_x, along_y = pixel_m(
        "EPSG:3857", (0.1493, 0.0, 9_519_391.0, 0.0, -0.1493, 3_203_475.0), (8704, 11264)
    )
    assert along_x == pytest.approx(0.1324, abs=2e-4)
    assert along_y == pytest.approx(0.1317, abs=2e-4)


@pytest.mark.parametrize("lat", [0.0, 45.0, -60.0, 85.0])
def test_degrees_are_metres_too(lat):
    step = 1e-5
    shape = (10, 10)
    transform = (step, 0.0, 20.0, 0.0, -step, lat + 5 * step)
    along_x, along_y = pixel_m("EPSG:4326", transform, shape)
    # Radii of curvature of the WGS 84 ellipsoid.
    a, e2 = 6378137.0, 0.00669437999014
    root = math.sqrt(1 - e2 * math.sin(math.radians(lat)) ** 2)
    east = math.radians(step) * a / root * math.cos(math.radians(lat))
    north = math.radians(step) * a * (1 - e2) / root**3
    assert along_x == pytest.approx(east, rel=1e-6)
    assert along_y == pytest.approx(north, rel=1e-6)


def test_feet_are_converted():
    crs = "EPSG:2263"
    along_x, _ = pixel_m(crs, (1.0, 0.0, 990_000.0, 0.0, -1.0, 200_000.0))
    assert along_x == pytest.approx(0.3048, rel=1e-3)


def test_a_rotated_grid_is_measured_along_its_own_axes():
    angle = math.radians(30)
    a, b = 2 * math.cos(angle), 1 * math.sin(angle)
    d, e = 2 * math.sin(angle), -1 * math.cos(angle)
    along_x, along_y = pixel_m("EPSG:32633", (a, b, 5e5, d, e, 5e6))
    assert along_x == pytest.approx(2.0008, rel=1e-4)
    assert along_y == pytest.approx(1.0004, rel=1e-4)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", (0.01, 0.0, 179.5, 0.0, -0.01, 10.0)),
        ("EPSG:3413", (10.0, 0.0, -500.0, 0.0, -10.0, 500.0)),
        ("EPSG:3031", (10.0, 0.0, -500.0, 0.0, -10.0, 500.0)),
        ("EPSG:32601", (10.0, 0.0, 160_000.0, 0.0, -10.0, 1e6)),
    ],
    ids=["antimeridian", "north pole", "south pole", "zone edge"],
)
def test_poles_and_the_antimeridian_have_pixels_like_other_places(crs, transform):
    along_x, along_y = pixel_m(crs, transform)
    expected = transform[0] * (111_000 if crs == "EPSG:4326" else 1)
    assert along_x == pytest.approx(expected, rel=0.05)
    assert along_y == pytest.approx(expected, rel=0.05)


def test_past_the_pole_nothing_is_known():
    assert pixel_m("EPSG:4326", (0.1, 0.0, 0.0, 0.0, -0.1, 120.0)) is None


def test_a_given_pixel_size_wins():
    assert pixel_m("EPSG:4326", (1e-5, 0.0, 20.0, 0.0, -1e-5, 45.0), pixel_m=0.3) == (0.3, 0.3)
    assert pixel_m(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), pixel_m=5e-7) == (5e-7, 5e-7)
    assert pixel_m(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)) is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["gsd_m", "pixel_m"])
def test_pixel_sizes_must_be_positive(name, value):
    with pytest.raises(SceneError, match=f"metres above 0, not {value:g}"):
        ReadOptions(**{name: value})


def test_a_crs_is_named_by_its_authority_where_it_fits():
    transform = (1.0, 0.0, 5e5, 0.0, -1.0, 5e6)
    known = locate(CRS(32633).to_wkt(), transform, (10, 10), NONE, "x")
    assert known.crs == "EPSG:32633"
    own = CRS.from_proj4("+proj=tmerc +lon_0=14.3 +k=0.99 +x_0=500000 +datum=WGS84")
    assert CRS(locate(own.to_wkt(), transform, (10, 10), NONE, "x").crs) == own


@pytest.mark.parametrize("crs", ['LOCAL_CS["site grid",UNIT["metre",1]]', "EPSG:4978", "nonsense"])
def test_a_crs_off_the_earth_is_refused_with_the_way_out(crs):
    with pytest.raises(SceneError, match=r"cannot be placed on the Earth; assign .* or remove it"):
        locate(crs, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (10, 10), NONE, "scene.tif")


@pytest.mark.parametrize("steps", [(0.5, 0.0, 0.0, 0.0), (1.0, 2.0, 2.0, 4.0)])
def test_pixels_without_an_area_are_refused(steps):
    a, b, d, e = steps
    with pytest.raises(SceneError, match=r"scene\.tif has pixels without an area"):
        locate("EPSG:32633", (a, b, 5e5, d, e, 5e6), (10, 10), NONE, "scene.tif")
    assert locate(None, (a, b, 5e5, d, e, 5e6), (10, 10), NONE, "scene.tif").crs is None


def grid(along_x, along_y, gsd_m, shape=(1000, 800)):
    source = Georef(
        crs="EPSG:32633",
        transform=(along_x, 0.0, 5e5, 0.0, -along_y, 5e6),
        pixel_m=(along_x, along_y),
    )
    return fit_grid(source, shape, gsd_m, "scene.tif")


@pytest.mark.parametrize("pixel", [0.271, 0.3, 0.329])
def test_pixels_within_a_tenth_are_left_alone(pixel):
    fitted = grid(pixel, pixel, 0.3)
    assert fitted.scale == (1.0, 1.0)
    assert (fitted.height, fitted.width) == (1000, 800)
    assert bool(fitted.notes) == (pixel != 0.3)


@pytest.mark.parametrize("pixel", [0.269, 0.331])
def test_other_pixels_are_resampled(pixel):
    fitted = grid(pixel, pixel, 0.3)
    assert fitted.scale == pytest.approx((0.3 / pixel, 0.3 / pixel))
    assert fitted.georef.pixel_m == (0.3, 0.3)
    assert "Resampled" in fitted.notes[0]


@given(
    st.floats(0.05, 3.0),
    st.floats(0.7, 1.4),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_the_delivered_grid_covers_the_file_and_no_pixel_more(pixel, ratio, height, width):
    fitted = grid(pixel, pixel * ratio, 1.0, (height, width))
    for n, n_source, scale in zip(
        (fitted.height, fitted.width), (height, width), fitted.scale, strict=True
    ):
        assert n * scale >= n_source - scale * 1e-5
        assert n == 1 or (n - 1) * scale < n_source
    a, _, c, _, e, f = fitted.georef.transform
    assert (c, f) == (5e5, 5e6)
    assert a == pytest.approx(pixel * fitted.scale[1])
    assert e == pytest.approx(-pixel * ratio * fitted.scale[0])


def test_a_rotated_grid_stays_rotated():
    source = Georef(crs=None, transform=(3.0, 4.0, 7.0, 4.0, -3.0, 9.0), pixel_m=(5.0, 5.0))
    fitted = fit_grid(source, (10, 10), 10.0, "scene.tif")
    assert fitted.georef.transform == (6.0, 8.0, 7.0, 8.0, -6.0, 9.0)


@pytest.mark.parametrize(
    ("pixel", "words"),
    [
        (1.3, "pixels of 1.3 m, wanted are 0.3 m: 4.33 times too coarse"),
        (0.3 / 65, "pixels of 0.004615 m, wanted are 0.3 m: 65 times finer"),
        (5e-7, "pixels of 0.5 µm, wanted are 0.3 m"),
    ],
)
def test_scenes_of_another_kind_are_refused(pixel, words):
    with pytest.raises(SceneError, match=f"{words}.*--gsd"):
        grid(pixel, pixel, 0.3)


def test_an_unknown_pixel_size_is_noted():
    source = Georef(crs=None, transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), pixel_m=None)
    fitted = fit_grid(source, (10, 10), 0.3, "scene.tif")
    assert fitted.scale == (1.0, 1.0)
    assert "not known" in fitted.notes[0]
    assert fit_grid(source, (10, 10), None, "scene.tif").notes == ()


@pytest.mark.parametrize(
    ("stated", "in_file"),
    [
        ("1 0 0 0 1 0", (2, 0, 20, 0, 3, 40)),
        ("0.5 0 10 0 -0.5 100", (4, 0, 20, 0, -6, 120)),
        (None, IDENTITY),
        ("1 0 0 0 1", IDENTITY),
        ("1 0 0 0 nothing 0", IDENTITY),
        ("0 0 0 0 0 0", IDENTITY),
    ],
)
def test_a_result_without_a_crs_lies_in_the_file_of_its_scene(stated, in_file):
    georef = Georef(crs=None, transform=(2.0, 0.0, 20.0, 0.0, 3.0, 40.0), pixel_m=None)
    assert in_scene_pixels(georef, stated).to_coordinates == pytest.approx(in_file)
