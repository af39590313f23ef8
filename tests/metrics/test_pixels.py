"""Pixel scores against direct formulas and a brute-force rim."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilingseg.errors import TilingSegError
from tilingseg.metrics.pixels import IGNORE, PixelCounts, count_boundary, count_pixels


def masks(seed, height, width):
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 3, (height, width)).astype(np.uint8)
    truth = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (height, width))
    return found, truth


def blobs(seed, height, width):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (2, height // 6 + 1, width // 6 + 1)).astype(np.uint8)
    found, truth = coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width]
    truth = truth.copy()
    truth[rng.random(truth.shape) < 0.05] = IGNORE
    return found, truth


def rim_by_loop(mask, truth, value, distance):
    height, width = mask.shape
    rim = np.zeros(mask.shape, bool)
    for r in range(height):
        for c in range(width):
            rows = slice(max(0, r - distance), r + distance + 1)
            cols = slice(max(0, c - distance), c + distance + 1)
            outside = (mask[rows, cols] != value) & (truth[rows, cols] != IGNORE)
            rim[r, c] = mask[r, c] == value and outside.any()
    return rim


@given(st.integers(0, 10_000), st.integers(1, 2))
def test_counts_equal_a_loop_over_pixels(seed, value):
    found, truth = masks(seed, 7, 9)
    hit = false = missed = clear = 0
    for f, t in zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != IGNORE:
            hit += f == value and t == value
            false += f == value and t != value
            missed += f != value and t == value
            clear += f != value and t != value
    expected = PixelCounts(n_hit=hit, n_false=false, n_missed=missed, n_clear=clear)
    assert count_pixels(found, truth, value) == expected


def test_scores_follow_their_formulas():
    counts = PixelCounts(n_hit=6, n_false=2, n_missed=4, n_clear=88)
    assert counts.precision == 6 / 8
    assert counts.recall == 6 / 10
    assert counts.iou == 6 / 12
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))


def test_scores_of_an_absent_class_are_not_a_number():
    counts = count_pixels(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))
    assert math.isnan(counts.iou)
    assert math.isnan(counts.f1)
    assert math.isnan(counts.precision)
    assert math.isnan(counts.recall)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_rims_equal_a_loop_over_neighbourhoods(seed, distance):
    found, truth = blobs(seed, 20, 23)
    counts = count_boundary(found, truth, 1, distance)
    known = truth != IGNORE
    found_rim = rim_by_loop(found, truth, 1, distance) & known
    true_rim = rim_by_loop(truth, truth, 1, distance) & known
    assert counts.n_hit == (found_rim & true_rim).sum()
    assert counts.n_false == (found_rim & ~true_rim).sum()
    assert counts.n_missed == (true_rim & ~found_rim).sum()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(5, 30), st.integers(1, 3))
def test_windows_add_up_to_the_scene(seed, step, distance):
    found, truth = blobs(seed, 41, 37)
    plain, rims = PixelCounts(), PixelCounts()
    for r in range(0, 41, step):
        for c in range(0, 37, step):
            plain += count_pixels(
                found[r : r + step, c : c + step], truth[r : r + step, c : c + step]
            )
            top, left = max(0, r - distance), max(0, c - distance)
            outer = slice(top, r + step + distance), slice(left, c + step + distance)
            core = slice(r - top, r - top + step), slice(c - left, c - left + step)
            rims += count_boundary(found[outer], truth[outer], 1, distance, core)
    assert plain == count_pixels(found, truth)
    assert rims == count_boundary(found, truth, 1, distance)


def test_boundary_iou_sees_what_iou_does_not():
    truth = np.zeros((120, 120), np.uint8)
    truth[10:110, 10:110] = 1
    found = np.zeros_like(truth)
    found[12:112, 10:110] = 1
    assert count_pixels(found, truth).iou > 0.95
    assert count_boundary(found, truth, 1, 2).iou < 0.6


def test_different_shapes_and_empty_rims_are_refused():
    with pytest.raises(TilingSegError, match="differ in shape"):
        count_pixels(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(TilingSegError, match="at least 1 px"):
        count_boundary(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 1, 0)
