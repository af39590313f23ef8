"""How strongly a network draws its own lattice: the checkerboards of learned up-sampling.

A transposed convolution, or a pixel shuffle, gives the pixels of a block weights of their own
(Odena et al. 2016, *Deconvolution and Checkerboard Artifacts*). On ground without any detail every
pixel ought to get the same answer; what varies there is the lattice. Resizing followed by a
convolution cannot vary on flat ground.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tilingseg.model.halo import network_geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

LEVELS = (-1.5, -0.75, 0.0, 0.75, 1.5)
"""Normalised values of the flat grounds."""


def ripple(module: nn.Module, pixels: Tensor) -> float:
    """Return the lattice on flat ground, as a share of what the network says about real pixels.

    Args:
        module: the network, in evaluation mode, on the CPU.
        pixels: float32 (n, bands, height, width), normalised: real windows, for scale.

    Returns:
        Mean standard deviation of the logits on flat ground, far from its edge, divided by that of
        the logits of `pixels`.
    """
    geometry = network_geometry(module, pixels.shape[1])
    halo, multiple = geometry.halo_px or 8 * geometry.multiple_px, geometry.multiple_px
    size = 2 * halo + 4 * multiple
    inner = slice(halo, halo + 4 * multiple)
    spread = []
    with torch.inference_mode():
        for level in LEVELS:
            flat = torch.full((1, pixels.shape[1], size, size), level)
            spread.append(module(flat)[:, :, inner, inner].std(dim=(2, 3)).mean().item())
        real = module(pixels).std(dim=(0, 2, 3)).mean().item()
    return float(sum(spread) / len(spread) / real)
