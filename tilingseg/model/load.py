"""Model files: weights and spec in one safetensors file, read without running anything in it.

A model is a file or the name of one that comes with the package. Its spec lies as JSON in the
metadata under `METADATA_KEY`; the network is built from the spec and every tensor must fit it by
name and shape, because a file that fits by luck gives wrong masks without an error, as do numbers
that are not finite. Kernels stored as float16 are computed with as float32.

Pickled checkpoints (`.pt`, `.pth`) are refused: unpickling runs code from the file. TorchScript
holds code as well and is loaded only when the caller asks for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tilingseg.atomic import make_folder, write_whole
from tilingseg.errors import ModelError, OutputError
from tilingseg.model.deeplab import DeepLab, DeepLabOptions
from tilingseg.model.fcn import FCN, FcnOptions
from tilingseg.model.packing import packed, unpacked
from tilingseg.model.reach import geometry_of
from tilingseg.model.spec import METADATA_KEY, Geometry, ModelSpec
from tilingseg.model.unet import UNet, UNetOptions

DEFAULT_MODEL = "buildings-roads"
"""Name of the bundled model that is used when none is given."""

_WEIGHTS = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"

Builder = Callable[[int, int, dict[str, Any]], nn.Module]

NETWORKS: MappingProxyType[str, Builder] = MappingProxyType(
    {
        "unet": lambda n_in, n_out, options: UNet(n_in, n_out, UNetOptions(**options)),
        "fcn": lambda n_in, n_out, options: FCN(n_in, n_out, FcnOptions(**options)),
        "deeplab": lambda n_in, n_out, options: DeepLab(n_in, n_out, DeepLabOptions(**options)),
    }
)
"""Networks by the name that a spec uses: (bands, outputs, options) → module."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that is ready to infer."""

    spec: ModelSpec
    """What it expects and what it gives."""
    module: nn.Module
    """The network on the CPU, float32, for inference alone: (n, bands, height, width) normalised →
    logits (n, outputs, height, width)."""
    geometry: Geometry
    """Lattice, halo and memory need of the network."""
    sha256: str
    """Hexadecimal hash of the file, for plans and reports."""


def available_models() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(sorted(path.stem for path in _WEIGHTS.glob(f"*{_SUFFIX}")))


def read_card(name: str) -> str:
    """Return the card of a bundled model, Markdown, with whole paths of its pictures and its page.

    Raises:
        ModelError: there is no such model, or it has no card.
    """
    if name not in available_models():
        known = ", ".join(available_models()) or "none"
        raise ModelError(f"no model {name!r} comes with the package; there are: {known}")
    page = _WEIGHTS / f"{name}.md"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"model {name!r} has no card: {error.strerror}") from error
    text = re.sub(r"(!\[.*?\])\((.*?)\)", lambda link: f"{link[1]}({_WEIGHTS / link[2]})", text)
    return f"{text}\nThis page, with its pictures: {page}\n"


def build_network(spec: ModelSpec) -> nn.Module:
    """Build the network of a spec with fresh weights.

    Raises:
        ModelError: the network or one of its options is unknown.
    """
    builder = NETWORKS.get(spec.network)
    if builder is None:
        raise ModelError(f"network {spec.network!r} is not known; known: {', '.join(NETWORKS)}")
    try:
        return builder(len(spec.bands), spec.n_outputs, dict(spec.network_options))
    except TypeError as error:
        raise ModelError(f"the options of network {spec.network!r} do not fit: {error}") from error


def load_model(
    model: str | Path = DEFAULT_MODEL, *, sha256: str | None = None, allow_torchscript: bool = False
) -> LoadedModel:
    """Load a model by name or path.

    Args:
        model: name of a bundled model, or path of a model file.
        sha256: hexadecimal hash that the file must have; None: any.
        allow_torchscript: also accept a TorchScript file, whose code is then run. It carries the
            spec's JSON as its extra file `tilingseg`.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        ModelError: there is no such model, the file is no model, or it contradicts its spec.
    """
    path, digest = _resolve(model), file_sha256(model)
    if sha256 is not None and digest != sha256.lower():
        raise ModelError(f"{path} has the hash {digest}, expected {sha256}; get the file again")
    if path.suffix == _SUFFIX:
        spec, module = _load_safetensors(path)
    elif allow_torchscript:
        spec, module = _load_torchscript(path)
    else:
        raise ModelError(
            f"{path} is no {_SUFFIX} file; TorchScript runs code from the file and must be allowed "
            "explicitly (--torchscript), pickled checkpoints are never read"
        )
    fold_batch_norm(module.eval())
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    geometry = geometry_of(module, len(spec.bands), digest)
    return LoadedModel(spec=spec, module=module, geometry=geometry, sha256=digest)


def load_trainable(model: str | Path) -> tuple[ModelSpec, nn.Module]:
    """Load a model as it was trained: its normalisations are not folded, its weights are float32.

    Args:
        model: name of a bundled model, or path of a model file.

    Raises:
        ModelError: as `load_model`.
    """
    return _load_safetensors(_resolve(model))


def save_model(
    path: str | Path,
    module: nn.Module,
    spec: ModelSpec,
    *,
    weights: Literal["float32", "float16", "int8"] = "float32",
) -> None:
    """Write weights and spec to one file, which appears whole or not at all.

    Args:
        path: file to write, ending in `.safetensors`; replaced if it exists.
        module: network built from `spec`.
        spec: travels in the file's metadata.
        weights: how kernels are stored; computed with is float32, or what a run asks for.

    Raises:
        ModelError: the path has another suffix, or a weight is not finite as it would be stored.
        OutputError: it cannot be written.
    """
    target = Path(path)
    _refuse_suffix(target)
    tensors = module.state_dict()
    _refuse_not_finite(tensors, f"{target} is not written")
    if weights == "int8":
        tensors = packed(module)
    elif weights == "float16":
        # Statistics and biases are few, and a variance may well be beyond float16.
        tensors = {name: t.half() if t.ndim > 1 else t for name, t in tensors.items()}
        _refuse_not_finite(tensors, f"{target} is not written as float16, which ends at 65504")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(target, save(tensors, metadata={METADATA_KEY: spec.to_json()}))


def _refuse_not_finite(tensors: dict[str, torch.Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{what}: tensor {name!r} has values that are not finite")


def refuse_target(path: str | Path) -> None:
    """Refuse a file that `save_model` could not write, before the work that gives its content.

    Args:
        path: as for `save_model`; its folder is made.

    Raises:
        ModelError: the path has another suffix.
        OutputError: it is a folder, or cannot be written.
    """
    target = Path(path)
    _refuse_suffix(target)
    make_folder(target.parent)
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"cannot write {target}: its folder is read-only")


def _refuse_suffix(path: Path) -> None:
    if path.suffix != _SUFFIX:
        raise ModelError(f"a model file must end in {_SUFFIX}, got {path}")


def rewrite_spec(model: str | Path, target: str | Path, spec: ModelSpec) -> None:
    """Write a copy of a model with another spec; its weights stay as they are stored.

    Args:
        model: name of a bundled model, or path of a model file.
        target: file to write, ending in `.safetensors`; replaced if it exists, and may be `model`.
        spec: must describe the same network.

    Raises:
        ModelError: there is no such model, or the target has another suffix.
        OutputError: the target cannot be written.
    """
    metadata, tensors = _read_file(_resolve(model))
    target = Path(target)
    _refuse_suffix(target)
    write_whole(target, save(tensors, metadata=metadata | {METADATA_KEY: spec.to_json()}))


def file_sha256(model: str | Path) -> str:
    """Return the hexadecimal hash of a model's file, by name or path.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    path = _resolve(model)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _resolve(model: str | Path) -> Path:
    path = Path(model)
    if path.suffix == "" and path.parent == Path() and str(model) in available_models():
        return _WEIGHTS / f"{model}{_SUFFIX}"
    if not path.is_file():
        names = ", ".join(available_models()) or "none"
        raise ModelError(f"there is no model file {str(model)!r}; models by name: {names}")
    return path


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata of a model file, which hold a spec, and its tensors as stored."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is no safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{path} has no {METADATA_KEY!r} entry in its metadata, so bands, classes and scaling "
            "are not known; write model files with save_model"
        )
    return metadata, stored


def _load_safetensors(path: Path) -> tuple[ModelSpec, nn.Module]:
    metadata, stored = _read_file(path)
    spec, tensors = ModelSpec.from_json(metadata[METADATA_KEY]), unpacked(stored)
    module = build_network(spec)
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ModelError(f"{path} lacks the tensor {missing[0]!r} ({len(missing)} in all)")
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise ModelError(f"{path} has a tensor {surplus[0]!r} that {spec.network!r} has not")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: tensor {name!r} has the shape {tuple(tensor.shape)}, "
                f"its spec needs {tuple(expected[name].shape)}"
            )
    module.load_state_dict(tensors)
    _refuse_not_finite(module.state_dict(), f"{path} is damaged or badly trained")
    return spec, module


def fold_batch_norm(module: nn.Module) -> None:
    """Multiply every normalisation into the convolution before it.

    In evaluation it is a fixed scale and shift. Folded in, a pass over every map is saved, which is
    a third of the time on a processor; the logits differ by rounding alone.
    """
    for block in module.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index in range(len(block) - 1):
            convolution, norm = block[index], block[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(convolution, norm)
                block[index + 1] = nn.Identity()


def _load_torchscript(path: Path) -> tuple[ModelSpec, nn.Module]:
    extra = {METADATA_KEY: ""}
    try:
        with warnings.catch_warnings():
            # Deprecated for writing new files; the ones that exist stay readable.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error
    if not extra[METADATA_KEY]:
        raise ModelError(f"{path} has no extra file {METADATA_KEY!r} with the model's spec")
    text: str | bytes = extra[METADATA_KEY]
    spec = ModelSpec.from_json(text.decode() if isinstance(text, bytes) else text)
    _refuse_not_finite(module.state_dict(), f"{path} is damaged or badly trained")
    return spec, cast("nn.Module", module)
