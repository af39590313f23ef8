"""The training loop, to be read from top to bottom.

Muon or AdamW, a warm-up and a cosine, clipped gradients, averaged weights. Everything random in a
step comes from the recipe's seed and the number of the step, and a checkpoint holds everything
else, so a job that was killed goes on as if it had not been: the same bits on the same machine.

Files in the output folder: `checkpoint.pt` (tensors only, read without unpickling objects) with
every validation, every two minutes and when the job is interrupted; `log.csv` with one row for each
validation, `curves.png`, `samples.png`, and at the end `<name>.safetensors`, the averaged weights
with their spec. All appear whole.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from tilingseg.atomic import make_folder
from tilingseg.errors import TrainingError
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import build_network, save_model
from tilingseg.model.normalize import normalize
from tilingseg.training.batches import draw_ahead, lost_workers_told, workers_for
from tilingseg.training.checkpoint import (
    CHECKPOINT,
    State,
    load_checkpoint,
    meaning,
    save_checkpoint,
)
from tilingseg.training.failures import failures_told
from tilingseg.training.group import join_group
from tilingseg.training.interrupt import Interrupts
from tilingseg.training.journal import LOG, Journal, draw_samples
from tilingseg.training.leaks import refuse_leaks
from tilingseg.training.losses import known_weights, segmentation_loss
from tilingseg.training.optimizer import make_optimizer
from tilingseg.training.origins import spec_with_origins
from tilingseg.training.samples import unit_scaling
from tilingseg.training.sources import (
    load_sources,
    refuse_absent_classes,
    refuse_without_background,
)
from tilingseg.training.start import starting_weights
from tilingseg.training.validate import Score, best_thresholds, score_notes, validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from tilingseg.model.spec import ModelSpec
    from tilingseg.training.group import Group
    from tilingseg.training.recipe import Schedule, TrainingRecipe
    from tilingseg.training.samples import Batch
    from tilingseg.training.sources import LabelledRaster

__all__ = ["CHECKPOINT", "LOG", "learning_rate", "train"]

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short text."""

_SAVE_EVERY_S = 120.0
"""So much work is lost when the process dies; writing the state takes a second."""
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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
        TrainingError: the data are unusable, `out` holds another job, the loss is not finite,
            memory is short, or a process that cuts windows is gone.
        OutputError: `out` cannot be written, or the disk is full; the last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint of the last step is there.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise TrainingError(f"{out} holds a training job; resume it or choose another folder")
    make_folder(out)
    if threads is not None:
        torch.set_num_threads(threads)
    spec = spec_with_origins(recipe, data)
    training = load_sources(recipe, data, "train")
    held_out = load_sources(recipe, data, "validation")
    refuse_absent_classes(recipe, training)
    refuse_without_background(recipe, training, held_out)
    refuse_leaks(training, held_out)
    refuse_leaks((*training, *held_out), load_sources(recipe, data, "test"))
    group = join_group()
    try:
        workers = workers_for(group, threads)
        with lost_workers_told():
            return _train(recipe, spec, (training, held_out), out, (group, workers), progress)
    finally:
        group.leave()


def _train(
    recipe: TrainingRecipe,
    spec: ModelSpec,
    rasters: tuple[tuple[LabelledRaster, ...], tuple[LabelledRaster, ...]],
    out: Path,
    processes: tuple[Group, int],
    progress: Progress | None,
) -> Path:
    schedule = recipe.schedule
    (training, held_out), (group, workers) = rasters, processes
    torch.manual_seed(recipe.seed)
    state = _fresh_state(recipe, spec, group)
    if (out / CHECKPOINT).exists():
        _go_on(state, out, schedule)
    network = group.joined(state.module)
    journal = Journal(out, board=schedule.tensorboard and group.first, step=state.step)

    scores = tuple[Score, ...]()
    saved = time.monotonic()
    started = saved - (state.rows[-1]["seconds"] if state.rows else 0.0)
    ahead = draw_ahead(training, recipe, group, state.step, workers)
    with closing(ahead) as batches, Interrupts() as interrupts:
        while state.step < schedule.steps and not group.agreed(_is_over(state, schedule)):
            if group.agreed(interrupts.asked):
                if group.first:
                    save_checkpoint(out / CHECKPOINT, state)
                raise KeyboardInterrupt
            rate = learning_rate(state.step, schedule)
            drawn = islice(batches, schedule.accumulate)
            with failures_told(state.step, recipe):
                loss = _update(network, state, drawn, (recipe, spec, rate), group)
            _average(state.averaged, state.module, state.step, schedule.ema_decay)
            state.losses.append(loss)
            state.step += 1
            if not group.first:
                continue
            journal.step(state.step, loss, rate)
            if progress is not None:
                mean = sum(state.losses[-50:]) / len(state.losses[-50:])
                progress(state.step, schedule.steps, f"loss {mean:.3f}")
            if state.step % schedule.validate_every == 0 or state.step == schedule.steps:
                scores, samples = _measure(recipe, spec, state.averaged, held_out)
                _take_note(state, scores, recipe, time.monotonic() - started)
                save_checkpoint(out / CHECKPOINT, state)
                journal.validation(state.rows, samples)
                saved = time.monotonic()
            elif time.monotonic() - saved > _SAVE_EVERY_S:
                save_checkpoint(out / CHECKPOINT, state)
                saved = time.monotonic()
    journal.close()
    path = out / f"{recipe.name}.safetensors"
    if group.first:
        if state.best:
            state.averaged = state.best["weights"]
        if state.best or not scores:
            scores, _ = _measure(recipe, spec, state.averaged, held_out)
        _write_model(path, spec, state.averaged, scores)
    return path


def _fresh_state(recipe: TrainingRecipe, spec: ModelSpec, group: Group) -> State:
    fresh = build_network(spec)
    if recipe.start is not None:
        fresh.load_state_dict(starting_weights(recipe.start, spec))
    module = _channels_last(fresh.to(group.device))
    scaled = recipe.schedule.precision == "float16"
    return State(
        module=module,
        optimizer=make_optimizer(module, recipe.schedule),
        scaler=torch.amp.GradScaler(group.device.type, enabled=scaled),
        averaged={name: tensor.clone() for name, tensor in module.state_dict().items()},
        made_for=meaning(spec),
    )


def _go_on(state: State, out: Path, schedule: Schedule) -> None:
    """Bring a fresh state to where the job in a folder stood."""
    load_checkpoint(out / CHECKPOINT, state)
    if state.step > schedule.steps:
        raise TrainingError(
            f"{out} is at step {state.step}, the recipe ends at {schedule.steps}: "
            "give it more steps or choose another folder"
        )
    if not schedule.patience:
        state.best = {}  # of an early stop that is no longer asked for


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the rate of one step: a linear rise, then a cosine down to a hundredth."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return schedule.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def _update(
    network: nn.Module,
    state: State,
    batches: Iterator[Batch],
    at: tuple[TrainingRecipe, ModelSpec, float],
    group: Group,
) -> float:
    """Take one step and return its loss, that of all processes."""
    recipe, spec, rate = at
    schedule, device = recipe.schedule, next(network.parameters()).device
    # Dropout draws from the global generator: tie it to the step.
    torch.manual_seed(recipe.seed * 1_000_003 + state.step)
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = rate
    network.train()
    state.optimizer.zero_grad()
    total = 0.0
    for batch, shares in _with_shares(tuple(batches), recipe, group):
        pixels = normalize(batch.pixels, batch.valid, unit_scaling(len(spec.bands)), spec)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        half = _HALF.get(schedule.precision)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            logits = network(pixels)
        loss = segmentation_loss(logits, batch.labels, recipe.loss, batch.borders, shares)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {state.step}; lower the learning rate "
                "(the last checkpoint is kept)"
            )
        torch.autograd.backward(state.scaler.scale(loss))
        total += loss.item()
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.module.parameters(), schedule.clip_norm)
    # With float16 the scaler skips such a step; else it would spoil the weights of a checkpoint.
    if not (torch.isfinite(norm) or state.scaler.is_enabled()):
        raise TrainingError(
            f"the gradient is {norm.item()} at step {state.step}; lower the learning rate "
            "(the last checkpoint is kept)"
        )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return group.mean(total)


def _with_shares(
    batches: tuple[Batch, ...], recipe: TrainingRecipe, group: Group
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yield each batch of a step with its share of all that the step's labels say.

    Shares are times the number of processes, since gradients are averaged over those.
    """
    said = [known_weights(batch.labels, recipe.loss, batch.borders) for batch in batches]
    in_all = group.summed(torch.stack(said).sum(dim=0)).clamp(min=1e-6)
    for batch, mine in zip(batches, said, strict=True):
        yield batch, mine / in_all * group.size


def _average(averaged: dict[str, torch.Tensor], module: nn.Module, step: int, decay: float) -> None:
    # Early on the average would remember the random start; shorten its memory there.
    kept = min(decay, (1 + step) / (10 + step))
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - kept)
        else:
            averaged[name].copy_(tensor)


def _measure(
    recipe: TrainingRecipe,
    spec: ModelSpec,
    weights: dict[str, torch.Tensor],
    rasters: tuple[LabelledRaster, ...],
) -> tuple[tuple[Score, ...], Image.Image | None]:
    """Return the scores of held-out rasters, and a picture of some of them."""
    module = build_network(spec)
    module.load_state_dict(weights)
    module.eval()
    geometry = network_geometry(module, len(spec.bands))
    device = next(iter(weights.values())).device
    module = _channels_last(module.to(device))
    scores = validate(module, geometry, spec, rasters)
    return scores, draw_samples(module, spec, rasters, recipe.pixel_m)


def _channels_last(module: nn.Module) -> nn.Module:
    # The layout that convolutions are fast in: seven times faster on a processor in float32.
    return convert_conv2d_weight_memory_format(module, torch.channels_last)


def _take_note(
    state: State, scores: tuple[Score, ...], recipe: TrainingRecipe, seconds: float
) -> None:
    """Add a validation to the log."""
    spec, schedule = recipe.spec(), recipe.schedule
    row = {"step": state.step, "seconds": round(seconds, 1)}
    row |= {"learning_rate": learning_rate(state.step - 1, schedule)}
    row |= {"loss": sum(state.losses) / len(state.losses)}
    state.rows.append(row | _columns(scores, spec))
    state.losses.clear()
    _keep_best(state, scores, spec, schedule)


def _columns(scores: tuple[Score, ...], spec: ModelSpec) -> dict[str, float]:
    thresholds = dict(zip(spec.classes, best_thresholds(scores, spec.classes), strict=True))
    columns = {f"threshold {name}": value for name, value in thresholds.items()}
    for score in scores:
        name = f"iou {score.class_name} {score.source}"
        columns[name] = round(score.iou_at(thresholds[score.class_name]), 4)
    return columns


def _keep_best(
    state: State, scores: tuple[Score, ...], spec: ModelSpec, schedule: Schedule
) -> None:
    """With early stop, remember the weights of the best validation."""
    values = [v for k, v in _columns(scores, spec).items() if k.startswith("iou ")]
    if not schedule.patience or not values:
        return
    score = sum(values) / len(values)
    if not state.best or score > state.best["score"]:
        weights = {name: tensor.clone() for name, tensor in state.averaged.items()}
        state.best = {"score": score, "step": state.step, "weights": weights}


def _is_over(state: State, schedule: Schedule) -> bool:
    """Whether the last validations were all worse than the best one."""
    if not schedule.patience or not state.best:
        return False
    worse: int = sum(row["step"] > state.best["step"] for row in state.rows)
    return worse >= schedule.patience


def _write_model(
    path: Path,
    spec: ModelSpec,
    averaged: dict[str, torch.Tensor],
    scores: tuple[Score, ...],
) -> None:
    thresholds = best_thresholds(scores, spec.classes)
    limits = dict(zip(spec.classes, thresholds, strict=True))
    notes = (*score_notes(scores, limits), *spec.notes)
    module = build_network(spec)
    module.load_state_dict(averaged)
    final = dataclasses.replace(spec, thresholds=thresholds, notes=notes)
    save_model(path, module, final, weights="float16")
