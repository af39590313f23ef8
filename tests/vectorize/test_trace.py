import threading

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import shapes

from tilingseg.errors import SceneError, VectorizeError
from tilingseg.records import NODATA, Georef
from tilingseg.vectorize import trace as trace_module
from tilingseg.vectorize.diagonals import trace_diagonal
from tilingseg.vectorize.trace import TraceOptions, trace


class ArrayMask:
    """A mask in memory that notes what is read of it."""

    def __init__(self, mask, probabilities=None, fail_at_row=None):
        self.mask = np.asarray(mask, dtype=np.uint8)
        self.probabilities = probabilities  # uint8 (classes, height, width)
        self.fail_at_row = fail_at_row
        self.height, self.width = self.mask.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
        self.classes = ("first", "second")
        self.windows = []
        self.threads = set()

    def read_mask(self, window):
        self.windows.append(window)
        self.threads.add(threading.current_thread().name)
        if self.fail_at_row is not None and window.row <= self.fail_at_row < window.row_stop:
            raise SceneError("row lost")
        return self.mask[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probabilities is None:
            return None
        rows, cols = window.row_stop, window.col_stop
        return self.probabilities[class_index, window.row : rows, window.col : cols]


def traced(mask, value=1, **options):
    return list(trace(ArrayMask(mask), value, TraceOptions(**options)))


def expected(mask, value):
    """The whole raster at once, by GDAL: sorted WKT of normalised polygons."""
    inside = np.asarray(mask) == value
    polygons = [shapely.geometry.shape(shape) for shape, _ in shapes(inside.astype("u1"), inside)]
    return sorted(shapely.to_wkt(shapely.normalize(polygon), -1) for polygon in polygons)


def normalised(found):
    return sorted(shapely.to_wkt(shapely.normalize(shape.polygon), -1) for shape in found)


masks = st.tuples(st.integers(1, 17), st.integers(1, 17)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 1, 1, 2, NODATA]))
)
walks = st.builds(TraceOptions, band_px=st.integers(1, 20), workers=st.integers(1, 3))


class TestTheLaws:
    @settings(max_examples=150)
    @given(mask=masks, value=st.sampled_from([1, 2]), options=walks)
    def test_shapes_are_those_of_the_whole_raster(self, mask, value, options):
        found = list(trace(ArrayMask(mask), value, options))
        assert normalised(found) == expected(mask, value)

    @settings(max_examples=100)
    @given(mask=masks, value=st.sampled_from([1, 2]), options=walks)
    def test_polygons_are_valid_and_cover_every_pixel_once(self, mask, value, options):
        polygons = [shape.polygon for shape in trace(ArrayMask(mask), value, options)]
        assert shapely.is_valid(polygons).all()
        assert sum(polygon.area for polygon in polygons) == np.count_nonzero(mask == value)

    @settings(max_examples=60)
    @given(mask=masks, seed=st.integers(0, 99), options=walks)
    def test_nothing_depends_on_how_the_mask_is_walked(self, mask, seed, options):
        probabilities = np.random.default_rng(seed).integers(0, 256, (2, *mask.shape), np.uint8)

        def run(chosen):
            found = trace(ArrayMask(mask, probabilities), 1, chosen)
            return [(shape.polygon.wkt, shape.confidence) for shape in found]

        assert run(options) == run(TraceOptions(band_px=100, workers=1))

    @settings(max_examples=60)
    @given(mask=masks, seed=st.integers(0, 99), options=walks)
    def test_confidence_is_the_mean_probability_of_the_pixels(self, mask, seed, options):
        probabilities = np.random.default_rng(seed).integers(0, 256, (2, *mask.shape), np.uint8)
        rows, cols = np.indices(mask.shape)
        for shape in trace(ArrayMask(mask, probabilities), 2, options):
            inside = shapely.contains_xy(shape.polygon, cols + 0.5, rows + 0.5)
            assert shape.confidence == probabilities[1][inside].sum() / (255 * inside.sum())
            assert shape.value == 2

    @settings(max_examples=60)
    @given(mask=masks, options=walks)
    def test_shapes_come_in_the_order_of_their_last_pixel(self, mask, options):
        rows, cols = np.indices(mask.shape)
        last = [
            np.flatnonzero(shapely.contains_xy(shape.polygon, cols + 0.5, rows + 0.5))[-1]
            for shape in trace(ArrayMask(mask), 1, options)
        ]
        assert last == sorted(last)


class TestDiagonals:
    """8-connected components: what GDAL gives for them, made valid."""

    @staticmethod
    def expected(mask, value):
        inside = np.asarray(mask) == value
        traced = shapes(inside.astype("u1"), inside, connectivity=8)
        valid = [shapely.make_valid(shapely.geometry.shape(shape)) for shape, _ in traced]
        return sorted(shapely.to_wkt(shapely.normalize(one), -1) for one in valid)

    @staticmethod
    def found(groups):
        for group in groups:
            parts = [shape.polygon for shape in group]
            yield shapely.MultiPolygon(parts) if len(parts) > 1 else parts[0]

    @settings(max_examples=200)
    @given(mask=masks, value=st.sampled_from([1, 2]), options=walks)
    def test_groups_are_those_of_the_whole_raster(self, mask, value, options):
        found = list(self.found(trace_diagonal(ArrayMask(mask), value, options)))
        assert all(geometry.is_valid for geometry in found)
        texts = sorted(shapely.to_wkt(shapely.normalize(geometry), -1) for geometry in found)
        assert texts == self.expected(mask, value)

    @settings(max_examples=50)
    @given(mask=masks, options=walks)
    def test_groups_come_in_the_order_of_their_last_pixel(self, mask, options):
        groups = list(trace_diagonal(ArrayMask(mask), 1, options))
        lasts = [[shape.last for shape in group] for group in groups]
        assert lasts == sorted(map(sorted, lasts), key=max)

    def test_noise_of_many_seams_equals_the_whole_raster(self):
        mask = (np.random.default_rng(3).random((150, 170)) < 0.35).astype(np.uint8)
        groups = list(self.found(trace_diagonal(ArrayMask(mask), 1, TraceOptions(band_px=7))))
        texts = sorted(shapely.to_wkt(shapely.normalize(geometry), -1) for geometry in groups)
        assert texts == self.expected(mask, 1)

    def test_a_complete_group_comes_before_the_mask_is_read_to_its_end(self):
        mask = ArrayMask(np.eye(400, dtype=np.uint8) * (np.arange(400) < 5))
        groups = trace_diagonal(mask, 1, TraceOptions(band_px=10, workers=1))
        assert len(next(groups)) == 5
        assert max(window.row_stop for window in mask.windows) < 100
        groups.close()


class TestShapesOfManyBands:
    def test_noise_of_many_seams_equals_the_whole_raster(self):
        mask = (np.random.default_rng(1).random((200, 150)) < 0.6).astype(np.uint8)
        assert normalised(traced(mask, band_px=7)) == expected(mask, 1)

    def test_a_ring_with_an_island_keeps_its_hole_over_seams(self):
        mask = np.zeros((40, 40), np.uint8)
        mask[2:38, 3:37] = 1
        mask[6:34, 7:33] = 0
        mask[10:30, 12:28] = 1
        island, ring = traced(mask, band_px=8)
        assert ring.polygon.equals(shapely.box(3, 2, 37, 38) - shapely.box(7, 6, 33, 34))
        assert island.polygon.equals(shapely.box(12, 10, 28, 30))

    def test_branches_that_meet_below_become_one_shape(self):
        mask = np.zeros((30, 41), np.uint8)
        mask[:, ::4] = 1
        mask[29] = 1
        (comb,) = traced(mask, band_px=3)
        assert comb.polygon.area == mask.sum()
        assert len(comb.polygon.interiors) == 0

    def test_a_spiral_is_one_shape(self):
        mask = np.zeros((64, 64), np.uint8)
        row, col, step, length = 1, 1, (0, 1), 61
        while length > 1:
            for _ in range(2):
                for _ in range(length):
                    mask[row, col] = 1
                    row, col = row + step[0], col + step[1]
                step = (step[1], -step[0])
            length -= 4
        assert normalised(traced(mask, band_px=5)) == expected(mask, 1)

    def test_a_wide_band_is_traced_in_several_strips(self, monkeypatch):
        mask = (np.random.default_rng(2).random((60, 50)) < 0.6).astype(np.uint8)
        monkeypatch.setattr(trace_module, "_MAX_STRIP_PIXELS", 150)
        assert normalised(traced(mask, band_px=32)) == expected(mask, 1)


class TestPlainCases:
    @pytest.mark.parametrize("band_px", [1, 2, 100])
    def test_an_empty_mask_has_no_shapes(self, band_px):
        assert traced(np.zeros((5, 7)), band_px=band_px) == []

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (6, 5)])
    def test_a_full_mask_is_a_box(self, shape):
        (found,) = traced(np.ones(shape), band_px=2)
        assert found.polygon.equals(shapely.box(0, 0, shape[1], shape[0]))

    def test_one_pixel_is_a_unit_square(self):
        mask = np.zeros((4, 6))
        mask[2, 3] = 1
        (found,) = traced(mask, band_px=2)
        assert found.polygon.equals(shapely.box(3, 2, 4, 3))
        assert found.confidence is None

    def test_a_chessboard_is_single_pixels(self):
        mask = np.indices((6, 6)).sum(axis=0) % 2
        assert [shape.polygon.area for shape in traced(mask, band_px=2)] == [1] * 18

    def test_an_outline_that_closes_over_a_diagonal_is_a_hole_that_touches(self):
        mask = [[1, 1, 1], [1, 0, 1], [1, 1, 0]]
        (found,) = traced(mask)
        assert len(found.polygon.interiors) == 1
        assert found.polygon.is_valid

    def test_holes_that_touch_are_two(self):
        mask = np.ones((4, 4))
        mask[1, 1] = mask[2, 2] = 0
        (found,) = traced(mask)
        assert len(found.polygon.interiors) == 2
        assert found.polygon.is_valid

    def test_nodata_and_other_classes_are_not_traced(self):
        mask = np.array([[1, NODATA, 1], [2, 2, 2], [0, 1, NODATA]])
        assert normalised(traced(mask)) == expected(mask, 1)

    @pytest.mark.parametrize("value", [0, NODATA, -1, 256])
    def test_background_and_nodata_are_refused(self, value):
        with pytest.raises(VectorizeError, match=f"{value} is no class"):
            traced(np.ones((2, 2)), value=value)

    @pytest.mark.parametrize("option", [{"band_px": 0}, {"workers": 0}])
    def test_options_that_walk_nowhere_are_refused(self, option):
        with pytest.raises(VectorizeError, match="at least one"):
            TraceOptions(**option)


class TestReading:
    def test_every_row_is_read_once_from_the_calling_thread(self):
        reader = ArrayMask(np.ones((50, 20)))
        list(trace(reader, 1, TraceOptions(band_px=16)))
        assert [(window.row, window.height) for window in reader.windows] == [
            (0, 16),
            (16, 16),
            (32, 16),
            (48, 2),
        ]
        assert reader.threads == {threading.current_thread().name}

    def test_finished_shapes_come_before_the_mask_is_read_to_its_end(self):
        mask = np.zeros((1000, 8))
        mask[0, 0] = mask[999, 0] = 1
        reader = ArrayMask(mask)
        found = trace(reader, 1, TraceOptions(band_px=10, workers=1))
        next(found)
        assert len(reader.windows) < 5
        found.close()

    def test_a_failing_reader_ends_the_trace(self):
        reader = ArrayMask(np.ones((100, 8)), fail_at_row=50)
        with pytest.raises(SceneError, match="row lost"):
            list(trace(reader, 1, TraceOptions(band_px=10)))
        assert not [t for t in threading.enumerate() if t.name.startswith("trace")]
