import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from tests.makers import make_geotiff
from tilingseg.grid import Window
from tilingseg.readers import open_scene


def scene_with_strip(path, kernel):
    """2048 px square with data in rows 512 to 767 alone, overviews up to 32."""
    pixels = np.zeros((3, 2048, 2048), np.uint8)
    pixels[:, 512:768] = np.random.default_rng(0).integers(1, 256, (3, 256, 2048), dtype=np.uint8)
    make_geotiff(path, pixels, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4, 32], kernel)
    return path


def test_far_from_data_nothing_is_read(tmp_path):
    reader = open_scene(scene_with_strip(tmp_path / "scene.tif", Resampling.average))
    for row in range(0, 2048, 64):
        window = Window(row=row, col=512, height=64, width=64)
        _, valid = reader.read(window)
        assert reader.may_hold_data(window) or not valid.any()
        if row < 512 - 3 * 64 or row >= 768 + 3 * 64:
            assert not reader.may_hold_data(window)
    reader.close()


def test_windows_of_a_resampled_grid_are_found(tmp_path):
    path = scene_with_strip(tmp_path / "scene.tif", Resampling.average)
    reader = open_scene(path, gsd_m=1.0)
    assert reader.may_hold_data(Window(row=300, col=0, height=10, width=10))
    assert not reader.may_hold_data(Window(row=600, col=0, height=100, width=100))
    reader.close()


def test_a_window_beyond_the_scene_is_empty(tmp_path):
    reader = open_scene(scene_with_strip(tmp_path / "scene.tif", Resampling.average))
    assert not reader.may_hold_data(Window(row=2040, col=2040, height=64, width=64))
    reader.close()


@pytest.mark.parametrize(
    ("value", "nodata"), [(np.inf, None), (np.inf, np.nan), (np.nan, None), (np.nan, np.nan)]
)
def test_averages_that_are_no_numbers_hide_no_data(tmp_path, value, nodata):
    path = tmp_path / "scene.tif"
    rng = np.random.default_rng(0)
    pixels = rng.uniform(1, 1000, (1, 1024, 1024)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.02] = value
    make_geotiff(path, pixels, nodata=nodata)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4, 32], Resampling.average)
    reader = open_scene(path)
    assert reader.may_hold_data(Window(row=300, col=300, height=10, width=10))
    reduced, valid = reader.read_reduced(16)
    assert valid.any()
    assert reduced[:, valid].mean() == pytest.approx(500, rel=0.1)
    reader.close()


def test_overviews_that_pick_pixels_are_not_asked(tmp_path):
    reader = open_scene(scene_with_strip(tmp_path / "scene.tif", Resampling.nearest))
    assert reader.may_hold_data(Window(row=1600, col=0, height=64, width=64))
    reader.close()
