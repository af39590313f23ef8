from collections import Counter

import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from shapely import Polygon, box

from tests.fakes import UTM
from tilingseg.records import NODATA, Feature
from tilingseg.vectorize.layers import VectorOptions, polygons_of
from tilingseg.vectorize.nodata import CUT_OFF, OVER_NODATA, keep_to_data
from tilingseg.vectorize.trace import trace


class ArrayMask:
    """A MaskReader over an array."""

    georef, classes = UTM, ("building",)

    def __init__(self, values):
        self.values = values
        self.height, self.width = values.shape

    def read_mask(self, window):
        return self.values[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        return None


@pytest.fixture
def values():
    """Two blocks each way; nodata in the corner, in a hole over a block border and in a stripe."""
    values = np.zeros((700, 900), np.uint8)
    values[:100, :150] = NODATA
    values[500:530, 490:540] = NODATA
    values[300, :] = NODATA
    return values


def kept(values, *polygons):
    left_out = Counter()
    features = [Feature(class_name="building", geometry=p, confidence=0.5) for p in polygons]
    found = list(keep_to_data(features, ArrayMask(values), 100, left_out))
    return [feature.geometry for feature in found], left_out


def test_a_polygon_over_data_stays_the_same_object(values):
    polygon = box(200, 120, 260, 180)
    found, left_out = kept(values, polygon)
    assert found[0] is polygon
    assert not left_out


@pytest.mark.parametrize(
    "polygon",
    [box(140, 90, 180, 130), box(470, 480, 560, 560), Polygon([(100, 50), (300, 120), (120, 280)])],
)
def test_what_lies_over_nodata_is_cut_off(values, polygon):
    (found,), _ = kept(values, polygon)
    rows, cols = np.nonzero(values == NODATA)
    empty = shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))
    assert found.is_valid
    assert found.intersection(empty).area == 0
    assert found.equals(polygon.difference(empty))


def test_of_a_polygon_that_falls_apart_every_large_part_stays(values):
    found, left_out = kept(values, box(300, 290, 340, 400))
    assert sorted(part.bounds for part in found) == [(300, 290, 340, 300), (300, 301, 340, 400)]
    assert not left_out


def test_small_parts_are_counted_and_the_largest_stays(values):
    found, left_out = kept(values, box(300, 298, 340, 400), box(300, 299, 310, 303))
    assert [part.bounds for part in found] == [(300, 301, 340, 400), (300, 301, 310, 303)]
    assert left_out == {CUT_OFF: 2}


def test_a_footprint_that_nodata_divides_is_found_in_all_its_parts():
    rng = np.random.default_rng(176)  # one of them falls into 986 and 394 px
    values = (gaussian_filter(rng.random((120, 120)), 5) > 0.5).astype(np.uint8)
    values[gaussian_filter(rng.random((120, 120)), 2) > 0.53] = NODATA
    mask, left_out = ArrayMask(values), Counter()
    shapes = [shape for shape in trace(mask, 1) if shape.polygon.area >= 100]
    found = list(polygons_of(shapes, mask, 0, 0.5, VectorOptions(workers=1), left_out))
    cover = shapely.buffer(shapely.union_all([feature.geometry for feature in found]), 1)
    missing = shapely.union_all([shape.polygon for shape in shapes]).difference(cover)
    assert max(piece.area for piece in shapely.get_parts(missing)) < 16  # px², 4 m²
    assert not left_out


def test_a_polygon_of_which_nothing_is_left_is_counted(values):
    found, left_out = kept(values, box(10, 10, 20, 20), box(200, 120, 260, 180))
    assert len(found) == 1
    assert left_out == {OVER_NODATA: 1}
