"""Scores against their formulas, and intervals against repeated draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tilingseg.evaluation.measure import ClassCounts, WindowCounts
from tilingseg.evaluation.scores import (
    calibration_error,
    iou_interval,
    mean_iou,
    region_scores,
)
from tilingseg.grid import Window
from tilingseg.metrics.pixels import PixelCounts
from tilingseg.training.validate import N_BINS, Score, count_bins


def test_probabilities_that_tell_the_truth_are_calibrated():
    n = np.full(N_BINS, 255 * 4)
    positive = 4 * np.arange(N_BINS)
    assert calibration_error(positive, n - positive) == pytest.approx(0, abs=1e-9)


def test_the_calibration_error_is_the_distance_to_what_is_true():
    positive, negative = np.zeros(N_BINS, np.int64), np.zeros(N_BINS, np.int64)
    positive[204], negative[204] = 30, 70  # says 0.8, true are 0.3
    positive[51], negative[51] = 20, 80  # says 0.2, and so it is
    assert calibration_error(positive, negative) == pytest.approx(0.25)
    assert math.isnan(calibration_error(positive * 0, negative * 0))


def test_bins_count_what_is_known():
    levels = np.array([[0, 255, 255, 7]], np.uint8)
    truth = np.array([[0, 1, 255, 1]], np.uint8)
    positive, negative = count_bins(levels, truth)
    assert (positive[255], positive[7], positive.sum()) == (1, 1, 2)
    assert (negative[0], negative.sum()) == (1, 1)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true_iou, inside = 0.6, 0
    for seed in range(200):
        unions = rng.integers(50, 150, 40)
        shares = rng.beta(6, 4, 40)
        counts = [
            PixelCounts(n_hit=round(s * u), n_missed=int(u - round(s * u)))
            for s, u in zip(shares, unions, strict=True)
        ]
        low, high = iou_interval(counts, n_resamples=400, seed=seed)
        inside += low <= true_iou <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_one_window_has_no_interval():
    assert all(map(math.isnan, iou_interval([PixelCounts(n_hit=3, n_false=1), PixelCounts()])))


def test_a_region_without_the_class_has_no_iou_that_a_false_pixel_could_change():
    town = make_counts("town", PixelCounts(n_hit=80, n_false=10, n_missed=10, n_clear=900))
    for n_false in (0, 1):
        clear = PixelCounts(n_false=n_false, n_clear=9999 - n_false)
        desert, with_class = region_scores([town, make_counts("desert", clear)])
        assert (desert.region, desert.iou, desert.iou_low, desert.f1) == ("desert", *[None] * 3)
        assert desert.boundary_iou is None
        assert desert.precision == (0 if n_false else None)
        assert desert.pixel_error == pytest.approx(n_false / 9999, abs=1e-5)
        assert mean_iou((desert, with_class), "road") == 0.8


def make_counts(region, pixels):
    """Two windows with the same pixels, all on their rims."""
    bins = np.zeros(N_BINS, np.int64)
    window = Window(row=0, col=0, height=9, width=9)
    windows = (WindowCounts(folder=Path(), window=window, pixels=pixels, boundary=pixels),)
    return ClassCounts(
        region=region,
        class_name="road",
        windows=windows * 2,
        bins=Score(source=region, class_name="road", positive=bins, negative=bins),
        area_m2=1.0,
        instances=None,
        lines=None,
    )
