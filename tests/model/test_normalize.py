"""Stored values become what the network was trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tilingseg.errors import ModelError
from tilingseg.model.normalize import normalize
from tilingseg.model.spec import ModelSpec
from tilingseg.records import Scaling

SPEC = ModelSpec(
    name="two bands",
    network="unet",
    network_options=(),
    bands=("red", "nir"),
    classes=("field",),
    thresholds=(0.5,),
    gsd_m=None,
    mean=(0.3, 0.5),
    std=(0.1, 0.4),
)
SCALING = Scaling(low=(10.0, 0.0), high=(210.0, 1000.0), source="test")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_values_are_scaled_clipped_and_standardised(dtype):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 2, 5, 7)).astype(dtype)
    valid = rng.random((3, 5, 7)) < 0.7
    unit = np.empty(pixels.shape)
    for band, (low, high) in enumerate(zip(SCALING.low, SCALING.high, strict=True)):
        unit[:, band] = np.clip((pixels[:, band].astype(float) - low) / (high - low), 0, 1)
    expected = (unit - np.reshape(SPEC.mean, (1, 2, 1, 1))) / np.reshape(SPEC.std, (1, 2, 1, 1))
    expected *= valid[:, None]
    result = normalize(torch.from_numpy(pixels), torch.from_numpy(valid), SCALING, SPEC)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_what_lies_under_invalid_pixels_does_not_matter():
    pixels = torch.full((1, 2, 2, 2), torch.nan)
    pixels[..., 0, 0] = 100
    valid = torch.tensor([[[True, False], [False, False]]])
    result = normalize(pixels, valid, SCALING, SPEC)
    assert torch.isfinite(result).all()
    assert (result[..., 1] == 0).all()
    assert (result[..., 0, 0] != 0).all()


def test_the_pixels_that_come_in_stay_as_they_are():
    pixels = torch.rand(1, 2, 3, 3)
    before = pixels.clone()
    normalize(pixels, torch.ones(1, 3, 3, dtype=torch.bool), SCALING, SPEC)
    assert torch.equal(pixels, before)


def test_wrong_bands_and_empty_ranges_are_refused():
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ModelError, match="3 bands.*needs 2: red, nir"):
        normalize(torch.zeros(1, 3, 2, 2), valid, SCALING, SPEC)
    flat = dataclasses.replace(SCALING, high=(10.0, 1000.0))
    with pytest.raises(ModelError, match="above its low one"):
        normalize(torch.zeros(1, 2, 2, 2), valid, flat, SPEC)
