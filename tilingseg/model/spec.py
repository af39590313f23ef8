"""ModelSpec: everything that must travel with the weights for them to mean anything.

Bands and their order, classes, pixel size, normalisation, activation, thresholds, tile size and
sources are stored as JSON in the metadata of the safetensors file. A checkpoint that loses them
gives wrong masks without an error. Free of torch: planning needs only this.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from math import inf
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tilingseg.errors import ModelError
from tilingseg.records import to_json, tuples

Activation = Literal["sigmoid", "softmax"]

Split = tuple[str, str, int, str, str]
"""Use, as a recipe calls it, name, number of rasters, which ones, and classes of a source."""

METADATA_KEY = "tilingseg"
"""Key of the spec in the safetensors metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a trained network expects and what it gives."""

    name: str
    """Short name, shown in reports."""
    network: str
    """Name of the network's class in the registry of `model.load`, such as `unet`."""
    network_options: tuple[tuple[str, Any], ...]
    """Keyword arguments of that class, as (name, value) pairs sorted by name; values are JSON
    scalars or tuples of them."""
    bands: tuple[str, ...]
    """Band names in input order, such as `red`, `green`, `blue`."""
    classes: tuple[str, ...]
    """Class names in output order, background left out; class k is mask value k + 1."""
    thresholds: tuple[float, ...]
    """Probability from which a pixel belongs to the class, per class, in (0, 1)."""
    gsd_m: float | None
    """Ground pixel size that the network was trained at, metres; None: any."""
    mean: tuple[float, ...]
    """Per band, subtracted after the values are scaled to 0…1."""
    std: tuple[float, ...]
    """Per band, divided by after the mean is subtracted."""
    activation: Activation = "sigmoid"
    """`sigmoid`: one channel a class. `softmax`: a background channel comes first."""
    value_range: tuple[float, float] | None = None
    """Stored values that become 0 and 1; None: decided for each scene (0…255 for uint8)."""
    tile_size_px: int = 512
    """Tile size used in training and proposed for blended inference, px."""
    sources: tuple[str, ...] = ()
    """Training data with licence, one line each."""
    splits: tuple[Split, ...] = ()
    """All that it was trained by: what was learnt and what was held out."""
    notes: tuple[str, ...] = ()
    """What a user should know: metrics, limits."""
    not_for: tuple[str, ...] = ()
    """What it must not be used for, one line each."""
    activation_ranges: tuple[tuple[str, float, float], ...] = ()
    """(layer, least value, largest value), by the name of the layer's weight and for the input:
    what int8 rounds within, see `model.quantize`; empty: no int8."""
    int8_difference: float | None = None
    """Mean difference of the probabilities between int8 and fp32 on the calibration tile, 0…1."""

    def __post_init__(self) -> None:
        """Check what can be checked without the weights.

        Raises:
            ModelError: naming the field, its value and what it must be.
        """
        n_bands, n_classes = len(self.bands), len(self.classes)
        if not n_bands or not n_classes:
            raise ModelError("a model spec needs at least one band and one class")
        if not 1 <= n_classes <= 254:
            raise ModelError(f"{n_classes} classes do not fit a uint8 mask; at most 254")
        if len(set(self.classes)) != n_classes:
            raise ModelError(f"class names repeat: {', '.join(self.classes)}")
        if self.activation not in get_args(Activation):
            raise ModelError(f"activation {self.activation!r} is not one of sigmoid, softmax")
        self._refuse_numbers()

    def _refuse_numbers(self) -> None:
        n_bands, n_classes = len(self.bands), len(self.classes)
        if len(self.mean) != n_bands or len(self.std) != n_bands:
            raise ModelError(f"mean and std need one value for each of the {n_bands} bands")
        if not all(-inf < value < inf for value in self.mean):
            raise ModelError(f"mean must be finite, got {self.mean}")
        if not all(0 < value < inf for value in self.std):
            raise ModelError(f"std must be above 0 and finite, got {self.std}")
        if len(self.thresholds) != n_classes:
            raise ModelError(f"thresholds need one value for each of the {n_classes} classes")
        if not all(0 < value < 1 for value in self.thresholds):
            raise ModelError(f"thresholds must lie between 0 and 1, got {self.thresholds}")
        if self.gsd_m is not None and not 0 < self.gsd_m < inf:
            raise ModelError(f"gsd_m must be above 0 and finite, got {self.gsd_m}")
        if self.value_range and not -inf < self.value_range[0] < self.value_range[1] < inf:
            raise ModelError(f"value_range must be two rising numbers, got {self.value_range}")
        if self.tile_size_px < 1:
            raise ModelError(f"tile_size_px must be above 0, got {self.tile_size_px}")

    @property
    def n_outputs(self) -> int:
        """Channels of the network's output: the classes, and for softmax the background."""
        return len(self.classes) + (self.activation == "softmax")

    def to_json(self) -> str:
        """Return the JSON text that goes into the model file."""
        return json.dumps(to_json(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read the JSON text of `to_json` back.

        Raises:
            ModelError: the text is no JSON object, or a key is missing, unknown or of a wrong type.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ModelError(f"the model's spec is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ModelError("the model's spec is not a JSON object")
        known = {f.name: f for f in fields(cls)}
        if unknown := sorted(set(raw) - set(known)):
            raise ModelError(f"the model's spec has unknown keys: {', '.join(unknown)}")
        required = {name for name, f in known.items() if f.default is MISSING}
        if missing := sorted(required - set(raw)):
            raise ModelError(f"the model's spec lacks: {', '.join(missing)}")
        kinds = get_type_hints(cls)
        return cls(**{key: _value(kinds[key], value, key) for key, value in raw.items()})


def _value(kind: Any, raw: Any, key: str) -> Any:
    """Turn a JSON value into the type of a field, or refuse it."""
    options = get_args(kind)
    if isinstance(kind, UnionType):
        return None if raw is None else _value(options[0], raw, key)
    if kind is Any:
        return tuples(raw)
    if get_origin(kind) is tuple and isinstance(raw, list):
        kinds = options[:1] * len(raw) if options[-1] is Ellipsis else options
        if len(kinds) == len(raw):
            return tuple(_value(*item, key) for item in zip(kinds, raw, strict=True))
    if kind is float:
        fits = type(raw) in (int, float) and abs(raw) < inf
    else:
        fits = type(raw) is (str if get_origin(kind) is Literal else kind)
    if fits:
        return raw
    names = {str: "text", int: "a whole number", float: "a finite number"}
    raise ModelError(
        f"the model's spec has a value of the wrong type: {key} holds {raw!r} where "
        f"{names.get(kind, str(kind))} is needed"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How far a network sees and on which lattice its output repeats: what cutting tiles needs."""

    multiple_px: int
    """F: tile origins and sizes must be multiples of this, px."""
    halo_px: int | None
    """Outermost pixels of a tile that differ from inference on the whole scene, rounded up to a
    multiple of F, px; without them tiles are exact. None: no halo makes tiles exact."""
    reason: str | None
    """Why no halo makes tiles exact, in words for the report; None: they are exact."""
    bytes_per_px: float
    """Most activation memory that is alive at once, bytes for each input pixel in float32, with
    the input and the output but without the weights and what a kernel borrows."""
    core_share: float = 0.0
    """Share of a forward pass that is done for the used part of a tile alone, 0…1."""
    measured: bool = False
    """Found by running the network, for want of layers that can be read."""
