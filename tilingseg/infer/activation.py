"""From logits to probabilities, with the same bits for any number of processor threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.errors import ModelError

if TYPE_CHECKING:
    import torch

    from tilingseg.model.spec import Activation

_SERIAL = 32_000
"""Values below PyTorch's own bound for handing work to further threads."""


def check_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse logits of another shape than a model's spec promises.

    Raises:
        ModelError: the network gives something else.
    """
    if found != expected:
        raise ModelError(f"the network gives {found} where its spec promises {expected}")


def activate(logits: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Turn logits into the probabilities of the classes.

    The vector instructions of exp round differently from the plain ones that end each thread's
    share. So the sigmoid is taken of pieces that are too small to be shared, and softmax in double
    precision, which hides the difference.

    Args:
        logits: float (n, outputs, height, width); may be overwritten.
        activation: `sigmoid`, or `softmax` with the background first.

    Returns:
        float32 (n, classes, height, width) in 0…1, each channel in one piece.
    """
    on_cpu = logits.device.type == "cpu"
    if activation == "softmax":
        exact = logits.double() if on_cpu else logits.float()
        return exact.softmax(dim=1)[:, 1:].float().contiguous()
    found = logits.float().contiguous()
    if not on_cpu:
        return found.sigmoid_()
    for tile in found.flatten(1):
        for piece in tile.split(_SERIAL):
            piece.sigmoid_()
    return found
