"""Rasters of probabilities as masks, and rasters that hold something else."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers.probability_file import THRESHOLDS_TAG, open_probabilities
from tilingseg.records import NODATA

WHOLE = Window(row=0, col=0, height=3, width=4)
ROAD = [[0.1, 0.2, 0.6, 0.7], [0.49, 0.5, 0.51, 0.0], [1.0, 0.8, 0.8, 0.8]]
ROOF = [[0.9, 0.2, 0.7, 0.1], [0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 0.7, 0.8]]


def write(path, bands, dtype="float32", names=None, scale=None, tag=None, **profile):
    bands = np.asarray(bands, dtype)
    count, height, width = bands.shape
    profile = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=dtype, **profile
    ) as dataset:
        dataset.write(bands)
        if tag:
            dataset.update_tags(**{THRESHOLDS_TAG: tag})
        if names:
            dataset.descriptions = names
        if scale:
            dataset.scales = (scale,) * count
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_best_class_above_its_threshold_wins(tmp_path, dtype):
    file = open_probabilities(write(tmp_path / "p.tif", [ROAD, ROOF], dtype, ("road", "roof")))
    assert file.classes == ("road", "roof")
    assert file.thresholds == (0.5, 0.5)
    assert file.read_mask(WHOLE).tolist() == [[2, 0, 2, 1], [0, 1, 1, 0], [1, 2, 1, 1]]
    assert file.read_probability(1, WHOLE)[0].tolist() == [230, 51, 178, 26]
    assert file.georef.pixel_m == pytest.approx((0.5, 0.5), rel=1e-3)


def test_thresholds_are_those_given(tmp_path):
    path = write(tmp_path / "p.tif", [ROAD, ROOF], names=("road", "roof"))
    file = open_probabilities(path, thresholds=((None, 0.75), ("roof", 0.95)))
    assert file.thresholds == (0.75, 0.95)
    assert file.read_mask(WHOLE).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("0.3,0.7", (0.3, 0.7)), ("0.3", (0.5, 0.5)), ("a,b", (0.5, 0.5)), ("0.3,7", (0.5, 0.5))],
)
def test_a_file_of_a_run_brings_its_thresholds(tmp_path, tag, expected):
    path = write(tmp_path / "p.tif", [ROAD, ROOF], names=("road", "roof"), tag=tag)
    assert open_probabilities(path).thresholds == expected
    mixed = open_probabilities(path, thresholds=(("roof", 0.9),)).thresholds
    assert mixed == (expected[0], 0.9)


def test_bytes_with_a_scale_are_probabilities(tmp_path):
    values = np.round(255 * np.array([ROAD]))
    file = open_probabilities(write(tmp_path / "p.tif", values, "uint8", scale=1 / 255))
    assert file.classes == ("class_1",)
    assert (file.read_probability(0, WHOLE) == values[0]).all()
    assert file.read_mask(WHOLE)[1].tolist() == [0, 1, 1, 0]


def test_16_bits_with_a_scale_are_probabilities(tmp_path):
    values = np.round(65535 * np.array([ROAD, ROOF]))
    file = open_probabilities(write(tmp_path / "p.tif", values, "uint16", scale=1 / 65535))
    assert file.read_probability(1, WHOLE)[0].tolist() == [230, 51, 178, 26]
    assert file.read_mask(WHOLE).tolist() == [[2, 0, 2, 1], [0, 1, 1, 0], [1, 2, 1, 1]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32"])
def test_whole_numbers_are_left_to_masks(tmp_path, dtype):
    assert open_probabilities(write(tmp_path / "m.tif", [np.eye(3, 4)], dtype)) is None


def test_a_mask_stored_as_float_is_cut_at_one_half(tmp_path):
    file = open_probabilities(write(tmp_path / "m.tif", [np.eye(3, 4)]), names=("cell",))
    assert file.classes == ("cell",)
    assert (file.read_mask(WHOLE) == np.eye(3, 4)).all()


def test_nan_and_nodata_are_nodata(tmp_path):
    bands = np.array([ROAD, ROOF])
    bands[0, 0, 0], bands[1, 1, 1] = np.nan, -9999
    file = open_probabilities(write(tmp_path / "p.tif", bands, nodata=-9999))
    empty = file.read_mask(WHOLE) == NODATA
    assert np.argwhere(empty).tolist() == [[0, 0], [1, 1]]


def test_no_chance_of_a_class_is_no_nodata(tmp_path):
    bands = np.array([[[0, 0.9, 0]], [[0.8, 0, 0]]], np.float32)
    found = open_probabilities(write(tmp_path / "p.tif", bands, nodata=0))
    assert found.read_mask(Window(row=0, col=0, height=1, width=3)).tolist() == [[2, 1, 0]]
    assert found.notes == ("The file declares 0 to be nodata; it is read as background.",)
    found.close()


def test_windows_are_parts_of_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    file = open_probabilities(write(tmp_path / "p.tif", rng.random((3, 40, 30))))
    whole = file.read_mask(Window(row=0, col=0, height=40, width=30))
    part = Window(row=7, col=11, height=9, width=13)
    assert (file.read_mask(part) == whole[7:16, 11:24]).all()


def test_a_pixel_below_its_threshold_stays_below_and_the_better_class_wins(tmp_path):
    # 0.3985 and 0.4005 round to the same byte, whose value is 0.4
    bands = np.array([[[0.3985, 0.4005, 0.9, 0.9]], [[0.0, 0.0, 0.9015, 0.8985]]])
    file = open_probabilities(write(tmp_path / "p.tif", bands), thresholds=((None, 0.4),))
    assert file.read_mask(Window(row=0, col=0, height=1, width=4)).tolist() == [[0, 1, 2, 1]]


@pytest.mark.parametrize("value", [-0.5, 1.2, 3.0, 255.0])
def test_other_fractions_are_refused(tmp_path, value):
    bands = np.array([ROAD])
    bands[0, 2, 3] = value
    path = write(tmp_path / "dem.tif", bands)
    with pytest.raises(SceneError, match=f"such as {value:g} and .*: neither prob") as caught:
        open_probabilities(path)
    assert "\n" not in str(caught.value)


def test_whole_numbers_stored_as_floats_are_left_to_masks(tmp_path):
    assert open_probabilities(write(tmp_path / "m.tif", [3 * np.eye(3, 4)])) is None


def test_names_must_fit(tmp_path):
    path = write(tmp_path / "p.tif", [ROAD, ROOF])
    assert open_probabilities(path, names=("a", "b")).classes == ("a", "b")
    with pytest.raises(SceneError, match=r"2 bands .*1 given \(road\): name all of them"):
        open_probabilities(path, names=("road",))
    assert open_probabilities(path, names=("class_2",)).classes == ("class_1", "class_2")
    with pytest.raises(SceneError, match="no class 'class_3'; it has class_1, class_2"):
        open_probabilities(path, names=("class_3", "b"))


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [(((None, 1.5),), "must lie between 0 and 1"), ((("tree", 0.5),), "has no class 'tree'")],
)
def test_thresholds_must_fit(tmp_path, thresholds, message):
    path = write(tmp_path / "p.tif", [ROAD])
    with pytest.raises(SceneError, match=message):
        open_probabilities(path, thresholds=thresholds)
