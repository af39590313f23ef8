"""What ends a training step for want of memory or of pixels, in one line that says what to change.

PyTorch, NumPy and the drivers below them tell both in their own ways, from deep inside a network.
The checkpoint before stays: a job that is made smaller goes on from it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilingseg.training.recipe import TrainingRecipe

_SHORT = "out of memory", "not enough memory", "allocate memory", "unable to allocate", "alloc_fail"
"""What errors of CUDA, cuBLAS, PyTorch's processor allocator and NumPy say, in small letters."""
_ONE_PIXEL = "Expected more than 1 value per channel when training"
"""What batch normalisation says of a map of one pixel in a batch of one."""


@contextmanager
def failures_told(step: int, recipe: TrainingRecipe) -> Iterator[None]:
    """Say in one line that a step does not fit the machine, or its windows the network.

    Args:
        step: that is being done.
        recipe: names the sizes.

    Raises:
        TrainingError: naming the sizes, and what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        schedule = recipe.schedule
        size = f"batch_size {schedule.batch_size} × window_px {schedule.window_px}"
        if _is_short(error):
            checkpoints = ", or checkpointing = true under [network]"
            offered = hasattr(recipe.network, "checkpointing") and not recipe.network.checkpointing
            raise TrainingError(
                f"memory is short at step {step} with {size}: make one of them smaller, with "
                f"accumulate for as many windows in a step{checkpoints if offered else ''}, and go "
                "on with --resume (the last checkpoint is kept)"
            ) from error
        if str(error).startswith(_ONE_PIXEL):
            raise TrainingError(
                f"{size} leaves one pixel at the bottom of the network, and nothing to normalise "
                "by: make one of them larger"
            ) from error
        raise


def _is_short(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # Processes that cut windows hand on what NumPy said as a RuntimeError.
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _SHORT)
