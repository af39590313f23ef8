"""From a graph to the bytes of an ONNX file, which ONNX Runtime and OpenVINO both read.

`onnx` writes them; it comes with the extras of both engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.errors import DependencyError
from tilingseg.model.graph import LOGITS, PIXELS

if TYPE_CHECKING:
    from tilingseg.model.graph import Graph

_OPSET = 17
"""Version of the operators: old enough for the runtimes in use, new enough for int8 by channel."""
_IR_VERSION = 9
"""Version of the file format that belongs to it."""


def onnx_bytes(
    graph: Graph, shape: tuple[int, ...], metadata: dict[str, str] | None = None
) -> bytes:
    """Return the content of an ONNX file.

    Args:
        graph: the network.
        shape: of its input, (1, bands, height, width).
        metadata: texts that travel with it.

    Raises:
        DependencyError: the package `onnx` is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise DependencyError(
            "ONNX files need the package onnx: pip install 'tilingseg[onnx]'"
        ) from error
    network = helper.make_graph(
        [
            helper.make_node(node.operator, node.inputs, [node.output], **dict(node.attributes))
            for node in graph.nodes
        ],
        "network",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in graph.constants.items()],
    )
    model = helper.make_model(
        network,
        producer_name="tilingseg",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    helper.set_model_props(model, metadata or {})
    data: bytes = model.SerializeToString()
    return data
