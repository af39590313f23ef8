"""The network in another runtime than PyTorch: a compiled graph for each shape and used part.

Tiles go through one by one, so that a tile gets the same bits in whatever batch it comes. Graphs
are made when they are first needed. Making one takes as long as some tiles, so only the parts that
many tiles share have their own; other tiles take the smallest graph that gives all they need, and
which one that is depends on the plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tilingseg.infer.activation import activate, check_shape
from tilingseg.model.normalize import normalize
from tilingseg.model.onnx_file import onnx_bytes
from tilingseg.model.quantize import quantize_graph
from tilingseg.model.trace import trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Part
    from tilingseg.infer.runtimes import Compiled, Runtime
    from tilingseg.model.graph import Graph
    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scaling

_Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphOptions:
    """How a network runs in another runtime."""

    runtime: Runtime
    """What runs it."""
    precision: str
    """`fp32`, `bf16` or `int8`."""
    threads: int
    """Processor threads that it may use."""
    parts: tuple[Part, ...] | None = None
    """Parts of a tile that get a graph of their own, beside whole tiles; None: every one."""


class GraphEngine:
    """The network as compiled graphs, on the CPU."""

    def __init__(
        self, module: torch.nn.Module, spec: ModelSpec, scaling: Scaling, options: GraphOptions
    ) -> None:
        """Keep what graphs are made from.

        Args:
            module: the network on the CPU, in evaluation mode.
            spec: normalisation, activation, and for int8 the ranges of the layers.
            scaling: stored values that become 0 and 1.
            options: runtime and precision.
        """
        self._module = module
        self._spec = spec
        self._scaling = scaling
        self._options = options
        self._graphs: dict[tuple[tuple[int, ...], _Box], Compiled] = {}
        self._running: Compiled | None = None

    @torch.inference_mode()
    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch; see `Engine.probabilities`.

        Raises:
            ModelError: the runtime does not know this network, or gives something else than the
                spec promises.
        """
        height, width = pixels.shape[2:]
        wanted = (*part[0].indices(height)[:2], *part[1].indices(width)[:2])
        given = self._box(wanted, height, width)
        rows = slice(wanted[0] - given[0], wanted[1] - given[0])
        cols = slice(wanted[2] - given[2], wanted[3] - given[2])
        expected = 1, self._spec.n_outputs, given[1] - given[0], given[3] - given[2]
        found = []
        for index in range(len(pixels)):
            only = slice(index, index + 1)
            batch = normalize(
                torch.from_numpy(pixels[only]),
                torch.from_numpy(valid[only]),
                self._scaling,
                self._spec,
            )
            forward = self._graph(tuple(batch.shape), given)
            logits = torch.from_numpy(forward(batch.contiguous().numpy()))
            check_shape(tuple(logits.shape), expected)
            # A copy: the runtime may write its next result to the same place.
            found.append(activate(logits[:, :, rows, cols].clone(), self._spec.activation))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _box(self, wanted: _Box, height: int, width: int) -> _Box:
        """Return the smallest part with a graph of its own that holds what is wanted."""
        if self._options.parts is None:
            return wanted
        boxes = [(0, height, 0, width)]
        for rows, cols in self._options.parts:
            box = (*rows.indices(height)[:2], *cols.indices(width)[:2])
            if all(box[i] <= wanted[i] and wanted[i + 1] <= box[i + 1] for i in (0, 2)):
                boxes.append(box)
        return min(boxes, key=lambda box: (box[1] - box[0]) * (box[3] - box[2]))

    def _graph(self, shape: tuple[int, ...], box: _Box) -> Compiled:
        """Return the graph for a shape and part; only one of all holds the memory of a pass."""
        key = shape, box
        if key not in self._graphs:
            options, part = self._options, (slice(*box[:2]), slice(*box[2:]))
            graph = make_graph(self._module, self._spec, shape, part, options)
            data = onnx_bytes(graph, shape)
            self._graphs[key] = options.runtime.prepare(data, options.precision, options.threads)
        wanted = self._graphs[key]
        if self._running is not None and self._running is not wanted:
            self._running.release()
        self._running = wanted
        return wanted


def make_graph(
    module: torch.nn.Module,
    spec: ModelSpec,
    shape: tuple[int, ...],
    part: Part,
    options: GraphOptions,
) -> Graph:
    """Return the graph of a network in the precision that is wanted.

    Args:
        module: the network.
        spec: has the ranges that int8 needs.
        shape: of the input, (1, bands, height, width).
        part: what is wanted of a tile.
        options: precision, and the runtime it is for.

    Raises:
        ModelError: an operator of the network is not known, or int8 lacks a range.
    """
    graph = trace(module, shape, part)
    if options.precision != "int8":
        return graph
    ranges = {name: (low, high) for name, low, high in spec.activation_ranges}
    return quantize_graph(graph, ranges, restate=options.runtime.restate)
