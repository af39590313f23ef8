"""Stitching: the predictions of tiles become finished rows of mask and probability.

Exact: a tile gives its core and nothing else. Blended: every tile is multiplied with a Hann window
and added. The windows are one-dimensional and divided, per axis, by the sum over all tiles that
reach the pixel; their products therefore add up to one everywhere without a map of counts. Along
an axis that only one tile reaches, its weight is one.

Either way only one band of tile height is held. Tiles come row by row; as soon as the next tile
row starts below a pixel row, that row is final, is turned into classes and leaves as uint8. The
work is done in torch on the device where the probabilities are, so that float probabilities never
travel to the host. Rows of a GPU leave before it has finished them: see `StitchedRows.arrive`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from tilingseg.errors import TileError
from tilingseg.grid import Window
from tilingseg.records import NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from tilingseg.decision import Decision
    from tilingseg.grid import Span, Tile, TileGrid
    from tilingseg.records import Prediction

WEIGHT_FLOOR = 1e-6
"""Smallest window value before the division: no pixel may depend on 0 / 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StitchedRows:
    """Finished rows of one region."""

    window: Window
    """Where they lie in the scene."""
    mask: NDArray[np.uint8]
    """uint8 (height, width): background, class values from 1, nodata."""
    probability: NDArray[np.uint8]
    """uint8 (kept classes, height, width), 255 = 1; 0 where not valid."""
    n_valid: int
    """Valid pixels."""
    arrive: Callable[[], None]
    """Waits until mask and probability are filled; to be called once before they are used, in any
    thread."""


def stitch(
    rows: Iterable[list[Prediction]],
    grid: TileGrid,
    core: Window,
    decision: Decision,
    *,
    exact: bool,
) -> Iterator[StitchedRows]:
    """Turn the predictions of a region into its finished rows, from the top.

    Args:
        rows: the tiles that the region needs, tile row by tile row from the top, from the left; a
            list holds tiles of one row, and a row may come in several lists.
        grid: the scene's grid.
        core: pixels of the region.
        decision: classes and thresholds.
        exact: take the cores of the tiles; otherwise blend.

    Raises:
        TileError: the device has no memory for it; the error of a tile goes on as it is.
    """
    band = _ExactBand(core, decision) if exact else _BlendedBand(core, decision, grid)
    for row in rows:
        span = grid.row_span(row[0].tile.row)
        top, bottom = (span.core_start, span.core_stop) if exact else (span.start, span.stop)
        yield from band.flush(top)
        with _named(row[0].tile):
            band.extend(bottom)
        for prediction in row:
            part = core.intersection(prediction.window)
            if part is not None:
                with _named(prediction.tile):
                    band.add(prediction, part)
    yield from band.flush(core.row_stop)


@contextmanager
def _named(tile: Tile) -> Iterator[None]:
    """Name the tile that a device has no memory for after it was inferred."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TileError(
            f"tile {tile.index} at row {tile.core.row} px, column {tile.core.col} px: the device "
            "has no memory to put it beside the others; use a smaller --tile-size "
            f"({str(error).partition(chr(10))[0]})"
        ) from error


def axis_weights(grid: TileGrid, axis: int, index: int) -> NDArray[np.float32]:
    """Return the blend weights of one tile along one axis.

    At every pixel the weights of all tiles that reach it add up to one.

    Args:
        grid: the scene's grid.
        axis: 0 for rows, 1 for columns.
        index: tile row or column.

    Returns:
        float32 (tile side,) in (0, 1].
    """
    touching = grid.cols_touching if axis else grid.rows_touching
    span_of = grid.col_span if axis else grid.row_span
    span = span_of(index)
    total = np.zeros(span.stop - span.start)
    own = _hann(span)
    for other in touching(span.start, span.stop):
        neighbour = span_of(other)
        low, high = max(span.start, neighbour.start), min(span.stop, neighbour.stop)
        window = _hann(neighbour)[low - neighbour.start : high - neighbour.start]
        total[low - span.start : high - span.start] += window
    return (own / total).astype(np.float32)


def _hann(span: Span) -> NDArray[np.float64]:
    size = span.stop - span.start
    phase = (np.arange(size) + 0.5) / size
    window: NDArray[np.float64] = np.maximum(np.sin(np.pi * phase) ** 2, WEIGHT_FLOOR)
    return window


class _Weights:
    """Blend weights of the tiles of one region, each axis computed once."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._known: dict[tuple[int, int], torch.Tensor] = {}

    def of(
        self, tile: Tile, part: Window, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (rows, cols) weights of a tile on a device, cut to `part`."""
        rows, cols = part.slices_in(tile.window)
        return self._axis(0, tile.row, device)[rows], self._axis(1, tile.col, device)[cols]

    def _axis(self, axis: int, index: int, device: torch.device) -> torch.Tensor:
        if (axis, index) not in self._known:
            weights = torch.from_numpy(axis_weights(self._grid, axis, index))
            # Only a copy that need not be waited for leaves a GPU at its work; CUDA has taken the
            # source when the call returns, Apple's GPU may read it when it is gone.
            self._known[axis, index] = weights.to(device, non_blocking=device.type == "cuda")
        return self._known[axis, index]


_Finished = tuple["NDArray[np.uint8]", "NDArray[np.uint8]", "list[Callable[[], None]]"]
"""Mask, probability, and what is yet to fill them."""


class _Band(ABC):
    """The rows of a region that are not final yet."""

    def __init__(self, core: Window, decision: Decision) -> None:
        self._core = core
        self._decision = decision
        self._top = core.row
        self._valid = np.zeros((0, core.width), dtype=bool)

    def extend(self, bottom: int) -> None:
        """Make room for the rows above `bottom`."""
        missing = min(bottom, self._core.row_stop) - self._top - len(self._valid)
        if missing > 0:
            self._valid = np.pad(self._valid, ((0, missing), (0, 0)))
            self._grow(missing)

    def add(self, prediction: Prediction, part: Window) -> None:
        """Add one tile's share of `part`."""
        rows = slice(part.row - self._top, part.row_stop - self._top)
        cols = slice(part.col - self._core.col, part.col_stop - self._core.col)
        inside = part.slices_in(prediction.window)
        self._valid[rows, cols] |= prediction.valid[inside]
        if prediction.probability is not None:
            share = prediction.probability[:, *inside]  # (classes, height, width)
            self._share(share, (rows, cols), prediction.tile, part)

    def flush(self, until: int) -> Iterator[StitchedRows]:
        """Give away the rows above `until`: nothing will be added to them."""
        count = min(until - self._top, len(self._valid))
        if count <= 0:
            return
        valid = self._valid[:count]
        mask, rounded, fills = self._finished(count)
        yield StitchedRows(
            window=Window(row=self._top, col=self._core.col, height=count, width=self._core.width),
            mask=mask,
            probability=rounded,
            n_valid=int(np.count_nonzero(valid)),
            arrive=partial(_arrive, fills, valid, mask, rounded),
        )
        self._top += count
        self._valid = self._valid[count:]

    @abstractmethod
    def _grow(self, count: int) -> None:
        """Add empty rows at the bottom."""

    @abstractmethod
    def _share(
        self, share: torch.Tensor, place: tuple[slice, slice], tile: Tile, part: Window
    ) -> None:
        """Take the probabilities of one tile."""

    @abstractmethod
    def _finished(self, count: int) -> _Finished:
        """Return the first rows, and forget them."""


def _arrive(
    fills: list[Callable[[], None]],
    valid: NDArray[np.bool_],
    mask: NDArray[np.uint8],
    rounded: NDArray[np.uint8],
) -> None:
    """Wait for what fills rows, and mark what is not valid."""
    for fill in fills:
        fill()
    if not valid.all():
        mask[~valid] = NODATA
        rounded[:, ~valid] = 0


class _ExactBand(_Band):
    """What a tile gives is final: it is turned into uint8 at once."""

    def __init__(self, core: Window, decision: Decision) -> None:
        super().__init__(core, decision)
        self._mask = np.zeros((0, core.width), dtype=np.uint8)
        self._rounded = np.zeros((decision.n_kept, 0, core.width), dtype=np.uint8)
        self._fills: list[Callable[[], None]] = []

    def _grow(self, count: int) -> None:
        assert not self._fills, "what they fill would be left behind"
        self._mask = np.pad(self._mask, ((0, count), (0, 0)))
        self._rounded = np.pad(self._rounded, ((0, 0), (0, count), (0, 0)))

    def _share(
        self, share: torch.Tensor, place: tuple[slice, slice], tile: Tile, part: Window
    ) -> None:
        mask, rounded = torch.from_numpy(self._mask), torch.from_numpy(self._rounded)
        fill = self._decision.finish(share, mask[place], rounded[:, *place])
        if fill is not None:
            self._fills.append(fill)

    def _finished(self, count: int) -> _Finished:
        # Cores do not overlap: all that has been shared lies in these rows.
        finished = self._mask[:count], self._rounded[:, :count], self._fills
        self._mask, self._rounded = self._mask[count:], self._rounded[:, count:]
        self._fills = []
        return finished


class _BlendedBand(_Band):
    """Tiles add to sums that are final once no more tile reaches them."""

    def __init__(self, core: Window, decision: Decision, grid: TileGrid) -> None:
        super().__init__(core, decision)
        self._weights = _Weights(grid)
        self._total = torch.zeros((len(decision.thresholds), 0, core.width))

    def _grow(self, count: int) -> None:
        self._total = torch.nn.functional.pad(self._total, (0, 0, 0, count))

    def _share(
        self, share: torch.Tensor, place: tuple[slice, slice], tile: Tile, part: Window
    ) -> None:
        if self._total.device != share.device:  # nothing has been added yet
            self._total = torch.zeros_like(self._total, device=share.device)
        along_rows, along_cols = self._weights.of(tile, part, share.device)
        self._total[:, *place] += share * along_rows[:, None] * along_cols

    def _finished(self, count: int) -> _Finished:
        mask = np.empty((count, self._core.width), dtype=np.uint8)
        rounded = np.empty((self._decision.n_kept, *mask.shape), dtype=np.uint8)
        fill = self._decision.finish(
            self._total[:, :count], torch.from_numpy(mask), torch.from_numpy(rounded)
        )
        self._total = self._total[:, count:]
        return mask, rounded, [] if fill is None else [fill]
