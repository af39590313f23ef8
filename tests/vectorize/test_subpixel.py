"""Outlines at the threshold: against discs, against marching squares, and never invalid."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import find_contours

from tests.vectorize.test_trace import ArrayMask
from tilingseg.records import NODATA
from tilingseg.vectorize.areas import AreaOptions, areas
from tilingseg.vectorize.subpixel import SubpixelOutlines
from tilingseg.vectorize.trace import TraceOptions, trace


def outlines(mask, value=1, threshold=0.5):
    shapes = list(trace(mask, value, TraceOptions()))
    found = SubpixelOutlines(mask, value, threshold).of([shape.polygon for shape in shapes])
    return [shape.polygon for shape in shapes], found


def masked(probability, threshold=0.5):
    values = (probability >= 255 * threshold).astype(np.uint8)
    return ArrayMask(values, probability[None])


def disc(radius_px, size=120, centre=(60.3, 58.8), blur_px=3.0):
    """A disc as a network sees it: 0.5 at the rim, falling off over some pixels."""
    y, x = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(x - centre[0], y - centre[1]) - radius_px
    return np.round(255 / (1 + np.exp(distance / blur_px * 2))).astype(np.uint8)


@pytest.mark.parametrize("radius_px", [4.0, 11.5, 40.2])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_a_disc_is_found_to_a_tenth_of_a_pixel(radius_px, threshold):
    (raw,), (fine,) = outlines(masked(disc(radius_px), threshold), threshold=threshold)
    # where the drawn probability passes the threshold
    true = shapely.Point(60.3, 58.8).buffer(radius_px + 1.5 * np.log(1 / threshold - 1), 200)
    away = shapely.hausdorff_distance(fine.boundary, true.boundary)
    assert away < 0.15
    assert away < shapely.hausdorff_distance(raw.boundary, true.boundary) / 3


def test_points_are_those_of_marching_squares():
    rng = np.random.default_rng(0)
    field = rng.integers(0, 256, (40, 50)).astype(np.uint8)
    field[[0, -1]] = field[:, [0, -1]] = 0
    _, found = outlines(masked(field))
    ours = {tuple(np.round(xy, 6)) for xy in shapely.get_coordinates(found)}
    contours = np.concatenate(find_contours(field.astype(float), 127.5))
    theirs = {tuple(np.round(xy[::-1] + 0.5, 6)) for xy in contours}
    near_a_centre = {
        xy for xy in theirs if any(0 < abs((c - 0.5) - np.round(c - 0.5)) < 0.02 for c in xy)
    }
    assert theirs - near_a_centre <= ours
    assert len(ours) == len(theirs)


fields = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 255))
)


@settings(max_examples=200)
@given(field=fields, seed=st.integers(0, 1000))
def test_outlines_are_valid_apart_and_keep_their_holes(field, seed):
    rng = np.random.default_rng(seed)
    mask = masked(field)
    mask.mask[rng.random(field.shape) < 0.2] = rng.choice([2, NODATA])
    raw, found = outlines(mask)
    assert shapely.is_valid(found).all()
    assert shapely.get_num_interior_rings(found).tolist() == [len(p.interiors) for p in raw]
    assert (shapely.hausdorff_distance(np.array(raw, object), found) <= 0.75).all()
    pairs = shapely.STRtree(found).query(found, predicate="overlaps")
    assert pairs.size == 0
    closed = shapely.union_all([
        shapely.box(x, y, x + 1, y + 1)
        for y, x in zip(*np.nonzero(np.isin(mask.mask, [2, NODATA])), strict=True)
    ])  # fmt: skip
    if len(found) and not closed.is_empty:
        assert shapely.area(shapely.intersection(found, closed)).max() < 1e-9


def test_the_edge_of_the_scene_of_data_and_of_another_class_stays():
    field = np.full((30, 30), 250, np.uint8)
    mask = masked(field)
    mask.mask[:, 20:25] = 2
    mask.mask[:, 25:] = NODATA
    raw, found = outlines(mask)
    assert found[0].equals(raw[0])


def test_blocks_and_batches_do_not_show():
    rng = np.random.default_rng(1)
    field = rng.integers(0, 256, (1100, 700)).astype(np.uint8)
    field[rng.random(field.shape) < 0.3] = 255
    mask = masked(field)
    raw, found = outlines(mask)
    alone = SubpixelOutlines(mask, 1, 0.5)
    some = np.linspace(0, len(raw) - 1, 60).astype(int)
    assert all(alone.of([raw[k]])[0].equals_exact(found[k], 0) for k in some)


def test_areas_use_the_probabilities_of_a_mask():
    mask = masked(disc(20.0))
    (feature,) = areas(trace(mask, 1), mask, AreaOptions(threshold=0.5))
    assert feature.geometry.area == pytest.approx(np.pi * 400, rel=5e-3)
    assert len(feature.geometry.exterior.coords) < 60  # a pixel edge each would be 160
    plain = ArrayMask(mask.mask)
    (feature,) = areas(trace(plain, 1), plain, AreaOptions(threshold=0.5))
    assert feature.geometry.area == mask.mask.sum()
