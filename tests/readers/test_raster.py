"""RasterReader over a source that lies in memory: levels, windows and bounds of memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts import assert_same_bits, read_whole
from tests.strategies import windows_in
from tilingseg.grid import Window
from tilingseg.readers import raster
from tilingseg.readers.raster import RasterReader
from tilingseg.readers.source import Level, SourceInfo
from tilingseg.records import Band, Georef


class MemorySource:
    """Levels of pixels in memory; keeps a record of what is read."""

    def __init__(self, levels, valid, placed=None, pixel_m=(1.0, 1.0)):
        self.levels = levels
        self.valid = valid
        self.reads = []
        full = levels[0].shape
        placed = placed or [
            {"scale": (full[1] / level.shape[1], full[2] / level.shape[2])} for level in levels
        ]
        self.info = SourceInfo(
            uri="memory",
            name="memory",
            revision="1",
            bands=tuple(Band(index=k + 1, name=f"band {k + 1}") for k in range(full[0])),
            dtype=levels[0].dtype.name,
            georef=Georef(crs=None, transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), pixel_m=pixel_m),
            levels=tuple(
                Level(height=level.shape[1], width=level.shape[2], **place)
                for level, place in zip(levels, placed, strict=True)
            ),
        )

    def read(self, level, window, *, in_part=False):
        self.reads.append((level, window))
        rows = slice(window.row, window.row_stop)
        cols = slice(window.col, window.col_stop)
        return self.levels[level][:, rows, cols].copy(), self.valid[level][rows, cols].copy()

    def close(self):
        self.reads.clear()


def memory_source(*shapes, seed=0, **options):
    rng = np.random.default_rng(seed)
    levels = [rng.integers(0, 256, (2, *shape), dtype=np.uint8) for shape in shapes]
    valid = [rng.random(shape) > 0.1 for shape in shapes]
    return MemorySource(levels, valid, **options)


@given(st.data())
def test_resampled_windows_equal_the_whole_bit_for_bit(data):
    shape = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    pixel_m = data.draw(st.floats(0.3, 3.0)), data.draw(st.floats(0.3, 3.0))
    source = memory_source(shape, seed=data.draw(st.integers(0, 99)), pixel_m=pixel_m)
    reader = RasterReader(source, data.draw(st.sampled_from([0.9, 1.0, 2.4, 7.0])))
    whole, valid = read_whole(reader)
    for _ in range(3):
        window = data.draw(windows_in(*valid.shape))
        part, part_valid = reader.read(window)
        rows, cols = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        np.testing.assert_array_equal(part_valid, valid[rows, cols])
        assert_same_bits(part, whole[:, rows, cols], part_valid)


def test_memory_is_bounded_however_far_a_scene_is_shrunk(monkeypatch):
    source = memory_source((400, 500), pixel_m=(0.02, 0.02))
    expected, expected_valid = read_whole(RasterReader(source, 1.0))
    monkeypatch.setattr(raster, "_STEP_PX", 5000)
    source.reads.clear()
    pixels, valid = read_whole(RasterReader(source, 1.0))
    np.testing.assert_array_equal(valid, expected_valid)
    assert_same_bits(pixels, expected, valid)
    assert len(source.reads) > 20
    # An output pixel needs 50 × 50 px, a little more where their edges do not meet.
    assert max(window.area for _, window in source.reads) <= 5000 * 1.1


@pytest.mark.parametrize(
    ("gsd_m", "level"), [(1.0, 0), (1.5, 0), (1.99, 1), (2.0, 1), (3.8, 1), (4.0, 2), (60.0, 2)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(gsd_m, level):
    # 101 px halve to 51: a little less than a factor of 2.
    source = memory_source((101, 101), (51, 51), (26, 26))
    RasterReader(source, gsd_m).read(Window(row=0, col=0, height=1, width=1))
    assert {read for read, _ in source.reads} == {level}


def test_a_level_that_picks_pixels_serves_previews_alone():
    placed = [{}, {"scale": (2.0, 2.0), "averaged": False}]
    source = memory_source((100, 100), (50, 50), placed=placed)
    read_whole(RasterReader(source, 2.0))
    assert {level for level, _ in source.reads} == {0}
    source.reads.clear()
    RasterReader(source).read_reduced(50)
    assert {level for level, _ in source.reads} == {1}


def test_a_level_with_an_offset_lies_where_it_says():
    # Level 1 was made by taking pixels 1, 3, 5, …: its edges lie half a pixel to the right.
    full = np.arange(40, dtype=np.float32)[None, None, :].repeat(4, axis=1)
    taken = full[:, ::2, 1::2]
    valid = [np.ones(level.shape[1:], bool) for level in (full, taken)]
    placed = [{}, {"scale": (2.0, 2.0), "offset": (0.0, 0.5)}]
    reader = RasterReader(MemorySource([full, taken], valid, placed), 4.0)
    pixels, _ = read_whole(reader)
    # Output pixel i covers columns 4i … 4i + 3, the mean of which is 4i + 1.5.
    np.testing.assert_allclose(pixels[0, 0, 1:-1], np.arange(10)[1:-1] * 4 + 1.5, atol=1e-4)


def test_a_reduced_scene_without_overviews_costs_a_bounded_number_of_pixels(monkeypatch):
    rng = np.random.default_rng(1)
    # Left half dark, right half bright, a tenth of the scene invalid at the bottom.
    pixels = rng.integers(0, 60, (1, 3000, 4000)).astype(np.uint8)
    pixels[:, :, 2000:] += 150
    valid = np.ones((3000, 4000), bool)
    valid[2700:] = False
    source = MemorySource([pixels], [valid])
    monkeypatch.setattr(raster, "_PREVIEW_PX", 1_000_000)
    monkeypatch.setattr(raster, "_SAMPLE_PX", 32)
    reduced, reduced_valid = RasterReader(source).read_reduced(400)
    assert reduced.shape == (1, 300, 400)
    assert sum(window.area for _, window in source.reads) < 1_300_000
    assert reduced_valid.mean() == pytest.approx(0.9, abs=0.07)
    left, right = reduced[0, :250, :180], reduced[0, :250, 220:]
    assert left.mean() == pytest.approx(29.5, abs=2)
    assert right.mean() == pytest.approx(179.5, abs=2)
