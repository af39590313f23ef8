"""How far a network sees, found by walking its layers.

A tile's output equals inference on the whole scene except near the tile's edges, where the network
met the end of the tile instead of the scene's next pixels. How far in that reaches is the halo. It
is not the textbook sum of kernel radii: poolings round, and resizing reaches beyond its factor.

The walk runs the traced network on extents instead of numbers. An extent says how many positions a
map has along each axis and which of them are untouched by the edge; each layer has its arithmetic
for that. At the end, what is touched on either side is the halo. Everything is exact integer
arithmetic, checked in the tests against real perturbations for every variant and depth.

Layers whose output at one pixel depends on the tile as a whole (statistics over the tile,
attention, `align_corners=True`) allow no halo at all: they are named as the reason, and such a
network must be blended. So is a layer that is not in the tables here, since a wrong halo would
make silent seams.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from tilingseg.errors import ModelError
from tilingseg.model.core import core_share
from tilingseg.model.spec import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

UNTRACED_MULTIPLE_PX = 32
"""Lattice assumed for a network whose layers cannot be read: five halvings, the deepest in use."""
_UNTRACED_BYTES_PER_PX = 4.0 * 128
"""A guess on the safe side: 64 float32 maps of full size into and out of one layer."""

_POINTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax2d,
)  # fmt: skip
_POINTWISE_FUNCTIONS = (
    torch.relu, torch.sigmoid, torch.tanh, F.relu, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish,
    F.sigmoid, F.tanh,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd, operator.imul,
    torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum,
)  # fmt: skip
_STATISTICS = (
    nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.MultiheadAttention, nn.Linear, nn.Flatten,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Axis:
    """Positions along one axis of a map, and the half-open range of those no edge has touched."""

    size: int
    start: int
    stop: int
    stride: Fraction
    """Input pixels a position."""

    def convolved(self, kernel: int, stride: int, padding: int, dilation: int) -> _Axis:
        reach = dilation * (kernel - 1)
        size = (self.size + 2 * padding - reach - 1) // stride + 1
        return self.to(
            size,
            -(-(self.start + padding) // stride),
            (self.stop - 1 + padding - reach) // stride + 1,
            self.stride * stride,
        )

    def transposed(self, kernel: int, stride: int, padding: int, extra: int) -> _Axis:
        size = (self.size - 1) * stride - 2 * padding + kernel + extra
        return self.to(
            size,
            (self.start - 1) * stride + kernel - padding,
            self.stop * stride - padding,
            self.stride / stride,
        )

    def resized(self, factor: int, *, linear: bool) -> _Axis:
        if not linear:
            start, stop = self.start * factor, self.stop * factor
        else:
            # Output j lies at (j + ½)/factor - ½ and needs the positions on both sides of that; a
            # place that falls on a position is rounded to either side, so it needs both too.
            half = Fraction(1, 2)
            start = math.floor((self.start + half) * factor - half) + 1
            stop = math.ceil((self.stop - half) * factor - half)
        return self.to(self.size * factor, start, stop, self.stride / factor)

    def padded(self, before: int, after: int) -> _Axis:
        size = self.size + before + after
        return self.to(size, self.start + before, self.stop + before, self.stride)

    def cut(self, window: slice) -> _Axis:
        start, stop, step = window.indices(self.size)
        if step != 1:
            raise ModelError("a network that strides by slicing cannot be walked")
        return self.padded(-start, stop - self.size)

    def joined(self, other: _Axis) -> _Axis:
        if self.size != other.size:
            raise ModelError(f"maps of {self.size} and {other.size} px meet in one layer")
        return dataclasses.replace(
            self, start=max(self.start, other.start), stop=min(self.stop, other.stop)
        )

    def to(self, size: int, start: int, stop: int, stride: Fraction) -> _Axis:
        # Even where nothing is left untouched, both ends stay inside the map.
        return _Axis(size, min(max(start, 0), size), min(max(stop, 0), size), stride)


@dataclass(frozen=True, slots=True, eq=False)
class _Extent:
    """A map of the walk: channels and two axes, no numbers."""

    channels: int
    rows: _Axis
    cols: _Axis

    def along(self, step: Callable[[_Axis, int], _Axis], channels: int | None = None) -> _Extent:
        """Apply `step(axis, number of the axis)` to both axes."""
        kept = self.channels if channels is None else channels
        return _Extent(kept, step(self.rows, 0), step(self.cols, 1))


class _Walk(fx.Interpreter):
    """Runs a traced network on extents, and notes what it meets on the way."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.reasons: dict[str, None] = {}
        self.strides: set[int] = {1}
        self.peak = 0.0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        live = {id(v): v for v in (*self.env.values(), result) if isinstance(v, _Extent)}
        self.peak = max(
            self.peak, sum(v.channels * v.rows.size * v.cols.size for v in live.values())
        )
        if isinstance(result, _Extent):
            self.strides |= {result.rows.stride.numerator, result.cols.stride.numerator}
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.layer(self.fetch_attr(target), args[0])

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        extents = [arg for arg in args if isinstance(arg, _Extent)]
        if target is torch.cat:
            return self.concatenated(*args, **kwargs)
        if not extents:
            return target(*args, **kwargs)
        first = extents[0]
        if target is getattr and args[1] == "shape":
            return (1, first.channels, first.rows.size, first.cols.size)
        if target in _POINTWISE_FUNCTIONS:
            return first
        if target in _ELEMENTWISE_FUNCTIONS:
            return self.elementwise(extents)
        if target is operator.getitem:
            return self.sliced(first, args[1])
        if target is F.pad:
            left, right, top, bottom = args[1] if len(args) > 1 else kwargs["pad"]
            return _Extent(
                first.channels, first.rows.padded(top, bottom), first.cols.padded(left, right)
            )
        return self.unknown(getattr(target, "__name__", str(target)), first)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        extent = args[0]
        if not isinstance(extent, _Extent):
            return getattr(extent, target)(*args[1:], **kwargs)
        if target == "size":
            size = (1, extent.channels, extent.rows.size, extent.cols.size)
            return size[args[1]] if len(args) > 1 else size
        if target in ("relu", "sigmoid", "tanh", "contiguous", "float", "to"):
            return extent
        return self.unknown(f"Tensor.{target}", extent)

    def layer(self, module: nn.Module, extent: _Extent) -> _Extent:
        """Return what one layer makes of an extent."""
        if isinstance(module, _POINTWISE_MODULES):
            return extent
        if isinstance(module, nn.BatchNorm2d | nn.modules.dropout._DropoutNd):
            return self.stochastic(module, extent)
        if isinstance(module, nn.Conv2d):
            return self.convolution(module, extent)
        if isinstance(module, nn.ConvTranspose2d):
            return self.transposed_convolution(module, extent)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            return self.pooling(module, extent)
        if isinstance(module, nn.Upsample):
            return self.resizing(module, extent)
        if isinstance(module, nn.PixelUnshuffle):
            fold = module.downscale_factor
            return extent.along(
                lambda axis, _: axis.convolved(fold, fold, 0, 1), extent.channels * fold**2
            )
        if isinstance(module, nn.PixelShuffle):
            fold = module.upscale_factor
            return extent.along(
                lambda axis, _: axis.resized(fold, linear=False), extent.channels // fold**2
            )
        return self.unknown(type(module).__name__, extent, whole=isinstance(module, _STATISTICS))

    def stochastic(self, module: nn.Module, extent: _Extent) -> _Extent:
        name = type(module).__name__
        if module.training:
            self.reasons[f"{name} is in training mode"] = None
        elif isinstance(module, nn.BatchNorm2d) and not module.track_running_stats:
            self.reasons[f"{name} keeps no statistics and takes those of the tile"] = None
        return extent

    def convolution(self, module: nn.Conv2d, extent: _Extent) -> _Extent:
        if isinstance(module.padding, str) or module.padding_mode != "zeros":
            return self.unknown("Conv2d that does not pad with a number of zeros", extent)
        padding = cast("tuple[int, int]", module.padding)
        return extent.along(
            lambda axis, k: axis.convolved(
                module.kernel_size[k], module.stride[k], padding[k], module.dilation[k]
            ),
            module.out_channels,
        )

    def transposed_convolution(self, module: nn.ConvTranspose2d, extent: _Extent) -> _Extent:
        if module.dilation != (1, 1):
            return self.unknown("dilated ConvTranspose2d", extent)
        padding = cast("tuple[int, int]", module.padding)
        return extent.along(
            lambda axis, k: axis.transposed(
                module.kernel_size[k], module.stride[k], padding[k], module.output_padding[k]
            ),
            module.out_channels,
        )

    def pooling(self, module: nn.MaxPool2d | nn.AvgPool2d, extent: _Extent) -> _Extent:
        if module.ceil_mode:
            return self.unknown(f"{type(module).__name__} that rounds up", extent)
        kernel, stride, padding, dilation = (
            _pair(value)
            for value in (
                module.kernel_size,
                module.stride,
                module.padding,
                getattr(module, "dilation", 1),
            )
        )
        return extent.along(
            lambda axis, k: axis.convolved(kernel[k], stride[k], padding[k], dilation[k])
        )

    def resizing(self, module: nn.Upsample, extent: _Extent) -> _Extent:
        factor = module.scale_factor
        if module.align_corners:
            self.reasons["Upsample has align_corners=True, its weights depend on the tile"] = None
        if not isinstance(factor, int | float) or factor != int(factor):
            return self.unknown("Upsample to a fixed size or by a fraction", extent)
        if module.mode not in ("nearest", "bilinear"):
            return self.unknown(f"Upsample of mode {module.mode}", extent)
        linear = module.mode == "bilinear"
        return extent.along(lambda axis, _: axis.resized(int(factor), linear=linear))

    def concatenated(self, extents: Any, dim: int = 0) -> Any:
        if dim not in (1, -3):
            return self.unknown("concatenation along an axis other than the channels", extents[0])
        merged = self.elementwise(extents)
        return dataclasses.replace(merged, channels=sum(item.channels for item in extents))

    def elementwise(self, extents: list[_Extent]) -> _Extent:
        merged = extents[0]
        for other in extents[1:]:
            merged = _Extent(
                merged.channels, merged.rows.joined(other.rows), merged.cols.joined(other.cols)
            )
        return merged

    def sliced(self, extent: _Extent, index: Any) -> Any:
        full = slice(None)
        if not isinstance(index, tuple):
            return self.unknown("indexing", extent)
        if index[0] is Ellipsis:
            index = (*(full,) * (5 - len(index)), *index[1:])
        if len(index) != 4 or index[:2] != (full, full):
            return self.unknown("indexing of images or channels", extent)
        return _Extent(extent.channels, extent.rows.cut(index[2]), extent.cols.cut(index[3]))

    def unknown(self, name: str, extent: _Extent, *, whole: bool = False) -> _Extent:
        """Note why tiles cannot be exact, and go on as if the layer kept its input's size."""
        why = "looks at the whole tile" if whole else "is a layer whose reach is not known"
        self.reasons[f"{name} {why}"] = None
        return extent


def network_geometry(module: nn.Module, n_bands: int) -> Geometry:
    """Find the lattice, the halo and the memory need of a network that keeps its input's size.

    Args:
        module: the network, in evaluation mode.
        n_bands: channels of its input.

    Returns:
        The geometry; its `reason` names every layer that makes exact tiles impossible.
    """
    found = _reach(module, n_bands)
    if isinstance(found, str):
        return Geometry(
            multiple_px=UNTRACED_MULTIPLE_PX,
            halo_px=None,
            reason=found,
            bytes_per_px=_UNTRACED_BYTES_PER_PX,
        )
    walk, reach, multiple, size = found
    reasons = list(walk.reasons)
    if reach is None:
        reasons.append("its output does not have the size of its input")
    elif not reasons and max(reach) == size:
        reasons.append(f"it sees further than {size} px")
    halo = None if reasons or reach is None else -(-max(reach) // multiple) * multiple
    return Geometry(
        multiple_px=multiple,
        halo_px=halo,
        reason="; ".join(reasons) or None,
        bytes_per_px=4 * walk.peak / size**2,
        core_share=core_share(module),
    )


def edge_reach(module: nn.Module, n_bands: int) -> tuple[int, int, int, int] | None:
    """Return how far each edge of a tile reaches in, before rounding to the lattice.

    Args:
        module: as for `network_geometry`.
        n_bands: channels of its input.

    Returns:
        Pixels at the top, bottom, left and right whose output an edge has touched; None where
        that cannot be said.
    """
    found = _reach(module, n_bands)
    return None if isinstance(found, str) or found[0].reasons else found[1]


def _reach(
    module: nn.Module, n_bands: int
) -> str | tuple[_Walk, tuple[int, int, int, int] | None, int, int]:
    """Return (walk, reach of each edge, lattice, size walked), or why the layers are unreadable."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript file does not show its layers"
    try:
        # Wrapped, because a tracer opens the outermost module even where its kind is known here.
        traced = fx.symbolic_trace(nn.Sequential(module))
        # The lattice first, on any size; then, on that lattice, sizes until an interior remains.
        multiple = math.lcm(*_walk(traced, n_bands, 2**12)[0].strides)
        for n_steps in (16, 64, 256):
            size = multiple * n_steps
            walk, output = _walk(traced, n_bands, size)
            rows, cols = output.rows, output.cols
            if walk.reasons or (rows.start < rows.stop and cols.start < cols.stop):
                break
    except Exception as error:  # noqa: BLE001  tracing runs foreign code, which may raise anything
        return f"its layers cannot be read ({type(error).__name__}: {error})"
    if (rows.size, cols.size) != (size, size):
        return walk, None, multiple, size
    return walk, (rows.start, size - rows.stop, cols.start, size - cols.stop), multiple, size


def _walk(traced: fx.GraphModule, n_bands: int, size: int) -> tuple[_Walk, _Extent]:
    walk = _Walk(traced)
    axis = _Axis(size, 0, size, Fraction(1))
    output = walk.run(_Extent(n_bands, axis, axis))
    if not isinstance(output, _Extent):
        raise ModelError("it returns something else than one tensor")
    return walk, output


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
