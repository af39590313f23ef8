import io

import numpy as np
import pytest
from PIL import Image
from shapely import LineString, Polygon, box

from tests.export.results import ArrayResult
from tests.fakes import ArrayReader
from tilingseg.errors import OutputError
from tilingseg.export import draw_outlines, preview, write_preview
from tilingseg.grid import Window
from tilingseg.palette import class_colour
from tilingseg.quicklook import SIDE_PX, Lattice, RegionView
from tilingseg.records import NODATA


def write(path, reader, result, extent, outlines=(), side_px=SIDE_PX):
    view = RegionView(Lattice(extent=extent, side_px=side_px), extent, reader.scene)
    view.add(extent, *reader.read(extent))
    view.show(extent, result.mask[extent.slices_in(result.whole)])
    seen = view.finish()
    drawn = draw_outlines(outlines, extent, seen.valid.shape)
    write_preview(path, seen, len(result.classes), extent, drawn)


def scene_of(result, dtype=np.uint8, n_bands=3, seed=0):
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top, (n_bands, result.height, result.width), dtype=dtype)
    return ArrayReader(pixels, valid=result.mask != NODATA)


def shown(path):
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.mode == "RGB"
        return np.moveaxis(np.asarray(picture), -1, 0).astype(int)


def test_small_scenes_are_shown_pixel_by_pixel(tmp_path):
    result = ArrayResult(120, 150)
    reader = scene_of(result)
    write(tmp_path / "p.png", reader, result, result.whole)
    picture = shown(tmp_path / "p.png")
    assert picture.shape == (3, 120, 150)
    plain = result.mask == 0
    np.testing.assert_array_equal(picture[:, plain], reader.pixels[:, plain])
    for k in (0, 1):
        where = result.mask == k + 1
        tinted = 0.55 * reader.pixels[:, where] + 0.45 * np.array(class_colour(k))[:, None]
        np.testing.assert_allclose(picture[:, where], tinted, atol=0.51)
    assert set(np.unique(picture[:, result.mask == NODATA])) == {preview.EMPTY[0]}


def test_an_extent_shows_that_part(tmp_path):
    result = ArrayResult(120, 150)
    extent = Window(row=40, col=30, height=50, width=60)
    write(tmp_path / "whole.png", scene_of(result), result, result.whole)
    write(tmp_path / "part.png", scene_of(result), result, extent)
    expected = shown(tmp_path / "whole.png")[:, 40:90, 30:90]
    np.testing.assert_array_equal(shown(tmp_path / "part.png"), expected)


def test_outlines_lie_on_the_pixels_of_their_scene(tmp_path):
    result = ArrayResult(120, 150)
    extent = Window(row=40, col=30, height=50, width=60)
    outlines = [box(50.5, 60.5, 70.5, 80.5), LineString([(35, 45.5), (45, 45.5)]), Polygon()]
    write(tmp_path / "bare.png", scene_of(result), result, extent)
    write(tmp_path / "drawn.png", scene_of(result), result, extent, iter(outlines))
    picture = shown(tmp_path / "drawn.png")
    changed = (picture != shown(tmp_path / "bare.png")).any(axis=0)
    assert set(np.unique(picture[:, changed])) == {255}
    rows, cols = np.nonzero(changed[10:])
    assert (rows.min() + 10, rows.max() + 10) == (20, 40)
    assert (cols.min(), cols.max()) == (20, 40)
    assert changed[20:41, 20:41].sum() == 80  # a ring, not filled
    np.testing.assert_array_equal(np.nonzero(changed[5])[0], np.arange(5, 16))


def test_outlines_fade_where_they_would_hide_everything(tmp_path):
    result = ArrayResult(600, 900)
    result.mask[:] = 0
    reader = ArrayReader(np.zeros((3, 600, 900), np.uint8))
    levels = []
    for side_px in (900, 150, 75):
        outlines = [box(90, 90, 200, 200)]
        write(tmp_path / "p.png", reader, result, result.whole, outlines, side_px)
        levels.append(shown(tmp_path / "p.png").max())
    assert levels == [255, 128, 64]


def test_large_scenes_are_reduced_and_stay_in_place(tmp_path):
    result = ArrayResult(600, 900)
    result.mask[:] = 0
    result.mask[300:480, 540:720] = 1
    reader = ArrayReader(np.zeros((3, 600, 900), np.uint8))
    reader.pixels[0, 120:240, 90:270] = 200  # a red field
    write(tmp_path / "p.png", reader, result, result.whole, side_px=100)
    picture = shown(tmp_path / "p.png")
    assert picture.shape == (3, 66, 100)
    rows, cols = np.nonzero(picture[0] > 150)
    found = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    np.testing.assert_allclose(np.array(found) * 9, (120, 240, 90, 270), atol=10)
    rows, cols = np.nonzero(picture[2] > 20)
    found = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    np.testing.assert_allclose(np.array(found) * 9, (300, 480, 540, 720), atol=10)


def test_other_types_are_stretched_and_one_band_is_grey(tmp_path):
    result = ArrayResult(60, 80)
    result.mask[:] = 0
    ramp = (np.arange(60 * 80) + 9_000).reshape(1, 60, 80).astype(np.uint16)
    write(tmp_path / "p.png", ArrayReader(ramp), result, result.whole)
    picture = shown(tmp_path / "p.png")
    assert (picture.min(), picture.max()) == (0, 255)
    np.testing.assert_array_equal(picture[0], picture[2])
    assert (np.diff(picture[0].ravel()) >= 0).all()


def test_nan_is_no_colour(tmp_path):
    result = ArrayResult(60, 80)
    pixels = np.random.default_rng(0).random((3, 60, 80)).astype(np.float32)
    pixels[:, result.mask == NODATA] = np.nan
    reader = ArrayReader(pixels, valid=result.mask != NODATA)
    write(tmp_path / "p.png", reader, result, result.whole)
    empty = shown(tmp_path / "p.png")[:, result.mask == NODATA]
    assert set(np.unique(empty)) == {preview.EMPTY[0]}


def test_a_scene_without_any_data_is_shown_empty(tmp_path):
    result = ArrayResult(60, 80)
    result.mask[:] = NODATA
    reader = scene_of(result, np.uint16)
    write(tmp_path / "p.png", reader, result, result.whole)
    assert set(np.unique(shown(tmp_path / "p.png"))) == {preview.EMPTY[0]}


def test_one_pixel_is_a_picture(tmp_path):
    result = ArrayResult(40, 50)
    extent = Window(row=30, col=40, height=1, width=1)
    write(tmp_path / "p.png", scene_of(result), result, extent)
    assert shown(tmp_path / "p.png").shape == (3, 1, 1)


def test_the_same_result_gives_the_same_bytes(tmp_path):
    result = ArrayResult(120, 150)
    for name in ("one.png", "two.png"):
        write(tmp_path / name, scene_of(result), result, result.whole, [box(1, 2, 30, 40)])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_missing_folder_is_an_error(tmp_path):
    result = ArrayResult(40, 50)
    with pytest.raises(OutputError, match="No such file"):
        write(tmp_path / "gone" / "p.png", scene_of(result), result, result.whole)
