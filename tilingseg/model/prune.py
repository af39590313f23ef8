"""Structured pruning: a U-Net with fewer channels, made of the ones that matter most.

Whole channels are taken out, so what is left is a plain U-Net of other widths: smaller and faster
everywhere, without sparse kernels. The measure of a channel is the norm of its kernel after the
normalisation behind it (Li et al., *Pruning Filters for Efficient ConvNets*, 2017). The lower half
of the levels gives: it holds nearly all weights, while the upper levels carry the detail.

What is left has to be fine-tuned; that is the training loop's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from tilingseg.errors import ModelError
from tilingseg.model.unet import UNet

_MULTIPLE = 8
"""Widths that are made smaller are multiples of this: what vector instructions take at once."""


def narrower(features: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Return the widths of a U-Net with at least a share of the weights removed.

    Args:
        features: channels at each level.
        share: of the weights, 0…1.

    Raises:
        ModelError: so many weights cannot be removed.
    """
    whole, upper = _weights(features), len(features) // 2
    for width in range(features[-1], 0, -_MULTIPLE):
        factor = width / features[-1]
        lower = tuple(min(feature, _rounded(factor * feature)) for feature in features[upper:])
        if _weights(chosen := (*features[:upper], *lower)) <= (1 - share) * whole:
            return chosen
    raise ModelError(f"{share:.0%} of the weights of a U-Net of {features} cannot be removed")


def prune(network: nn.Module, features: tuple[int, ...]) -> UNet:
    """Return a U-Net of the most important channels of another one.

    Args:
        network: the U-Net, its normalisations not folded.
        features: channels at each level; none wider than it is.

    Raises:
        ModelError: it is no U-Net.
    """
    if not isinstance(network, UNet):
        raise ModelError(f"only U-Nets can be pruned, this is a {type(network).__name__}")
    n_bands = _convolution(network.encoder[0], 0).in_channels // network.options.fold_px**2
    n_outputs = network.head.out_channels // network.options.fold_px**2
    made = UNet(n_bands, n_outputs, replace(network.options, features=features))
    with torch.no_grad():
        kept = torch.arange(_convolution(network.encoder[0], 0).in_channels)
        skips = []
        for old, new in zip(network.encoder, made.encoder, strict=True):
            kept = _narrow_block(old, new, kept)
            skips.append((kept, _convolution(old, 3).out_channels))
        kept = _narrow_block(network.bottom, made.bottom, kept)
        ups = zip(network.upsamplers, made.upsamplers, strict=True)
        blocks = zip(network.decoder, made.decoder, strict=True)
        for (old_up, new_up), (old, new) in zip(ups, blocks, strict=True):
            raised = _narrow_upsampler(old_up, new_up, kept)
            skip, width = skips.pop()
            kept = _narrow_block(old, new, torch.cat((skip, raised + width)))
        made.head.weight.copy_(network.head.weight[:, kept])
        assert made.head.bias is not None
        made.head.bias.copy_(cast("Tensor", network.head.bias))
    return made.train(network.training)


def _weights(features: tuple[int, ...]) -> int:
    """Count the kernels of a U-Net but for its first and last layer."""
    count, below = 0, 2 * features[-1]
    for above, width in zip((features[0], *features), features, strict=False):
        count += 9 * width * (above + width) + 9 * width * 3 * width
    for width in reversed(features):
        count += 4 * below * width
        below = width
    return count + 9 * 2 * features[-1] * 3 * features[-1]


def _rounded(width: float) -> int:
    return max(_MULTIPLE, round(width / _MULTIPLE) * _MULTIPLE)


def _convolution(block: nn.Module, index: int) -> nn.Conv2d:
    return cast("nn.Conv2d", cast("nn.Sequential", block)[index])


def _narrow_block(old: nn.Module, new: nn.Module, kept: Tensor) -> Tensor:
    """Fill both convolutions of a block and return the outputs that were kept."""
    for index in (0, 3):
        source, target = _convolution(old, index), _convolution(new, index)
        norms = [cast("nn.BatchNorm2d", cast("nn.Sequential", it)[index + 1]) for it in (old, new)]
        kernel = source.weight[:, kept]
        scale = norms[0].weight / (cast("Tensor", norms[0].running_var) + norms[0].eps).sqrt()
        chosen = _largest(kernel.flatten(1).norm(dim=1) * scale.abs(), target.out_channels)
        target.weight.copy_(kernel[chosen])
        for name, tensor in norms[1].state_dict().items():
            whole = norms[0].state_dict()[name]
            tensor.copy_(whole[chosen] if whole.ndim else whole)
        kept = chosen
    return kept


def _narrow_upsampler(old: nn.Module, new: nn.Module, kept: Tensor) -> Tensor:
    turned = isinstance(old, nn.ConvTranspose2d)  # its kernels have the inputs first
    source, target = (cast("nn.Conv2d", it) if turned else _convolution(it, 0) for it in (old, new))
    weight = source.weight.transpose(0, 1) if turned else source.weight
    kernel = weight[:, kept]
    chosen = _largest(kernel.flatten(1).norm(dim=1), len(cast("Tensor", target.bias)))
    target.weight.copy_(kernel[chosen].transpose(0, 1) if turned else kernel[chosen])
    cast("Tensor", target.bias).copy_(cast("Tensor", source.bias)[chosen])
    return chosen


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Return the positions of the largest values, in their order."""
    return sizes.topk(count).indices.sort().values
