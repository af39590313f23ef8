"""DeepLab v3+, to compare with.

After Chen, Zhu, Papandreou, Schroff and Adam, *Encoder-Decoder with Atrous Separable Convolution
for Semantic Image Segmentation* (2018): residual stages down to a sixteenth of the resolution,
parallel convolutions of several dilations there (ASPP), and a small decoder that joins a map at a
quarter of the resolution. The paper takes a large pretrained network; here the stages are as small
as those of the U-Net beside it.

The paper also gives every pixel the mean of the whole image. With `image_pooling` so does this one,
and then its output depends on where the scene was cut: such a model is run with blended tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tilingseg.errors import ModelError
from tilingseg.model.layers import check_features, conv_norm, fitted, initialise

_N_STAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepLabOptions:
    """The variant of the network. JSON values only: it travels in `ModelSpec.network_options`."""

    features: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of the four stages, at a half to a sixteenth of the resolution."""
    dilations: tuple[int, ...] = (6, 12, 18)
    """Dilations of the parallel 3×3 convolutions."""
    n_context: int = 64
    """Channels of each parallel convolution, and of the decoder."""
    n_skip: int = 24
    """Channels that the map at a quarter of the resolution brings into the decoder."""
    image_pooling: bool = False
    """Also look at the mean of the whole tile, as the paper does."""

    def __post_init__(self) -> None:
        """Refuse what no network can be built from.

        Raises:
            ModelError: naming the option, its value and what it must be.
        """
        check_features(self.features, _N_STAGES)
        if len(self.features) != _N_STAGES:
            raise ModelError(f"features must be {_N_STAGES} numbers, got {self.features}")
        check_features((*self.dilations, self.n_context, self.n_skip), 3)


class DeepLab(nn.Module):
    """DeepLab v3+ that returns logits of the size of its input."""

    def __init__(self, n_bands: int, n_outputs: int, options: DeepLabOptions | None = None) -> None:
        """Build the layers and initialise their weights.

        Args:
            n_bands: channels of the input, at least 1.
            n_outputs: channels of the output, at least 1.
            options: the variant.
        """
        super().__init__()
        self.options = options = options or DeepLabOptions()
        widths, context = options.features, options.n_context
        self.multiple_px = 2**_N_STAGES
        """Tile origins are multiples of this, px."""
        self.stages = nn.ModuleList(
            _Stage(n_in, n_out) for n_in, n_out in zip((n_bands, *widths[:-1]), widths, strict=True)
        )
        self.branches = nn.ModuleList(
            [
                conv_norm(widths[-1], context, 1),
                *(conv_norm(widths[-1], context, dilation=rate) for rate in options.dilations),
            ]
        )
        self.join = nn.Conv2d(context * len(self.branches), context, 1, bias=False)
        self.pooled: nn.Module | None = None
        if options.image_pooling:
            self.pooled = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(widths[-1], context, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(context, context, 1, bias=False),
            )
        self.joined = nn.Sequential(nn.BatchNorm2d(context), nn.ReLU(inplace=True))
        self.skip = conv_norm(widths[1], options.n_skip, 1)
        self.up = nn.Upsample(scale_factor=4, mode="bilinear")
        self.decoder = nn.Sequential(
            conv_norm(context + options.n_skip, context), conv_norm(context, context)
        )
        self.head = nn.Conv2d(context, n_outputs, 1)
        initialise(self, self.head)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits.

        Args:
            pixels: float (n, bands, height, width), normalised.

        Returns:
            float (n, outputs, height, width).
        """
        height, width = pixels.shape[2], pixels.shape[3]
        half, quarter, eighth, sixteenth = self.stages
        fine = quarter(half(fitted(pixels, self.multiple_px)))
        x = sixteenth(eighth(fine))
        context = self.join(torch.cat([branch(x) for branch in self.branches], dim=1))
        if self.pooled is not None:
            # Joining a constant map by a 1×1 convolution adds a constant.
            context = context + self.pooled(x)
        raised = self.up(self.joined(context))
        x = self.decoder(torch.cat((raised, self.skip(fine)), dim=1))
        logits: Tensor = self.up(self.head(x))
        return logits[:, :, :height, :width]


class _Stage(nn.Module):
    """A residual block that halves the resolution (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(n_in, n_out, stride=2),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        # Pooling of single pixels takes every second one. A 1×1 convolution of stride 2 does the
        # same, but with three channels its gradient writes outside its memory (PyTorch 2.13, CPU).
        self.short = nn.Sequential(
            nn.MaxPool2d(1, stride=2),
            nn.Conv2d(n_in, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of half the size."""
        result: Tensor = self.relu(self.body(x) + self.short(x))
        return result
