"""Static int8: whole numbers of 8 bits instead of floating point, with fixed ranges.

Weights are rounded to int8 with one scale for each output channel, symmetric about 0. Activations
become uint8 with one scale and one zero point for each layer, from the range that its values had on
calibration windows; both tensors that a skip connection joins share a range. The last layer gives
floating point. The scheme is that of Jacob et al., *Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference* (2018).

Ranges go with the model, in `ModelSpec.activation_ranges`, under the name of the layer's weight. A
file may hold the weights themselves as int8 with their scales: rounding them again gives the same.
How `compress` measures ranges and losses is not said here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilingseg.errors import ModelError
from tilingseg.model.graph import LOGITS, PIXELS, Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.model.graph import Node

Ranges = dict[str, tuple[float, float]]
"""Least and largest value of a layer's output by the name of its weight; of the input as well."""

_WEIGHT_STEPS = 127
_BIAS_STEPS = np.float32(2**30)
_STEPS = 255
_PASSING = {
    *("Relu", "Slice", "MaxPool", "DepthToSpace", "Reshape", "Transpose", "Pad", "Resize"),
    *("GlobalAveragePool", "Identity"),
}
"""Operators whose output lies within the range of their input."""


def quantize_weight(
    weight: NDArray[np.float32], least: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a kernel to int8.

    Args:
        weight: float32, output channels first.
        least: float32 (output channels,): smallest value that a step may have.

    Returns:
        int8 of its shape, and float32 (output channels,): the value of one step.
    """
    by_output = np.abs(weight).reshape(len(weight), -1)
    largest = by_output.max(axis=1)
    scale = (np.where(largest > 0, largest, 1) / _WEIGHT_STEPS).astype(np.float32)
    if least is not None:
        scale = np.maximum(scale, least)
    steps = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(steps, -_WEIGHT_STEPS, _WEIGHT_STEPS).astype(np.int8), scale


def quantize_graph(graph: Graph, ranges: Ranges, *, restate: bool) -> Graph:
    """Return the graph of a network in int8.

    Args:
        graph: in float32.
        ranges: of every layer, and of `PIXELS`.
        restate: round again behind operators that only move values. It changes none of them, but
            ONNX Runtime keeps whole numbers only where it is told so on both sides of an operator;
            OpenVINO finds out by itself and is faster without.

    Raises:
        ModelError: a range is missing, or an operator has no int8 form.
    """
    return _Quantizer(graph, ranges, restate=restate).graph()


class _Quantizer:
    """Copies a graph and rounds between its operators."""

    def __init__(self, graph: Graph, ranges: Ranges, *, restate: bool) -> None:
        self._of = graph
        self._made = Graph()
        self._restate = restate
        self._origins = _origins(graph)
        self._ranges = _with_joined(graph, self._origins, ranges)
        self._rounded: dict[str, str] = {}
        self._last = _after_last_layer(graph)

    def graph(self) -> Graph:
        """Return the copy."""
        rectified = {node.inputs[0] for node in self._of.nodes if node.operator == "Relu"}
        for node in self._of.nodes:
            inputs = self._layer(node) if node.operator == "Conv" else self._read(node)
            if node.operator == "Concat":
                inputs = self._joined(node)
            self._made.add(node.operator, *inputs, output=node.output, **dict(node.attributes))
            self._after(node, rectified)
        return self._made

    def _after(self, node: Node, rectified: set[str]) -> None:
        """Round what an operator gives, where that is due."""
        tensor = node.output
        if tensor in self._last or self._origins[tensor] == PIXELS:
            return  # the input is rounded by the first layer, after it was folded
        if node.operator == "Conv":
            if tensor not in rectified:  # else both are one operator, which rounds at its end
                self._round(tensor)
        elif node.operator == "Relu" or self._restate:
            self._round(tensor)
        else:
            self._rounded[tensor] = tensor

    def _joined(self, node: Node) -> list[str]:
        """Bring what is joined to one range."""
        return [
            self._rounded[name]
            if self._step(name) == self._step(node.output)
            else self._round(name, like=node.output)
            for name in node.inputs
        ]

    def _read(self, node: Node) -> list[str]:
        for name in node.inputs:
            if name in self._of.constants:
                self._made.constant(name, self._of.constants[name])
        return [self._rounded.get(name, name) for name in node.inputs]

    def _layer(self, node: Node) -> list[str]:
        """Add the weights of a layer as whole numbers and return what it reads."""
        source, weight, *bias = node.inputs
        if source not in self._rounded:
            self._round(source)
        step = self._step(source)[0]
        # Where training has silenced a channel, its bias is beyond int32 in products of its scale.
        least = [np.abs(self._of.constants[name]) / (_BIAS_STEPS * step) for name in bias]
        steps, scale = quantize_weight(self._of.constants[weight], *least)
        inputs = [self._rounded[source], self._restored(weight, steps, scale)]
        for name in bias:
            # Products of both scales: a bias is added to the sum of products as it is.
            fine = scale * step
            whole = np.rint(self._of.constants[name] / fine).astype(np.int32)
            inputs.append(self._restored(name, whole, fine))
        return inputs

    def _restored(
        self, name: str, steps: NDArray[np.int8 | np.int32], scale: NDArray[np.float32]
    ) -> str:
        return self._made.add(
            "DequantizeLinear",
            self._made.constant(f"{name}.steps", steps),
            self._made.constant(f"{name}.scale", scale),
            self._made.constant(f"{name}.zero", np.zeros(len(scale), steps.dtype)),
            axis=0,
        )

    def _round(self, tensor: str, like: str = "") -> str:
        """Round a tensor to its own steps or to those of another one, and return the result."""
        source = self._rounded.get(tensor, tensor)
        scale, zero = self._step(like or tensor)
        key = f"{tensor}.{like}"
        how = (
            self._made.constant(f"{key}.scale", np.array(scale, np.float32)),
            self._made.constant(f"{key}.zero", np.array(zero, np.uint8)),
        )
        steps = self._made.add("QuantizeLinear", source, *how)
        rounded = self._made.add("DequantizeLinear", steps, *how)
        if not like:
            self._rounded[tensor] = rounded
        return rounded

    def _step(self, tensor: str) -> tuple[np.float32, int]:
        """Return the value of one step, and the step that is 0."""
        low, high = self._ranges[self._origins[tensor]]
        scale = np.float32((high - low) / _STEPS)
        return scale, round(-low / float(scale))


def _origins(graph: Graph) -> dict[str, str]:
    """Return whose range the values of a tensor have: a layer, by its weight, or a joint."""
    origins = {PIXELS: PIXELS}
    for node in graph.nodes:
        if node.operator == "Conv":
            origins[node.output] = node.inputs[1]
        elif node.operator in _PASSING:
            origins[node.output] = origins[node.inputs[0]]
        elif node.operator == "Concat":
            origins[node.output] = node.output
        else:
            raise ModelError(f"the operator {node.operator} of this network has no int8 form")
    return origins


def _with_joined(graph: Graph, origins: dict[str, str], ranges: Ranges) -> Ranges:
    """Return the ranges with those of joints, all of which hold 0.

    What has no ReLU is rounded to the range of the joint from the start. What has one keeps its
    own, which begins at 0: only then are layer and ReLU one operator.
    """
    layers = {node.inputs[1] for node in graph.nodes if node.operator == "Conv"}
    if missing := sorted({PIXELS, *layers} - ranges.keys()):
        raise ModelError(
            f"int8 needs the range of layer {missing[0]!r}, which this model does not state; "
            "'tilingseg compress' finds it"
        )
    rectified = {origins[n.inputs[0]] for n in graph.nodes if n.operator == "Relu"}
    made = {
        name: (0.0 if name in rectified else min(low, 0.0), max(high, low + 1e-6, 1e-6))
        for name, (low, high) in ranges.items()
    }
    for node in graph.nodes:
        if node.operator == "Concat":
            members = [origins[name] for name in node.inputs]
            joint = min(made[m][0] for m in members), max(made[m][1] for m in members)
            made[origins[node.output]] = joint
            made.update({m: joint for m in members if m not in rectified})
    return made


def _after_last_layer(graph: Graph) -> set[str]:
    """Return the tensors between the last layer and the result, which stay as they are."""
    names = {LOGITS}
    for node in reversed(graph.nodes):
        if node.output in names and node.operator != "Conv":
            names.add(node.inputs[0])
    return names
