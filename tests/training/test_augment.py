"""Windows are turned, scaled and varied as they were told, and the same way twice."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.test_samples import make_raster, make_recipe
from tilingseg.errors import TrainingError
from tilingseg.training.augment import (
    STRAIGHT,
    AugmentOptions,
    Warp,
    blur,
    draw_bend,
    draw_cutouts,
    draw_warp,
    sampling_grid,
    vary_look,
)
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.samples import draw_batch


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


def test_a_recipe_can_keep_up_up():
    options = AugmentOptions(rotation_deg=20.0, quarter_turns=False)
    rng = np.random.default_rng(0)
    warps = [draw_warp(options, rng) for _ in range(100)]
    assert all(abs(warp.angle_rad) <= math.radians(20) for warp in warps)
    assert 30 < sum(warp.angle_rad == 0 for warp in warps) < 70  # half are as sharp as they were
    assert 30 < sum(warp.mirrored for warp in warps) < 70


def test_a_recipe_can_keep_left_left():
    options = AugmentOptions(rotation_deg=0.0, quarter_turns=False, mirror=False)
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(50):
        warp = draw_warp(options, rng)
        mirrored = draw_warp(dataclasses.replace(options, mirror=True), same)
        assert (warp.angle_rad, warp.mirrored) == (0, False)
        assert warp.scale == mirrored.scale  # what else is drawn stays as it was


def test_half_of_the_windows_are_bent():
    options = AugmentOptions(rotation_deg=0.0, elastic_px=2.0)
    rng = np.random.default_rng(0)
    assert 30 < sum(draw_warp(options, rng).free for _ in range(100)) < 70
    still = dataclasses.replace(options, elastic_px=0.0)
    assert not any(draw_warp(still, rng).free for _ in range(20))


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


def marked(size=64):
    """A raster whose bands hold its own coordinates, and labels that follow from them."""
    rows, cols = np.mgrid[:size, :size]
    pixels = np.stack([rows, cols]).astype(np.uint8)
    labels = ((rows // 8 + cols // 8) % 2).astype(np.uint8)[None]
    return make_raster_of(pixels, labels)


def make_raster_of(pixels, labels):
    raster = make_raster(shape=labels.shape[1:])
    changes = {"pixels": pixels, "labels": labels, "borders": labels * 200}
    return dataclasses.replace(raster, **changes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "augment",
    [
        {"scale": (0.6, 1.4), "rotation_deg": 180.0},
        {"scale": (1.0, 1.0), "rotation_deg": 0.0, "elastic_px": 3.0, "elastic_step_px": 16},
        {
            "scale": (0.8, 1.2),
            "rotation_deg": 90.0,
            "elastic_px": 2.0,
            "cutouts": 3,
            "cutout_px": (3, 6),
        },
    ],
)
def test_pixels_and_labels_move_together(augment, seed):
    still = {"brightness": 0, "contrast": 0, "gamma": 0, "colour": 0, "saturation": 0}
    options = AugmentOptions(**still, blur_share=0, **augment)
    recipe = make_recipe(window_px=24, batch_size=3)
    recipe = dataclasses.replace(recipe, augment=options, seed=seed)
    batch = draw_batch((marked(),), recipe, 0)
    at = batch.pixels * 255  # where each pixel came from, in the middle between four
    rows, cols = at[:, 0], at[:, 1]
    known = batch.labels[:, 0] != UNKNOWN
    assert torch.equal(known, batch.valid)
    # near a line between two fields rounding decides, so only pixels inside of fields are asked
    # and beside what is unknown or out of the window, pixels may be mixed with the nothing there
    whole = -F.max_pool2d(F.pad(-known.float(), (1, 1, 1, 1)), 3, 1) == 1
    inside = whole & ((rows % 8 - 3.5).abs() < 3) & ((cols % 8 - 3.5).abs() < 3)
    expected = ((rows / 8).floor() + (cols / 8).floor()) % 2
    assert inside.float().mean() > 0.2
    assert torch.equal(batch.labels[:, 0][inside].float(), expected[inside])
    borders = batch.borders[:, 0][inside] * 255
    assert torch.allclose(borders, expected[inside] * 200)
    if not augment.get("cutouts"):
        assert known.float().mean() > 0.7


def test_a_bend_moves_ground_by_what_was_drawn():
    options = AugmentOptions(elastic_px=2.0, elastic_step_px=16)
    bend = draw_bend(options, 64, np.random.default_rng(0))
    assert bend.shape == (1, 64, 64, 2)
    assert 1.0 < bend.std().item() < 3.0
    assert bend.diff(dim=1).abs().max() < 1.5  # smooth
    straight = sampling_grid(STRAIGHT, 64, 64, 100)
    moved = sampling_grid(STRAIGHT, 64, 64, 100, bend)
    assert torch.allclose((moved - straight) * 50, bend, atol=1e-5)
    assert draw_bend(AugmentOptions(), 64, None) is None


def test_noise_is_as_strong_as_it_was_told():
    still = {"brightness": 0, "contrast": 0, "gamma": 0, "colour": 0, "saturation": 0}
    pixels = torch.full((64, 3, 16, 16), 0.5)
    options = AugmentOptions(**still, blur_share=0, noise=0.1)
    noisy = vary_look(pixels, options, torch.Generator().manual_seed(0))
    deviations = (noisy - 0.5).std(dim=(1, 2, 3))
    assert deviations.max() < 0.11
    assert deviations.mean().item() == pytest.approx(0.05, abs=0.015)


def test_cutouts_are_ground_without_data():
    options = AugmentOptions(cutouts=2, cutout_px=(3, 5))
    cut = draw_cutouts((200, 20, 30), options, torch.Generator().manual_seed(0))
    sizes = cut.flatten(1).sum(dim=1)
    assert sizes.max() <= 50
    assert 0.2 < (sizes == 0).float().mean() < 0.5
    recipe = dataclasses.replace(make_recipe(batch_size=8), augment=options)
    batch = draw_batch((make_raster(share=0.5),), recipe, 0)
    assert not batch.valid.all()
    assert (batch.labels[:, 0][~batch.valid] == UNKNOWN).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (2.0, 1.0)}, "scale is 2.0, 1.0; it must rise"),
        ({"scale": (0.0, 1.0)}, "scale is 0.0, 1.0, must be above 0"),
        ({"scale": (1.0, math.inf)}, "scale is 1.0, inf, must be above 0"),
        ({"cutout_px": (9, 3)}, "cutout_px is 9, 3; it must rise"),
        ({"cutouts": -1}, "cutouts is -1, must be at least 0"),
        ({"rotation_deg": math.inf}, "rotation_deg is inf, must be at least 0"),
        ({"blur_share": 2.0}, "blur_share is 2.0, must be 0 to 1"),
    ],
)
def test_variation_that_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(TrainingError, match=f"augment: {message}"):
        AugmentOptions(**options)
