import os
import re
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy
from rasterio.windows import Window as RasterioWindow

from tests.contracts import (
    SceneCase,
    SceneReaderContract,
    assert_same_bits,
    read_whole,
    some_windows,
)
from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers import open_scene

HEIGHT, WIDTH = 131, 94


def random_pixels(count=3, dtype="uint8", shape=(HEIGHT, WIDTH), seed=3):
    rng = np.random.default_rng(seed)
    limits = (-1.0, 1.0) if np.dtype(dtype).kind == "f" else (1, np.iinfo(dtype).max)
    return rng.uniform(*limits, (count, *shape)).astype(dtype)


def random_valid(shape=(HEIGHT, WIDTH), seed=4):
    """A ragged hole in the middle and an invalid right edge."""
    rng = np.random.default_rng(seed)
    valid = np.ones(shape, bool)
    valid[40:70, 20:60] = rng.random((30, 40)) < 0.3
    valid[:, -9:] = False
    return valid


def write(path, pixels, *, mask=None, colours=None, descriptions=None, gsd_m=0.5, **profile):
    """Write (bands, height, width) as a tiled GeoTIFF at 500000, 5000000 in UTM."""
    count, height, width = pixels.shape
    settings = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": pixels.dtype.name,
        "crs": "EPSG:32633",
        "transform": Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_000_000),
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 32,
        "compress": "deflate",
    }
    settings = {k: v for k, v in (settings | profile).items() if v is not None}
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **settings) as out,
    ):
        if colours is not None:
            out.colorinterp = [ColorInterp[name] for name in colours]
        out.write(pixels)
        if descriptions is not None:
            out.descriptions = descriptions
        if mask is not None:
            out.write_mask(mask)
    return path


def blanked(pixels, valid, value):
    return np.where(valid, pixels, np.array(value, pixels.dtype))


class TestAlpha(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(), random_valid()
        alpha = np.where(valid, np.random.default_rng(0).integers(1, 256, valid.shape), 0)
        stored = np.concatenate([pixels, alpha[None].astype(np.uint8)])
        colours = ["red", "green", "blue", "alpha"]
        path = write(
            tmp_path / "scene.tif", stored, photometric="rgb", alpha="yes", colours=colours
        )
        return SceneCase(open=lambda: open_scene(path), pixels=pixels, valid=valid)


class TestMaskBandAndBandOrder(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(5, "uint16"), random_valid()
        path = write(tmp_path / "scene.tif", pixels, mask=valid, interleave="band")
        return SceneCase(
            open=lambda: open_scene(path, bands=(4, 1, 4)), pixels=pixels[[3, 0, 3]], valid=valid
        )


class TestNodataTag(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(), random_valid()
        stored = blanked(pixels, valid, 0)
        # A shadow in one band is data.
        stored[1, 5:30, 5:30] = 0
        path = write(tmp_path / "scene.tif", stored, nodata=0)
        return SceneCase(open=lambda: open_scene(path), pixels=stored, valid=valid)


class TestNodataOfTheWholeDataset(SceneReaderContract):
    """A value for each band: a pixel is nodata where all have theirs. GDAL's mask is the oracle."""

    @pytest.fixture(params=[("uint8", "0 7 255"), ("int16", "-9999 -9999 0")])
    def case(self, tmp_path, request):
        dtype, values = request.param
        pixels, valid = random_pixels(3, dtype), random_valid()
        for band, value in enumerate(values.split()):
            pixels[band, ~valid] = int(value)
            pixels[band, 5 + band :: 9, 5:30] = int(value)  # in one band alone it is data
        path = write(tmp_path / "scene.tif", pixels)
        with rasterio.open(path, "r+") as out:
            out.update_tags(NODATA_VALUES=values)
        with rasterio.open(path) as dataset:
            assert dataset.nodata is None
            valid = dataset.dataset_mask() != 0
        assert 0.5 < valid.mean() < 0.9
        return SceneCase(open=lambda: open_scene(path), pixels=pixels, valid=valid)


def test_averages_of_nodata_of_the_whole_dataset_are_no_data(tmp_path):
    stored = np.full((3, 256, 256), 90, np.uint8)
    stored[:, :, :96] = 255
    path = write(tmp_path / "scene.tif", stored)
    with rasterio.open(path, "r+") as out:
        out.update_tags(NODATA_VALUES="255 255 255")
        out.build_overviews([2, 4], Resampling.average)
    reader = open_scene(path, gsd_m=1.0)
    _, valid = reader.read(Window(row=0, col=0, height=64, width=reader.scene.width))
    reader.close()
    assert (~valid).mean() == pytest.approx(96 / 256, abs=0.02)


class TestNaN(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(2, "float32"), random_valid()
        stored = pixels.copy()
        stored[1, ~valid] = np.nan
        path = write(tmp_path / "scene.tif", stored, nodata=np.nan)
        return SceneCase(open=lambda: open_scene(path), pixels=stored, valid=valid)


class TestInfinity(SceneReaderContract):
    @pytest.fixture(params=["float32", "float64"])
    def case(self, tmp_path, request):
        pixels, valid = random_pixels(2, request.param), random_valid()
        stored = pixels.copy()
        stored[1, ~valid] = np.inf
        # beyond what float32 can hold, as which such a scene is delivered
        stored[0, ~valid & (stored[0] > 99)] = -np.inf if request.param == "float32" else -1e300
        path = write(tmp_path / "scene.tif", stored)
        pixels = pixels.astype("float32")
        return SceneCase(open=lambda: open_scene(path), pixels=pixels, valid=valid)


class TestNodataThatNoCameraDelivers(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        pixels, valid = random_pixels(2, "int16"), random_valid()
        stored = pixels.copy()
        stored[0, ~valid] = -9999
        path = write(tmp_path / "scene.tif", stored, nodata=-9999)
        return SceneCase(open=lambda: open_scene(path), pixels=stored, valid=valid)


class TestPalette(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        valid = random_valid()
        index = np.where(valid, random_pixels(1)[0] % 7, 9).astype(np.uint8)
        colours = {k: (k * 30, 255 - k * 11, k, 255) for k in range(8)} | {9: (1, 2, 3, 0)}
        path = write(tmp_path / "scene.tif", index[None], compress="lzw")
        with rasterio.open(path, "r+") as out:
            out.write_colormap(1, colours)
            out.nodata = 9
        table = np.array([colours.get(k, (0, 0, 0, 0))[:3] for k in range(256)], np.uint8)
        pixels = table[index].transpose(2, 0, 1)
        return SceneCase(open=lambda: open_scene(path), pixels=pixels, valid=valid)


class TestControlPoints(SceneReaderContract):
    @pytest.fixture
    def case(self, tmp_path):
        # Control points of a plain shift and scale: the warped grid is the file's own.
        pixels, valid = random_pixels(), random_valid()
        corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
        gcps = [GroundControlPoint(row=r, col=c, x=5e5 + c, y=5e6 - r) for r, c in corners]
        alpha = valid[None] * np.uint8(255)
        path = write(
            tmp_path / "scene.tif",
            np.concatenate([pixels, alpha]),
            transform=None,
            gcps=gcps,
            photometric="rgb",
            alpha="yes",
        )

        def open_and_check():
            reader = open_scene(path)
            assert "control points" in " ".join(reader.scene.notes)
            assert reader.scene.georef.crs == "EPSG:32633"
            return reader

        return SceneCase(open=open_and_check, pixels=pixels, valid=valid, tolerance=0)


class TestResampled(SceneReaderContract):
    """The oracle averages in double precision over the whole array at once."""

    @pytest.fixture(params=[1.25, 0.3, 2.0])
    def case(self, request, tmp_path):
        pixels, valid = random_pixels(3, "uint16"), random_valid()
        path = write(tmp_path / "scene.tif", pixels, mask=valid, crs="EPSG:32633")
        pixel = open_scene(path).scene.source.pixel_m
        rows = oracle_weights(HEIGHT, request.param / pixel[1])
        cols = oracle_weights(WIDTH, request.param / pixel[0])
        known = rows @ valid @ cols.T
        sums = rows @ (pixels * valid).astype(float) @ cols.T
        with np.errstate(invalid="ignore"):
            expected = np.rint(sums / known)
        return SceneCase(
            open=lambda: open_scene(path, gsd_m=request.param),
            pixels=np.nan_to_num(expected).astype(np.uint16),
            valid=known >= 0.5,
            tolerance=1,
        )


def oracle_weights(n_source, scale):
    """float64 (outputs, n_source): shares of area when shrinking, linear when enlarging."""
    n = int(np.ceil(n_source / scale - 1e-6))
    out = np.zeros((n, n_source))
    for i in range(n):
        if scale < 1:
            centre = min(max((i + 0.5) * scale - 0.5, 0), n_source - 1)
            low = int(centre)
            out[i, low] += 1 - (centre - low)
            out[i, min(low + 1, n_source - 1)] += centre - low
            continue
        for k in range(n_source):
            out[i, k] = max(0, min(k + 1, (i + 1) * scale) - max(k, i * scale))
    return out / out.sum(axis=1, keepdims=True)


def test_windows_equal_those_of_rasterio(tmp_path):
    pixels = random_pixels(4, "int16")
    path = write(tmp_path / "scene.tif", pixels)
    reader = open_scene(path, bands=(3, 1))
    with rasterio.open(path) as dataset:
        for window in some_windows(HEIGHT, WIDTH):
            area = RasterioWindow(window.col, window.row, window.width, window.height)
            read, valid = reader.read(window)
            np.testing.assert_array_equal(read, dataset.read([3, 1], window=area))
            assert valid.all()


def test_the_scene_says_where_it_lies(tmp_path):
    path = write(tmp_path / "my.scene.tif", random_pixels(), descriptions=("Red", "Green", "NIR"))
    scene = open_scene(path).scene
    assert scene.name == "my.scene"
    assert scene.uri == str(path)
    assert [band.name for band in scene.bands] == ["red", "green", "nir"]
    assert scene.georef.crs == "EPSG:32633"
    assert scene.georef.transform == (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)
    assert scene.georef == scene.source
    assert scene.source_shape == (HEIGHT, WIDTH)
    assert scene.notes == ()


def test_the_revision_follows_the_content(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels())
    before = open_scene(path).scene.revision
    assert open_scene(path).scene.revision == before
    with path.open("ab") as file:
        file.write(b"\0")
    assert open_scene(path).scene.revision != before
    before = open_scene(path).scene.revision
    os.utime(path, ns=(1, 1))
    assert open_scene(path).scene.revision != before


def test_what_others_note_beside_a_file_is_another_revision_only_where_it_counts(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels())
    plain = open_scene(path).scene.revision
    beside = tmp_path / "scene.tif.aux.xml"
    revisions = []
    for stated in (
        '<Metadata><MDI key="STATISTICS_MAXIMUM">254</MDI></Metadata>',
        "<NoDataValue>0</NoDataValue>",
        "<ColorInterp>Alpha</ColorInterp>",
    ):
        beside.write_text(
            f'<PAMDataset><PAMRasterBand band="3">{stated}</PAMRasterBand></PAMDataset>'
        )
        revisions.append(open_scene(path).scene.revision)
    beside.write_text(
        '<PAMDataset><Metadata><MDI key="NODATA_VALUES">0 0 0</MDI></Metadata></PAMDataset>'
    )
    revisions.append(open_scene(path).scene.revision)
    assert revisions[0] == plain
    assert len({*revisions}) == 4


def test_a_rotated_scene_keeps_its_grid(tmp_path):
    transform = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    path = write(tmp_path / "scene.tif", random_pixels(), transform=transform)
    scene = open_scene(path).scene
    assert (scene.height, scene.width) == (HEIGHT, WIDTH)
    assert scene.georef.transform == pytest.approx(tuple(transform)[:6])
    assert scene.georef.pixel_m == pytest.approx((0.5, 0.5), rel=1e-3)
    coarse = open_scene(path, gsd_m=1.0).scene
    factor = 1.0 / scene.georef.pixel_m[0]
    assert coarse.georef.transform[0] == pytest.approx(transform.a * factor, rel=1e-6)
    assert coarse.georef.transform[3] == pytest.approx(transform.d * factor, rel=1e-6)
    assert coarse.georef.transform[2] == 5e5


def test_degrees_become_square_pixels_on_the_ground(tmp_path):
    transform = Affine(1e-5, 0, 20, 0, -1e-5, 60)
    path = write(tmp_path / "scene.tif", random_pixels(), crs="EPSG:4326", transform=transform)
    scene = open_scene(path, gsd_m=1.5).scene
    along_x, along_y = scene.source.pixel_m
    assert along_x == pytest.approx(along_y / 2, rel=0.01)
    assert scene.georef.pixel_m == (1.5, 1.5)
    assert scene.height == int(np.ceil(HEIGHT * along_y / 1.5 - 1e-6))
    assert scene.width == int(np.ceil(WIDTH * along_x / 1.5 - 1e-6))


def test_control_points_that_turn_the_scene_are_followed_without_seams(tmp_path):
    turn = Affine.translation(5e5, 5e6) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
    places = [(r, c) for r in (0, 300, 600) for c in (0, 350, 700)]
    gcps = [
        GroundControlPoint(row=r, col=c, x=(turn @ (c, r))[0], y=(turn @ (c, r))[1])
        for r, c in places
    ]
    pixels = random_pixels(3, "uint8", (600, 700))
    path = write(tmp_path / "scene.tif", pixels, transform=None, gcps=gcps)
    reader = open_scene(path)
    whole, valid = read_whole(reader)
    # What the corners leave open is outside the scene.
    assert 0.5 < valid.mean() < 0.75
    for window in some_windows(*valid.shape, count=60):
        part, part_valid = reader.read(window)
        rows = slice(window.row, window.row_stop)
        cols = slice(window.col, window.col_stop)
        np.testing.assert_array_equal(part_valid, valid[rows, cols])
        assert_same_bits(part, whole[:, rows, cols], part_valid)


def test_overviews_serve_coarser_pixels(tmp_path):
    pixels = random_pixels(1, "uint8", (400, 300))
    path = write(tmp_path / "scene.tif", pixels)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], Resampling.average)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
        expected = overview.read()
    ground = open_scene(path).scene.source.pixel_m[0]
    reader = open_scene(path, gsd_m=ground * 2)
    read, _ = read_whole(reader)
    np.testing.assert_allclose(read.astype(int), expected.astype(int), atol=1)


def test_overviews_that_pick_pixels_are_not_used_to_resample(tmp_path):
    pixels = random_pixels(1, "uint8", (400, 300))
    path = write(tmp_path / "scene.tif", pixels)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2], Resampling.nearest)
        out.update_tags(OVR_RESAMPLING_ALG="NEAREST")
    ground = open_scene(path).scene.source.pixel_m[0]
    read, _ = read_whole(open_scene(path, gsd_m=ground * 2))
    expected = pixels.reshape(1, 200, 2, 150, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(read, expected, atol=2)


def test_the_mask_of_an_overview_goes_with_it(tmp_path):
    pixels, valid = random_pixels(3, "uint8", (512, 512)), np.ones((512, 512), bool)
    valid[101:307, 90:] = False
    path = write(tmp_path / "scene.tif", pixels, mask=valid, photometric="rgb")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], Resampling.average)
    ground = open_scene(path).scene.source.pixel_m[0]
    _, read = read_whole(open_scene(path, gsd_m=ground * 4))
    shares = valid.reshape(128, 4, 128, 4).mean(axis=(1, 3))
    whole = (shares == 0) | (shares == 1)
    np.testing.assert_array_equal(read[whole], (shares == 1)[whole])


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("mask_first", [True, False])
def test_an_overview_without_the_mask_is_not_read(tmp_path, internal, external, mask_first):
    pixels, valid = random_pixels(3, "uint8", (512, 512)), np.ones((512, 512), bool)
    valid[:, :256] = False
    path = write(tmp_path / "scene.tif", pixels, photometric="rgb")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal, TIFF_USE_OVR=external):
        for step in (mask_first, not mask_first):
            with rasterio.open(path, "r+") as out:
                if step:
                    out.write_mask(valid)
                else:
                    out.build_overviews([2, 4], Resampling.average)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
        has_mask = not overview.dataset_mask().all()
    ground = open_scene(path).scene.source.pixel_m[0]
    for factor in (1, 2, 4):
        reader = open_scene(path, gsd_m=ground * factor)
        np.testing.assert_array_equal(read_whole(reader)[1], valid[::factor, ::factor])
        np.testing.assert_array_equal(reader.read_reduced(64)[1], valid[::8, ::8])
        assert has_mask != any("overviews do not have" in note for note in reader.scene.notes)
        reader.close()


def test_overviews_of_a_scene_with_control_points_are_left_alone(tmp_path):
    pixels = random_pixels(3, "uint8", (256, 256))
    gcps = [
        GroundControlPoint(row=r, col=c, x=5e5 + c, y=5e6 - r) for r in (0, 256) for c in (0, 256)
    ]
    path = write(tmp_path / "scene.tif", pixels, transform=None, gcps=gcps)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], Resampling.average)
    reader = open_scene(path)
    reduced, valid = reader.read_reduced(64)
    assert valid.all()
    expected = pixels.reshape(3, 64, 4, 64, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(reduced, expected, atol=1)
    reader.close()


def test_blue_green_red_is_read_as_red_green_blue(tmp_path):
    pixels = random_pixels()
    path = write(tmp_path / "scene.tif", pixels, descriptions=("blue", "green", "red"))
    reader = open_scene(path, band_names=("red", "green", "blue"))
    np.testing.assert_array_equal(read_whole(reader)[0], pixels[[2, 1, 0]])
    assert [band.index for band in reader.scene.bands] == [3, 2, 1]
    assert "3, 2, 1 are read as red, green, blue" in reader.scene.notes[0]


def test_grey_is_shown_to_a_model_of_three_bands(tmp_path):
    pixels = random_pixels(1)
    path = write(tmp_path / "scene.tif", pixels)
    wanted = {"band_names": ("red", "green", "blue")}
    with pytest.raises(SceneError, match="--bands 1,1,1"):
        open_scene(path, **wanted)
    read, _ = read_whole(open_scene(path, bands=(1, 1, 1), **wanted))
    np.testing.assert_array_equal(read, pixels[[0, 0, 0]])


def test_an_alpha_band_that_is_asked_for_is_data(tmp_path):
    pixels = random_pixels(4)
    pixels[3, :40] = 0
    colours = ["red", "green", "blue", "alpha"]
    path = write(tmp_path / "scene.tif", pixels, photometric="rgb", alpha="yes", colours=colours)
    read, valid = read_whole(open_scene(path, bands=(4, 1)))
    assert valid.all()
    np.testing.assert_array_equal(read, pixels[[3, 0]])


@pytest.mark.parametrize(
    ("stored", "delivered"),
    [
        ("int8", "int16"),
        ("uint32", "float32"),
        ("int32", "float32"),
        ("float64", "float32"),
        ("uint16", "uint16"),
    ],
)
def test_other_types_are_converted(tmp_path, stored, delivered):
    pixels, valid = random_pixels(2, stored), random_valid()
    nodata = {"float64": -1.7976931348623157e308, "uint32": 0, "uint16": 65535}.get(stored, -100)
    path = write(tmp_path / "scene.tif", blanked(pixels, valid, nodata), nodata=nodata)
    reader = open_scene(path)
    read, read_valid = read_whole(reader)
    assert reader.scene.dtype == delivered == read.dtype.name
    expected_valid = valid & ~(pixels == nodata).all(axis=0)
    np.testing.assert_array_equal(read_valid, expected_valid)
    np.testing.assert_array_equal(read[:, valid], pixels[:, valid].astype(delivered))


def test_complex_values_are_refused(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels(1, "float32").astype("complex64"))
    with pytest.raises(SceneError, match=r"complex64 values.*amplitude"):
        open_scene(path)


def test_a_nodata_tag_that_does_not_fit_the_type_is_nothing(tmp_path):
    path = write(tmp_path / "scene.vrt.tif", random_pixels())
    vrt = tmp_path / "scene.vrt"
    with rasterio.open(path) as dataset:
        copy(dataset, vrt, driver="VRT")
    text = vrt.read_text().replace("<ColorInterp>", "<NoDataValue>-9999</NoDataValue><ColorInterp>")
    vrt.write_text(text)
    assert read_whole(open_scene(vrt))[1].all()


def test_no_crs_means_pixels(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels(), crs=None, transform=None)
    scene = open_scene(path, gsd_m=0.3).scene
    assert scene.georef.crs is None
    assert scene.georef.transform == (1, 0, 0, 0, 1, 0)
    assert scene.georef.pixel_m is None
    assert any("no CRS" in note for note in scene.notes)
    assert any("not known" in note for note in scene.notes)
    told = open_scene(path, gsd_m=1.0, pixel_m=0.5).scene
    assert (told.height, told.width) == (66, 47)


def test_a_crs_without_a_transform_is_not_believed(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels(), transform=None)
    scene = open_scene(path).scene
    assert scene.georef.crs is None
    assert any("a CRS but no transform" in note for note in scene.notes)


def test_a_local_crs_is_refused(tmp_path):
    crs = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    path = write(tmp_path / "scene.tif", random_pixels(), crs=crs)
    with pytest.raises(SceneError, match=r"'site grid'.*gdal_edit.py -a_srs"):
        open_scene(path)


def test_a_mosaic_is_read_like_one_file(tmp_path):
    pixels = random_pixels(3, "uint8", (64, 128))
    write(tmp_path / "a.tif", pixels[:, :, :64])
    write(
        tmp_path / "b.tif",
        pixels[:, :, 64:],
        transform=Affine(0.5, 0, 500_032, 0, -0.5, 5_000_000),
    )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}">'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename>'
            f'<SourceBand>{b}</SourceBand><SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
            f'<DstRect xOff="{x}" yOff="0" xSize="64" ySize="64"/></SimpleSource>'
            for name, x in (("a", 0), ("b", 64))
        )
        + "</VRTRasterBand>"
        for b in (1, 2, 3)
    )
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="128" rasterYSize="64"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000, 0.5, 0, 5000000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
    )
    reader = open_scene(vrt)
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    before = reader.scene.revision
    os.utime(tmp_path / "b.tif", ns=(10**18, 2 * 10**18))
    assert open_scene(vrt).scene.revision != before


def test_png_is_a_scene(tmp_path):
    pixels = random_pixels()
    path = write(
        tmp_path / "scene.png",
        pixels,
        **dict.fromkeys(["crs", "transform", "tiled", "blockxsize", "blockysize", "compress"]),
        driver="PNG",
    )
    np.testing.assert_array_equal(read_whole(open_scene(path))[0], pixels)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SceneError) as error:
        open_scene(tmp_path / "nix.tif")
    assert "nix.tif: No such file" in one_line(error)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "scene.tif").touch()
    with pytest.raises(SceneError) as error:
        open_scene(tmp_path / "scene.tif")
    assert "is empty (0 bytes)" in one_line(error)


@pytest.mark.parametrize("content", [b"hello", b"II*\0\xff\xff\xff\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_raster_is_named(tmp_path, content):
    path = tmp_path / "scene.tif"
    path.write_bytes(content)
    with pytest.raises(SceneError) as error:
        open_scene(path)
    assert str(path) in one_line(error)


def test_a_folder_is_named(tmp_path):
    with pytest.raises(SceneError) as error:
        open_scene(tmp_path)
    assert "is a folder" in one_line(error)


def test_a_truncated_file_names_the_window(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels(3, "uint8", (256, 256)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    reader = open_scene(path)
    with pytest.raises(SceneError) as error:
        reader.read(Window(row=100, col=64, height=156, width=192))
    text = one_line(error)
    assert "rows 100…255, columns 64…255 cannot be read" in text
    assert "truncated" in text
    reader.close()


def test_a_container_names_what_is_inside(tmp_path):
    pixels = random_pixels(1)
    path = tmp_path / "pages.gpkg"
    for k, table in enumerate(("first", "second")):
        write(
            path,
            pixels,
            driver="GPKG",
            RASTER_TABLE=table,
            APPEND_SUBDATASET="YES" if k else "NO",
            **dict.fromkeys(["tiled", "blockxsize", "blockysize", "compress"]),
        )
    with pytest.raises(SceneError) as error:
        open_scene(path)
    assert re.search(r"holds 2 rasters; name one of them: GPKG:.*first", one_line(error))
    assert open_scene(f"GPKG:{path}:first").scene.name


def test_selectors_are_for_zarr(tmp_path):
    path = write(tmp_path / "scene.tif", random_pixels())
    with pytest.raises(SceneError, match="only Zarr"):
        open_scene(path, selectors={"t": 0})


def test_masks_are_not_read_where_all_is_valid(tmp_path, monkeypatch):
    path = write(tmp_path / "scene.tif", random_pixels())
    with rasterio.open(path) as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.all_valid]
    monkeypatch.setattr(rasterio.io.DatasetReader, "read_masks", None, raising=False)
    assert read_whole(open_scene(path))[1].all()


def test_bounds_of_every_band_are_read_in_one_call(tmp_path, monkeypatch):
    path = write(tmp_path / "scene.tif", random_pixels(4, "uint16"), interleave="pixel")
    reader = open_scene(path, bands=(3, 1, 3))
    reader.read(Window(row=0, col=0, height=1, width=1))
    calls = []
    original = rasterio.io.DatasetReader.read

    def counted(self, indexes, **options):
        calls.append(indexes)
        return original(self, indexes, **options)

    monkeypatch.setattr(rasterio.io.DatasetReader, "read", counted, raising=False)
    reader.read(Window(row=0, col=0, height=9, width=9))
    assert calls == [[3, 1]]


def test_too_few_control_points_are_refused(tmp_path):
    gcps = [GroundControlPoint(row=0, col=0, x=0, y=0), GroundControlPoint(row=9, col=0, x=0, y=9)]
    path = write(tmp_path / "scene.tif", random_pixels(), transform=None, gcps=gcps)
    with pytest.raises(SceneError, match=r"control points cannot be used.*gdalwarp"):
        open_scene(path)


def test_a_scene_with_rational_polynomials_alone_is_refused_unless_pixels_will_do(tmp_path):
    numbers = " ".join(["1"] + ["0"] * 19)
    polynomials = {
        f"{axis}_{part}_COEFF": numbers for axis in ("LINE", "SAMP") for part in ("NUM", "DEN")
    }
    scales = {
        f"{name}_{kind}": "1"
        for name in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
        for kind in ("OFF", "SCALE")
    }
    path = write(tmp_path / "scene.tif", random_pixels(), crs=None, transform=None)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="RPC", **polynomials, **scales)
    with pytest.raises(SceneError, match=r"RPCs\) alone.*gdalwarp -rpc"):
        open_scene(path)
    assert open_scene(path, pixel_m=0.5).scene.georef.crs is None
