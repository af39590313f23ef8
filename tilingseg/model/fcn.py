"""The fully convolutional network, to compare with.

After Long, Shelhamer and Darrell, *Fully Convolutional Networks for Semantic Segmentation* (2015):
a classifier's convolutions and poolings, 1×1 convolutions that score classes on the last maps, and
the coarse scores raised and added to finer ones. With three maps it is the paper's FCN-8s. The
paper takes a large pretrained classifier; here it is as small as the U-Net beside it.

Little is kept of what lies between the coarse maps and the pixels: outlines are round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from tilingseg.errors import ModelError
from tilingseg.model.layers import check_features, conv_norm, fitted, initialise

FcnUpsampling = Literal["transpose", "bilinear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FcnOptions:
    """The variant of the network. JSON values only: it travels in `ModelSpec.network_options`."""

    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of the maps, each half as fine as the one before; the first is half as fine as the
    input."""
    n_scored: int = 3
    """Maps, from the coarsest up, whose scores are added."""
    upsampling: FcnUpsampling = "bilinear"
    """`transpose`: learned 2×2 transposed convolution of the scores. `bilinear`: resizing."""

    def __post_init__(self) -> None:
        """Refuse what no network can be built from.

        Raises:
            ModelError: naming the option, its value and what it must be.
        """
        check_features(self.features, 1)
        if type(self.n_scored) is not int or not 1 <= self.n_scored <= len(self.features):
            raise ModelError(
                f"n_scored must be 1 to {len(self.features)}, the number of features, "
                f"got {self.n_scored!r}"
            )
        if self.upsampling not in get_args(FcnUpsampling):
            raise ModelError(f"upsampling {self.upsampling!r} is not one of transpose, bilinear")


class FCN(nn.Module):
    """A fully convolutional network that returns logits of the size of its input."""

    def __init__(self, n_bands: int, n_outputs: int, options: FcnOptions | None = None) -> None:
        """Build the layers and initialise their weights.

        Args:
            n_bands: channels of the input, at least 1.
            n_outputs: channels of the output, at least 1.
            options: the variant.
        """
        super().__init__()
        self.options = options = options or FcnOptions()
        widths = options.features
        self.multiple_px = 2 ** len(widths)
        """Tile origins are multiples of this, px."""
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_norm(n_in, n_out),
                conv_norm(n_out, n_out),
                nn.MaxPool2d(2),
            )
            for n_in, n_out in zip((n_bands, *widths[:-1]), widths, strict=True)
        )
        scored = widths[::-1][: options.n_scored]
        self.scores = nn.ModuleList(nn.Conv2d(width, n_outputs, 1) for width in scored)
        self.raises = nn.ModuleList(_raise(n_outputs, options) for _ in scored[1:])
        self.last = nn.Sequential(
            *(_raise(n_outputs, options) for _ in range(len(widths) - len(scored) + 1))
        )
        coarsest = self.scores[0]
        assert isinstance(coarsest, nn.Conv2d)
        initialise(self, coarsest)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits.

        Args:
            pixels: float (n, bands, height, width), normalised.

        Returns:
            float (n, outputs, height, width).
        """
        height, width = pixels.shape[2], pixels.shape[3]
        x = fitted(pixels, self.multiple_px)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        logits = self.scores[0](maps.pop())
        for score, up in zip(list(self.scores)[1:], self.raises, strict=True):
            logits = up(logits) + score(maps.pop())
        logits = self.last(logits)
        cut: Tensor = logits[:, :, :height, :width]
        return cut


def _raise(n_outputs: int, options: FcnOptions) -> nn.Module:
    if options.upsampling == "transpose":
        return nn.ConvTranspose2d(n_outputs, n_outputs, 2, stride=2)
    return nn.Upsample(scale_factor=2, mode="bilinear")
