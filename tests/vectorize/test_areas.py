from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tilingseg.errors import VectorizeError
from tilingseg.records import Georef, Shape
from tilingseg.vectorize.areas import SMALL_SHAPE, AreaOptions, areas, areas_across_corners
from tilingseg.vectorize.diagonals import trace_diagonal
from tilingseg.vectorize.trace import trace


class Mask:
    classes = ("field", "water")

    def __init__(self, mask, pixel_m=None, probability=None):
        self.mask = np.asarray(mask, dtype=np.uint8)
        self.probability = probability
        self.height, self.width = self.mask.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=pixel_m)

    def read_mask(self, window):
        return self.mask[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probability is None:
            return None
        return self.probability[window.row : window.row_stop, window.col : window.col_stop]


def blobs(seed, size=120):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), 3)
    return (noise > 0).astype(np.uint8)


def test_outlines_follow_the_pixels_unless_asked_otherwise():
    mask = Mask(blobs(0))
    features = list(areas(trace(mask, 1), mask))
    assert [one.geometry for one in features] == [shape.polygon for shape in trace(mask, 1)]
    assert {one.class_name for one in features} == {"field"}


def test_class_and_confidence_go_along():
    shape = Shape(value=2, polygon=shapely.box(0, 0, 2, 2), confidence=0.25)
    (feature,) = areas([shape], Mask([[2]]))
    assert (feature.class_name, feature.confidence) == ("water", 0.25)


@pytest.mark.parametrize(("pixel_m", "n_kept"), [(None, 2), ((1.0, 0.5), 1), ((2.0, 2.0), 3)])
def test_small_shapes_are_left_out_by_their_area_on_the_ground_and_counted(pixel_m, n_kept):
    mask = Mask(np.zeros((1, 1)), pixel_m)
    shapes = [
        Shape(value=1, polygon=shapely.box(0, 0, side, 10), confidence=None) for side in (1, 2, 4)
    ]
    left_out = Counter()
    features = list(areas(shapes, mask, AreaOptions(min_area_m2=20), left_out))
    assert len(features) == n_kept
    assert left_out[SMALL_SHAPE] == 3 - n_kept


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), tolerance=st.sampled_from([0.5, 1.0, 1.5, 3.0, 10.0]))
def test_simplified_shapes_are_valid_near_and_all_there(seed, tolerance):
    mask = Mask(blobs(seed))
    exact = [shape.polygon for shape in trace(mask, 1)]
    options = AreaOptions(simplify_px=tolerance)
    simple = [one.geometry for one in areas(trace(mask, 1), mask, options)]
    assert len(simple) == len(exact)
    assert shapely.is_valid(simple).all()
    assert {polygon.geom_type for polygon in simple} == {"Polygon"}
    distance = shapely.hausdorff_distance(shapely.boundary(simple), shapely.boundary(exact), 0.1)
    assert distance.max() <= 2 * tolerance
    count = shapely.get_num_coordinates(simple).sum()
    assert count < shapely.get_num_coordinates(exact).sum()
    holes = [len(polygon.interiors) for polygon in exact]
    assert [len(polygon.interiors) for polygon in simple] == holes


@settings(max_examples=20)
@example(seed=9)
@given(seed=st.integers(0, 10_000))
def test_shapes_that_meet_in_corners_are_valid_together(seed):
    noise = gaussian_filter(np.random.default_rng(seed).random((60, 60)), 0.7)
    probability = np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    mask = Mask(probability >= 127.5, probability=probability)
    groups = list(trace_diagonal(mask, 1))
    found = [one.geometry for one in areas_across_corners(groups, mask, 0.5)]
    assert shapely.is_valid(found).all()
    assert [len(one.geoms) for one in found] == [len(group) for group in groups]
    pixels = [shapely.MultiPolygon([shape.polygon for shape in group]) for group in groups]
    assert shapely.hausdorff_distance(found, pixels).max() < 1


@pytest.mark.parametrize("name", ["simplify_px", "min_area_m2"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_values_that_mean_nothing_are_refused(name, value):
    with pytest.raises(VectorizeError, match=name):
        AreaOptions(**{name: value})
