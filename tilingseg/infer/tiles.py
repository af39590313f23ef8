"""Tiles on their way through the network: read ahead, batched, inferred.

A region's tiles are taken row by row. A batch holds neighbours of one tile row that use the same
part of their tile, so that it holds the same tiles whenever and wherever its region is run: the
same bits after a restart or on another worker. Reader threads decode the next tiles in their stored
data type while the network works.

Tiles whose area lies outside the area of interest are not read, nor are those that an overview
shows to be empty, halo included; other tiles without a valid pixel are not inferred. Pixels past
the scene and pixels without data reach the network as zeros after normalisation, which is what the
network's own zero padding gives.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tilingseg.errors import TileError
from tilingseg.infer.tally import uploads_to
from tilingseg.records import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from tilingseg.grid import Tile, Window
    from tilingseg.infer.engine import Engine, Part
    from tilingseg.infer.tally import Tally
    from tilingseg.records import SceneReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAhead:
    """What may be read before the network asks for it."""

    n_tiles: int
    """Tiles of a region."""
    n_next: int = 1
    """Tiles of the regions after it."""


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
    read_ahead: ReadAhead
    """How far reading is ahead of the network."""
    seen: Callable[[Window, NDArray[Any], NDArray[np.bool_]], None]
    """Told of the core of every tile that is read, in the threads that read: its pixels of the
    scene, (bands, height, width) as stored, bool (height, width) as `counts`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    tile: Tile
    used: Window
    """Pixels of the scene that the tile will give."""
    counts: NDArray[np.bool_]
    """bool, as large as `used`: data inside the area of interest, which may be written."""
    pixels: NDArray[Any] | None = None
    """(bands, height, width); None: skip the tile."""
    data: NDArray[np.bool_] | None = None
    """bool (height, width): what the network may see."""
    outside: bool = False
    """Skipped because of the area of interest, not for lack of data."""
    seconds: float = 0.0
    """What reading took."""

    @property
    def part(self) -> Part:
        """Where `used` lies in the tile."""
        return self.used.slices_in(self.tile.window)


class Reading:
    """The tiles of one region on their way from the scene."""

    def __init__(
        self,
        rows: Iterable[list[Tile]],
        source: TileSource,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; nothing is read.

        Args:
            rows: the tile rows of the region, from the top; each from the left.
            source: the pixels.
            then: called when the last tile is on its way.
        """
        self._tiles = (tile for row in rows for tile in row)
        self._source = source
        self._then = then
        self._pending: deque[Future[_Loaded]] = deque()

    @property
    def n_begun(self) -> int:
        """Tiles that are being read or wait for the network."""
        return len(self._pending)

    def begin(self, count: int) -> None:
        """Begin to read the first tiles, `count` at most."""
        for tile in islice(self._tiles, count):
            self._pending.append(self._source.pool.submit(_load, tile, self._source))

    def __iter__(self) -> Iterator[_Loaded]:
        """Yield the tiles in their order, the next ones on their way."""
        try:
            for tile in self._tiles:
                self._pending.append(self._source.pool.submit(_load, tile, self._source))
                if len(self._pending) > self._source.read_ahead.n_tiles:
                    yield self._pending.popleft().result()
            if self._then is not None:
                self._then()
            while self._pending:
                yield self._pending.popleft().result()
        finally:
            for future in self._pending:
                future.cancel()


def predict(
    reading: Reading, engine: Engine, batch_size: int, tally: Tally
) -> Iterator[list[Prediction]]:
    """Infer the tiles of one region, row by row.

    Args:
        reading: its tiles.
        engine: the network.
        batch_size: most tiles in one forward pass.
        tally: counts and seconds are added here.

    Yields:
        The predictions of neighbours in one tile row, in the order of the tiles.

    Raises:
        TileError: a tile cannot be read or inferred.
    """
    for group in _groups(iter(reading), batch_size, tally):
        wanted = [item for item in group if item.pixels is not None]
        tally.n_tiles += len(wanted)
        tally.n_tiles_outside += sum(item.outside for item in group)
        tally.n_tiles_nodata += sum(item.pixels is None and not item.outside for item in group)
        found: Iterator[torch.Tensor] = iter(())
        if wanted:
            with tally.clock("forward"), uploads_to(tally):
                found = iter(_infer(wanted, engine))
        yield [
            Prediction(
                tile=item.tile,
                window=item.used,
                probability=None if item.pixels is None else next(found),
                valid=item.counts,
            )
            for item in group
        ]


def _groups(loads: Iterator[_Loaded], batch_size: int, tally: Tally) -> Iterator[list[_Loaded]]:
    """Yield runs of neighbours that make one batch, skipped tiles among them."""
    group: list[_Loaded] = []
    n_wanted, part = 0, None
    while True:
        with tally.clock("idle"):
            item = next(loads, None)
        if item is None:
            break
        tally.add("read", item.seconds)
        is_wanted = item.pixels is not None
        if group and (
            item.tile.row != group[0].tile.row
            or (is_wanted and n_wanted and (n_wanted == batch_size or item.part != part))
        ):
            yield group
            group, n_wanted = [], 0
        group.append(item)
        if is_wanted:
            n_wanted, part = n_wanted + 1, item.part
    if group:
        yield group


def _load(tile: Tile, source: TileSource) -> _Loaded:
    try:
        return _read(tile, source)
    except Exception as error:  # readers, and the libraries that they call, have their own
        raise TileError(f"tile {tile.index} at {_place(tile)}: {_reason(error)}") from error


def _read(tile: Tile, source: TileSource) -> _Loaded:
    scene = source.reader.scene
    used = _inside(tile.window if source.whole_tile else tile.core, scene.height, scene.width)
    area = source.area_mask(used)
    if area is None or not source.reader.may_hold_data(tile.window):
        nothing = np.zeros((used.height, used.width), dtype=bool)
        return _Loaded(tile=tile, used=used, counts=nothing, outside=area is None)
    readable = _inside(tile.window, scene.height, scene.width)
    start = time.perf_counter()
    pixels, valid = source.reader.read(readable)
    spent = time.perf_counter() - start
    known = valid[used.slices_in(readable)]
    counts = known & area
    if not counts.any():
        outside = bool(known.any())
        return _Loaded(tile=tile, used=used, counts=counts, outside=outside, seconds=spent)
    if (core := used.intersection(tile.core)) is not None:
        source.seen(core, pixels[:, *core.slices_in(readable)], counts[core.slices_in(used)])
    shape = (tile.window.height, tile.window.width)
    return _Loaded(
        tile=tile,
        used=used,
        counts=counts,
        pixels=_pad(pixels, shape),
        data=_pad(valid, shape),
        seconds=spent,
    )


def _infer(batch: list[_Loaded], engine: Engine) -> torch.Tensor:
    tile = batch[0].tile
    try:
        pixels = _stack([item.pixels for item in batch if item.pixels is not None])
        data = _stack([item.data for item in batch if item.data is not None])
        return engine.probabilities(pixels, data, batch[0].part)
    except torch.OutOfMemoryError as error:
        raise TileError(
            f"tile {tile.index} at {_place(tile)}: {tile.window.height} × "
            f"{tile.window.width} px do not fit the device's memory; use a smaller --tile-size "
            f"({_reason(error)})"
        ) from error
    except Exception as error:  # networks, and the runtimes that they run in, have their own
        raise TileError(
            f"tile {tile.index} at {_place(tile)}: the network failed: {_reason(error)}"
        ) from error


def _stack(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Stack without a copy where there is only one."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


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


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
