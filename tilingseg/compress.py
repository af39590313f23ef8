"""Smaller and faster forms of a model, with what they cost.

    NAME.safetensors           the model, now with the ranges that int8 needs: run it in either
    NAME-int8.safetensors      the same with its weights stored as int8
    NAME-pruned….safetensors   with fewer channels, fine-tuned, likewise
    *.onnx, *.xml + *.bin      each form for ONNX Runtime and OpenVINO, for use elsewhere
    compression.json, .md      size, speed and IoU of each

Ranges are measured on windows drawn from the recipe's training areas as training draws them. IoU is
that of whole runs over the recipe's held-out areas, stitched, as `evaluate` measures it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilingseg.atomic import make_folder, write_whole
from tilingseg.errors import ModelError, TrainingError
from tilingseg.evaluation import EvaluateOptions, iou_by_region
from tilingseg.infer import choose_engine, int8_difference, measure_speed, write_exports
from tilingseg.job import RunOptions
from tilingseg.model.load import load_model, load_trainable, rewrite_spec, save_model
from tilingseg.model.prune import narrower, prune
from tilingseg.model.ranges import observe_ranges
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.progress import silent
from tilingseg.records import to_json
from tilingseg.training.calibration import calibration_windows
from tilingseg.training.loop import train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tilingseg.model.spec import ModelSpec
    from tilingseg.progress import Progress
    from tilingseg.training.recipe import TrainingRecipe

_FINE_TUNING = 0.3
"""Learning rate after pruning, as a share of the recipe's: the weights are nearly right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressOptions:
    """What the user may ask of a compression."""

    prune: float = 0.0
    """Share of the weights to remove, 0…1; 0: none."""
    steps: int = 300
    """Steps of fine-tuning after pruning."""
    n_batches: int = 12
    """Batches of training windows that ranges are measured on."""
    split: str = "validation"
    """Sources of the recipe that IoU is measured on."""
    measure_iou: bool = True
    """Run the forms over those sources, which takes most of the time; False: write them alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of the model."""

    name: str
    """`fp32`, `int8`, `pruned fp32` or `pruned int8`."""
    path: str
    """Its model file."""
    n_weights: int
    """Numbers in it."""
    file_bytes: int
    """Size of the file."""
    times_smaller: float
    """Than the original's weights in float32."""
    engine: str
    """What ran it."""
    mpx_per_s: float
    """Megapixels for each second of processor time, bare network, on the calibration tile."""
    times_faster: float
    """Than the original in torch in fp32."""
    iou: tuple[tuple[str, str, float], ...]
    """(class, region, IoU) triples."""

    def mean_iou(self, class_name: str) -> float:
        """Return the mean IoU of a class over the regions."""
        found = [iou for name, _, iou in self.iou if name == class_name]
        return sum(found) / len(found) if found else float("nan")


def compress(
    model: str | Path,
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    options: CompressOptions | None = None,
    progress: Progress = silent,
) -> tuple[Form, ...]:
    """Write smaller and faster forms of a model and measure them.

    Args:
        model: name of a bundled model, or a model file.
        recipe: areas to calibrate, fine-tune and measure on.
        data: folder that the recipe's paths are relative to.
        out: folder of the results; created, files of an earlier compression are replaced.
        options: what to do other than by default.
        progress: told how far each stage is.

    Returns:
        The forms, the original first.

    Raises:
        TilingSegError: the model cannot be quantised or pruned, or the recipe does not fit it.
    """
    options = options or CompressOptions()
    if not 0 <= options.prune < 1:
        raise ModelError(f"the share of weights to remove must be in 0…1, got {options.prune}")
    loaded = load_model(model)
    spec = loaded.spec
    for key in ("bands", "mean", "std", *(["classes"] if options.prune else [])):
        if getattr(spec, key) != getattr(recipe, key):
            raise TrainingError(
                f"the recipe's {key} are {to_json(getattr(recipe, key))}, model {spec.name!r} has "
                f"{to_json(getattr(spec, key))}: use the recipe that it was trained by"
            )
    choose_engine((loaded,), "cpu", precision="fp32")
    if options.prune:
        _widths(spec, loaded.module, options.prune)  # refused before what takes minutes
    make_folder(out)
    job = _Compression(recipe=recipe, data=data, out=out, options=options, progress=progress)
    forms = [*job.quantised(model, spec.name, "")]
    if options.prune:
        pruned = job.pruned(model)
        forms += job.quantised(pruned, f"{spec.name}-pruned", "pruned ")
    base = forms[0]
    torch_speed = measure_speed(loaded, choose_engine((loaded,), "cpu", "torch", "fp32"))
    compared = tuple(
        replace(
            form,
            times_smaller=round(4 * base.n_weights / form.file_bytes, 2),
            times_faster=round(form.mpx_per_s / torch_speed, 2),
        )
        for form in forms
    )
    write_whole(out / "compression.json", json.dumps(to_json(compared), indent=1))
    write_whole(out / "compression.md", compression_table(compared))
    return compared


def compression_table(forms: tuple[Form, ...]) -> str:
    """Return the forms as a Markdown table; IoU is the mean over regions."""
    classes = tuple(dict.fromkeys(name for name, _, _ in forms[0].iou))
    heads = ["form", "weights", "file MB", "× smaller", "engine", "Mpx / CPU s", "× faster"]
    lines = [[*heads, *(f"IoU {name}" for name in classes)]]
    lines += [
        [
            form.name,
            f"{form.n_weights / 1e6:.2f} M",
            f"{form.file_bytes / 1e6:.2f}",
            f"{form.times_smaller:.1f}",
            form.engine,
            f"{form.mpx_per_s:.1f}",
            f"{form.times_faster:.1f}",
            *(f"{form.mean_iou(name):.4f}" for name in classes),
        ]
        for form in forms
    ]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compression:
    """What all steps share."""

    recipe: TrainingRecipe
    data: Path
    out: Path
    options: CompressOptions
    progress: Progress

    def quantised(self, model: str | Path, name: str, prefix: str) -> list[Form]:
        """Find the ranges of a model, write it in both precisions and measure both."""
        loaded = load_model(model)
        self.progress("calibrate", 0, 1)
        windows = calibration_windows(self.recipe, self.data, loaded.spec, self.options.n_batches)
        ranges = observe_ranges(loaded.module, loaded.spec, windows)
        spec = replace(
            loaded.spec,
            activation_ranges=tuple((layer, *ends) for layer, ends in sorted(ranges.items())),
        )
        difference = int8_difference(replace(loaded, spec=spec))
        spec = replace(spec, int8_difference=difference)
        self.progress("calibrate", 1, 1)
        wide, small = (self.out / f"{name}{end}.safetensors" for end in ("", "-int8"))
        rewrite_spec(model, wide, spec)
        save_model(small, load_trainable(model)[1], spec, weights="int8")
        return [
            self._form(f"{prefix}fp32", wide, "fp32"),
            self._form(f"{prefix}int8", small, "int8"),
        ]

    def pruned(self, model: str | Path) -> Path:
        """Take channels out of a model, fine-tune what is left and return its file."""
        spec, network = load_trainable(model)
        chosen = _widths(spec, network, self.options.prune)
        narrow = prune(network, chosen.features)
        name, start = f"{spec.name}-pruned", self.out / "pruned_start.safetensors"
        save_model(start, narrow, _with_network(spec, chosen))
        schedule = replace(
            self.recipe.schedule,
            steps=self.options.steps,
            learning_rate=_FINE_TUNING * self.recipe.schedule.learning_rate,
            warmup_steps=min(self.recipe.schedule.warmup_steps, self.options.steps // 10),
            validate_every=self.options.steps,
        )
        recipe = replace(
            self.recipe, name=name, network=chosen, start=str(start), schedule=schedule
        )
        # What was begun is gone on with, but only for the same channels by the same recipe.
        job = hashlib.sha256(start.read_bytes() + repr(recipe).encode()).hexdigest()[:12]
        return train(
            recipe,
            self.data,
            self.out / f"fine_tuning-{job}",
            resume=True,
            progress=lambda done, total, _loss: self.progress("fine-tune", done, total),
        )

    def _form(self, name: str, path: Path, precision: str) -> Form:
        model = load_model(path)
        choice = choose_engine((model,), "cpu", precision=precision)
        write_exports(path.with_suffix(""), model, precision)
        run = RunOptions(
            model=path, precision=precision, engine=choice.engine, device="cpu", overwrite=True
        )
        iou: dict[tuple[str, str], float] = {}
        if self.options.measure_iou:
            iou = iou_by_region(
                self.recipe,
                self.data,
                self.out / "runs" / path.stem,
                EvaluateOptions(run=run, split=self.options.split),
                self.progress,
            )
        return Form(
            name=name,
            path=str(path),
            n_weights=sum(tensor.numel() for tensor in load_trainable(path)[1].parameters()),
            file_bytes=path.stat().st_size,
            times_smaller=1.0,
            engine=choice.engine,
            mpx_per_s=round(measure_speed(model, choice), 3),
            times_faster=1.0,
            iou=tuple((*key, round(value, 5)) for key, value in iou.items()),
        )


def _widths(spec: ModelSpec, network: nn.Module, share: float) -> UNetOptions:
    """Return the options of a U-Net with a share of its weights removed."""
    if not isinstance(network, UNet):
        raise ModelError(f"only U-Nets can be pruned, {spec.name!r} is a {spec.network}")
    return replace(network.options, features=narrower(network.options.features, share))


def _with_network(spec: ModelSpec, options: UNetOptions) -> ModelSpec:
    return replace(spec, network_options=tuple(sorted(to_json(options).items())))
