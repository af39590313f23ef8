import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from tests.makers import make_geotiff
from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers import open_scene

SHOWS_SPECKS = ("average", "rms", "bilinear", "cubic_spline", "gauss")


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


def specks():
    """1024 px square, nothing but specks of data, their windows, and where data is."""
    rng = np.random.default_rng(0)
    pixels, windows = np.zeros((3, 1024, 1024), np.uint8), []
    for k, (row, col) in enumerate(np.ndindex(5, 5)):
        row, col = 128 + 160 * np.array([row, col]) + rng.integers(60, size=2)
        side = (1, 20)[k % 2]
        window = Window(row=int(row), col=int(col), height=side, width=side)
        values = rng.integers(1, 256, (3, side, side), dtype=np.uint8)
        pixels[:, window.row : window.row_stop, window.col : window.col_stop] = values
        windows.append(window)
    return pixels, windows, (pixels > 0).any(axis=0)


def write_stating(path, pixels, valid, how):
    """Write a scene that states its nodata by a value, a value for each band, a mask or alpha."""
    if how == "alpha":
        pixels = np.concatenate([pixels, valid[None] * np.uint8(255)])
        return make_geotiff(path, pixels, photometric="rgb", alpha="yes")
    make_geotiff(path, pixels, nodata=0 if how == "value" else None)
    with rasterio.open(path, "r+") as dataset:
        if how == "mask":
            dataset.write_mask(valid)
        elif how == "values":
            dataset.update_tags(NODATA_VALUES="0 0 0")
    return path


@pytest.mark.parametrize("how", ["value", "values", "mask", "alpha"])
@pytest.mark.parametrize("kernel", [*SHOWS_SPECKS, "nearest", "mode", "cubic", "lanczos", None])
def test_no_kernel_hides_a_speck_of_data(tmp_path, kernel, how):
    pixels, windows, valid = specks()
    path = tmp_path / "scene.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_stating(path, pixels, valid, how)
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4, 8, 16, 32], Resampling[kernel or "nearest"])
    if kernel is None:  # as files of most writers, which do not name it
        path.write_bytes(path.read_bytes().replace(b"RESAMPLING", b"SOMETHING!"))
    reader = open_scene(path)
    assert len(reader._source.info.levels) == 6
    assert [reader.may_hold_data(window) for window in windows] == [True] * len(windows)
    empty = Window(row=0, col=0, height=16, width=16)
    assert reader.may_hold_data(empty) == (kernel not in SHOWS_SPECKS)
    reader.close()


def test_a_window_that_is_masked_needs_no_pixels(tmp_path):
    pixels, valid = np.full((3, 1024, 512), 7, np.uint8), np.zeros((1024, 512), bool)
    valid[:512] = True
    path = make_geotiff(tmp_path / "scene.tif", pixels, compress="deflate", blockysize=256)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(valid)
    with rasterio.open(path) as dataset:
        tags = dataset.get_tag_item("BLOCK_OFFSET_0_3", "TIFF", bidx=1)
    damaged = bytearray(path.read_bytes())
    damaged[int(tags) : int(tags) + 20] = b"?" * 20
    path.write_bytes(damaged)
    reader = open_scene(path)
    read, found = reader.read(Window(row=600, col=0, height=424, width=512))
    assert not found.any()
    assert read.shape == (3, 424, 512)
    with pytest.raises(SceneError, match="damaged"):
        reader.read(Window(row=400, col=0, height=600, width=512))
    reader.close()
