"""Windows are turned, scaled and varied as they were told, and the same way twice."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tilingseg.training.augment import (
    STRAIGHT,
    AugmentOptions,
    Warp,
    blur,
    draw_warp,
    sampling_grid,
    vary_look,
)


def warped(pixels, warp, size, *, mode="bilinear"):
    grid = sampling_grid(warp, size, size, pixels.shape[-1])
    return F.grid_sample(pixels, grid, mode=mode, align_corners=False)


def test_the_straight_warp_is_a_plain_cut():
    pixels = torch.rand(1, 2, 20, 20)
    assert torch.allclose(warped(pixels, STRAIGHT, 12), pixels[..., 4:16, 4:16], atol=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_quarter_turns_and_mirrors_move_whole_pixels(quarters, mirrored):
    pixels = torch.rand(1, 2, 16, 16)
    turn = Warp(scale=1.0, angle_rad=quarters * math.pi / 2, mirrored=mirrored)
    expected = torch.rot90(pixels, quarters, (2, 3))
    expected = expected.flip(3) if mirrored else expected
    assert torch.allclose(warped(pixels, turn, 16, mode="nearest"), expected)


def test_scale_is_the_ground_that_a_window_covers():
    row = torch.arange(40.0).view(1, 1, 1, 40).expand(1, 1, 40, 40)
    wide = warped(row, dataclasses.replace(STRAIGHT, scale=2.0), 16)
    steps = wide[0, 0, 0].diff()
    assert torch.allclose(steps, torch.full_like(steps, 2.0), atol=1e-4)
    assert wide.mean().item() == pytest.approx(19.5, abs=1e-3)


def test_a_turn_keeps_lengths():
    angle = 0.7
    grid = sampling_grid(Warp(scale=1.3, angle_rad=angle, mirrored=False), 8, 8, 32)[0] * 16
    step = grid[0, 1] - grid[0, 0]
    assert step.norm().item() == pytest.approx(1.3, rel=1e-5)
    assert math.atan2(step[1], step[0]) == pytest.approx(angle, rel=1e-5)


def test_drawn_warps_stay_in_range_and_use_it():
    options = AugmentOptions(scale=(0.5, 2.0), rotation_deg=30.0)
    rng = np.random.default_rng(0)
    warps = [draw_warp(options, rng) for _ in range(400)]
    scales = [warp.scale for warp in warps]
    assert 0.5 <= min(scales) < 0.6 < 1.7 < max(scales) <= 2.0
    assert 0.3 < sum(scale < 1 for scale in scales) / 400 < 0.7  # even in log
    quarter = [math.isclose(w.angle_rad % (math.pi / 2), 0, abs_tol=1e-9) for w in warps]
    assert 0.4 < sum(quarter) / 400 < 0.6
    assert all(
        q or abs(w.angle_rad) <= math.radians(30) for q, w in zip(quarter, warps, strict=True)
    )
    assert 0.4 < sum(w.mirrored for w in warps) / 400 < 0.6
    still = dataclasses.replace(options, rotation_deg=0.0)
    angles = {round(draw_warp(still, rng).angle_rad, 6) for _ in range(100)}
    assert len(angles) == 4


def test_looks_vary_within_0_and_1_and_repeat_with_the_seed():
    pixels = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    options = AugmentOptions(blur_share=0.5)
    first = vary_look(pixels, options, torch.Generator().manual_seed(5))
    again = vary_look(pixels, options, torch.Generator().manual_seed(5))
    other = vary_look(pixels, options, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min().item() <= first.max().item() <= 1
    assert not torch.equal(first[0] - pixels[0], first[1] - pixels[1])


def test_no_variation_leaves_pixels_alone():
    names = ("brightness", "contrast", "gamma", "colour", "saturation", "blur_share")
    options = AugmentOptions(**dict.fromkeys(names, 0.0))
    for bands in (1, 3):
        pixels = torch.rand(2, bands, 8, 8).clamp(min=0.01)
        varied = vary_look(pixels, options, torch.Generator().manual_seed(0))
        assert torch.allclose(varied, pixels, atol=1e-6)


def test_blur_is_a_gaussian():
    point = torch.zeros(2, 15, 15)
    point[:, 7, 7] = 1
    smooth = blur(point, 1.2)
    y, x = torch.meshgrid(torch.arange(15.0) - 7, torch.arange(15.0) - 7, indexing="ij")
    kernel = torch.exp(-(x**2 + y**2) / (2 * 1.2**2))
    assert torch.allclose(smooth[1], kernel / kernel.sum(), atol=1e-3)
    assert smooth.sum().item() == pytest.approx(2, abs=1e-5)
    flat = torch.full((1, 6, 6), 0.3)
    assert torch.allclose(blur(flat, 2.0), flat, atol=1e-6)
