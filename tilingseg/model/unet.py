"""The U-Net, with the variants that matter for large scenes.

Contracting and expanding path after Ronneberger, Fischer and Brox, *U-Net: Convolutional Networks
for Biomedical Image Segmentation* (2015): at every level two 3×3 convolutions, here each followed
by batch normalisation and ReLU; 2×2 max pooling on the way down; on the way up a doubling of the
resolution, the skip connection, and two convolutions again.

Any input size is accepted, and the output has the same size and lies on the same pixels:

- `padded` convolutions: zeros are added right and bottom up to a multiple of F, the product of the
  strides, and cut off afterwards. That defines inference on a whole scene, which tiles reproduce.
- `valid` convolutions, the paper's own, return fewer pixels than they read. The network adds that
  margin as zeros on every side itself, so that both kinds obey one contract: a tile starts at a
  multiple of F and its outermost pixels, the halo, are not used. The paper mirrors the image there;
  zeros are what invalid pixels hold, and they exist for an image smaller than the margin.

`fold_px` folds squares of pixels into channels before the first convolution and unfolds them after
the last (Shi et al. 2016, sub-pixel convolution): at 2 px a quarter of the work a pixel, and every
pixel still gets its own output.

How far a pixel sees is not said here: `model.halo` finds it by walking the layers. `model.core`
runs the decoder for no more than the part of a tile that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tilingseg.errors import ModelError
from tilingseg.model.layers import initialise

Upsampling = Literal["transpose", "nearest", "bilinear"]
Convolution = Literal["padded", "valid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetOptions:
    """The variant of the network. JSON values only: it travels in `ModelSpec.network_options`."""

    features: tuple[int, ...] = (64, 128, 256, 512)
    """Channels at each level, from full resolution down; the bottom has twice the last."""
    upsampling: Upsampling = "transpose"
    """`transpose`: learned 2×2 transposed convolution. `nearest`, `bilinear`: resizing, with a 1×1
    convolution that halves the channels."""
    convolution: Convolution = "padded"
    """`padded` keeps the size at every level; `valid` is the paper's."""
    fold_px: int = 1
    """Side of the squares of pixels that are folded into channels at the input and unfolded at the
    output, px; 1: none."""
    dropout: float = 0.0
    """Share of the bottom's channels that is dropped in training, 0…1."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory in training, about a third slower."""

    def __post_init__(self) -> None:
        """Refuse what no network can be built from.

        Raises:
            ModelError: naming the option, its value and what it must be.
        """
        # Options come from files, whose values may be of any type.
        if not self.features or any(type(width) is not int or width < 1 for width in self.features):
            raise ModelError(f"features must be whole numbers above 0, got {self.features}")
        if type(self.fold_px) is not int or self.fold_px < 1:
            raise ModelError(f"fold_px must be a whole number above 0, got {self.fold_px!r}")
        if self.upsampling not in get_args(Upsampling):
            allowed = ", ".join(get_args(Upsampling))
            raise ModelError(f"upsampling {self.upsampling!r} is not one of {allowed}")
        if self.convolution not in get_args(Convolution):
            allowed = ", ".join(get_args(Convolution))
            raise ModelError(f"convolution {self.convolution!r} is not one of {allowed}")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout must be at least 0 and below 1, got {self.dropout}")


class UNet(nn.Module):
    """A U-Net that returns logits of the size of its input."""

    def __init__(self, n_bands: int, n_outputs: int, options: UNetOptions | None = None) -> None:
        """Build the layers and initialise their weights.

        Args:
            n_bands: channels of the input, at least 1.
            n_outputs: channels of the output, at least 1.
            options: the variant; by default the paper's sizes with padded convolutions.
        """
        super().__init__()
        if n_bands < 1 or n_outputs < 1:
            raise ModelError(f"a network from {n_bands} bands to {n_outputs} outputs is impossible")
        self.options = options = options or UNetOptions()
        widths, depth = options.features, len(options.features)
        fold = options.fold_px
        self.multiple_px = fold * 2**depth
        """Tile origins are multiples of this, px."""
        valid = options.convolution == "valid"
        # Two valid 3×3 convolutions take 4 px off a map, at the bottom and twice at every level.
        lost = [4 * valid]
        for _ in range(depth):
            lost.append(2 * lost[-1] + 8 * valid)
        self.margin_px = fold * lost[depth] // 2
        """Zeros that are added on every side because valid convolutions take them off, px."""
        # A size N fits `valid` when every map is even before it is pooled: N ≡ -4 (mod 2^depth).
        self._remainder_px = 4 * fold * valid
        self._crops = tuple(lost[:depth])

        self.fold: nn.Module = nn.PixelUnshuffle(fold) if fold > 1 else nn.Identity()
        inputs = (n_bands * fold**2, *widths)
        self.encoder = nn.ModuleList(
            _double_conv(n_in, n_out, padded=not valid)
            for n_in, n_out in zip(inputs[:-1], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = _double_conv(widths[-1], 2 * widths[-1], padded=not valid)
        self.dropout: nn.Module = (
            nn.Dropout2d(options.dropout) if options.dropout else nn.Identity()
        )
        below = (*widths[1:], 2 * widths[-1])
        self.upsamplers = nn.ModuleList(
            _upsampler(n_in, n_out, options.upsampling)
            for n_in, n_out in zip(reversed(below), reversed(widths), strict=True)
        )
        self.decoder = nn.ModuleList(
            _double_conv(2 * width, width, padded=not valid) for width in reversed(widths)
        )
        self.head = nn.Conv2d(widths[0], n_outputs * fold**2, 1)
        self.unfold: nn.Module = nn.PixelShuffle(fold) if fold > 1 else nn.Identity()
        initialise(self, self.head)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits.

        Args:
            pixels: float (n, bands, height, width), normalised.

        Returns:
            float (n, outputs, height, width).
        """
        height, width = pixels.shape[2], pixels.shape[3]
        x = self.fitted(pixels)
        skips = []
        for block in self.encoder:
            x = self._run(block, x)
            skips.append(x)
            x = self.pool(x)
        x = self.dropout(self._run(self.bottom, x))
        for upsample, block, crop in zip(self.upsamplers, self.decoder, self._crops, strict=True):
            # Nothing here gets a name of its own: a name would keep a map alive for a whole level.
            x = self._run(block, torch.cat((_cut(skips.pop(), crop), upsample(x)), dim=1))
        logits: Tensor = self.unfold(self.head(x))
        return logits[:, :, :height, :width]

    def fitted(self, pixels: Tensor) -> Tensor:
        """Return what the encoder gets: zeros added to a size that it accepts, pixels folded."""
        margin, fit = self.margin_px, self.multiple_px
        more_rows = (self._remainder_px - pixels.shape[2]) % fit
        more_cols = (self._remainder_px - pixels.shape[3]) % fit
        x = F.pad(pixels, (margin, margin + more_cols, margin, margin + more_rows))
        folded: Tensor = self.fold(x)
        return folded

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.options.checkpointing and self.training:
            return cast("Tensor", checkpoint(block, x, use_reentrant=False))
        return cast("Tensor", block(x))


def _cut(x: Tensor, border: int) -> Tensor:
    return x[:, :, border:-border, border:-border] if border else x


def _double_conv(n_in: int, n_out: int, *, padded: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (n_in, n_out):
        layers += [
            nn.Conv2d(inputs, n_out, 3, padding=int(padded), bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _upsampler(n_in: int, n_out: int, kind: Upsampling) -> nn.Module:
    if kind == "transpose":
        return nn.ConvTranspose2d(n_in, n_out, 2, stride=2)
    # A 1×1 convolution and resizing commute, so the convolution goes where there are fewer pixels.
    resize = nn.Upsample(scale_factor=2, mode=kind)
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1), resize)
