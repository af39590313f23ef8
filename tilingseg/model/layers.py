"""What the networks have in common: blocks, fitting an input to the lattice, first weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from tilingseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence


def conv_norm(n_in: int, n_out: int, kernel: int = 3, **more: Any) -> nn.Sequential:
    """Return a convolution that keeps the size (over its stride), normalisation and ReLU."""
    padding = more.get("dilation", 1) * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=padding, bias=False, **more),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


def fitted(pixels: Tensor, multiple_px: int) -> Tensor:
    """Add zeros right and below up to multiples of a lattice; to be cut off again at the end."""
    more_rows, more_cols = -pixels.shape[2] % multiple_px, -pixels.shape[3] % multiple_px
    return F.pad(pixels, (0, more_cols, 0, more_rows))


def check_features(features: Sequence[int], least: int) -> None:
    """Refuse channel counts that no network can be built from.

    Raises:
        ModelError: there are too few, or one is no whole number above 0.
    """
    if len(features) < least or any(type(n) is not int or n < 1 for n in features):
        raise ModelError(
            f"features must be {least} or more whole numbers above 0, got {tuple(features)}"
        )


def initialise(network: nn.Module, head: nn.Conv2d) -> None:
    """He et al. 2015 for what a ReLU follows; classes start rare.

    With the framework's default initialisation thin classes such as roads collapse to all
    background within the first steps. A bias of -2 starts every class at a probability of 0.12, so
    that the first gradients are not spent on learning that most pixels are background.

    Args:
        network: all its convolutions get new weights.
        head: its last convolution, without an activation after it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            # Kernel and stride are equal: each output pixel adds up `in_channels` products.
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    for convolution in network.modules():
        if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    nn.init.normal_(head.weight, std=head.in_channels**-0.5)
    assert head.bias is not None
    nn.init.constant_(head.bias, -2.0)
