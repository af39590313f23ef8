"""Files of a network for use in ONNX Runtime and OpenVINO outside this package.

They hold one tile shape, from normalised pixels to logits, with the model's spec as JSON under the
key `tilingseg`: bands, normalisation, activation, classes and thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.atomic import write_whole
from tilingseg.infer.graph_engine import GraphOptions, make_graph
from tilingseg.infer.runtimes import RUNTIMES, is_installed, save_openvino
from tilingseg.model.onnx_file import onnx_bytes
from tilingseg.model.spec import METADATA_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from tilingseg.model.load import LoadedModel


def write_exports(stem: Path, model: LoadedModel, precision: str) -> tuple[Path, ...]:
    """Write a network as ONNX, and as OpenVINO's own files where that is installed.

    Args:
        stem: path without suffix.
        model: the network.
        precision: `fp32` or `int8`.

    Returns:
        The files: `.onnx`, and `.xml` with its `.bin`.

    Raises:
        DependencyError: the package `onnx` is not installed.
        ModelError: the network cannot be written as a graph, or int8 lacks a range.
        OutputError: a file cannot be written.
    """
    multiple = model.geometry.multiple_px
    side = -(-model.spec.tile_size_px // multiple) * multiple
    shape = 1, len(model.spec.bands), side, side
    written = []
    for name, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        if suffix == ".xml" and not is_installed(name):
            continue
        options = GraphOptions(runtime=RUNTIMES[name], precision=precision, threads=1)
        whole = slice(None), slice(None)
        graph = make_graph(model.module, model.spec, shape, whole, options)
        data = onnx_bytes(graph, shape, {METADATA_KEY: model.spec.to_json()})
        target = stem.with_name(stem.name + suffix)
        if suffix == ".onnx":
            write_whole(target, data)
            written.append(target)
        else:
            save_openvino(data, target)
            written += [target, target.with_suffix(".bin")]
    return tuple(written)
