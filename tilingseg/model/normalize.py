"""From stored values to what a network was trained on: one function for training and inference.

Two copies of these five lines drift apart, and a network that is fed differently from its training
gives worse masks without an error. So this is the only place where pixels become network input. It
works on batches in torch, on whatever device they are, since moving uint8 there costs a quarter of
moving float32. How stored values map to 0…1 is decided once a scene, elsewhere (`Scaling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tilingseg.errors import ModelError

if TYPE_CHECKING:
    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scaling


_STRIP = 32_000
"""Values that are worked on at once on a processor: few enough for one thread and its cache."""


def normalize(
    pixels: torch.Tensor, valid: torch.Tensor, scaling: Scaling, spec: ModelSpec
) -> torch.Tensor:
    """Scale stored values to 0…1, clip, subtract the mean, divide by the deviation.

    Clipping keeps a glint or a saturated sensor within the range that the network has seen.
    Invalid pixels become 0 afterwards, which is the mean of the training data and the value that
    the network's own padding has.

    Args:
        pixels: (n, bands, height, width), any stored dtype; undefined where not valid, NaN too.
        valid: bool (n, height, width), True = every band holds data.
        scaling: stored values that become 0 and 1, per band.
        spec: mean and deviation, per band.

    Returns:
        float32 (n, bands, height, width) on the device of `pixels`.

    Raises:
        ModelError: the number of bands differs, or a band's scaling spans no values.
    """
    n_bands = pixels.shape[1]
    if not n_bands == len(spec.bands) == len(scaling.low) == len(scaling.high):
        raise ModelError(
            f"the pixels have {n_bands} bands and their scaling {len(scaling.low)}; "
            f"model {spec.name!r} needs {len(spec.bands)}: {', '.join(spec.bands)}"
        )
    if not all(low < high for low, high in zip(scaling.low, scaling.high, strict=True)):
        raise ModelError(
            f"values cannot be scaled from {scaling.low} to {scaling.high}: "
            "every band's high value must be above its low one"
        )
    low, high, mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (scaling.low, scaling.high, spec.mean, spec.std)
    )
    on_cpu = pixels.device.type == "cpu"
    span, normalized = high - low, torch.empty(pixels.shape, device=pixels.device)
    # On a processor, a few rows at a time stay in its cache through all steps.
    n_rows = max(1, _STRIP * pixels.shape[2] // pixels.numel()) if on_cpu else pixels.shape[2]
    for row in range(0, pixels.shape[2], n_rows):
        strip = normalized[:, :, row : row + n_rows]
        strip.copy_(pixels[:, :, row : row + n_rows])
        strip.sub_(low).div_(span).clamp_(0, 1).sub_(mean).div_(std)
    if on_cpu and valid.all():
        return normalized
    return normalized.masked_fill_(~valid.unsqueeze(1), 0)
