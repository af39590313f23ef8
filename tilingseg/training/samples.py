"""The windows that training draws from labelled rasters.

A window is cut, turned, scaled and brought to the model's GSD in one resampling. Half of the
windows hold a pixel of a class that their raster holds, each of these classes as often, so that
small ones are seen; the others lie anywhere, so that what looks like a class and is none is seen
too. Sources are drawn by the weights of the recipe, the rasters of one source by their ground area,
more often where they hold a class that less than half of that area holds.

A batch depends on the recipe's seed and its number alone: nothing has to be remembered for a job to
be resumed exactly. Windows are cut on the processor, their look is varied where the network is.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from tilingseg.records import Scaling
from tilingseg.training.augment import (
    STRAIGHT,
    draw_bend,
    draw_cutouts,
    draw_warp,
    sampling_grid,
    vary_look,
)
from tilingseg.training.losses import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.training.augment import AugmentOptions, Warp
    from tilingseg.training.recipe import TrainingRecipe
    from tilingseg.training.sources import LabelledRaster

CENTRED_SHARE = 0.5
"""Share of the windows that hold a pixel of a class."""
_COMMON_SHARE = 0.5
"""Of a source's area: rasters with a class that is less common are drawn more often."""
_PLACES = 1
"""Keeps the generators of places apart from those of steps."""
_OFF_CENTRE = 0.4
"""How far from the middle such a pixel may lie, in window sides."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Windows for one step, at the model's GSD."""

    pixels: torch.Tensor
    """float32 (n, bands, height, width) in 0…1."""
    valid: torch.Tensor
    """bool (n, height, width), True = holds data."""
    labels: torch.Tensor
    """uint8 (n, classes, height, width): 0, 1 or `UNKNOWN`."""
    borders: torch.Tensor | None = None
    """float32 (n, classes, height, width) in 0…1, uint8 0…255 while only cut: how near two objects
    are; None: not asked for."""
    look_seed: int = 0
    """Decides how the look is varied."""


def unit_scaling(n_bands: int) -> Scaling:
    """Return the scaling of values that are in 0…1 already."""
    return Scaling(low=(0.0,) * n_bands, high=(1.0,) * n_bands, source="0…1 already")


def unit_values(raster: LabelledRaster, rows: slice, cols: slice) -> NDArray[np.float32]:
    """Return a part of a raster as float32 (bands, height, width) in 0…1; 0 where not valid."""
    low, high = (
        np.array(values, np.float32)[:, None, None]
        for values in (raster.scaling.low, raster.scaling.high)
    )
    unit = (raster.pixels[:, rows, cols].astype(np.float32) - low) / (high - low)
    return np.where(raster.valid[rows, cols], np.clip(unit, 0, 1), np.float32(0))


def among_valid(pixels: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Take the zeros of invalid pixels out of values that were interpolated with them.

    Args:
        pixels: float32 (n, bands, height, width), interpolated.
        share: float32 (n, 1, height, width) in 0…1: validity, interpolated in the same way.

    Returns:
        float32, as `pixels`: the mean of the valid pixels alone; 0 where there is none.
    """
    return pixels / share.clamp(min=1e-6)


def draw_batch(
    rasters: tuple[LabelledRaster, ...],
    recipe: TrainingRecipe,
    number: int,
    device: torch.device | None = None,
) -> Batch:
    """Draw one batch; the same number always gives the same windows.

    Args:
        rasters: the decoded training sources.
        recipe: sizes, variation and seed.
        number: of the batch, from 0.
        device: where its look is varied, and where it ends; None: the processor.
    """
    return vary_batch(cut_batch(rasters, recipe, number), recipe.augment, device)


def cut_batch(rasters: tuple[LabelledRaster, ...], recipe: TrainingRecipe, number: int) -> Batch:
    """Cut the windows of one batch, on the processor, without variation of their look."""
    rng = np.random.default_rng((recipe.seed, number))
    look_seed = int(rng.integers(2**62))
    side, n_windows = recipe.schedule.window_px, recipe.schedule.n_windows
    shares, windows = _shares(rasters), []
    for index in rng.choice(len(rasters), recipe.schedule.batch_size, p=shares):
        raster, places = rasters[index], rng
        if n_windows:
            places = np.random.default_rng((recipe.seed, _PLACES, int(rng.integers(n_windows))))
            raster = rasters[places.choice(len(rasters), p=shares)]
        warp = draw_warp(recipe.augment, rng)
        scale = 1.0 if n_windows else warp.scale
        centre = _centre(raster, places, side * recipe.pixel_m / raster.gsd_m * scale)
        bend = draw_bend(recipe.augment, side, rng) if warp.free else None
        windows.append(_cut(raster, centre, (side, recipe.pixel_m), warp, bend))
    pixels, valid, labels, borders = (torch.cat(parts) for parts in zip(*windows, strict=True))
    return Batch(
        pixels=pixels,
        valid=valid,
        labels=labels,
        borders=borders if borders.shape[1] else None,
        look_seed=look_seed,
    )


def vary_batch(batch: Batch, options: AugmentOptions, device: torch.device | None = None) -> Batch:
    """Vary the look of a batch that was cut, on a device, and leave it there."""
    generator = torch.Generator().manual_seed(batch.look_seed)
    pixels = vary_look(batch.pixels.to(device), options, generator)
    valid, labels = batch.valid.to(device), batch.labels.to(device)
    if options.cutouts:
        shape = (len(valid), valid.shape[1], valid.shape[2])
        cut = draw_cutouts(shape, options, generator).to(device)
        valid = valid & ~cut
        labels = labels.masked_fill(cut.unsqueeze(1), UNKNOWN)
    borders = None if batch.borders is None else batch.borders.to(device).float() / 255
    return dataclasses.replace(batch, pixels=pixels, valid=valid, labels=labels, borders=borders)


def cut_window(
    raster: LabelledRaster,
    centre: tuple[int, int],
    size_px: int,
    gsd_m: float,
    *,
    warp: Warp = STRAIGHT,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut one window and bring it to the model's GSD.

    Args:
        raster: what to cut from; what lies outside is not valid.
        centre: pixel corner (row, col) of the raster that becomes the middle of the window.
        size_px: side of the window, px of `gsd_m`.
        gsd_m: ground pixel size of the result, metres.
        warp: how the window is turned, mirrored and scaled.

    Returns:
        pixels: float32 (1, bands, size, size) in 0…1, 0 where not valid.
        valid: bool (1, size, size).
        labels: uint8 (1, classes, size, size).
    """
    return _cut(raster, centre, (size_px, gsd_m), warp, None)[:3]


def _cut(
    raster: LabelledRaster,
    centre: tuple[int, int],
    size: tuple[int, float],
    warp: Warp,
    bend: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels, valid, labels as `cut_window`, and borders, of no class where none are kept.

    Everything is sampled at the same places, so that nothing can move against the rest.
    """
    size_px, gsd_m = size
    reach = size_px * gsd_m / raster.gsd_m
    bent_px = 0.0 if bend is None else float(bend.abs().max()) * reach * warp.scale / size_px
    half = math.ceil(reach * warp.scale * math.sqrt(0.5) + bent_px) + 2
    height, width = raster.valid.shape
    top, left = centre[0] - half, centre[1] - half
    bottom, right = centre[0] + half, centre[1] + half
    rows, cols = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    outside = (
        (max(-top, 0), max(bottom - height, 0)),
        (max(-left, 0), max(right - width, 0)),
    )
    shown = np.pad(unit_values(raster, rows, cols), ((0, 0), *outside))
    valid = np.pad(raster.valid[rows, cols], outside)
    labels = np.pad(raster.labels[:, rows, cols], ((0, 0), *outside), constant_values=UNKNOWN)
    kept = labels[:0] if raster.borders is None else raster.borders[:, rows, cols]
    borders = np.pad(kept, ((0, 0), *outside)) if len(kept) else kept

    grid = sampling_grid(warp, size_px, reach, 2 * half, bend)

    def interpolated(values: NDArray[np.float32]) -> torch.Tensor:
        stored = torch.from_numpy(values).unsqueeze(0)
        return F.grid_sample(stored, grid, mode="bilinear", align_corners=False)

    pixels = interpolated(shown)
    # Beyond its outer edge a raster fades over half a pixel; what lacks data inside must not.
    if not raster.valid[rows, cols].all():
        pixels = among_valid(pixels, interpolated(valid[None].astype(np.float32)))
    exact = torch.from_numpy(np.concatenate((labels, borders, valid[None]))).unsqueeze(0)
    # The nearest pixel keeps labels whole; float32 holds them exactly.
    exact = F.grid_sample(exact.float(), grid, mode="nearest", align_corners=False)
    inside = exact[:, -1] == 1
    n_classes = len(labels)
    known = exact[:, :n_classes].to(torch.uint8).masked_fill(~inside.unsqueeze(1), UNKNOWN)
    return pixels * inside.unsqueeze(1), inside, known, exact[:, n_classes:-1].to(torch.uint8)


def _shares(rasters: tuple[LabelledRaster, ...]) -> NDArray[np.float64]:
    """Return how likely each raster is drawn; they add up to 1."""
    areas = np.array([raster.valid.size * raster.gsd_m**2 for raster in rasters])
    sources = np.array([id(raster.source) for raster in rasters])
    weights = np.array([raster.source.weight for raster in rasters])
    for source in np.unique(sources):
        mine = np.flatnonzero(sources == source)
        areas[mine] *= _repeats([rasters[index] for index in mine], areas[mine])
    totals = np.array([areas[sources == source].sum() for source in sources])
    shares = weights * areas / totals
    return np.asarray(shares / shares.sum())


def _repeats(rasters: list[LabelledRaster], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many times as often each raster of a source is drawn as its area asks for.

    After Gupta, Dollár and Girshick, *LVIS* (2019): the square root of how far its rarest class is
    below `_COMMON_SHARE`. All of it would show the few rasters of a rare class without end.
    """
    held = np.zeros((len(rasters), len(rasters[0].labels)), np.bool_)
    for row, raster in zip(held, rasters, strict=True):
        for pixels in raster.anchors:
            # They are pixels of one class, so that the first one tells which.
            row |= raster.labels[:, *pixels[0]] == 1
    shares = areas @ held / areas.sum()
    repeats = np.sqrt(_COMMON_SHARE / np.maximum(shares, 1e-9))
    return np.asarray(np.maximum(1.0, (held * repeats).max(axis=1)))


def _centre(raster: LabelledRaster, rng: np.random.Generator, reach_px: float) -> tuple[int, int]:
    """Choose the middle of a window that covers `reach_px` of a raster, as far inside as fits."""
    shape = np.array(raster.valid.shape)
    if raster.anchors and rng.random() < CENTRED_SHARE:
        anchors = raster.anchors[rng.integers(len(raster.anchors))]
        shift = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, size=2) * reach_px
        wanted = anchors[rng.integers(len(anchors))] + shift
    else:
        wanted = rng.uniform(0, shape)
    half = np.minimum(reach_px, shape) / 2
    row, col = np.clip(wanted, half, shape - half)
    return int(row), int(col)
