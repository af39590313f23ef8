"""Skeleton pixels: equal to a library's where it can be asked, and independent of windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import thin as skimage_thin

from tests.drawn_roads import ArrayMask, draw_mask, draw_network
from tilingseg.grid import Window
from tilingseg.vectorize.coarse import CoarseMask
from tilingseg.vectorize.skeleton import SkeletonLimits, skeleton_pixels, thin


def blobs(seed, height, width, sigma=None):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((height, width)), sigma or rng.uniform(0.6, 4))
    return noise > np.quantile(noise, rng.uniform(0.3, 0.9))


def limits(**changes):
    settings = {"max_width_px": 8, "min_speck_px": 6, "min_hole_px": 6, "pixel_m": (1.0, 1.0)}
    return SkeletonLimits(**settings | changes)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_thinning_equals_scikit_image_pass_by_pass(seed, max_passes):
    mask = blobs(seed, 60, 70)
    assert np.array_equal(thin(mask, max_passes), skimage_thin(mask, max_passes))


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_thinning_keeps_pieces_and_holes(seed):
    mask = blobs(seed, 60, 70)
    line = thin(mask, 100)
    assert label(line, connectivity=2).max() == label(mask, connectivity=2).max()
    around = [np.pad(~image, 1, constant_values=True) for image in (mask, line)]
    assert label(around[0], connectivity=1).max() == label(around[1], connectivity=1).max()


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(30, 90), st.booleans())
def test_the_skeleton_of_a_scene_does_not_depend_on_its_cores(seed, side, with_nodata):
    mask = blobs(seed, 150, 130).astype(np.uint8)
    if with_nodata:
        mask[np.random.default_rng(seed).random(mask.shape) < 0.02] = 255
    reader = ArrayMask(
        mask, probability=np.random.default_rng(1).integers(0, 256, mask.shape, dtype=np.uint8)
    )
    whole = skeleton_pixels(reader, 1, Window(row=0, col=0, height=150, width=130), limits())
    parts = [
        skeleton_pixels(
            reader,
            1,
            Window(row=r, col=c, height=min(side, 150 - r), width=min(side, 130 - c)),
            limits(),
        )
        for r in range(0, 150, side)
        for c in range(0, 130, side)
    ]
    order = np.lexsort(
        (np.concatenate([p.cols for p in parts]), np.concatenate([p.rows for p in parts]))
    )
    for name in ("rows", "cols", "radii_m", "probabilities"):
        together = np.concatenate([getattr(part, name) for part in parts])[order]
        assert np.array_equal(together, getattr(whole, name)), name
    assert sum(part.n_specks for part in parts) == whole.n_specks
    assert sum(part.n_holes for part in parts) == whole.n_holes


@pytest.mark.parametrize("pixel_m", [(1.0, 1.0), (0.5, 0.8)])
def test_radii_are_about_those_of_a_distance_transform(pixel_m):
    mask = draw_mask(draw_network(5, 300.0), 300.0)
    wide = limits(max_width_px=60, min_speck_px=0, min_hole_px=0, pixel_m=pixel_m)
    found = skeleton_pixels(ArrayMask(mask), 1, Window(row=0, col=0, height=300, width=300), wide)
    edt = ndimage.distance_transform_edt(mask, sampling=pixel_m[::-1])
    beyond = found.radii_m - edt[found.rows, found.cols]
    half_px = sum(pixel_m) / 4
    assert beyond.min() > -1.01 * half_px
    assert (beyond - 0.1 * edt[found.rows, found.cols]).max() < 1.01 * half_px


def test_a_wide_area_is_hollowed_and_roads_meet_its_rim():
    mask = np.zeros((200, 200), dtype=np.uint8)
    mask[60:140, 60:140] = 1
    mask[97:104, :] = 1
    found = skeleton_pixels(
        ArrayMask(mask), 1, Window(row=0, col=0, height=200, width=200), limits(max_width_px=20)
    )
    image = np.zeros(mask.shape, dtype=bool)
    image[found.rows, found.cols] = True
    assert label(image, connectivity=2).max() == 1
    assert not image[75:125, 75:125].any()
    assert image[97:104, 20].any()
    assert image[97:104, 180].any()


def test_small_holes_are_closed_but_not_those_of_nodata():
    mask = np.zeros((60, 120), dtype=np.uint8)
    mask[20:40, 10:110] = 1
    mask[29:31, 30:32] = 0
    mask[29:31, 80:82] = 255
    everything = Window(row=0, col=0, height=60, width=120)
    found = skeleton_pixels(ArrayMask(mask), 1, everything, limits(max_width_px=40))
    image = np.zeros(mask.shape, dtype=bool)
    image[found.rows, found.cols] = True
    assert found.n_holes == 1
    assert not image[26:34, 30:32].all(axis=0).any()
    rings = label(~image, connectivity=1).max() - 1
    assert rings == 1


def test_a_coarse_mask_is_the_same_through_any_window():
    rng = np.random.default_rng(2)
    labels = rng.choice([0, 1, 2, 255], (47, 38)).astype(np.uint8)
    probability = rng.integers(0, 256, labels.shape, dtype=np.uint8)
    coarse = CoarseMask(ArrayMask(labels, probability, (0.1, 0.1)), 1, 3)
    assert (coarse.height, coarse.width) == (16, 13)
    assert coarse.georef.pixel_m == pytest.approx((0.3, 0.3))
    whole = Window(row=0, col=0, height=16, width=13)
    part = Window(row=5, col=9, height=11, width=4)
    for read in (coarse.read_mask, lambda window: coarse.read_probability(0, window)):
        assert np.array_equal(read(whole)[part.slices_in(whole)], read(part))
    for row in range(16):
        for col in range(13):
            block = labels[3 * row : 3 * row + 3, 3 * col : 3 * col + 3]
            mean = probability[3 * row : 3 * row + 3, 3 * col : 3 * col + 3].mean()
            wanted = 1 if (block == 1).mean() >= 0.5 else 255 if (block == 255).all() else 0
            assert coarse.read_mask(whole)[row, col] == wanted
            assert coarse.read_probability(0, whole)[row, col] == pytest.approx(mean, abs=0.5)
