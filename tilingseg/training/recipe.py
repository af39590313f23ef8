"""The recipe of a training job: a TOML file as frozen records.

A key that is not known, missing or of a wrong type stops the job before a pixel is read: a typing
error in a recipe otherwise costs a night of training with a default. Paths in a recipe are relative
to the data folder, which the job is given, so that a recipe can be shared.

A recipe can begin with `extends = "other.toml"`, a file beside it: what it says itself replaces
what stands there, tables key by key, lists as a whole. So variants of a model share their sources.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from tilingseg.errors import TrainingError
from tilingseg.model.deeplab import DeepLabOptions
from tilingseg.model.fcn import FcnOptions
from tilingseg.model.spec import ModelSpec
from tilingseg.model.unet import UNetOptions
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.limits import refuse_outside
from tilingseg.training.losses import LossOptions
from tilingseg.training.source_recipe import ClassLabel, SourceRecipe

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ClassLabel", "Schedule", "SourceRecipe", "TrainingRecipe", "read_recipe"]

NetworkOptions = UNetOptions | FcnOptions | DeepLabOptions
_KINDS: MappingProxyType[str, type[NetworkOptions]] = MappingProxyType(
    {"unet": UNetOptions, "fcn": FcnOptions, "deeplab": DeepLabOptions}
)
"""Options of each network, by the name that a spec uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int
    """Updates of the weights."""
    batch_size: int = 12
    """Windows in one forward pass, of each process."""
    accumulate: int = 1
    """Passes whose gradients are added up for one update: larger batches in the same memory. A
    labelled pixel weighs the same in each of them; Dice and Tversky are of one pass, and batch
    normalisation is too."""
    window_px: int = 256
    """Side of a window at the model's GSD, px."""
    n_windows: int = 0
    """Draw from this many places, chosen by the seed, as if no more were labelled; 0: from
    anywhere. The size of a window is then its ground, if `scale` is at most 1 and `rotation_deg`
    is 0."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Rule of the steps: `muon` learns from fewer of them and costs a seventh more for each."""
    learning_rate: float = 5e-3
    """Highest rate, after the warm-up; it falls along a cosine to a hundredth of that. About 1e-3
    for `adamw`."""
    warmup_steps: int = 100
    """Updates over which the rate rises from 0."""
    weight_decay: float = 1e-2
    """Share of the weights that an update takes away, times the rate; of kernels alone."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """How much of the averaged weights is kept at each update."""
    validate_every: int = 200
    """Updates between validations and checkpoints."""
    patience: int = 0
    """Validations in a row without a better mean IoU that end the job; the model is then the best
    one. 0: all steps are done and the model is the last one."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the convolutions; bfloat16 where the processor has it."""
    tensorboard: bool = False
    """Write a TensorBoard log too; needs the extra `train`."""

    def __post_init__(self) -> None:
        """Refuse sizes and rates that no job can have.

        Raises:
            TrainingError: naming the key, its value and what it must be.
        """
        refuse_outside(
            "schedule",
            self,
            positive=(
                *("steps", "batch_size", "accumulate", "window_px", "validate_every"),
                *("learning_rate", "clip_norm"),
            ),
            not_negative=("n_windows", "warmup_steps", "weight_decay", "patience"),
            shares=("ema_decay",),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """All that a training job is told."""

    name: str
    """Name of the model; the weights become `<name>.safetensors`."""
    classes: tuple[str, ...]
    """Class names in output order."""
    bands: tuple[str, ...]
    """Band names in input order."""
    gsd_m: float | None = None
    """Ground pixel size that the network works at, metres; None: pixels as they are, whatever their
    size, for pictures that know none."""
    mean: tuple[float, ...]
    """Per band, of the values scaled to 0…1."""
    std: tuple[float, ...]
    """Per band, of the values scaled to 0…1."""
    sources: tuple[SourceRecipe, ...]
    """Where windows come from."""
    schedule: Schedule
    """How long and how fast to learn."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """`sigmoid` where classes may be labelled in different places."""
    network: NetworkOptions = field(default_factory=UNetOptions)
    """Which network, by its key `kind` (`unet` where it is not given), and its variant."""
    start: str | None = None
    """Model to begin from, a bundled name or a file: it has to have this network and to see these
    bands; its outputs are taken by the names of their classes. None: fresh weights."""
    loss: LossOptions = field(default_factory=LossOptions)
    """What is minimised."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """How training windows are varied."""
    notes: tuple[str, ...] = ()
    """What a user of the model should know; its spec gets them after the measured scores."""
    not_for: tuple[str, ...] = ()
    """What the model must not be used for, one line each; its spec gets them."""
    seed: int = 0
    """Decides the first weights, the windows and their variation."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            TrainingError: naming the source or key and what to do.
        """
        if not self.bands:
            raise TrainingError("bands is empty: name at least one")
        if not self.name or "/" in self.name:
            raise TrainingError(f"name is {self.name!r}, must be a file name: the model gets it")
        if not 0 <= self.seed < 2**32:
            raise TrainingError(f"seed is {self.seed}, must be 0 to {2**32 - 1}")
        for source in self.sources:
            for label in source.classes:
                if label.name not in self.classes:
                    raise TrainingError(
                        f"source {source.name!r} labels {label.name!r}, which is not among the "
                        f"classes {', '.join(self.classes)}"
                    )
            learnt = source.split in ("train", "blocks")
            unknown = set(self.classes) - {label.name for label in source.classes}
            if self.activation == "softmax" and learnt and unknown:
                raise TrainingError(
                    f"source {source.name!r} does not label {min(unknown)!r}: with softmax only "
                    "what is known of every class is learnt, so label it here or leave activation "
                    "at 'sigmoid'"
                )
        if not any(source.split in ("train", "blocks") for source in self.sources):
            raise TrainingError("the recipe has no source with split = 'train'")
        held_out = any(source.split in ("validation", "blocks") for source in self.sources)
        if self.schedule.patience and not held_out:
            raise TrainingError(
                f"schedule: patience is {self.schedule.patience}, but nothing is held out to judge "
                "by: give a source with split = 'validation' or 'blocks', or leave patience out"
            )

    @property
    def pixel_m(self) -> float:
        """Length of a window's pixel, metres; 1 where pixels are taken as they are."""
        return 1.0 if self.gsd_m is None else self.gsd_m

    def spec(self) -> ModelSpec:
        """Return the spec of the model to be trained; its thresholds are not chosen yet."""
        options = dataclasses.asdict(self.network)
        return ModelSpec(
            name=self.name,
            network=next(kind for kind, of in _KINDS.items() if type(self.network) is of),
            network_options=tuple(sorted(options.items())),
            bands=self.bands,
            classes=self.classes,
            thresholds=(0.5,) * len(self.classes),
            gsd_m=self.gsd_m,
            mean=self.mean,
            std=self.std,
            activation=self.activation,
            tile_size_px=self.schedule.window_px,
            sources=tuple(dict.fromkeys(source.licence for source in self.sources)),
            notes=self.notes,
            not_for=self.not_for,
        )


def read_recipe(path: Path) -> TrainingRecipe:
    """Read a TOML recipe, and the one that it extends.

    What the recipe says goes before what the extended one says, tables key by key, lists as a
    whole; `[[more_sources]]` come after the extended one's sources.

    Raises:
        TrainingError: the file cannot be read, is not TOML, or a key is unknown, missing or wrong.
    """
    recipe = _record(TrainingRecipe, _read_tables(path, ()), str(path))
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def _read_tables(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the tables of a file, over those of the file that it extends."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"recipe {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TrainingError(f"recipe {path} is not TOML: {error}") from error
    if "extends" not in raw:
        return raw
    name = _value(str, raw.pop("extends"), f"{path}: extends")
    if path in seen:
        raise TrainingError(f"{path}: extends {name!r}, which in the end extends this file")
    below = _read_tables(path.with_name(name), (*seen, path))
    more = raw.pop("more_sources", [])
    if not isinstance(more, list):
        raise TrainingError(f"{path}: more_sources is {more!r}, must be [[more_sources]] tables")
    tables = _over(below, raw)
    if more and isinstance(tables.get("sources"), list):
        tables["sources"] = [*tables["sources"], *more]
    return tables


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay tables over others, key by key."""
    both = {
        key: _over(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


def _record(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise TrainingError(f"{where}: a table of keys is needed, got {raw!r}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    if unknown := sorted(set(raw) - set(known)):
        raise TrainingError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    required = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING
    ]
    if missing := [name for name in required if name not in raw]:
        raise TrainingError(f"{where}: the key {missing[0]!r} is missing")
    return kind(**{key: _value(hints[key], raw[key], f"{where}: {key}") for key in raw})


def _network(raw: Any, where: str) -> Any:
    """Return the options of the network that the key `kind` names."""
    if not isinstance(raw, dict):
        raise TrainingError(f"{where}: a table of keys is needed, got {raw!r}")
    name = raw.get("kind", "unet")
    if name not in _KINDS:
        raise TrainingError(f"{where}: kind is {name!r}, must be one of {', '.join(_KINDS)}")
    return _record(_KINDS[name], {key: raw[key] for key in raw if key != "kind"}, where)


def _value(kind: Any, raw: Any, where: str) -> Any:
    """Turn a TOML value into the type of a field, or refuse it."""
    origin, options = get_origin(kind), get_args(kind)
    if kind == NetworkOptions:
        return _network(raw, where)
    if is_dataclass(kind):
        return _record(kind, raw, where)
    if origin is Literal:
        if raw in options:
            return raw
        raise TrainingError(f"{where} is {raw!r}, must be one of {', '.join(map(str, options))}")
    if origin is UnionType:
        return _value(options[0], raw, where)
    if origin is tuple and isinstance(raw, list):
        if options[-1] is not Ellipsis and len(raw) != len(options):
            raise TrainingError(f"{where} needs {len(options)} values, got {len(raw)}")
        return tuple(_value(options[0], item, where) for item in raw)
    if kind is float and type(raw) is int:
        return float(raw)
    if isinstance(kind, type) and type(raw) is kind:
        return raw
    raise TrainingError(f"{where} is {raw!r}, must be {getattr(kind, '__name__', kind)}")
