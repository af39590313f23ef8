"""Inference: the tiles of a region are read ahead, batched and sent through the network.

A region's tiles are taken row by row; batches never span two tile rows, so that a batch holds the
same tiles whenever and wherever its region is run: the same bits after a restart or on another
worker. Reader threads decode the next tiles in their stored data type while the network works;
scaling and normalisation happen on the device.

Tiles whose area lies outside the area of interest are not read, tiles without a valid pixel are
not inferred. Pixels past the scene and pixels without data reach the network as zeros after
normalisation, which is what the network's own zero padding gives.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from tilingseg.errors import ModelError, PlanError, TileError, TilingSegError
from tilingseg.model.normalize import normalize
from tilingseg.records import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from tilingseg.grid import Tile, Window
    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scaling, SceneReader

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_devices(wish: str) -> tuple[str, ...]:
    """Turn a wish into devices; a scene's regions are shared between them.

    Args:
        wish: `auto` (every CUDA device, else Apple's GPU, else the CPU), or device names of torch
            separated by commas, such as `cuda:1` or `cpu,cpu`.

    Raises:
        PlanError: a device does not exist here.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        return ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    devices = []
    for name in wish.split(","):
        try:
            device = torch.device(name.strip())
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise PlanError(
                f"device {name.strip()!r} cannot be used: {reason}; try --device cpu"
            ) from error
        devices.append(str(device))
    if len({torch.device(name).type for name in devices}) > 1:
        raise PlanError(f"devices of one kind only, got {wish}: others round differently")
    return tuple(devices)


def choose_precision(wish: str, device: str) -> str:
    """Turn `auto` into the precision that the device gains by; pass other wishes on.

    Args:
        wish: `auto`, `fp32`, `fp16` or `bf16`.
        device: name of torch.

    Raises:
        PlanError: the device cannot work in this precision.
    """
    kind = torch.device(device).type
    if wish == "auto":
        if kind != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if wish == "fp16" and kind == "cpu":
        raise PlanError("fp16 is no precision for a CPU; use --precision fp32 or bf16")
    return wish


class Engine(Protocol):
    """Runs the network on one device. Every implementation passes `EngineContract` in the tests."""

    def probabilities(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> torch.Tensor:
        """Infer one batch.

        Args:
            pixels: (n, bands, height, width) in the scene's stored dtype.
            valid: bool (n, height, width), True = data.

        Returns:
            float32 (n, classes, height, width) in 0…1, on the engine's device.
        """


class TorchEngine:
    """The network in PyTorch, on one device, in one precision."""

    def __init__(
        self,
        module: torch.nn.Module,
        spec: ModelSpec,
        scaling: Scaling,
        device: str,
        precision: str,
    ) -> None:
        """Move the network to its device.

        Args:
            module: maps float32 (n, bands, height, width) to logits (n, outputs, height, width);
                it is copied to the device and set to evaluation.
            spec: normalisation and activation.
            scaling: stored values that become 0 and 1.
            device: `cpu`, `cuda:0`, `mps`.
            precision: `fp32`, `fp16` or `bf16`.
        """
        self._device = torch.device(device)
        self._spec = spec
        self._scaling = scaling
        self._dtype = PRECISIONS[precision]
        # moving a module changes it in place, and the engines of other devices share this one
        module = deepcopy(module).eval().to(self._device)
        if self._device.type == "cpu":
            _steady(module)
        # channels_last is the layout that convolutions are fast in, on CPUs as on tensor cores
        self._module = convert_conv2d_weight_memory_format(module, torch.channels_last)

    @torch.inference_mode()
    def probabilities(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> torch.Tensor:
        """Infer one batch; see `Engine.probabilities`."""
        on_device = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        known = torch.from_numpy(valid).to(self._device, non_blocking=True)
        batch = normalize(on_device, known, self._scaling, self._spec)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits: torch.Tensor = self._module(batch)
        expected = (len(pixels), self._spec.n_outputs, *pixels.shape[2:])
        if tuple(logits.shape) != expected:
            raise ModelError(
                f"the network gives {tuple(logits.shape)} where its spec promises {expected}"
            )
        # exp differs in its last digit where the threads of a CPU part the work: double hides it
        logits = logits.double() if self._device.type == "cpu" else logits.float()
        if self._spec.activation == "softmax":
            return logits.softmax(dim=1)[:, 1:].float()  # (n, classes, h, w)
        return logits.sigmoid().float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


class _Pointwise(torch.nn.Module):
    """A convolution with a kernel of one pixel, as the matrix product that it is."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(convolution.weight[:, :, 0, 0], requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, height, width)."""
        by_pixel = x.permute(0, 2, 3, 1)
        return torch.nn.functional.linear(by_pixel, self.weight, self.bias).permute(0, 3, 1, 2)


def _steady(module: torch.nn.Module) -> None:
    """Make a network give the same bits with any number of processor threads.

    oneDNN takes other kernels for 1 × 1 convolutions with one thread than with several, and they
    round differently: the workers of a cluster would not give what one process gives.
    """
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Conv2d):
            plain = child.kernel_size == child.stride == (1, 1) and child.groups == 1
            if plain and child.padding in ((0, 0), "valid", "same"):
                setattr(module, name, _Pointwise(child))
        else:
            _steady(child)


@dataclass(slots=True)
class Tally:
    """What one region has done so far."""

    n_tiles: int = 0
    n_tiles_nodata: int = 0
    n_tiles_outside: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileSource:
    """Where the pixels of tiles come from, and which of them count."""

    reader: SceneReader
    """The open scene."""
    area_mask: Callable[[Window], NDArray[np.bool_] | None]
    """For a window inside the scene: bool (height, width), True = in the area of interest; None
    when no pixel is."""
    whole_tile: bool
    """True: all of a tile is used (blending); False: only its core."""
    pool: ThreadPoolExecutor
    """Reader threads."""
    read_ahead: int
    """Tiles that may be read before the network asks for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    tile: Tile
    pixels: NDArray[Any] | None
    """(bands, height, width); None: skip the tile."""
    data: NDArray[np.bool_]
    """What the network may see."""
    counts: NDArray[np.bool_]
    """What may be written: data inside the area of interest."""
    outside: bool = False
    """Skipped because of the area of interest, not for lack of data."""


def predict(
    rows: Iterable[list[Tile]], source: TileSource, engine: Engine, batch_size: int, tally: Tally
) -> Iterator[list[Prediction]]:
    """Infer the tiles of one region, row by row.

    Args:
        rows: the tile rows of the region, from the top; each from the left.
        source: the pixels.
        engine: the network.
        batch_size: most tiles in one forward pass.
        tally: counts and seconds are added here.

    Yields:
        The predictions of one tile row, in the order of its tiles.

    Raises:
        TileError: a tile cannot be read or inferred.
    """
    tiles = [list(row) for row in rows]
    loads = _read_ahead([tile for row in tiles for tile in row], source)
    for row in tiles:
        with tally.clock("read"):
            loaded = [next(loads) for _ in row]
        wanted = [item for item in loaded if item.pixels is not None]
        tally.n_tiles += len(wanted)
        tally.n_tiles_outside += sum(item.outside for item in loaded)
        tally.n_tiles_nodata += sum(item.pixels is None and not item.outside for item in loaded)
        probabilities: dict[int, torch.Tensor] = {}
        with tally.clock("infer"):
            for start in range(0, len(wanted), batch_size):
                batch = wanted[start : start + batch_size]
                found = _infer(batch, engine)
                probabilities |= {b.tile.index: p for b, p in zip(batch, found, strict=True)}
        yield [
            Prediction(
                tile=item.tile,
                probability=probabilities.get(item.tile.index),
                valid=item.counts,
            )
            for item in loaded
        ]


def _read_ahead(tiles: list[Tile], source: TileSource) -> Iterator[_Loaded]:
    pending: deque[Future[_Loaded]] = deque()
    try:
        for tile in tiles:
            pending.append(source.pool.submit(_load, tile, source))
            if len(pending) > source.read_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _load(tile: Tile, source: TileSource) -> _Loaded:
    scene = source.reader.scene
    shape = (tile.window.height, tile.window.width)
    nothing = np.zeros(shape, dtype=bool)
    used = tile.window if source.whole_tile else tile.core
    whole = _inside(used, scene.height, scene.width)
    area = source.area_mask(whole)
    if area is None:
        return _Loaded(tile=tile, pixels=None, data=nothing, counts=nothing, outside=True)
    readable = _inside(tile.window, scene.height, scene.width)
    try:
        pixels, valid = source.reader.read(readable)
    except TilingSegError as error:
        raise TileError(f"tile {tile.index} at {_place(tile)}: {error}") from error
    data = _pad(valid, shape)
    counts = np.zeros(shape, dtype=bool)
    inside = whole.slices_in(tile.window)
    counts[inside] = data[inside] & area
    if not counts.any():
        outside = bool(data[inside].any())
        return _Loaded(tile=tile, pixels=None, data=nothing, counts=counts, outside=outside)
    return _Loaded(tile=tile, pixels=_pad(pixels, shape), data=data, counts=counts)


def _infer(batch: list[_Loaded], engine: Engine) -> list[torch.Tensor]:
    pixels = np.stack([item.pixels for item in batch if item.pixels is not None])
    data = np.stack([item.data for item in batch])
    try:
        return list(engine.probabilities(pixels, data))
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            tile = batch[0].tile
            raise TileError(
                f"tile {tile.index} at {_place(tile)}: {tile.window.height} × "
                f"{tile.window.width} px do not fit the device's memory; use a smaller --tile-size"
            ) from error
    except RuntimeError as error:
        tile = batch[0].tile
        reason = str(error).strip().splitlines()[0]
        raise TileError(
            f"tile {tile.index} at {_place(tile)}: the network failed: {reason}"
        ) from error
    half = len(batch) // 2
    return _infer(batch[:half], engine) + _infer(batch[half:], engine)


def _inside(window: Window, height: int, width: int) -> Window:
    """Cut off what lies past the right and bottom edge of the scene."""
    return type(window)(
        row=window.row,
        col=window.col,
        height=min(window.row_stop, height) - window.row,
        width=min(window.col_stop, width) - window.col,
    )


def _pad(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Fill up with zeros at the bottom and right."""
    missing = shape[0] - array.shape[-2], shape[1] - array.shape[-1]
    if missing == (0, 0):
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing[0]), (0, missing[1])])


def _place(tile: Tile) -> str:
    return f"row {tile.core.row} px, column {tile.core.col} px"
