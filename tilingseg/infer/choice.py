"""Which engine and which precision a run takes, and why.

`auto` means PyTorch, unless another engine is installed that needs less than `_WORTH_IT` of its
time on a calibration tile and agrees with it: in fp32 to 1e-4 of probability, in bf16 and int8 to
the mean difference that is expected of them. Both are measured here, with the network at hand:
processors without the right instructions overflow in int8 in silence, and which runtime is fastest
differs as well. An engine that fails in whatever way is said and left out. Several networks that
are averaged take one engine, on which each agrees. What was found is remembered in the user's cache
folder for these models, machine and set of versions.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tilingseg import __version__
from tilingseg.errors import DependencyError, ModelError, PlanError
from tilingseg.infer.devices import choose_precision, n_threads
from tilingseg.infer.engine import TorchEngine
from tilingseg.infer.graph_engine import GraphEngine, GraphOptions, make_graph
from tilingseg.infer.runtimes import RUNTIMES, is_installed, require_runtime, runtime_version
from tilingseg.memo import recall, remember
from tilingseg.records import Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Engine, Part
    from tilingseg.model.load import LoadedModel
    from tilingseg.model.spec import ModelSpec

TORCH, COMPILED = "torch", "torch-compile"
ENGINES = ("auto", TORCH, COMPILED, *RUNTIMES)
"""What a user may ask for."""
FP32_LIMIT = 1e-4
"""Largest difference of a probability between two engines in fp32."""
BF16_LIMIT = 0.01
"""Mean difference of the probabilities between bf16 and fp32."""
INT8_MARGIN = 1.5
"""How many times the difference that a model states for int8 may be found."""
_NO_INT8 = (
    "int8 runs on a CPU in OpenVINO or ONNX Runtime: pip install 'tilingseg[openvino]' "
    "and use --device cpu"
)
_TILE_PX = 256
_REPEATS = 5
_WORTH_IT = 0.6
"""Share of PyTorch's time on the calibration tile that another engine may take to be preferred.
Whole runs gain less: two networks with shares of 0.66 and 0.85 there took 1.03 to 1.11 times
PyTorch's processor time, graphs for each part of a tile and fresh memory for each pass included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """What runs the network."""

    engine: str
    """`torch`, `torch-compile`, `onnx` or `openvino`."""
    version: str
    """Version of its package: another one may give other bits."""
    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    reason: str
    """Why, one sentence."""


def choose_engine(
    models: tuple[LoadedModel, ...], device: str, engine: str = "auto", precision: str = "auto"
) -> EngineChoice:
    """Turn wishes into an engine.

    Args:
        models: the networks that it will run.
        device: name of torch.
        engine: one of `ENGINES`.
        precision: `auto`, `fp32`, `fp16`, `bf16` or `int8`.

    Raises:
        DependencyError: the engine is not installed.
        PlanError: the engine does not fit device or precision.
        ModelError: the engine does not know one of the networks, or int8 is asked of a model
            without ranges.
    """
    on_cpu = torch.device(device).type == "cpu"
    precision = choose_precision(precision, device)
    able = _able(precision) if on_cpu else (() if precision == "int8" else (TORCH, COMPILED))
    if engine == "auto":
        return _fastest(models, precision, [name for name in able if name != COMPILED])
    if engine in RUNTIMES:
        require_runtime(engine)
        if not on_cpu:
            raise PlanError(f"engine {engine} runs on the CPU alone; use --device cpu")
    if engine not in able:
        better = "--engine openvino" if on_cpu else "--precision bf16"
        raise PlanError(f"engine {engine} cannot compute in {precision} here; use {better}")
    if engine in RUNTIMES:
        options = GraphOptions(runtime=RUNTIMES[engine], precision=precision, threads=1)
        for model in models:
            side = calibration_side(model)
            shape = 1, len(model.spec.bands), side, side
            make_graph(model.module, model.spec, shape, (slice(None), slice(None)), options)
    return _choice(engine, precision, "asked for")


def make_engine(
    model: LoadedModel,
    scaling: Scaling,
    device: str,
    choice: EngineChoice,
    parts: tuple[Part, ...] | None = None,
) -> Engine:
    """Load a network into an engine.

    Args:
        model: the network.
        scaling: stored values that become 0 and 1.
        device: name of torch.
        choice: engine and precision.
        parts: parts of a tile that many tiles use; None: every part that comes.

    Raises:
        DependencyError: the engine is not installed here.
    """
    if choice.engine not in RUNTIMES:
        compiled = choice.engine == COMPILED
        return TorchEngine(
            model.module, model.spec, scaling, device, choice.precision, compiled=compiled
        )
    options = GraphOptions(
        runtime=require_runtime(choice.engine),
        precision=choice.precision,
        threads=n_threads(),
        parts=parts,
    )
    return GraphEngine(model.module, model.spec, scaling, options)


def calibration_side(model: LoadedModel) -> int:
    """Return the side of the calibration tile, a multiple of F, px."""
    multiple = model.geometry.multiple_px
    return -(-_TILE_PX // multiple) * multiple


def calibration_tile(model: LoadedModel) -> NDArray[np.uint8]:
    """Return a tile with plain areas, edges and noise, always the same one.

    Args:
        model: whose bands and lattice it fits.

    Returns:
        uint8 (1, bands, side, side).
    """
    side = calibration_side(model)
    random = np.random.default_rng(0)
    shape = 1, len(model.spec.bands), side, side
    areas = random.integers(30, 220, (*shape[:2], side // 16 + 1, side // 16 + 1))
    areas = areas.repeat(16, axis=2).repeat(16, axis=3)[:, :, :side, :side]
    return np.clip(areas + random.normal(0, 8, shape), 0, 255).astype(np.uint8)


def probabilities_of(model: LoadedModel, choice: EngineChoice) -> tuple[torch.Tensor, float]:
    """Infer the calibration tile.

    Args:
        model: the network.
        choice: what runs it.

    Returns:
        float32 (1, classes, side, side), and the least processor time of a few passes on one
        thread, seconds: other work on the machine disturbs it less than a clock, and threads that
        wait for each other in a loop do not count as work.
    """
    pixels = calibration_tile(model)
    valid = np.ones((1, *pixels.shape[2:]), dtype=bool)
    whole = slice(None), slice(None)
    threads = n_threads()
    torch.set_num_threads(1)
    try:
        engine = _make(model, choice)
        found, seconds = engine.probabilities(pixels, valid, whole), []
        for _ in range(_REPEATS):
            start = time.process_time()
            engine.probabilities(pixels, valid, whole)
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return found, min(seconds)


def measure_speed(model: LoadedModel, choice: EngineChoice) -> float:
    """Return how fast the bare network is: megapixels for each second of processor time."""
    _, seconds = probabilities_of(model, choice)
    return calibration_side(model) ** 2 / seconds / 1e6


def int8_difference(model: LoadedModel) -> float:
    """Return the mean difference of the probabilities between int8 and fp32, 0…1.

    Args:
        model: its spec has ranges.

    Raises:
        DependencyError: no engine that computes in int8 is installed.
    """
    able = _able("int8")
    if not able:
        raise DependencyError(_NO_INT8)
    exact, _ = probabilities_of(model, _choice(TORCH, "fp32", ""))
    found, _ = probabilities_of(model, _choice(able[-1], "int8", ""))
    return (found - exact).abs().mean().item()


def _make(model: LoadedModel, choice: EngineChoice) -> Engine:
    n_bands = len(model.spec.bands)
    bytes_ = Scaling(low=(0.0,) * n_bands, high=(255.0,) * n_bands, source="uint8")
    return make_engine(model, bytes_, "cpu", choice)


def _able(precision: str) -> tuple[str, ...]:
    """Return the engines that are installed and compute in a precision on a CPU."""
    names = () if precision == "int8" else (TORCH, COMPILED)
    return names + tuple(
        name for name, it in RUNTIMES.items() if precision in it.precisions and is_installed(name)
    )


def _choice(engine: str, precision: str, reason: str) -> EngineChoice:
    version = runtime_version(engine) if engine in RUNTIMES else torch.__version__
    return EngineChoice(engine=engine, version=version, precision=precision, reason=reason)


def _fastest(models: tuple[LoadedModel, ...], precision: str, able: list[str]) -> EngineChoice:
    if not able:
        raise DependencyError(_NO_INT8)
    if able == [TORCH]:
        return _choice(TORCH, precision, "no other engine is installed that could be used")
    key = _memo_key(models, precision, able)
    match recall("engines", key):
        case {"engine": str(name), "reason": str(reason)} if name in able:
            return _choice(name, precision, reason)
    choice = _measured(models, precision, able)
    remember("engines", key, {"engine": choice.engine, "reason": choice.reason})
    return choice


def _measured(models: tuple[LoadedModel, ...], precision: str, able: list[str]) -> EngineChoice:
    """Run the engines on the calibration tile and take the fastest that agrees and is worth it."""
    passes = [probabilities_of(model, _choice(TORCH, "fp32", "")) for model in models]
    exact = [found for found, _ in passes]
    best, said, limit = None, [], ""
    if TORCH in able:
        if precision != "fp32":
            passes = [probabilities_of(model, _choice(TORCH, precision, "")) for model in models]
        best = _WORTH_IT * sum(seconds for _, seconds in passes), TORCH
    torch_s = sum(seconds for _, seconds in passes)
    for name in able:
        if name == TORCH:
            continue
        choice = _choice(name, precision, "")
        try:
            tried = [_compared(*pair, choice) for pair in zip(models, exact, strict=True)]
        except ModelError as error:
            said.append(str(error))
            continue
        difference, seconds = max(d for d, _ in tried), sum(s for _, s in tried)
        said.append(
            f"{name} differs from torch by {difference:.1e} and takes "
            f"{seconds / torch_s:.2f} × its time"
        )
        if TORCH in able:
            limit = f"; less than {_WORTH_IT:g} is needed"
        if best is None or seconds < best[0]:
            best = seconds, name
    reason = "on a calibration tile, " + "; ".join(said) + limit
    if best is None:
        raise ModelError(f"no engine computes this model in {precision}: {reason}")
    return _choice(best[1], precision, reason)


def _compared(model: LoadedModel, exact: torch.Tensor, choice: EngineChoice) -> tuple[float, float]:
    """Return how far an engine is from what torch found, and the seconds that it takes.

    Raises:
        ModelError: it cannot run the network, or is too far off; the message says which.
    """
    try:
        found, seconds = probabilities_of(model, choice)
    except Exception as error:  # runtimes have their own, and one may not even be importable
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{choice.engine} cannot: {lines[0]}") from error
    difference, limit = _difference(found - exact, choice.precision, model.spec)
    if not difference <= limit:  # so that it holds for NaN as well
        raise ModelError(
            f"{choice.engine} differs from torch by {difference:.1e}, more than {limit:.1e}"
        )
    return difference, seconds


def _difference(change: torch.Tensor, precision: str, spec: ModelSpec) -> tuple[float, float]:
    """Return how far two results are apart, and how far they may be."""
    if precision == "fp32":
        return change.abs().max().item(), FP32_LIMIT
    expected = BF16_LIMIT if precision == "bf16" else INT8_MARGIN * (spec.int8_difference or 0.0)
    return change.abs().mean().item(), expected


def _memo_key(models: tuple[LoadedModel, ...], precision: str, able: list[str]) -> str:
    versions = [f"{name} {_choice(name, precision, '').version}" for name in able]
    hashes = (model.sha256 for model in models)
    machine = platform.node(), torch.backends.cpu.get_cpu_capability(), str(os.cpu_count())
    return json.dumps([*hashes, __version__, _WORTH_IT, precision, *versions, *machine])
