"""The training loop, to be read from top to bottom.

AdamW, a warm-up and a cosine, clipped gradients, averaged weights. Everything random in a step
comes from the recipe's seed and the number of the step, and a checkpoint holds everything else, so
a job that was killed goes on as if it had not been: the same bits on the same machine.

Files in the output folder: `checkpoint.pt` (tensors only, read without unpickling objects),
`log.csv` with one row for each validation, and at the end `<name>.safetensors`, the averaged
weights with their spec. All appear whole.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from tilingseg.errors import TrainingError
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import build_network, save_model
from tilingseg.model.normalize import normalize
from tilingseg.training.losses import segmentation_loss
from tilingseg.training.samples import draw_batch, unit_scaling
from tilingseg.training.sources import load_sources
from tilingseg.training.validate import Score, best_thresholds, validate

if TYPE_CHECKING:
    from pathlib import Path

    from tilingseg.model.spec import ModelSpec
    from tilingseg.training.recipe import Schedule, TrainingRecipe
    from tilingseg.training.samples import Batch
    from tilingseg.training.sources import LabelledRaster

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short text."""


def train(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a model and write it.

    Args:
        recipe: what to do.
        data: folder that the recipe's paths are relative to.
        out: folder for the results; created.
        resume: go on from the checkpoint in `out`; without one, start.
        threads: processor threads; None: as many as torch takes.
        progress: told after every step.

    Returns:
        Path of the model file.

    Raises:
        TrainingError: the data are unusable, `out` holds another job, or the loss is not finite.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise TrainingError(f"{out} holds a training job; resume it or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if threads is not None:
        torch.set_num_threads(threads)
    training = load_sources(recipe, data, "train")
    held_out = load_sources(recipe, data, "validation")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = recipe.spec()
    torch.manual_seed(recipe.seed)
    module = _channels_last(build_network(spec).to(device))
    optimizer = _optimizer(module, recipe.schedule)
    averaged = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    step, rows = 0, list[dict[str, Any]]()
    if resume and (out / CHECKPOINT).exists():
        step, rows = _load_checkpoint(out / CHECKPOINT, module, optimizer, averaged)

    steps, scores = recipe.schedule.steps, tuple[Score, ...]()
    losses: list[float] = []
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting = ahead.submit(draw_batch, training, recipe, step)
        while step < steps:
            batch = waiting.result()
            waiting = ahead.submit(draw_batch, training, recipe, step + 1)
            rate = learning_rate(step, recipe.schedule)
            loss = _update(module, optimizer, batch, (recipe, spec, step, rate))
            _average(averaged, module, step, recipe.schedule.ema_decay)
            losses.append(loss)
            step += 1
            if progress is not None:
                progress(step, steps, f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}")
            if step % recipe.schedule.validate_every == 0 or step == steps:
                scores = _measure(spec, averaged, held_out)
                row = {"step": step, "seconds": round(time.monotonic() - started, 1)}
                row |= {"learning_rate": rate, "loss": sum(losses) / len(losses)}
                rows.append(row | _columns(scores, spec))
                losses.clear()
                _save_checkpoint(out / CHECKPOINT, module, optimizer, averaged, step, rows)
                _save_log(out / LOG, rows)
    if not scores:
        scores = _measure(spec, averaged, held_out)
    return _finish(out, recipe, spec, averaged, scores)


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the rate of one step: a linear rise, then a cosine down to a hundredth."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return schedule.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    # Decay on biases and on normalisation would pull them towards 0 for no reason.
    kernels = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def _update(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    at: tuple[TrainingRecipe, ModelSpec, int, float],
) -> float:
    """Take one step and return its loss."""
    recipe, spec, step, rate = at
    device = next(module.parameters()).device
    # Dropout draws from the global generator: tie it to the step.
    torch.manual_seed(recipe.seed * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    pixels = normalize(
        batch.pixels.to(device), batch.valid.to(device), unit_scaling(len(spec.bands)), spec
    )
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    module.train()
    half = recipe.schedule.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = module(pixels)
    loss = segmentation_loss(logits, batch.labels.to(device), recipe.loss)
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(module.parameters(), recipe.schedule.clip_norm)
    optimizer.step()
    return loss.item()


def _average(averaged: dict[str, torch.Tensor], module: nn.Module, step: int, decay: float) -> None:
    # Early on the average would remember the random start; shorten its memory there.
    kept = min(decay, (1 + step) / (10 + step))
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - kept)
        else:
            averaged[name].copy_(tensor)


def _measure(
    spec: ModelSpec, weights: dict[str, torch.Tensor], rasters: tuple[LabelledRaster, ...]
) -> tuple[Score, ...]:
    module = build_network(spec)
    module.load_state_dict(weights)
    module.eval()
    geometry = network_geometry(module, len(spec.bands))
    device = next(iter(weights.values())).device
    return validate(_channels_last(module.to(device)), geometry, spec, rasters)


def _channels_last(module: nn.Module) -> nn.Module:
    # The layout that convolutions are fast in: seven times faster on a processor in float32.
    return convert_conv2d_weight_memory_format(module, torch.channels_last)


def _columns(scores: tuple[Score, ...], spec: ModelSpec) -> dict[str, float]:
    thresholds = dict(zip(spec.classes, best_thresholds(scores, spec.classes), strict=True))
    columns = {f"threshold {name}": value for name, value in thresholds.items()}
    for score in scores:
        name = f"iou {score.class_name} {score.source}"
        columns[name] = round(score.iou_at(thresholds[score.class_name]), 4)
    return columns


def _save_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, torch.Tensor],
    step: int,
    rows: list[dict[str, Any]],
) -> None:
    state = {
        "step": step,
        "weights": module.state_dict(),
        "averaged": averaged,
        "optimizer": optimizer.state_dict(),
        "rows": rows,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write_whole(path, buffer.getvalue())


def _load_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, torch.Tensor],
) -> tuple[int, list[dict[str, Any]]]:
    device = next(module.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        module.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        for name, tensor in averaged.items():
            tensor.copy_(state["averaged"][name])
    except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"{path} does not continue this recipe: {reason}") from error
    return state["step"], state["rows"]


def _save_log(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write_whole(path, text.getvalue().encode())


def _finish(
    out: Path,
    recipe: TrainingRecipe,
    spec: ModelSpec,
    averaged: dict[str, torch.Tensor],
    scores: tuple[Score, ...],
) -> Path:
    thresholds = best_thresholds(scores, spec.classes)
    limits = dict(zip(spec.classes, thresholds, strict=True))
    notes = tuple(
        f"IoU of {score.class_name} on held-out {score.source}: "
        f"{score.iou_at(limits[score.class_name]):.3f}"
        for score in scores
        if score.positive.any()
    )
    module = build_network(spec)
    module.load_state_dict(averaged)
    path = out / f"{recipe.name}.safetensors"
    final = dataclasses.replace(spec, thresholds=thresholds, notes=(*notes, *recipe.notes))
    save_model(path, module, final, half=True)
    return path


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
