"""Windows hold the pixels they should, and the same ones every time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tilingseg.records import Scaling
from tilingseg.training.augment import STRAIGHT, AugmentOptions, Warp
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe
from tilingseg.training.samples import cut_window, draw_batch, unit_scaling, unit_values
from tilingseg.training.sources import LabelledRaster


def make_source(name="here", weight=1.0):
    return SourceRecipe(
        name=name,
        split="train",
        rasters="*",
        mask="*",
        classes=(ClassLabel(name="building", values=(1,)),),
        licence="CC0",
        weight=weight,
    )


def make_raster(source=None, *, shape=(60, 80), gsd_m=1.0, seed=0, share=0.1):
    rng = np.random.default_rng(seed)
    labels = (rng.random((1, *shape)) < share).astype(np.uint8)
    return LabelledRaster(
        source=source or make_source(),
        name="r",
        pixels=rng.integers(0, 256, (2, *shape), dtype=np.uint8),
        valid=np.ones(shape, np.bool_),
        labels=labels,
        gsd_m=gsd_m,
        scaling=Scaling(low=(0.0, 0.0), high=(255.0, 255.0), source="test"),
        anchors=(np.argwhere(labels[0] == 1),) if labels.any() else (),
    )


def make_recipe(**schedule):
    return TrainingRecipe(
        name="t",
        classes=("building",),
        bands=("red", "green"),
        gsd_m=1.0,
        mean=(0.5, 0.5),
        std=(0.2, 0.2),
        sources=(make_source(),),
        schedule=Schedule(**({"steps": 1, "batch_size": 4, "window_px": 16} | schedule)),
    )


def test_a_straight_window_is_a_cut():
    raster = make_raster()
    pixels, valid, labels = cut_window(raster, (30, 40), 16, 1.0)
    np.testing.assert_allclose(pixels[0] * 255, raster.pixels[:, 22:38, 32:48], atol=0.01)
    np.testing.assert_array_equal(labels[0], raster.labels[:, 22:38, 32:48])
    assert valid.all()


def test_a_window_over_the_edge_is_invalid_and_unknown_there():
    raster = make_raster()
    for centre, outside in [((2, 40), np.s_[:6]), ((30, 79), np.s_[:, 9:]), ((60, 3), np.s_[8:])]:
        pixels, valid, labels = cut_window(raster, centre, 16, 1.0)
        expected = np.ones((16, 16), bool)
        expected[outside] = False
        if centre == (60, 3):
            expected[:, :5] = False
        np.testing.assert_array_equal(valid[0], expected)
        assert (pixels[0].numpy()[:, ~expected] == 0).all()
        assert (labels[0].numpy()[:, ~expected] == UNKNOWN).all()
        assert (labels[0].numpy()[:, expected] != UNKNOWN).all()


def test_a_window_far_outside_is_all_invalid():
    _, valid, labels = cut_window(make_raster(), (500, -300), 16, 1.0)
    assert not valid.any()
    assert (labels == UNKNOWN).all()


def test_invalid_pixels_stay_invalid_and_do_not_show():
    raster = make_raster()
    raster.valid[20:30, 35:45] = False
    raster.pixels[:, 20:30, 35:45] = 255
    pixels, valid, labels = cut_window(raster, (30, 40), 16, 1.0)
    np.testing.assert_array_equal(valid[0], raster.valid[22:38, 32:48])
    assert (pixels[0][:, ~valid[0]] == 0).all()
    assert (labels[0][:, ~valid[0]] == UNKNOWN).all()


def test_pixels_beside_nodata_are_as_bright_as_others():
    raster = make_raster(gsd_m=2.0)
    raster.pixels[:] = 200
    raster.valid[:, :40] = False
    raster.valid[20:24, 50] = False
    turned = Warp(scale=0.8, angle_rad=0.3, mirrored=True)
    for warp in (STRAIGHT, turned):
        pixels, valid, _ = cut_window(raster, (30, 44), 32, 1.0, warp=warp)
        assert 0.3 < valid.float().mean() < 0.9
        np.testing.assert_allclose(pixels[0][:, valid[0]] * 255, 200, atol=0.01)


def test_a_coarse_raster_is_brought_to_the_gsd_of_the_model():
    raster = make_raster(gsd_m=2.0)
    raster.pixels[:] = np.arange(80, dtype=np.uint8)
    pixels, _, labels = cut_window(raster, (30, 40), 16, 1.0)
    # 16 px of 1 m are 8 px of 2 m, interpolated between their centres
    expected = (np.arange(16) + 0.5) / 2 + 36 - 0.5
    np.testing.assert_allclose(pixels[0, 0, 8] * 255, expected, atol=0.01)
    doubled = np.kron(raster.labels[0, 26:34, 36:44], np.ones((2, 2)))
    np.testing.assert_array_equal(labels[0, 0], doubled)


def test_a_turned_window_turns_pixels_and_labels_together():
    raster = make_raster()
    raster.pixels[0] = raster.labels[0] * 200
    warp = Warp(scale=1.0, angle_rad=math.pi / 2, mirrored=True)
    pixels, _, labels = cut_window(raster, (30, 40), 16, 1.0, warp=warp)
    np.testing.assert_allclose(pixels[0, 0] * 255, labels[0, 0] * 200.0, atol=0.1)
    assert 0 < labels.sum() < labels.numel()


def test_values_are_scaled_by_the_raster_and_clipped():
    raster = make_raster()
    scaled = unit_values(raster, slice(None), slice(None))
    np.testing.assert_allclose(scaled, raster.pixels / 255.0, atol=1e-6)
    assert unit_scaling(2).high == (1.0, 1.0)


def test_the_same_step_gives_the_same_windows():
    rasters = (make_raster(seed=0), make_raster(seed=1))
    recipe = make_recipe()
    first, again, other = (draw_batch(rasters, recipe, step) for step in (7, 7, 8))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, other.pixels)
    assert first.pixels.shape == (4, 2, 16, 16)
    assert first.labels.dtype == torch.uint8
    assert 0 <= first.pixels.min() <= first.pixels.max() <= 1


def test_rare_classes_are_seen_in_about_half_of_the_windows():
    raster = make_raster(shape=(300, 300), share=0.0)
    raster.labels[0, 140:144, 150:154] = 1
    raster = make_with_anchors(raster)
    recipe = make_recipe(batch_size=64)
    labels = draw_batch((raster,), recipe, 0).labels
    seen = (labels == 1).flatten(1).any(dim=1)
    assert 0.3 < seen.float().mean().item() < 0.7


def make_with_anchors(raster):
    anchors = (np.argwhere(raster.labels[0] == 1),)
    return LabelledRaster(
        **{name: getattr(raster, name) for name in raster.__slots__ if name != "anchors"},
        anchors=anchors,
    )


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 0.5), (3.0, 0.75)])
def test_sources_are_drawn_by_weight_and_not_by_size(weight, expected):
    small, large = make_source("small", weight), make_source("large", 1.0)
    rasters = (
        make_raster(small, shape=(32, 32)),
        make_raster(large, shape=(90, 90)),
        make_raster(large, shape=(200, 200)),
    )
    rasters[0].pixels[:] = 0
    for raster in rasters[1:]:
        raster.pixels[:] = 255
    still = AugmentOptions(
        scale=(1.0, 1.0), brightness=0, contrast=0, gamma=0, colour=0, saturation=0, blur_share=0
    )
    recipe = make_recipe(batch_size=400, window_px=4)
    recipe = TrainingRecipe(
        **{n: getattr(recipe, n) for n in recipe.__slots__ if n != "augment"}, augment=still
    )
    dark = draw_batch(rasters, recipe, 0).pixels.amax(dim=(1, 2, 3)) < 0.1
    assert dark.float().mean().item() == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(("n_holding", "expected"), [(1, 0.143), (5, 0.32), (10, 0.5), (15, 0.75)])
def test_rasters_of_a_rare_class_are_drawn_more_often(n_holding, expected):
    source, rasters = make_source(), []
    for number in range(20):
        raster = make_raster(source, shape=(16, 16), share=0.0)
        raster.labels[0, :, :2] = 1
        road = np.zeros_like(raster.labels)
        road[0, 8] = number < n_holding
        labels = np.concatenate((raster.labels, road))
        anchors = tuple(np.argwhere(of_class) for of_class in labels if of_class.any())
        rasters.append(dataclasses.replace(raster, labels=labels, anchors=anchors))
        raster.pixels[:] = 255 if number < n_holding else 0
    still = AugmentOptions(brightness=0, contrast=0, gamma=0, colour=0, saturation=0, blur_share=0)
    recipe = dataclasses.replace(make_recipe(batch_size=1000, window_px=4), augment=still)
    bright = draw_batch(tuple(rasters), recipe, 0).pixels.amax(dim=(1, 2, 3)) > 0.9
    assert bright.float().mean().item() == pytest.approx(expected, abs=0.04)


def test_no_more_places_are_drawn_than_are_labelled():
    rasters = (make_raster(seed=0), make_raster(seed=1))
    still = AugmentOptions(
        scale=(1.0, 1.0), rotation_deg=0, brightness=0, contrast=0, gamma=0, colour=0,
        saturation=0, blur_share=0,
    )  # fmt: skip
    recipe = dataclasses.replace(make_recipe(n_windows=3, batch_size=8), augment=still)
    seen = set()
    for step in range(6):
        for window in draw_batch(rasters, recipe, step).pixels:
            # Turned and mirrored, a window holds the same values.
            seen.add(tuple(window.flatten().mul(255).round().sort().values.tolist()))
    assert len(seen) == 3
