"""Variation of training windows: where they lie, how they are turned, and how they look.

Two halves. `draw_warp` decides for one window how its pixels lie in the source: turned, mirrored
and scaled, in one resampling together with the change to the model's GSD; `draw_bend` adds an
elastic deformation to that. `vary_look` changes a batch of pixels: light, contrast, gamma, colour
cast, blur and noise, as other sensors, seasons and compressions would; `draw_cutouts` takes ground
away. All randomness comes from the generators that are handed in, so a step can be repeated
exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tilingseg.errors import TrainingError
from tilingseg.training.limits import refuse_outside

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentOptions:
    """How far training windows may differ from their source."""

    scale: tuple[float, float] = (0.6, 1.7)
    """Range of the window's ground size, relative to its normal one; drawn evenly in log."""
    rotation_deg: float = 180.0
    """Largest turn to either side, of half of the windows, degrees. At 0 quarter turns and
    mirroring remain."""
    quarter_turns: bool = True
    """Whether windows are turned by quarters. Not where all labels lie to one side of what they
    outline: turned to all sides, their place cannot be learnt. `rotation_deg` has to be small then,
    too."""
    mirror: bool = True
    """Whether left and right are exchanged in half of the windows. Not where all labels lie to the
    left or to the right of what they outline."""
    brightness: float = 0.15
    """Largest shift of the values, which span 0…1."""
    contrast: float = 0.3
    """Largest relative change of the distance from the window's mean."""
    gamma: float = 0.3
    """Largest change of log₂ gamma."""
    colour: float = 0.08
    """Largest shift of one band against the others."""
    saturation: float = 0.4
    """Largest relative change of the distance from grey."""
    blur_share: float = 0.2
    """Share of the windows that is blurred, 0…1."""
    blur_px: float = 1.2
    """Largest deviation of the Gaussian, px."""
    elastic_px: float = 0.0
    """Deviation of the displacements of an elastic deformation, px, in the half of the windows that
    is turned freely; 0: none."""
    elastic_step_px: int = 32
    """Distance of the points that are displaced, px; between them the ground is bent smoothly."""
    noise: float = 0.0
    """Largest deviation of the noise that is added, in values of 0…1."""
    cutouts: int = 0
    """Largest number of squares that are cut out of a window: as ground without data, unknown."""
    cutout_px: tuple[int, int] = (8, 48)
    """Smallest and largest side of such a square, px."""

    def __post_init__(self) -> None:
        """Refuse ranges that nothing can be drawn from.

        Raises:
            TrainingError: naming the key, its value and what it must be.
        """
        refuse_outside(
            "augment",
            self,
            positive=("scale", "cutout_px", "elastic_step_px"),
            not_negative=(
                *("rotation_deg", "brightness", "contrast", "gamma", "colour", "saturation"),
                *("blur_px", "elastic_px", "noise", "cutouts"),
            ),
            shares=("blur_share",),
        )
        for name, (low, high) in (("scale", self.scale), ("cutout_px", self.cutout_px)):
            if low > high:
                raise TrainingError(f"augment: {name} is {low}, {high}; it must rise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """How a window lies in its source."""

    scale: float
    """Source length that the window covers, relative to its normal one."""
    angle_rad: float
    """Turn, radians."""
    mirrored: bool
    """Whether columns run backwards."""
    free: bool = False
    """Whether it is one of those that are turned freely, and bent."""


STRAIGHT = Warp(scale=1.0, angle_rad=0.0, mirrored=False)
"""No variation."""


def draw_warp(options: AugmentOptions, rng: np.random.Generator) -> Warp:
    """Draw how one window is turned, mirrored and scaled.

    Half of the windows are turned by quarters at most, which keeps edges that follow the pixel grid
    as sharp as inference will see them.
    """
    low, high = options.scale
    scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    angle = math.radians(rng.uniform(-options.rotation_deg, options.rotation_deg))
    quarter = int(rng.integers(4)) * math.pi / 2 * options.quarter_turns
    free = options.rotation_deg + options.elastic_px > 0 and bool(rng.random() >= 0.5)
    turned = free and options.rotation_deg > 0
    mirrored = bool(rng.random() < 0.5) and options.mirror
    return Warp(scale=scale, angle_rad=angle if turned else quarter, mirrored=mirrored, free=free)


def draw_bend(options: AugmentOptions, size_px: int, rng: np.random.Generator) -> Tensor | None:
    """Draw an elastic deformation: points of a coarse lattice are displaced, the rest follows.

    Args:
        options: how far and how finely.
        size_px: side of the window, px.
        rng: source of randomness; untouched where there is no deformation.

    Returns:
        float32 (1, size, size, 2): x and y, px of the window; None: no deformation.
    """
    if options.elastic_px <= 0:
        return None
    count = math.ceil(size_px / options.elastic_step_px) + 1
    points = rng.normal(0, options.elastic_px, (1, 2, count, count))
    bend = F.interpolate(
        torch.from_numpy(points).float(), (size_px, size_px), mode="bicubic", align_corners=True
    )
    return bend.permute(0, 2, 3, 1)


def sampling_grid(
    warp: Warp, size_px: int, reach_px: float, source_px: int, bend: Tensor | None = None
) -> Tensor:
    """Return where each pixel of a window lies in a square cut of its source.

    Args:
        warp: turn, mirroring and scale.
        size_px: side of the window, px.
        reach_px: source pixels that the window's side covers at scale 1.
        source_px: side of the cut, centred on the window, px.
        bend: an elastic deformation, as from `draw_bend`.

    Returns:
        float32 (1, size, size, 2): x and y for `grid_sample` with `align_corners=False`.
    """
    along = (torch.arange(size_px, dtype=torch.float32) + 0.5) / size_px - 0.5
    length = reach_px * warp.scale / (source_px / 2)
    cos, sin = math.cos(warp.angle_rad) * length, math.sin(warp.angle_rad) * length
    y, x = along.view(-1, 1), along.view(1, -1)
    if warp.mirrored:
        x = -x
    grid = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1).unsqueeze(0)
    return grid if bend is None else grid + bend * (length / size_px)


def vary_look(pixels: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Vary light, contrast, gamma, colour and sharpness of each window of a batch.

    Args:
        pixels: float32 (n, bands, height, width) in 0…1.
        options: how far.
        generator: source of randomness, on the CPU.

    Returns:
        float32, same shape, in 0…1.
    """
    n, bands = pixels.shape[:2]

    def draw(limit: float, columns: int = 1) -> Tensor:
        even = torch.rand((n, columns, 1, 1), generator=generator)
        return ((even * 2 - 1) * limit).to(pixels.device)

    varied = pixels.clamp(min=1e-4) ** torch.exp2(draw(options.gamma))
    mean = varied.mean(dim=(1, 2, 3), keepdim=True)
    varied = (varied - mean) * (1 + draw(options.contrast)) + mean
    if bands > 1:
        grey = varied.mean(dim=1, keepdim=True)
        varied = (varied - grey) * (1 + draw(options.saturation)) + grey
        varied = varied + draw(options.colour, bands)
    varied = (varied + draw(options.brightness)).clamp(0, 1)
    blurred = torch.rand(n, generator=generator) < options.blur_share
    deviations = torch.rand(n, generator=generator) * options.blur_px + 1e-3
    for index in torch.nonzero(blurred).flatten().tolist():
        varied[index] = blur(varied[index], float(deviations[index]))
    if options.noise > 0:
        deviation = torch.rand((n, 1, 1, 1), generator=generator) * options.noise
        if pixels.device.type != "cpu":
            # A number for each pixel: drawn where the pixels are.
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator(pixels.device).manual_seed(seed)
        noise = torch.randn(varied.shape, generator=generator, device=pixels.device)
        varied = (varied + noise * deviation.to(pixels.device)).clamp(0, 1)
    return varied


def draw_cutouts(
    shape: tuple[int, int, int], options: AugmentOptions, generator: torch.Generator
) -> Tensor:
    """Draw squares that are cut out of windows.

    Args:
        shape: (n, height, width) of a batch.
        options: how many and how large.
        generator: source of randomness.

    Returns:
        bool (n, height, width), True = cut out.
    """
    n, height, width = shape
    cut = torch.zeros(shape, dtype=torch.bool)
    counts = torch.randint(0, options.cutouts + 1, (n,), generator=generator)
    low, high = options.cutout_px
    for index, count in enumerate(counts.tolist()):
        for _ in range(count):
            side = int(torch.randint(low, high + 1, (1,), generator=generator))
            row = int(torch.randint(0, max(1, height - side + 1), (1,), generator=generator))
            col = int(torch.randint(0, max(1, width - side + 1), (1,), generator=generator))
            cut[index, row : row + side, col : col + side] = True
    return cut


def blur(pixels: Tensor, deviation_px: float) -> Tensor:
    """Smooth with a Gaussian; the edge is repeated outwards.

    Args:
        pixels: float32 (bands, height, width).
        deviation_px: standard deviation, px, above 0.
    """
    radius = math.ceil(3 * deviation_px)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / deviation_px) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(pixels.unsqueeze(1), (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).squeeze(1)
