"""Footprint scores against figures worked out by hand and against brute force."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity
from shapely.geometry import Polygon, box

from tilingseg.errors import TilingSegError
from tilingseg.metrics.polygons import compare_footprints, polis, rotation_error


def houses(seed, n):
    """Boxes on a grid, and the same ones moved, scaled and turned a little, some left out."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for k in range(n):
        x, y = divmod(k, 4)
        w, h = rng.uniform(4, 9, 2)
        house = affinity.translate(box(0, 0, w, h), 12 * x, 12 * y)
        truth.append(house)
        if rng.random() < 0.8:
            turned = affinity.rotate(house, rng.uniform(-20, 20))
            found.append(affinity.translate(turned, *rng.uniform(-2, 2, 2)))
    return found, truth, rng.permutation(len(found)) / 10


def average_precision_by_loop(found, truth, confidence):
    """COCO's definition, step by step."""
    values = []
    for threshold in [0.5 + 0.05 * k for k in range(10)]:
        free, hits = set(range(len(truth))), []
        for i in sorted(range(len(found)), key=lambda k: -confidence[k]):
            ious = {
                j: found[i].intersection(truth[j]).area / found[i].union(truth[j]).area
                for j in free
            }
            best = max(ious, key=ious.get, default=None)
            hits.append(best is not None and ious[best] >= threshold)
            if hits[-1]:
                free.discard(best)
        points = [
            (sum(hits[: k + 1]) / len(truth), sum(hits[: k + 1]) / (k + 1))
            for k in range(len(hits))
        ]
        values.append(
            np.mean([
                max((p for r, p in points if r >= recall - 1e-12), default=0)
                for recall in np.linspace(0, 1, 101)
            ])
        )  # fmt: skip
    return np.mean(values)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_average_precision_equals_the_definition(seed):
    found, truth, confidence = houses(seed, 12)
    agreement = compare_footprints(found, truth, confidence)
    expected = average_precision_by_loop(found, truth, confidence)
    assert agreement.average_precision == pytest.approx(expected, abs=1e-9)


def test_perfect_footprints_score_one():
    _, truth, _ = houses(0, 12)
    agreement = compare_footprints(truth, truth)
    assert agreement.precision == agreement.recall == agreement.f1 == 1
    assert agreement.average_precision == agreement.iou == agreement.vertex_ratio == 1
    assert agreement.polis_m == agreement.hausdorff_m == agreement.area_bias == 0
    assert agreement.rotation_deg == agreement.n_split == agreement.n_merged == 0


def test_a_shifted_square_by_hand():
    truth, found = box(0, 0, 10, 10), box(1, 0, 11, 10)
    agreement = compare_footprints([found], [truth])
    assert agreement.iou == pytest.approx(90 / 110)
    assert agreement.hausdorff_m == pytest.approx(1)
    # Two corners of each square lie 1 m off the other's outline, two lie on it.
    assert agreement.polis_m == pytest.approx(0.5)
    assert agreement.f1 == 1
    assert agreement.average_precision == pytest.approx(0.7)


def test_polis_equals_its_definition():
    rng = np.random.default_rng(3)
    a = Polygon(rng.uniform(0, 5, (3, 2)), [])
    b = affinity.rotate(box(0, 0, 4, 6).difference(box(1, 1, 2, 2)), 30)

    def mean_distance(p, q):
        corners = [c for ring in (p.exterior, *p.interiors) for c in list(ring.coords)[:-1]]
        return np.mean([q.boundary.distance(shapely.Point(c)) for c in corners])

    assert polis(a, b) == pytest.approx((mean_distance(a, b) + mean_distance(b, a)) / 2)


@pytest.mark.parametrize("angle", [0, 3, 44, 46, 88, 91, 180])
def test_rotation_is_measured_modulo_a_right_angle(angle):
    house = box(0, 0, 7, 4).difference(box(4, 2, 7, 4))
    turned = affinity.rotate(house, angle)
    assert rotation_error(turned, house) == pytest.approx(abs((angle + 45) % 90 - 45), abs=1e-6)


def test_splits_and_merges_are_counted():
    truth = [box(0, 0, 10, 10), box(20, 0, 30, 10), box(30, 0, 40, 10)]
    found = [box(0, 0, 5, 10), box(5, 0, 10, 10), box(20, 0, 40, 10)]
    agreement = compare_footprints(found, truth)
    assert (agreement.n_split, agreement.n_merged) == (1, 1)


def test_one_truth_is_matched_once():
    truth = [box(0, 0, 10, 10)]
    agreement = compare_footprints([box(0, 0, 10, 9), box(0, 0, 10, 10)], truth)
    assert agreement.n_matched == 1
    assert agreement.precision == 0.5


def test_nothing_found_and_nothing_true():
    nothing = compare_footprints([], [box(0, 0, 1, 1)])
    assert nothing.recall == nothing.f1 == nothing.average_precision == 0
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.iou)
    empty = compare_footprints([box(0, 0, 1, 1)], [])
    assert math.isnan(empty.recall)
    assert math.isnan(empty.average_precision)


def test_a_confidence_for_every_footprint():
    with pytest.raises(TilingSegError, match="2 footprints but 1 confidences"):
        compare_footprints([box(0, 0, 1, 1)] * 2, [], [0.5])
