"""A network that gives the same bits each time, with any number of processor threads.

On a GPU, cuDNN may choose its kernels by timing them, and computes float32 with ten bits of
mantissa unless told otherwise: then two runs, or two workers, differ.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

import torch

_LANES = 16
"""Products of more columns than this, but not of whole multiples, are shared among threads in a way
that rounds differently with their number."""


class _Pointwise(torch.nn.Module):
    """A convolution with a kernel of one pixel, as the matrix product that it is."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.n_out = convolution.out_channels
        more = -self.n_out % _LANES if self.n_out > _LANES else 0
        weight, bias = convolution.weight[:, :, 0, 0], convolution.bias
        filled = torch.nn.functional.pad(weight, (0, 0, 0, more))
        self.weight = torch.nn.Parameter(filled, requires_grad=False)
        if bias is not None:
            bias = torch.nn.Parameter(torch.nn.functional.pad(bias, (0, more)), requires_grad=False)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, height, width)."""
        by_pixel = x.permute(0, 2, 3, 1)
        found = torch.nn.functional.linear(by_pixel, self.weight, self.bias)
        return found[..., : self.n_out].contiguous().permute(0, 3, 1, 2)


def steady(module: torch.nn.Module) -> None:
    """Make a network give the same bits with any number of processor threads.

    oneDNN takes other kernels for 1 × 1 convolutions with one thread than with several, and they
    round differently: the workers of a cluster would not give what one process gives.
    """
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Conv2d):
            plain = child.kernel_size == child.stride == (1, 1) and child.groups == 1
            if plain and child.padding in ((0, 0), "valid", "same"):
                setattr(module, name, _Pointwise(child))
        else:
            steady(child)


class SteadyKernels:
    """While any thread is inside, cuDNN takes the same kernels each time, and all of float32."""

    def __init__(self) -> None:
        """Leave the settings alone until somebody enters."""
        self._lock = threading.Lock()
        self._n_inside = 0
        self._settings = ExitStack()

    def __enter__(self) -> None:
        """Change the settings, once for all who are inside."""
        with self._lock:
            if not self._n_inside:
                wanted = torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                )
                self._settings.enter_context(wanted)
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        """Give the settings back that were there before."""
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._settings.close()


STEADY_KERNELS = SteadyKernels()
"""The one for all engines of this process: the settings are those of the process."""
