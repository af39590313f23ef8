import base64
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import zarr
from pyproj import CRS

from tests.contracts import SceneCase, SceneReaderContract, read_whole
from tests.readers.test_geotiff import random_pixels, random_valid, write
from tests.servers import file_server
from tilingseg.errors import DependencyError, SceneError
from tilingseg.grid import Window
from tilingseg.places import place, upload
from tilingseg.readers import open_scene
from tilingseg.readers.zarr_store import locate_zarr

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    # The library warns about a class of its own while it is imported.
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

HEIGHT, WIDTH = 131, 94
WKT = CRS(32633).to_wkt()


def put(where, data, *, fmt=3, chunks=None, dims=None, attrs=None, **options):
    """Write an array at a path (new store) or as (group, name)."""
    attributes = dict(attrs or {})
    if fmt == 2 and dims:
        attributes["_ARRAY_DIMENSIONS"] = list(dims)
    settings = {
        "shape": data.shape,
        "dtype": data.dtype,
        "chunks": chunks or tuple(min(n, 32) for n in data.shape),
        "attributes": attributes,
        **options,
    }
    if fmt == 3 and dims:
        settings["dimension_names"] = dims
    if isinstance(where, tuple):
        array = where[0].create_array(where[1], **settings)
    else:
        array = zarr.create_array(where, zarr_format=fmt, **settings)
    array[...] = data
    return array


def geo_store(path, data, fmt, *, dims=("band", "y", "x"), attrs=None, **options):
    """Write a dataset as rioxarray does: data, coordinates and a grid mapping variable."""
    group = zarr.open_group(path, mode="w", zarr_format=fmt)
    height, width = (data.shape[dims.index(axis)] for axis in "yx")
    put(
        (group, "image"),
        data,
        fmt=fmt,
        dims=dims,
        attrs={"grid_mapping": "spatial_ref"} | (attrs or {}),
        **options,
    )
    put((group, "x"), 5e5 + 0.5 * (np.arange(width) + 0.5), fmt=fmt, dims=("x",))
    put((group, "y"), 5e6 - 0.5 * (np.arange(height) + 0.5), fmt=fmt, dims=("y",))
    put((group, "spatial_ref"), np.array(0), fmt=fmt, attrs={"crs_wkt": WKT})
    return path


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def fmt(request):
    return request.param


class TestBandsFirst(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path, fmt):
        pixels, valid = random_pixels(4, "uint16"), random_valid()
        stored = np.where(valid, pixels, 0).astype(np.uint16)
        path = geo_store(tmp_path / "scene.zarr", stored, fmt, attrs={"_FillValue": 0})
        return SceneCase(
            open=lambda: open_scene(path, bands=(3, 1)), pixels=stored[[2, 0]], valid=valid
        )


class TestBandsLastWithAlpha(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path, fmt):
        pixels, valid = random_pixels(), random_valid()
        stored = np.concatenate([pixels, valid[None] * np.uint8(9)]).transpose(1, 2, 0)
        path = tmp_path / "scene.zarr"
        attrs = {"long_name": ["blue", "green", "red", "alpha"]}
        put(path, stored, fmt=fmt, chunks=(50, 40, 4), dims=("y", "x", "band"), attrs=attrs)
        wanted = ("red", "green", "blue")
        return SceneCase(
            open=lambda: open_scene(path, band_names=wanted), pixels=pixels[::-1], valid=valid
        )


class TestNaN(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(1, "float64"), random_valid()
        stored = np.where(valid, pixels, np.nan)
        put(tmp_path / "scene.zarr", stored[0])
        return SceneCase(
            open=lambda: open_scene(tmp_path / "scene.zarr"),
            pixels=stored.astype(np.float32),
            valid=valid,
        )


class TestOneArrayABand(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path, fmt):
        pixels, valid = random_pixels(3, "int16"), random_valid()
        stored = np.where(valid, pixels, -1).astype(np.int16)
        group = zarr.open_group(tmp_path / "scene.zarr", mode="w", zarr_format=fmt)
        for name, band in zip(("b02", "b03", "b04"), stored, strict=True):
            put((group, name), band, fmt=fmt, dims=("y", "x"), attrs={"_FillValue": -1})
        return SceneCase(
            open=lambda: open_scene(tmp_path / "scene.zarr", bands=(3, 2)),
            pixels=stored[[2, 1]],
            valid=valid,
        )


class TestShards(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(), random_valid()
        stored = np.where(valid, pixels, 0).astype(np.uint8)
        path = tmp_path / "scene.zarr"
        put(path, stored, chunks=(1, 16, 16), shards=(3, 64, 64), attrs={"nodata": 0})
        return SceneCase(open=lambda: open_scene(path), pixels=stored, valid=valid)


class TestPyramid(SceneReaderContract):
    """OME-NGFF as its own library writes it, one time step and one plane of many."""

    @pytest.fixture(params=[("0.4", FormatV04()), ("0.5", FormatV05())], ids=["0.4", "0.5"])
    def case(self, request, tmp_path):
        version, fmt = request.param
        pixels, valid = random_pixels(2), random_valid()
        stack = np.zeros((2, 3, 4, HEIGHT, WIDTH), np.uint8)
        stack[1, :, 2] = np.concatenate([pixels, valid[None] * np.uint8(255)])
        path = tmp_path / "scene.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
        write_image(stack, group, axes="tczyx", fmt=fmt)
        attrs = dict(group.attrs)
        holder = attrs if version == "0.4" else attrs["ome"]
        holder["omero"] = {"channels": [{"label": n} for n in ("DAPI", "FITC", "alpha")]}
        group.attrs.update(attrs)
        selectors = {"t": 1, "z": 2}
        return SceneCase(
            open=lambda: open_scene(path, selectors=selectors), pixels=pixels, valid=valid
        )


class TestResampled(SceneReaderContract):
    """A GeoTIFF of the same pixels is the oracle: format must not matter, bit for bit."""

    @pytest.fixture(params=[0.9, 0.3])
    def case(self, request, tmp_path):
        pixels, valid = random_pixels(), random_valid()
        stored = np.where(valid, pixels, 0).astype(np.uint8)
        tif = write(tmp_path / "scene.tif", stored, nodata=0)
        path = geo_store(tmp_path / "scene.zarr", stored, 3, attrs={"nodata": 0})
        expected, expected_valid = read_whole(open_scene(tif, gsd_m=request.param))
        return SceneCase(
            open=lambda: open_scene(path, gsd_m=request.param),
            pixels=expected,
            valid=expected_valid,
        )


def test_the_scene_says_where_it_lies(tmp_path, fmt):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(), fmt)
    scene = open_scene(path).scene
    assert (scene.name, scene.uri) == ("scene", str(path))
    assert scene.georef.crs == "EPSG:32633"
    assert scene.georef.transform == (0.5, 0.0, 5e5, 0.0, -0.5, 5e6)
    assert scene.georef.pixel_m == pytest.approx((0.5, 0.5), rel=1e-3)
    inner = open_scene(path / "image").scene
    assert inner.georef == scene.georef
    assert inner.name == "scene_image"


AFFINE = (0.5, 0.0, 5e5, 0.0, -0.5, 5e6)


@pytest.mark.parametrize(
    ("array_attrs", "group_attrs", "mapping"),
    [
        ({"grid_mapping": "g"}, {}, {"crs_wkt": WKT, "GeoTransform": "5e5 0.5 0 5e6 0 -0.5"}),
        (
            {"grid_mapping": "g: x y"},
            {},
            {"spatial_ref": WKT, "GeoTransform": "5e5 0.5 0 5e6 0 -0.5"},
        ),
        ({"proj:code": "EPSG:32633", "spatial:transform": list(AFFINE)}, {}, None),
        ({}, {"proj:code": "EPSG:32633", "spatial:transform": list(AFFINE)}, None),
        ({"spatial:transform": list(AFFINE)}, {"proj:epsg": 32633}, None),
        ({"spatial:transform": list(AFFINE)}, {"proj:wkt2": WKT}, None),
        ({"spatial:transform": list(AFFINE)}, {"proj:projjson": CRS(32633).to_json_dict()}, None),
        ({"transform": list(AFFINE), "crs": "EPSG:32633"}, {}, None),
        ({"transform": list(AFFINE), "_CRS": {"wkt": WKT, "url": "x"}}, {}, None),
        (
            {
                "proj:code": "EPSG:32633",
                "spatial:transform": [0.5, 0.0, 500_000.25, 0.0, -0.5, 4_999_999.75],
                "spatial:registration": "node",
            },
            {},
            None,
        ),
    ],
)
def test_every_convention_places_the_pixels(tmp_path, fmt, array_attrs, group_attrs, mapping):
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w", zarr_format=fmt)
    group.attrs.update(group_attrs)
    put((group, "image"), random_pixels(), fmt=fmt, attrs=array_attrs)
    if mapping is not None:
        put((group, "g"), np.array(0), fmt=fmt, attrs=mapping)
    scene = open_scene(tmp_path / "scene.zarr").scene
    assert scene.georef.crs == "EPSG:32633"
    assert scene.georef.transform == pytest.approx(AFFINE)
    assert scene.notes == ()


def test_coordinates_outrank_a_transform_that_was_left_behind(tmp_path):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(), 3)
    store = zarr.open_group(path)
    store["spatial_ref"].attrs["GeoTransform"] = "0 0.5 0 0 0 -0.5"
    assert open_scene(path).scene.georef.transform == AFFINE


@pytest.mark.parametrize(("unit", "metres"), [("km", 1000), ("m", 1), ("", 1)])
def test_coordinates_may_be_in_another_unit_than_the_crs(tmp_path, unit, metres):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(), 3)
    store = zarr.open_group(path)
    for axis in "xy":
        store[axis][:] = store[axis][:] / metres
        store[axis].attrs["units"] = unit
    assert open_scene(path).scene.georef.transform == pytest.approx(AFFINE)


def test_uneven_coordinates_are_not_used(tmp_path):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(), 3)
    store = zarr.open_group(path)
    x = store["x"][:]
    x[10] += 0.1
    store["x"][:] = x
    scene = open_scene(path).scene
    assert scene.georef.crs is None
    assert "not evenly spaced" in scene.notes[0]


@pytest.mark.parametrize("stated", [None, "500000 0.5 0 5000000 0 -0.5", "500000 9 0 5000000 0 -9"])
@pytest.mark.parametrize("shape", [(1, 40), (30, 1), (1, 1)])
def test_one_row_or_column_keeps_its_place(tmp_path, shape, stated):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(1, shape=shape), 3)
    if stated:
        zarr.open_group(path)["spatial_ref"].attrs["GeoTransform"] = stated
    scene = open_scene(path).scene
    if stated is None and shape == (1, 1):
        assert scene.georef.crs is None
        assert "no transform" in " ".join(scene.notes)
        return
    assert scene.georef.crs == "EPSG:32633"
    assert scene.notes == ()
    a, b, c, d, e, f = scene.georef.transform
    step_x, step_y = (9.0, -9.0) if stated and stated.split()[1] == "9" else (0.5, -0.5)
    assert a == (step_x if shape[1] == 1 else 0.5)
    assert e == (step_y if shape[0] == 1 else -0.5)
    # whatever the size of the pixel, the coordinates say where its centre lies
    assert (c + a / 2, f + e / 2, b, d) == (500_000.25, 4_999_999.75, 0, 0)


def test_longitude_and_latitude_need_no_crs(tmp_path):
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w")
    put((group, "image"), random_pixels(1)[0], dims=("lat", "lon"))
    put((group, "lon"), (20 + 1e-5 * np.arange(WIDTH)), dims=("lon",))
    put((group, "lat"), (45 - 1e-5 * np.arange(HEIGHT)), dims=("lat",))
    scene = open_scene(tmp_path / "scene.zarr").scene
    assert scene.georef.crs == "EPSG:4326"
    assert scene.georef.pixel_m == pytest.approx((0.79, 1.11), abs=0.01)


def test_band_coordinates_name_bands(tmp_path):
    pixels = random_pixels()
    path = geo_store(tmp_path / "scene.zarr", pixels, 2)
    group = zarr.open_group(path)
    put((group, "band"), np.array(["blue", "green", "red"]), fmt=2, dims=("band",))
    reader = open_scene(path, band_names=("red", "green", "blue"))
    np.testing.assert_array_equal(read_whole(reader)[0], pixels[::-1])


@pytest.mark.parametrize(
    ("dims", "shape", "order"),
    [
        (("time", "band", "y", "x"), (1, 3, 40, 30), None),
        (("y", "x", "band"), (40, 30, 3), (2, 0, 1)),
        (("x", "y", "band"), (30, 40, 3), (2, 1, 0)),
        (("band", "x", "y"), (3, 30, 40), (0, 2, 1)),
        (None, (1, 3, 1, 40, 30), None),
        (None, (40, 30, 3), (2, 0, 1)),
        (("dim_0", "dim_1", "dim_2"), (3, 40, 30), None),
    ],
)
def test_axes_come_in_any_order(tmp_path, dims, shape, order):
    data = random_pixels(1, "uint8", (int(np.prod(shape)), 1)).reshape(shape)
    expected = data.transpose(order) if order else data.reshape(3, 40, 30)
    put(tmp_path / "scene.zarr", data, dims=dims, chunks=tuple(min(n, 16) for n in shape))
    reader = open_scene(tmp_path / "scene.zarr")
    np.testing.assert_array_equal(read_whole(reader)[0], expected)


def test_an_axis_with_many_positions_must_be_selected(tmp_path):
    data = random_pixels(6, "uint8", (40, 30)).reshape(2, 3, 40, 30)
    path = tmp_path / "scene.zarr"
    put(path, data, dims=("time", "band", "y", "x"))
    with pytest.raises(SceneError, match=r"2 positions along its axis 'time'; choose one"):
        open_scene(path)
    with pytest.raises(SceneError, match=r"position 2 is outside axis 'time', 0…1"):
        open_scene(path, selectors={"time": 2})
    with pytest.raises(SceneError, match=r"no axis 'z' to select along; it has time"):
        open_scene(path, selectors={"time": 1, "z": 0})
    read, _ = read_whole(open_scene(path, selectors={"time": 1}))
    np.testing.assert_array_equal(read, data[1])


@pytest.mark.parametrize("chunk", [1, 9])
def test_far_apart_bands_are_picked(tmp_path, chunk):
    data = random_pixels(9, "uint8", (40, 30))
    put(tmp_path / "scene.zarr", data, chunks=(chunk, 16, 16))
    read, _ = read_whole(open_scene(tmp_path / "scene.zarr", bands=(9, 1, 4)))
    np.testing.assert_array_equal(read, data[[8, 0, 3]])


def test_other_byte_orders_are_turned(tmp_path):
    data = random_pixels(1, "uint16", (40, 30)).astype(">u2")
    put(tmp_path / "scene.zarr", data, fmt=2)
    reader = open_scene(tmp_path / "scene.zarr")
    read, _ = read_whole(reader)
    assert reader.scene.dtype == "uint16" == read.dtype.name
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, data)


@pytest.mark.parametrize(
    ("fmt", "dtype", "attrs", "options"),
    [
        (3, "float32", {"_FillValue": base64.b64encode(np.float64(-99).tobytes()).decode()}, {}),
        (3, "float32", {"missing_value": [-99.0]}, {}),
        (2, "int16", {"_ARRAY_DIMENSIONS": ["band", "y", "x"]}, {"fill_value": -99}),
        (2, "int16", {"nodatavals": [-99, -99]}, {}),
    ],
)
def test_nodata_is_found_where_it_is_written(tmp_path, fmt, dtype, attrs, options):
    pixels, valid = random_pixels(2, dtype), random_valid()
    stored = np.where(valid, pixels, -99).astype(dtype)
    put(tmp_path / "scene.zarr", stored, fmt=fmt, attrs=attrs, **options)
    np.testing.assert_array_equal(read_whole(open_scene(tmp_path / "scene.zarr"))[1], valid)


def test_each_band_has_its_nodata_value(tmp_path):
    pixels, valid = random_pixels(3), random_valid()
    pixels = np.clip(pixels, 1, 254)
    missing = np.array([0, 255, 7], np.uint8)[:, None, None]
    stored = np.where(valid, pixels, missing)
    put(tmp_path / "scene.zarr", stored, attrs={"nodatavals": missing.ravel().tolist()})
    for bands in (None, (3, 1)):
        reader = open_scene(tmp_path / "scene.zarr", bands=bands)
        np.testing.assert_array_equal(read_whole(reader)[1], valid)


def test_a_pyramid_of_micrometres_has_a_physical_pixel(tmp_path):
    path = tmp_path / "scene.zarr"
    group = zarr.open_group(path, mode="w")
    units = dict.fromkeys("yx", "micrometer")
    write_image(
        random_pixels(1)[0], group, axes="yx", scale={"y": 0.5, "x": 0.25}, axes_units=units
    )
    scene = open_scene(path).scene
    assert scene.georef.pixel_m == (0.25e-6, 0.5e-6)
    with pytest.raises(SceneError, match="times finer"):
        open_scene(path, gsd_m=0.3)


def test_the_level_of_a_pyramid_is_chosen_by_pixel_size(tmp_path):
    pixels = random_pixels(1, "uint8", (256, 256))[0]
    path = tmp_path / "scene.zarr"
    group = zarr.open_group(path, mode="w")
    halves = [pixels]
    for _ in range(2):
        h = halves[-1]
        halves.append(h.reshape(len(h) // 2, 2, -1, 2).mean(axis=(1, 3)).round().astype(np.uint8))
    for k, level in enumerate(halves):
        put((group, str(k)), level)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [ngff([1, 2, 4], [0, 0.5, 1.5])]}
    reader = open_scene(path, gsd_m=4.0)
    assert reader.scene.source.pixel_m == (1.0, 1.0)
    np.testing.assert_array_equal(read_whole(reader)[0][0], halves[2])
    # Finer levels are gone, and nobody notices.
    np.testing.assert_array_equal(reader.read_reduced(64)[0][0], halves[2])


def ngff(scales, translations):
    return {
        "axes": [{"name": n, "type": "space", "unit": "meter"} for n in "yx"],
        "datasets": [
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [s, s]},
                    {"type": "translation", "translation": [t, t]},
                ],
            }
            for k, (s, t) in enumerate(zip(scales, translations, strict=True))
        ],
    }


def test_geozarr_levels_are_read(tmp_path):
    pixels = random_pixels(2, "uint8", (128, 128))
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w")
    for k, level in enumerate((pixels, pixels.reshape(2, 64, 2, 64, 2).mean(axis=(2, 4)))):
        inner = group.create_group(f"r{k}")
        for name, band in zip(("b1", "b2"), level.astype(np.uint8), strict=True):
            put((inner, name), band, dims=("y", "x"))
    group.attrs.update(
        {
            "multiscales": {"layout": [{"asset": "r0"}, {"asset": "r1", "derived_from": "r0"}]},
            "proj:code": "EPSG:32633",
            "spatial:transform": list(AFFINE),
        }
    )
    reader = open_scene(tmp_path / "scene.zarr")
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    assert reader.scene.georef.crs == "EPSG:32633"
    coarse, _ = open_scene(tmp_path / "scene.zarr").read_reduced(64)
    np.testing.assert_array_equal(coarse[0], group["r1/b1"][:])


def test_the_first_image_of_a_converted_series_is_read(tmp_path):
    pixels = random_pixels(1)
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    write_image(pixels, group.create_group("0"), axes="cyx", fmt=FormatV04())
    reader = open_scene(tmp_path / "scene.zarr")
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    assert "the first, 0, is read" in reader.scene.notes[0]


def test_a_chunk_is_decoded_once(tmp_path, monkeypatch):
    pixels = random_pixels(1, "uint8", (64, 96))
    put(tmp_path / "scene.zarr", pixels, chunks=(1, 32, 32))
    reader = open_scene(tmp_path / "scene.zarr")
    fetched = []
    original = zarr.Array.__getitem__
    monkeypatch.setattr(
        zarr.Array, "__getitem__", lambda self, key: fetched.append(key) or original(self, key)
    )
    for row in range(0, 60, 5):
        for col in range(0, 90, 9):
            window = Window(row=row, col=col, height=4, width=6)
            part, _ = reader.read(window)
            np.testing.assert_array_equal(part, pixels[:, row : row + 4, col : col + 6])
    assert len(fetched) <= 6


def test_the_cache_keeps_its_budget(tmp_path, monkeypatch):
    monkeypatch.setattr("tilingseg.readers.zarr._CACHE_BYTES", 5000)
    pixels = random_pixels(1, "uint8", (200, 200))
    put(tmp_path / "scene.zarr", pixels, chunks=(1, 40, 40))
    reader = open_scene(tmp_path / "scene.zarr")
    source = reader._source
    for row in range(0, 190, 17):
        part, _ = reader.read(Window(row=row, col=3, height=9, width=150))
        np.testing.assert_array_equal(part, pixels[:, row : row + 9, 3:153])
        assert sum(data.nbytes for data in source._chunks.values()) <= 5000


def test_the_revision_follows_the_store(tmp_path):
    path = tmp_path / "scene.zarr"
    put(path, random_pixels())
    before = open_scene(path).scene.revision
    assert open_scene(path).scene.revision == before
    zarr.open_array(path).attrs["note"] = "changed"
    assert open_scene(path).scene.revision != before


def test_a_zip_of_a_store_is_read(tmp_path):
    pixels = random_pixels(1)
    path = tmp_path / "scene.zarr.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.open_group(store, mode="w")
        array = group.create_array("a", shape=pixels.shape, dtype="uint8", chunks=(1, 64, 64))
        array[...] = pixels
    reader = open_scene(f"{path}/a")
    assert reader.scene.name == "scene_a"
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)


@pytest.mark.parametrize(
    ("uri", "root", "inner"),
    [
        ("a/scene.zarr", "a/scene.zarr", ""),
        ("a/scene.zarr/", "a/scene.zarr", ""),
        ("a/scene.zarr/g/0", "a/scene.zarr", "g/0"),
        ("s3://b/scene.ome.zarr/0", "s3://b/scene.ome.zarr", "0"),
        ("file:///a/scene.zarr", "/a/scene.zarr", ""),
    ],
)
def test_store_and_inner_path_are_told_apart(uri, root, inner):
    target = locate_zarr(uri)
    assert (target.root, target.inner) == (root, inner)


@pytest.mark.parametrize(
    "uri", ["scene.tif", "my.zarr.tif", 'ZARR:"/a/scene.zarr":/x', "/vsis3/b/a.zarr"]
)
def test_other_names_are_left_to_gdal(uri):
    assert locate_zarr(uri) is None


def test_a_picture_in_the_folder_of_a_store_is_a_picture(tmp_path):
    put(tmp_path / "scene.zarr", random_pixels())
    pixels = random_pixels(seed=9)
    path = write(tmp_path / "scene.zarr" / "preview.tif", pixels)
    np.testing.assert_array_equal(read_whole(open_scene(path))[0], pixels)


def fails(uri, words, **options):
    with pytest.raises(SceneError, match=words) as error:
        open_scene(uri, **options)
    assert "\n" not in str(error.value)


def test_a_missing_store_is_named(tmp_path):
    fails(tmp_path / "nix.zarr", r"nix\.zarr: no such file or folder")
    fails(tmp_path / "nix.zarr/0", r"nix\.zarr/0: no such file or folder")


def test_a_folder_that_is_no_store_is_named(tmp_path):
    (tmp_path / "scene.zarr").mkdir()
    fails(tmp_path / "scene.zarr", r"no Zarr store: it has no zarr\.json or \.zarray or \.zgroup")


def test_a_missing_member_names_those_there_are(tmp_path):
    path = geo_store(tmp_path / "scene.zarr", random_pixels(), 3)
    fails(path / "nix", r"holds no array or group 'nix', but image, spatial_ref, x, y")


def test_several_arrays_are_listed(tmp_path):
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w")
    put((group, "dem"), random_pixels(1, "float32"))
    put((group, "rgb"), random_pixels(3))
    fails(tmp_path / "scene.zarr", r"holds 2 arrays; name one of them: .*zarr/dem, .*zarr/rgb")


def test_an_empty_group_is_named(tmp_path):
    zarr.open_group(tmp_path / "scene.zarr", mode="w")
    fails(tmp_path / "scene.zarr", "holds no array of rows and columns")


def test_a_plate_is_named(tmp_path):
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w", zarr_format=2)
    group.attrs["plate"] = {"rows": []}
    group.create_group("A")
    fails(tmp_path / "scene.zarr", r"is a plate of several images; name one of them: .*zarr/A")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 5), np.uint8), r"is empty: its shape is \(0, 5\)"),
        (np.zeros(5, np.uint8), "array of 1 axis"),
        (np.zeros((5, 5), np.complex64), "complex64 values"),
    ],
)
def test_what_is_no_scene_is_named(tmp_path, data, words):
    put(tmp_path / "scene.zarr", data, chunks=tuple(max(1, n) for n in data.shape))
    fails(tmp_path / "scene.zarr", words)


def test_axes_of_unknown_meaning_are_named(tmp_path):
    put(tmp_path / "scene.zarr", random_pixels(), dims=("a", "b", "c"))
    fails(tmp_path / "scene.zarr", "axes a, b, c, of which rows and columns cannot be told")


def test_broken_metadata_is_named(tmp_path):
    path = tmp_path / "scene.zarr"
    put(path, random_pixels())
    (path / "zarr.json").write_text("{not json")
    fails(path, "cannot be opened as Zarr")


@pytest.mark.parametrize(
    "broken", [[{"datasets": [{}]}], [{"axes": [{}], "datasets": []}], [ngff([0, 1], [0, 0])]]
)
def test_broken_multiscales_are_named(tmp_path, broken):
    group = zarr.open_group(tmp_path / "scene.zarr", mode="w")
    put((group, "0"), random_pixels(1)[0])
    group.attrs["multiscales"] = broken
    fails(tmp_path / "scene.zarr", "multiscales metadata is not understood")


def test_a_damaged_chunk_names_the_window(tmp_path):
    path = tmp_path / "scene.zarr"
    put(path, random_pixels(1)[0])
    (path / "c/1/1").write_bytes(b"damaged")
    reader = open_scene(path)
    reader.read(Window(row=0, col=0, height=32, width=32))
    with pytest.raises(SceneError, match=r"rows 32…63, columns 32…63 cannot be read") as error:
        reader.read(Window(row=40, col=40, height=2, width=2))
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def unavailable(*args, **options):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(zarr, "open", unavailable)
    with pytest.raises(DependencyError, match=r"over gs needs another package; pip install gcsfs"):
        open_scene("gs://bucket/scene.zarr")


def test_huge_chunks_are_noted(tmp_path):
    zarr.create_array(
        tmp_path / "scene.zarr", shape=(20_000, 20_000), chunks=(20_000, 20_000), dtype="u1"
    )
    notes = open_scene(tmp_path / "scene.zarr").scene.notes
    assert re.search(r"chunks of 0\.4 GB", " ".join(notes))


def test_consolidated_metadata_is_used(tmp_path, fmt):
    pixels = random_pixels()
    path = geo_store(tmp_path / "scene.zarr", pixels, fmt)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        zarr.consolidate_metadata(path)
    reader = open_scene(path)
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    assert reader.scene.georef.crs == "EPSG:32633"


def test_a_store_on_a_server_is_read(tmp_path, fmt, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    pixels = random_pixels()
    geo_store(tmp_path / "scene.zarr", pixels, fmt)
    with file_server() as server:
        for file in tmp_path.rglob("*"):
            if file.is_file():
                server.files[f"/{file.relative_to(tmp_path)}"] = file.read_bytes()
        reader = open_scene(f"{server.url}/scene.zarr/image")
        np.testing.assert_array_equal(read_whole(reader)[0], pixels)
        assert reader.scene.georef.crs == "EPSG:32633"
        # Such a server does not list folders.
        fails(f"{server.url}/scene.zarr", "does not list its folders, name the array")
        fails(f"{server.url}/nix.zarr", "is no Zarr store")


def test_a_store_in_a_bucket_is_read(object_store, tmp_path):
    pixels = random_pixels()
    # the variables of one reader are those of the other
    upload([write(tmp_path / "scene.tif", pixels)], place(f"{object_store}/test_zarr"))
    reader = open_scene(f"{object_store}/test_zarr/scene.tif")
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    store = f"{object_store}/test_zarr/scene.zarr"
    put(store, pixels, dims=("band", "y", "x"))
    np.testing.assert_array_equal(read_whole(open_scene(store))[0], pixels)
    fails(f"{object_store}/test_zarr/nix.zarr", "is no Zarr store")


def test_a_public_bucket_is_read_unsigned(object_store, monkeypatch):
    pixels = random_pixels()
    for name, access in (("open", "public-read"), ("closed", "private")):
        rights = {"s3_additional_kwargs": {"ACL": access}}
        put(f"{object_store}/{name}.zarr", pixels, storage_options=rights)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    np.testing.assert_array_equal(read_whole(open_scene(f"{object_store}/open.zarr"))[0], pixels)
    fails(f"{object_store}/closed.zarr", "cannot be opened as Zarr: .*(Forbidden|Denied)")


def test_missing_credentials_are_named(object_store):
    settings = {k: v for k, v in os.environ.items() if not k.endswith(("_KEY_ID", "_ACCESS_KEY"))}
    # or the instance metadata of a cloud is asked for, which takes seconds where there is none
    settings["AWS_EC2_METADATA_DISABLED"] = "true"
    command = [sys.executable, "-m", "tilingseg", "info", f"{object_store}/any.zarr"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r"credentials; set .*or AWS_NO_SIGN_REQUEST=YES$", done.stderr.strip())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_refuses_is_named(tmp_path, status, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    put(tmp_path / "scene.zarr", random_pixels())
    with file_server() as server:
        for file in tmp_path.rglob("*"):
            if file.is_file():
                server.files[f"/{file.relative_to(tmp_path)}"] = file.read_bytes()
        reader = open_scene(f"{server.url}/scene.zarr")
        server.failures["/scene.zarr/c/0/0/0"] = [status] * 9
        with pytest.raises(SceneError, match=rf"rows 0…\d+, .* cannot be read \({status}.*refused"):
            read_whole(reader)
        server.failures["/scene.zarr/zarr.json"] = [status] * 9
        fails(f"{server.url}/scene.zarr", f"cannot be opened as Zarr: {status}")
