"""Weights between objects, against the formula written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from tilingseg.training.borders import border_weights
from tilingseg.training.losses import UNKNOWN


def direct(labels, sigma_px):
    objects, count = ndimage.label(labels == 1)
    places = [np.argwhere(objects == k + 1) for k in range(count)]
    weights = np.zeros(labels.shape)
    for row, col in np.argwhere(labels == 0):
        distances = sorted(min(math.hypot(row - r, col - c) for r, c in place) for place in places)
        if len(distances) > 1:
            weights[row, col] = math.exp(-(sum(distances[:2]) ** 2) / (2 * sigma_px**2))
    return weights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma_px", [1.5, 5.0])
def test_weights_are_the_formula(seed, sigma_px):
    rng = np.random.default_rng(seed)
    labels = np.zeros((30, 34), np.uint8)
    for row, col in rng.integers(0, 26, (7, 2)):
        labels[row : row + 4, col : col + 5] = 1
    labels[rng.random(labels.shape) < 0.05] = UNKNOWN
    expected = direct(labels, sigma_px)
    expected[expected < 0.004] = 0
    found = border_weights(labels, sigma_px) / 255
    assert np.abs(found - expected).max() < 0.004
    assert (found[labels != 0] == 0).all()


def test_one_object_has_no_border():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:9, 5:9] = 1
    assert not border_weights(labels, 5.0).any()
    assert not border_weights(labels * 0, 5.0).any()


def test_the_gap_between_neighbours_weighs_most():
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:14] = labels[5:15, 15:24] = 1
    weights = border_weights(labels, 3.0)
    assert weights[10, 14] == weights.max()
    assert weights[10, 14] == round(255 * math.exp(-4 / 18))
