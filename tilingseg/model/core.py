"""The core of a tile without the halo's share of the work: the decoder runs where it is needed.

A U-Net needs its halo at the bottom, where few pixels are left. On the way up every level needs
less of it: two pixels for its two convolutions and half of what the level above asks for. So the
encoder sees the whole tile, each decoder level only the core and those few pixels, and the values
are the same. The decoder does most of the work: halos get cheap, and tiles may be small.

Other networks, and U-Nets with `valid` convolutions, are run whole and cut afterwards.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from tilingseg.model.unet import UNet

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONV_REACH = 2
"""Pixels on each side that two 3×3 convolutions look at."""


class _Need(NamedTuple):
    """What one decoder level computes along one axis, positions of its map."""

    start: int
    stop: int
    output_start: int
    """Below `start`: what the level above takes of it."""
    output_stop: int


def core_logits(module: nn.Module, pixels: Tensor, core: tuple[slice, slice]) -> Tensor:
    """Return the logits of a part of each tile of a batch.

    Args:
        module: the network, in evaluation mode.
        pixels: float (n, bands, height, width), normalised.
        core: (rows, columns) of the part, the same for all tiles.

    Returns:
        float (n, outputs, core height, core width): what `module(pixels)` has there.
    """
    height, width = pixels.shape[2:]
    rows, cols = core[0].indices(height)[:2], core[1].indices(width)[:2]
    whole = rows == (0, height) and cols == (0, width)
    if whole or not _can_be_cut(module):
        logits: Tensor = module(pixels)
        return logits[:, :, core[0], core[1]]
    network = cast("UNet", module)
    fits = height % network.multiple_px == width % network.multiple_px == 0
    # to add nothing would be a copy
    x = network.fold(pixels) if fits else network.fitted(pixels)
    x = x.contiguous(memory_format=torch.channels_last)
    del pixels  # here and below a name would keep a map alive that nobody needs any more
    by_row = _needs(network, rows, x.shape[2])
    by_col = _needs(network, cols, x.shape[3])
    skips = []
    for block, row, col in zip(network.encoder, by_row, by_col, strict=False):
        x = block(x)
        skips.append(_skip(x, row, col))
        x = network.pool(x)
    x = network.bottom(x)
    row, col = by_row[-1], by_col[-1]
    x = x[:, :, row.start : row.stop, col.start : col.stop]
    levels = reversed(list(zip(pairwise(by_row), pairwise(by_col), strict=True)))
    for upsample, block, (rows_of, cols_of) in zip(
        network.upsamplers, network.decoder, levels, strict=True
    ):
        # what is raised begins at twice the first position of the level below
        top, left = (own.start - 2 * below.output_start for own, below in (rows_of, cols_of))
        row, col = rows_of[0], cols_of[0]
        x = block(_joined(skips.pop(), upsample(x), top, left))[
            :, :, _cut(row.start, row.output_start, row.output_stop),
            _cut(col.start, col.output_start, col.output_stop),
        ]  # fmt: skip
    logits = network.unfold(network.head(x))
    scale = logits.shape[2] // x.shape[2]
    return logits[
        :,
        :,
        _cut(by_row[0].output_start * scale, *rows),
        _cut(by_col[0].output_start * scale, *cols),
    ]


def core_share(module: nn.Module) -> float:
    """Return the share of a forward pass that `core_logits` does for the core alone, 0…1.

    Counted in multiplications; pointwise layers follow the convolutions beside them.
    """
    if not _can_be_cut(module):
        return 0.0
    network = cast("UNet", module)
    depth = len(network.encoder)
    whole: float = sum(_work(block) / 4**level for level, block in enumerate(network.encoder))
    whole += _work(network.bottom) / 4**depth
    cut: float = _work(network.head)
    for level, (up, block) in enumerate(
        zip(reversed(network.upsamplers), reversed(network.decoder), strict=True)
    ):
        # Per position of the level below: a 2×2 kernel makes four of its own level from it.
        cut += _work(up) / 4 ** (level + 1) + _work(block) / 4**level
    return cut / (cut + whole)


def _can_be_cut(module: nn.Module) -> bool:
    return isinstance(module, UNet) and module.options.convolution == "padded"


def _skip(x: Tensor, row: _Need, col: _Need) -> Tensor:
    """Return what the decoder needs of a map, with as many channels again that are still empty.

    Its other half is filled later: putting both together then would take the room of a third.
    """
    shape = (len(x), 2 * x.shape[1], row.stop - row.start, col.stop - col.start)
    both = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    both[:, : x.shape[1]] = x[:, :, row.start : row.stop, col.start : col.stop]
    return both


def _joined(both: Tensor, raised: Tensor, top: int, left: int) -> Tensor:
    """Fill the empty channels of a skip with what was raised, from a position of that on."""
    n_skip = both.shape[1] - raised.shape[1]
    both[:, n_skip:] = raised[:, :, top : top + both.shape[2], left : left + both.shape[3]]
    return both


def _needs(network: UNet, core: tuple[int, int], size: int) -> list[_Need]:
    """Return what each level computes along one axis, full resolution first, the bottom last.

    Args:
        network: says how levels are joined.
        core: first pixel and the one after the last.
        size: positions of the first map, after folding.
    """
    fold = network.options.fold_px
    beyond = int(network.options.upsampling == "bilinear")
    start, stop = core[0] // fold, -(-core[1] // fold)
    needs = []
    for _ in network.encoder:
        first, last = max(0, start - _CONV_REACH), min(size, stop + _CONV_REACH)
        needs.append(_Need(first, last, start, stop))
        size //= 2
        start, stop = max(0, first // 2 - beyond), min(size, -(-last // 2) + beyond)
    needs.append(_Need(start, stop, start, stop))
    return needs


def _cut(origin: int, start: int, stop: int) -> slice:
    """Return positions start…stop of something that begins at `origin`."""
    return slice(start - origin, stop - origin)


def _work(module: nn.Module) -> int:
    return sum(weight.numel() for weight in _kernels(module))


def _kernels(module: nn.Module) -> Iterator[Tensor]:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            yield layer.weight
