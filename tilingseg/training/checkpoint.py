"""Where a training job stands, in one file: everything that the next step depends on.

Tensors and numbers only, so that it is read without running code from the file. It appears whole:
when the disk is full, or the job dies while it writes, the one before stays.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from tilingseg.atomic import whole
from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from tilingseg.model.spec import ModelSpec

CHECKPOINT = "checkpoint.pt"
_OF_OTHERS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What comes of a file with another content."""


@dataclass(slots=True, kw_only=True)
class State:
    """What changes from step to step."""

    module: nn.Module
    """The network."""
    optimizer: torch.optim.Optimizer
    """Holds the moments of the gradients."""
    scaler: torch.amp.GradScaler
    """Keeps float16 gradients above what float16 cannot hold; idle in other precisions."""
    averaged: dict[str, Tensor]
    """The moving average of the weights, which becomes the model."""
    made_for: dict[str, str]
    """What the weights mean, as from `meaning`."""
    step: int = 0
    """Updates done."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The log: one row for each validation."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last validation."""
    best: dict[str, Any] = field(default_factory=dict)
    """`score`, `step` and averaged `weights` of the best validation; empty without early stop."""


def meaning(spec: ModelSpec) -> dict[str, str]:
    """Return what has to stay the same for weights to mean the same, as text by key.

    Shapes alone would let a job go on with its classes swapped or another up-sampling.
    """
    keys = ("classes", "bands", "gsd_m", "mean", "std", "activation", "network")
    of_network = dict(spec.network_options)
    of_network.pop("checkpointing", None)  # memory, not numbers
    return {
        **{key: str(getattr(spec, key)) for key in keys},
        **{f"network.{key}": str(value) for key, value in of_network.items()},
    }


def save_checkpoint(path: Path, state: State) -> None:
    """Write the state; the file before it stays until this one is whole.

    Raises:
        TrainingError: the weights are spoilt.
        OutputError: the disk is full or cannot be written.
    """
    if not all(tensor.isfinite().all() for tensor in state.module.state_dict().values()):
        raise TrainingError(
            f"weights are not finite after step {state.step}; lower the learning rate "
            "(the last checkpoint is kept)"
        )
    content = {
        "step": state.step,
        "weights": state.module.state_dict(),
        "averaged": state.averaged,
        "optimizer": state.optimizer.state_dict(),
        "rows": state.rows,
        "losses": state.losses,
        "scaler": state.scaler.state_dict(),
        "best": state.best,
        "made_for": state.made_for,
    }
    # Through memory: torch turns a full disk into an error without a reason.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with whole(path) as part:
        part.write_bytes(buffer.getvalue())


def load_checkpoint(path: Path, state: State) -> None:
    """Bring a fresh state to where a job stood.

    Raises:
        TrainingError: the file is no checkpoint, or one of another network.
    """
    device = next(iter(state.averaged.values())).device
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (*_OF_OTHERS, EOFError, UnpicklingError) as error:
        raise TrainingError(
            f"{path} is damaged or no checkpoint: begin anew in another folder"
        ) from error
    try:
        _refuse_other(content.get("made_for", state.made_for), state.made_for)
        state.module.load_state_dict(content["weights"])
        state.optimizer.load_state_dict(content["optimizer"])
        for name, tensor in state.averaged.items():
            tensor.copy_(content["averaged"][name])
        state.step, state.rows = content["step"], content["rows"]
        state.losses = content.get("losses", [])
        state.best = content.get("best", {})
        if scaler := content.get("scaler"):
            state.scaler.load_state_dict(scaler)
    except _OF_OTHERS as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"{path} does not continue this recipe: {reason}") from error


def _refuse_other(stored: dict[str, str], wanted: dict[str, str]) -> None:
    for key, value in wanted.items():
        if stored.get(key) != value:
            raise ValueError(f"its {key} is {stored.get(key)}, the recipe's {value}")
