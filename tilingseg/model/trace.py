"""From a network in PyTorch to its graph: a forward pass is watched without computing anything.

The network is called once on a batch of no tiles, whose tensors have a shape and no content, and
what it does with them is noted: for one shape of tiles and one used part, since `core_logits` runs
here as it does in PyTorch, so that the graph leaves the same work out. It takes milliseconds, which
matters because every shape and part gets a graph of its own; the exporters of PyTorch take seconds.

Known are the operators of the networks in this package. A network with another one is refused by
the operator's name and stays with PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tilingseg.errors import ModelError
from tilingseg.model.core import core_logits
from tilingseg.model.graph import LOGITS, PIXELS, Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def trace(module: nn.Module, shape: tuple[int, ...], part: tuple[slice, slice]) -> Graph:
    """Record what a network does with a part of each tile.

    Args:
        module: the network, in evaluation mode.
        shape: (1, bands, height, width) of its input.
        part: (rows, columns) of each tile that are wanted.

    Returns:
        The graph. Weights have the names that they have in the network.

    Raises:
        ModelError: the network uses an operator that is not known here.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("a TorchScript network runs in PyTorch alone")
    recorder = _Recorder(module)
    pixels = torch.empty((0, *shape[1:]))
    recorder.called(pixels, PIXELS)
    with torch.inference_mode(), recorder:
        logits = core_logits(module, pixels, part)
    return recorder.graph(logits)


class _Recorder(TorchFunctionMode):
    """Notes the calls that are made on tensors without content."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.noted = Graph()
        self._names: dict[int, str] = {}
        self._kept: list[Tensor] = []  # an id is given anew when its owner is gone
        self._pieces: dict[int, list[str]] = {}
        for name, weight in module.state_dict(keep_vars=True).items():
            self.called(weight, name)

    def graph(self, logits: Tensor) -> Graph:
        """Return what was noted, with `logits` as its result."""
        self.noted.add("Identity", self.name(logits), output=LOGITS)
        return self.noted

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let a call find the shape of its result, and note what it does."""
        kwargs = kwargs or {}
        name = _plain_name(func)
        result = (
            args[0].new_empty(_SHAPES[name](*args)) if name in _SHAPES else func(*args, **kwargs)
        )
        if name == "__setitem__":
            self._fill(*args)
        elif isinstance(result, Tensor):
            if name == "empty":
                self._kept.append(result)
                self._pieces[id(result)] = []
            elif name in _SAME_VALUES:
                self._pass_on(args[0], result)
            elif name in _NOTES:
                self.called(result, _NOTES[name](self, result, args, kwargs))
            else:
                raise ModelError(f"only PyTorch knows the operator {name!r} of this network")
        return result

    def called(self, tensor: Tensor, name: str) -> None:
        """Give a tensor a name."""
        self._kept.append(tensor)
        self._names[id(tensor)] = name

    def name(self, tensor: Tensor) -> str:
        """Return the name of a tensor; one that was filled in pieces is put together first."""
        if pieces := self._pieces.pop(id(tensor), None):
            self.called(tensor, self.noted.add("Concat", *pieces, axis=1))
        return self._names[id(tensor)]

    def weights(self, *weights: Tensor | None) -> list[str]:
        """Return the names of weights, which become constants; None is left out."""
        return [
            self.noted.constant(self.name(weight), _values(weight))
            for weight in weights
            if weight is not None
        ]

    def _pass_on(self, source: Tensor, result: Tensor) -> None:
        if id(source) in self._pieces:
            self._kept.append(result)
            self._pieces[id(result)] = self._pieces.pop(id(source))
        else:
            self.called(result, self.name(source))

    def _fill(self, target: Tensor, where: tuple[slice, ...], source: Tensor) -> None:
        """Note what becomes the next channels of a tensor that was made empty."""
        assert where[0] == slice(None)
        assert len(where) == 2
        self._pieces[id(target)].append(self.name(source))


_SAME_VALUES = {"contiguous", "dropout", "dropout2d", "feature_dropout"}
"""Calls that change no value, in evaluation."""


def _plain_name(func: Callable[..., Any]) -> str:
    name: str = getattr(func, "__name__", str(func))
    # What PyTorch calls the functions that dispatch on `return_indices` inside.
    return "max_pool2d" if name == "fn" else name.rstrip("_") if name == "relu_" else name


def _shuffled_shape(x: Tensor, factor: int) -> tuple[int, ...]:
    channels, height, width = x.shape[1:]
    return 0, channels // factor**2, height * factor, width * factor


def _unshuffled_shape(x: Tensor, factor: int) -> tuple[int, ...]:
    channels, height, width = x.shape[1:]
    return 0, channels * factor**2, height // factor, width // factor


_SHAPES = {"pixel_shuffle": _shuffled_shape, "pixel_unshuffle": _unshuffled_shape}
"""What PyTorch leaves as it is where a batch is empty."""

Arguments = tuple[Any, ...]


def _conv2d(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    x, weight, bias, stride, padding, dilation, groups = _filled(
        args, kwargs, ("bias", None), ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)
    )
    rows, cols = _pair(padding)
    return to.noted.add(
        "Conv",
        to.name(x),
        *to.weights(weight, bias),
        kernel_shape=tuple(weight.shape[2:]),
        strides=_pair(stride),
        pads=(rows, cols, rows, cols),
        dilations=_pair(dilation),
        group=groups,
    )


def _conv_transpose2d(
    to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]
) -> str:
    """Kernel and stride are equal: a 1 × 1 convolution, then channels become pixels.

    Every output pixel has one product of its own, so both forms compute the same; this one has
    int8 kernels.
    """
    x, weight, bias, stride, padding, _, groups = _filled(
        args,
        kwargs,
        ("bias", None),
        ("stride", 1),
        ("padding", 0),
        ("output_padding", 0),
        ("groups", 1),
    )
    factor = weight.shape[2]
    if tuple(weight.shape[2:]) != _pair(stride) or _pair(padding) != (0, 0) or groups != 1:
        raise ModelError("only PyTorch knows transposed convolutions whose kernels overlap")
    by_output = _values(weight).transpose(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)
    inputs = [to.noted.constant(to.name(weight), np.ascontiguousarray(by_output))]
    if bias is not None:
        inputs.append(to.noted.constant(to.name(bias), _values(bias).repeat(factor**2)))
    many = to.noted.add(
        "Conv",
        to.name(x),
        *inputs,
        kernel_shape=(1, 1),
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(1, 1),
        group=1,
    )
    return to.noted.add("DepthToSpace", many, blocksize=factor, mode="CRD")


def _batch_norm(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    mean, variance = args[1:3]
    inputs = to.weights(kwargs["weight"], kwargs["bias"], mean, variance)
    return to.noted.add("BatchNormalization", to.name(args[0]), *inputs, epsilon=kwargs["eps"])


def _relu(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    return to.noted.add("Relu", to.name(args[0]))


def _max_pool2d(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    x, size, stride, padding = _filled(args, kwargs, ("stride", None), ("padding", 0))
    rows, cols = _pair(padding)
    return to.noted.add(
        "MaxPool",
        to.name(x),
        kernel_shape=_pair(size),
        strides=_pair(stride or size),
        pads=(rows, cols, rows, cols),
    )


def _mean_over_all(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    if tuple(result.shape[2:]) != (1, 1):
        raise ModelError("only PyTorch knows this pooling: another size than 1 × 1")
    return to.noted.add("GlobalAveragePool", to.name(args[0]))


def _cat(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    tensors, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return to.noted.add("Concat", *(to.name(x) for x in tensors), axis=dim)


def _add(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    return to.noted.add("Add", to.name(args[0]), to.name(args[1]))


def _getitem(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    x, index = args
    bounds = [cut.indices(n)[:2] for cut, n in zip(index, x.shape, strict=False)]
    cuts = [(axis, *b) for axis, b in enumerate(bounds) if b != (0, x.shape[axis])]
    if not cuts:
        return to.name(x)
    axes, starts, stops = zip(*cuts, strict=True)
    key = f"cut_{len(to.noted.nodes)}"
    return to.noted.add(
        "Slice",
        to.name(x),
        to.noted.constant(f"{key}.starts", _whole(starts)),
        to.noted.constant(f"{key}.stops", _whole(stops)),
        to.noted.constant(f"{key}.axes", _whole(axes)),
    )


def _pad(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    left, right, top, bottom = args[1]
    if not any(args[1]):
        return to.name(args[0])
    sizes = _whole((0, 0, top, left, 0, 0, bottom, right))
    key = f"pad_{len(to.noted.nodes)}"
    return to.noted.add("Pad", to.name(args[0]), to.noted.constant(key, sizes))


def _pixel_shuffle(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    return to.noted.add("DepthToSpace", to.name(args[0]), blocksize=args[1], mode="CRD")


def _pixel_unshuffle(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    """ONNX's SpaceToDepth orders the channels otherwise."""
    x, factor = args
    channels, height, width = x.shape[1:]
    key = f"fold_{len(to.noted.nodes)}"
    apart = _whole((1, channels, height // factor, factor, width // factor, factor))
    squares = to.noted.add("Reshape", to.name(x), to.noted.constant(f"{key}.apart", apart))
    moved = to.noted.add("Transpose", squares, perm=(0, 1, 3, 5, 2, 4))
    shape = to.noted.constant(f"{key}.shape", _whole((1, *result.shape[1:])))
    return to.noted.add("Reshape", moved, shape)


def _interpolate(to: _Recorder, result: Tensor, args: Arguments, kwargs: dict[str, Any]) -> str:
    mode = kwargs.get("mode", "nearest")
    if mode not in ("nearest", "bilinear") or kwargs.get("align_corners"):
        raise ModelError(f"only PyTorch knows this resizing: {mode}, corners aligned")
    where = "asymmetric" if mode == "nearest" else "half_pixel"
    key = to.noted.constant(f"size_{len(to.noted.nodes)}", _whole((1, *result.shape[1:])))
    return to.noted.add(
        "Resize",
        to.name(args[0]),
        "",
        "",
        key,
        mode="nearest" if mode == "nearest" else "linear",
        coordinate_transformation_mode=where,
        nearest_mode="floor",
    )


def _values(weight: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = weight.detach().float().contiguous().numpy()
    return values


def _whole(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _filled(args: Arguments, kwargs: dict[str, Any], *optional: tuple[str, Any]) -> Arguments:
    """Return two arguments and the optional ones that follow, given by place, by name or not."""
    given = args[2 : 2 + len(optional)]
    missing = optional[len(given) :]
    return (*args[:2], *given, *(kwargs.get(name, default) for name, default in missing))


_NOTES: dict[str, Callable[[_Recorder, Tensor, Arguments, dict[str, Any]], str]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "max_pool2d": _max_pool2d,
    "adaptive_avg_pool2d": _mean_over_all,
    "cat": _cat,
    "add": _add,
    "__add__": _add,
    "__getitem__": _getitem,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "interpolate": _interpolate,
}
