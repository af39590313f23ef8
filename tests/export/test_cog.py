import json

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from tests.export.results import ArrayResult
from tests.fakes import UTM
from tests.full_disk import files_up_to
from tilingseg.errors import OutputError
from tilingseg.export import write_mask_cog, write_probability_cog
from tilingseg.export.windows import STEP_PX
from tilingseg.grid import Window
from tilingseg.palette import class_colour
from tilingseg.records import NODATA, Georef

WRITERS = [write_mask_cog, write_probability_cog]
TAGS = (("TILINGSEG_MODEL", "unet"), ("TILINGSEG_STITCHING", "exact, halo 96 px"))
SHAPES = [(70, 90), (512, 512), (513, 1100), (2100, 1300)]


def overviews(path):
    """Yield every overview level as (pixels, valid)."""
    with rasterio.open(path) as dataset:
        n_levels = len(dataset.overviews(1))
    for level in range(n_levels):
        with rasterio.open(path, overview_level=level) as dataset:
            yield dataset.read(), dataset.dataset_mask() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_holds_the_pixels_and_says_what_they_mean(tmp_path, shape):
    result = ArrayResult(*shape)
    write_mask_cog(tmp_path / "m.tif", result, result.whole, TAGS)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), result.mask)
        assert dataset.nodata == NODATA
        assert dataset.crs == "EPSG:32633"
        assert dataset.transform == Affine(*UTM.transform)
        assert dataset.colorinterp == (ColorInterp.palette,)
        colours = dataset.colormap(1)
        assert [colours[k][:3] for k in (1, 2)] == [class_colour(0), class_colour(1)]
        assert dataset.descriptions == ("class",)
        assert dataset.block_shapes == [(512, 512)]
        tags = dataset.tags()
        names = {"0": "background", "1": "building", "2": "road"}
        assert json.loads(tags["TILINGSEG_CLASSES"]) == names
        assert tags["TILINGSEG_STITCHING"] == "exact, halo 96 px"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"


@pytest.mark.parametrize("shape", SHAPES)
def test_probability_keeps_all_256_values_apart_from_nodata(tmp_path, shape):
    result = ArrayResult(*shape)
    write_probability_cog(tmp_path / "p.tif", result, result.whole, TAGS)
    expected = result.cut(result.whole)[1]
    with rasterio.open(tmp_path / "p.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), expected)
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, result.mask != NODATA)
        assert set(np.unique(dataset.read(masked=True).compressed())) == set(range(256))
        assert dataset.nodata is None
        assert dataset.scales == (1 / 255, 1 / 255)
        assert dataset.offsets == (0, 0)
        assert dataset.descriptions == ("building", "road")
        assert dataset.tags()["TILINGSEG_MODEL"] == "unet"
    assert [path.name for path in tmp_path.iterdir()] == ["p.tif"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_files_are_valid_cogs(tmp_path, write, shape):
    result = ArrayResult(*shape)
    write(tmp_path / "r.tif", result, result.whole)
    assert cog_validate(tmp_path / "r.tif", strict=True) == (True, [], [])


def test_mask_overviews_invent_no_class(tmp_path):
    result = ArrayResult(2100, 1300, classes=("a", "b", "c", "d", "e"))
    result.mask[(result.mask == 2) | (result.mask == 4)] = 5  # an average of 1 and 5 would be 3
    write_mask_cog(tmp_path / "m.tif", result, result.whole)
    levels = list(overviews(tmp_path / "m.tif"))
    assert [pixels.shape[1:] for pixels, _ in levels] == [(1050, 650), (525, 325), (263, 163)]
    for pixels, _ in levels:
        assert set(np.unique(pixels)) == set(np.unique(result.mask))


def test_probability_overviews_are_averages_of_valid_pixels(tmp_path):
    result = ArrayResult(1040, 600)
    write_probability_cog(tmp_path / "p.tif", result, result.whole)
    pixels, valid = next(overviews(tmp_path / "p.tif"))
    weight = (result.mask != NODATA).reshape(520, 2, 300, 2)
    values = result.probability.reshape(2, 520, 2, 300, 2).astype(float)
    total, count = (values * weight).sum(axis=(2, 4)), weight.sum(axis=(1, 3))
    full = count == 4
    assert full.sum() > 100_000
    np.testing.assert_allclose(pixels[:, full], total[:, full] / 4, atol=0.51)
    some = (count > 0) & valid
    np.testing.assert_allclose(pixels[:, some], (total / np.maximum(count, 1))[:, some], atol=0.51)
    assert not valid[count == 0].any()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_extent_is_cut_out_with_its_place(tmp_path, data):
    turned = Georef(crs="EPSG:32633", transform=(0.4, 0.3, 5e5, 0.3, -0.4, 5e6), pixel_m=(0.5, 0.5))
    result = ArrayResult(200, 150, georef=turned)
    row, col = data.draw(st.integers(0, 199)), data.draw(st.integers(0, 149))
    extent = Window(
        row=row,
        col=col,
        height=data.draw(st.integers(1, 200 - row)),
        width=data.draw(st.integers(1, 150 - col)),
    )
    mask, probability = result.cut(extent)
    for write, pixels in ((write_mask_cog, mask[None]), (write_probability_cog, probability)):
        write(tmp_path / "r.tif", result, extent)
        with rasterio.open(tmp_path / "r.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(), pixels)
            a, b, c, d, e, f = turned.transform
            x, y = col + 3, row + 2
            expected = a * x + b * y + c, d * x + e * y + f
            assert dataset.xy(2, 3, offset="ul") == pytest.approx(expected)


@pytest.mark.parametrize("write", WRITERS)
def test_a_result_without_crs_is_written_without_a_warning(tmp_path, write):
    nowhere = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
    result = ArrayResult(70, 90, georef=nowhere)
    write(tmp_path / "r.tif", result, result.whole)
    with rasterio.open(tmp_path / "r.tif") as dataset:
        assert dataset.crs is None
        assert dataset.transform == Affine.identity()


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_result_gives_the_same_bytes(tmp_path, write):
    result = ArrayResult(1300, 700)
    for name in ("one.tif", "two.tif"):
        write(tmp_path / name, result, result.whole, TAGS)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_gdal_reads_the_class_names_as_categories(tmp_path):
    result = ArrayResult(70, 90, classes=("house & shed", "road"))
    write_mask_cog(tmp_path / "m.tif", result, result.whole)
    rasterio.shutil.copy(tmp_path / "m.tif", tmp_path / "m.vrt", driver="VRT")
    text = (tmp_path / "m.vrt").read_text()
    categories = [part.split("</Category>")[0] for part in text.split("<Category>")[1:]]
    assert categories == ["background", "house &amp; shed", "road"]


@pytest.mark.parametrize("write", WRITERS)
def test_the_result_is_read_once_in_bounded_windows(tmp_path, write):
    result = ArrayResult(STEP_PX + 700, STEP_PX + 1)
    result.probability = result.probability[:1]
    result.classes = ("building",)
    write(tmp_path / "r.tif", result, result.whole)
    assert max(max(w.height, w.width) for w in result.windows) == STEP_PX
    read = set(result.windows)
    assert sum(w.area for w in read) == result.whole.area
    assert len(result.windows) == len(read) * (1 if write is write_mask_cog else 2)


def test_colours_of_all_classes_differ():
    assert len({class_colour(k) for k in range(254)}) == 254


def test_254_classes_fit(tmp_path):
    result = ArrayResult(300, 300, classes=tuple(f"class {k}" for k in range(254)))
    write_mask_cog(tmp_path / "m.tif", result, result.whole)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), result.mask)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path, capfd, write, share):
    result = ArrayResult(1100, 900)
    result.probability[:] = result.mask  # compresses well: a file of several buffers, not more
    write(tmp_path / "r.tif", result, result.whole)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        files_up_to(int(share * len(old["r.tif"]))),
        pytest.raises(OutputError, match=r"cannot write .*r\.tif: .*MB are free"),
    ):
        write(tmp_path / "r.tif", result, result.whole)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    assert capfd.readouterr().err == ""  # libtiff would add lines of its own


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_reads_back_differently_never_gets_its_name(tmp_path, monkeypatch, write):
    copy = rasterio.shutil.copy

    def lose_a_pixel(source, target, **options):
        with rasterio.open(source, "r+") as dataset:
            dataset.write(dataset.read() ^ (np.arange(90) == 60).astype(np.uint8))
        copy(source, target, **options)

    result = ArrayResult(70, 90)
    monkeypatch.setattr(rasterio.shutil, "copy", lose_a_pixel)
    with pytest.raises(OutputError, match="reads back differently"):
        write(tmp_path / "r.tif", result, result.whole)
    assert not list(tmp_path.iterdir())


def test_probabilities_that_were_not_kept_are_asked_for_by_name(tmp_path):
    result = ArrayResult(70, 90)
    result.probability = None
    with pytest.raises(OutputError, match="probability of building was not kept"):
        write_probability_cog(tmp_path / "p.tif", result, result.whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", WRITERS)
def test_a_missing_folder_is_an_error(tmp_path, write):
    result = ArrayResult(70, 90)
    with pytest.raises(OutputError, match="No such file"):
        write(tmp_path / "gone" / "r.tif", result, result.whole)
