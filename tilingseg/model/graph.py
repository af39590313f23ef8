"""A network as a list of operators, in the vocabulary of ONNX, for one tile of one shape.

What other engines than PyTorch work from: `trace` makes it from a network, `quantize` lowers its
precision, `onnx_file` turns it into bytes that they read. Free of torch and of ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = "pixels"
"""Name of the input: float32 (1, bands, height, width), normalised."""
LOGITS = "logits"
"""Name of the output: float32 (1, outputs, height, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator."""

    operator: str
    """Its name in ONNX, such as `Conv`."""
    inputs: tuple[str, ...]
    """Names of what it reads; an empty one is left out."""
    output: str
    """Name of what it gives."""
    attributes: tuple[tuple[str, Any], ...] = ()
    """Its settings as (name, value) pairs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A network for one tile of one shape; filled while it is built."""

    nodes: list[Node] = field(default_factory=list)
    """In the order of work."""
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Weights, positions and sizes by name."""

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append an operator and return the name of its output."""
        node = Node(
            operator=operator,
            inputs=inputs,
            output=output or f"{operator}_{len(self.nodes)}",
            attributes=tuple(sorted(attributes.items())),
        )
        self.nodes.append(node)
        return node.output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.constants[name] = values
        return name
