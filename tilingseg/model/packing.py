"""Weights as int8 in a model file: a quarter of float32, half of float16.

Every kernel becomes an int8 tensor under its own name and a float32 tensor of scales under that
name and `SCALE`, one scale for each output channel. All other tensors are few and stay float32.
Normalisation behind a convolution multiplies whole output channels, so folding it in changes the
scales and not the steps: int8 inference computes with exactly the steps of the file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilingseg.model.quantize import quantize_weight

SCALE = ".scale"


def packed(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network with its kernels as int8.

    Args:
        module: the network, on the CPU.
    """
    tensors = {name: tensor.float() for name, tensor in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            kernel = layer.weight.detach().float()
            key = f"{name}.weight"
            tensors[key], tensors[key + SCALE] = _rounded(kernel, isinstance(layer, nn.Conv2d))
    return tensors


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with the kernels of `packed` as float32; others as they are."""
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith(SCALE)}
    return {
        name: tensor.float() * scales[name + SCALE] if name + SCALE in scales else tensor
        for name, tensor in tensors.items()
        if name not in scales
    }


def _rounded(kernel: Tensor, outputs_first: bool) -> tuple[Tensor, Tensor]:
    """Return int8 steps of the kernel's shape and float32 scales that multiply them."""
    if outputs_first:
        steps, scale = quantize_weight(kernel.numpy())
        return torch.from_numpy(steps), torch.from_numpy(scale).reshape(-1, 1, 1, 1)
    # A transposed convolution has its inputs first, and a scale for each pixel of its outputs.
    moved = kernel.permute(1, 2, 3, 0)
    steps, scale = quantize_weight(moved.reshape(-1, len(kernel)).numpy())
    back = torch.from_numpy(steps).reshape(moved.shape).permute(3, 0, 1, 2).contiguous()
    return back, torch.from_numpy(scale).reshape(1, *moved.shape[:3])
