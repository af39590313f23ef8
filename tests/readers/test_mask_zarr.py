import numpy as np
import pytest
import zarr

from tests.export.results import ArrayResult
from tests.fakes import UTM
from tilingseg.errors import SceneError
from tilingseg.export.zarr import write_mask_zarr
from tilingseg.grid import Window
from tilingseg.readers.mask_zarr import open_zarr_mask
from tilingseg.records import Georef

PLAIN = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(1e-6, 1e-6))
TAGS = (("TILINGSEG_THRESHOLDS", "0.4,0.6"),)


@pytest.fixture(params=[UTM, PLAIN], ids=["CF", "OME-NGFF"])
def result(request):
    return ArrayResult(150, 1200, georef=request.param)


@pytest.fixture(params=[True, False], ids=["probability", "mask alone"])
def probability(request):
    return request.param


def test_what_was_written_is_read_back(tmp_path, result, probability):
    path = tmp_path / "scene_mask.zarr"
    write_mask_zarr(path, result, result.whole, TAGS, probability=probability)
    mask = open_zarr_mask(path)
    assert (mask.height, mask.width, mask.classes) == (150, 1200, ("building", "road"))
    assert mask.thresholds == (0.4, 0.6)
    assert mask.georef.transform == pytest.approx(result.georef.transform)
    assert mask.georef.pixel_m == pytest.approx(result.georef.pixel_m, rel=1e-3)
    window = Window(row=20, col=1000, height=70, width=120)
    expected, chances = result.cut(window)
    np.testing.assert_array_equal(mask.read_mask(window), expected)
    for index, band in enumerate(chances):
        read = mask.read_probability(index, window)
        if probability:
            np.testing.assert_array_equal(read, band)
        else:
            assert read is None
    mask.close()


def test_the_array_of_the_mask_may_be_named(tmp_path):
    result = ArrayResult(20, 30)
    write_mask_zarr(tmp_path / "a.zarr", result, result.whole)
    mask = open_zarr_mask(tmp_path / "a.zarr" / "mask")
    np.testing.assert_array_equal(mask.read_mask(result.whole), result.mask)
    mask.close()


def test_other_stores_and_files_are_left_to_gdal(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="uint8")
    assert open_zarr_mask(tmp_path / "a.zarr") is None
    assert open_zarr_mask(tmp_path / "a.tif") is None
    assert open_zarr_mask(tmp_path) is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [({}, "names no classes"), ({"classes": {"0": "a", "2": "b"}}, r"values \[0, 2\]")],
)
def test_classes_that_are_not_named_are_refused(tmp_path, facts, words):
    result = ArrayResult(20, 30)
    write_mask_zarr(tmp_path / "a.zarr", result, result.whole)
    zarr.open_group(tmp_path / "a.zarr", mode="r+").attrs["tilingseg"] = facts
    with pytest.raises(SceneError, match=words):
        open_zarr_mask(tmp_path / "a.zarr")


def test_a_value_without_a_name_is_refused(tmp_path):
    result = ArrayResult(20, 30)
    result.mask[3, 4] = 7
    write_mask_zarr(tmp_path / "a.zarr", result, result.whole)
    with pytest.raises(SceneError, match="the value 7, but names 2 classes"):
        open_zarr_mask(tmp_path / "a.zarr").read_mask(result.whole)
