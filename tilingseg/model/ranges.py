"""The ranges that the values of a network's layers have on real windows: what int8 rounds within.

The range of a layer is not from its least to its largest value: a few outliers would make every
step coarse. It is the one with the least squared error of rounding on a sample of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tilingseg.model.graph import PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tilingseg.model.quantize import Ranges
    from tilingseg.model.spec import ModelSpec

_SAMPLES = 20_000
"""Values of a layer that are kept from one batch."""
_SHARES = np.linspace(0.3, 1, 36)
"""Parts of the whole range that are compared."""
_STEPS = 255


def observe_ranges(module: nn.Module, spec: ModelSpec, batches: Iterable[torch.Tensor]) -> Ranges:
    """Run a network on windows and find the range of every layer's output.

    Args:
        module: the network, in evaluation mode.
        spec: its normalisation, from which the range of the input follows.
        batches: float32 (n, bands, height, width), normalised.

    Returns:
        (low, high) by the name of the layer's weight, before any activation, and of `PIXELS`.
    """
    seen: dict[str, list[NDArray[np.float32]]] = {}

    def watch(name: str) -> Any:
        def keep(_layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            values = output.detach().float().flatten()
            step = max(1, len(values) // _SAMPLES)
            seen.setdefault(name, []).append(values[::step].cpu().numpy())

        return keep

    hooks = [
        layer.register_forward_hook(watch(f"{name}.weight"))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    try:
        with torch.inference_mode():
            for batch in batches:
                module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    ranges = {name: best_range(np.concatenate(values)) for name, values in seen.items()}
    ends = [
        ((value - mean) / std)
        for mean, std in zip(spec.mean, spec.std, strict=True)
        for value in (0.0, 1.0)
    ]
    return ranges | {PIXELS: (min(ends), max(ends))}


def best_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the range around 0 in which 255 steps round a sample with the least squared error.

    Args:
        values: float32 (n,).
    """
    ends = []
    for side in (np.minimum(values, 0), np.maximum(values, 0)):
        far = float(np.abs(side).max())
        errors = [_error(np.abs(side), share * far) for share in _SHARES] if far else [0.0]
        ends.append(far * float(_SHARES[int(np.argmin(errors))]))
    return -ends[0], ends[1]


def _error(sizes: NDArray[np.float32], limit: float) -> float:
    """Return the mean squared error of rounding sizes to steps from 0 to a limit."""
    step = limit / _STEPS
    rounded = np.rint(np.minimum(sizes, limit) / step) * step
    return float(np.square(sizes - rounded).mean())
