"""From stored values to what a network was trained on: one function for training and inference.

Two copies of these five lines drift apart, and a network that is fed differently from its training
gives worse masks without an error. So this is the only place where pixels become network input. It
works on batches in torch, on whatever device they are, since moving uint8 there costs a quarter of
moving float32. How stored values map to 0…1 is decided once a scene, elsewhere (`Scaling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tilingseg.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scaling


_STRIP = 131_072
"""Values that are worked on at once on a processor: they stay in its cache through all steps, which
are long enough that threads seldom wait for each other between two of them."""


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
    if pixels.device.type == "cpu":
        normalized = torch.from_numpy(_normalized(pixels.numpy(), scaling, spec))
        if valid.numpy().all():
            return normalized
        return normalized.masked_fill_(~valid.unsqueeze(1), 0)
    numbers = torch.tensor((scaling.low, scaling.high, spec.mean, spec.std), dtype=torch.float32)
    # A copy that is waited for would let a GPU run out of work; Apple's reads what is gone by then.
    waits = pixels.device.type != "cuda"
    low, high, mean, std = numbers.to(pixels.device, non_blocking=not waits).view(4, 1, -1, 1, 1)
    scaled = pixels.float().sub_(low).div_(high - low).clamp_(0, 1)
    return scaled.sub_(mean).div_(std).masked_fill_(~valid.unsqueeze(1), 0)


def _normalized(pixels: NDArray[Any], scaling: Scaling, spec: ModelSpec) -> NDArray[np.float32]:
    """Do the same on a processor, a few rows of one band at a time, validity left out.

    NumPy takes half of PyTorch's time for steps so small. Steps that change no value of the stored
    type, such as clipping bytes to 0…255, are left out: the bits are the same.
    """
    normalized = np.empty(pixels.shape, np.float32)
    n_rows = max(1, _STRIP // pixels.shape[3])
    ranges = zip(scaling.low, scaling.high, spec.mean, spec.std, strict=True)
    for index, numbers in enumerate(ranges):
        low, high, mean, std = map(np.float32, numbers)
        clips = pixels.dtype.kind == "f" or not _holds(pixels.dtype, low, high)
        for tile, result in zip(pixels[:, index], normalized[:, index], strict=True):
            for row in range(0, len(tile), n_rows):
                strip = result[row : row + n_rows]
                strip[:] = tile[row : row + n_rows]
                with np.errstate(over="ignore", invalid="ignore"):  # where they are not valid
                    if low:
                        strip -= low
                    strip /= high - low
                    if clips:
                        np.clip(strip, np.float32(0), np.float32(1), out=strip)
                    strip -= mean
                    strip /= std
    return normalized


def _holds(dtype: np.dtype[Any], low: np.float32, high: np.float32) -> bool:
    """Tell whether every value of a type of whole numbers lies within a range."""
    limits = np.iinfo(dtype)
    return bool(low <= limits.min and limits.max <= high)
