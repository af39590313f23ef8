"""Stitching: the predictions of tiles become finished rows of mask and probability.

Exact: a tile gives its core and nothing else. Blended: every tile is multiplied with a Hann window
and added. The windows are one-dimensional and divided, per axis, by the sum over all tiles that
reach the pixel; their products therefore add up to one everywhere without a map of counts. Along
an axis that only one tile reaches, its weight is one.

Either way only one band of tile height is held. Tiles come row by row; as soon as the next tile
row starts below a pixel row, that row is final, is turned into classes and leaves as uint8. The
work is done in torch on the device where the probabilities are, so that float probabilities never
travel to the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tilingseg.grid import Window
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tilingseg.grid import Span, Tile, TileGrid
    from tilingseg.records import Prediction

WEIGHT_FLOOR = 1e-6
"""Smallest window value before the division: no pixel may depend on 0 / 0."""
STRIP = 128_000
"""Pixels that are turned into classes at once on a processor: they stay in its cache."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How probabilities become classes."""

    class_indexes: tuple[int, ...]
    """Classes that may be given."""
    thresholds: tuple[float, ...]
    """Least probability, for every class of the model."""
    keeps_probability: bool = True
    """Give probabilities beside the mask."""

    @property
    def n_kept(self) -> int:
        """Classes whose probabilities are given."""
        return len(self.thresholds) if self.keeps_probability else 0

    def classify(self, probability: torch.Tensor) -> torch.Tensor:
        """Give each pixel the most probable class among those above their thresholds.

        Args:
            probability: float32 (classes, height, width) in 0…1.

        Returns:
            uint8 (height, width): background or class index + 1; the first class wins a tie.
        """
        if probability.device.type == "cpu":
            return torch.from_numpy(self._classified(probability.numpy()))
        mask = torch.full_like(probability[0], BACKGROUND, dtype=torch.uint8)
        best = torch.zeros_like(probability[0])
        # Products and maxima instead of choices by a mask, which no vector instruction does.
        for index in sorted(self.class_indexes):
            layer = probability[index]
            passing = layer * (layer >= self.thresholds[index])
            better = (passing > best).view(torch.uint8)
            mask = torch.maximum(mask, better * (index + 1))
            best = torch.maximum(best, passing)
        return mask

    def _classified(self, probability: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Do the same on a processor, where comparisons of NumPy take a fifth of the time."""
        mask = np.full(probability.shape[1:], BACKGROUND, dtype=np.uint8)
        best: NDArray[np.float32] | None = None
        for index in sorted(self.class_indexes):
            layer = probability[index]
            better = layer >= np.float32(self.thresholds[index])
            if best is not None:
                better &= layer > best
            np.maximum(mask, better.view(np.uint8) * np.uint8(index + 1), out=mask)
            if index != max(self.class_indexes):
                passing = layer * better
                best = passing if best is None else np.maximum(best, passing, out=best)
        return mask

    @torch.inference_mode()
    def finish(self, probability: torch.Tensor, mask: torch.Tensor, rounded: torch.Tensor) -> None:
        """Turn final probabilities into what is stored.

        Args:
            probability: float32 (classes, height, width) in 0…1, on the device.
            mask: uint8 (height, width) on the host, filled with classes.
            rounded: uint8 (kept classes, height, width) on the host, filled with probabilities,
                255 = 1.
        """
        if probability.device.type != "cpu":
            mask[:] = self.classify(probability)
            for layer, out in zip(probability, rounded, strict=False):  # none where none are kept
                out[:] = (layer * 255).add_(0.5).clamp_(0, 255).to(torch.uint8)
            return
        height, width = probability.shape[1:]
        step = max(1, STRIP // width)
        for top in range(0, height, step):
            strip, rows = probability[:, top : top + step].numpy(), slice(top, top + step)
            mask.numpy()[rows] = self._classified(strip)
            for layer, out in zip(strip, rounded.numpy(), strict=False):
                scaled = layer * np.float32(255)
                scaled += np.float32(0.5)
                with np.errstate(invalid="ignore"):  # what a network says may be no number
                    out[rows] = np.clip(scaled, 0, 255, out=scaled)


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
    """
    band = _ExactBand(core, decision) if exact else _BlendedBand(core, decision, grid)
    for row in rows:
        span = grid.row_span(row[0].tile.row)
        top, bottom = (span.core_start, span.core_stop) if exact else (span.start, span.stop)
        yield from band.flush(top)
        band.extend(bottom)
        for prediction in row:
            part = core.intersection(prediction.window)
            if part is not None:
                band.add(prediction, part)
    yield from band.flush(core.row_stop)


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
        self._known: dict[tuple[int, int], NDArray[np.float32]] = {}

    def of(self, tile: Tile, part: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (rows, cols) weights of a tile, cut to `part`."""
        rows, cols = part.slices_in(tile.window)
        along_rows = self._axis(0, tile.row)[rows]
        along_cols = self._axis(1, tile.col)[cols]
        return torch.from_numpy(along_rows), torch.from_numpy(along_cols)

    def _axis(self, axis: int, index: int) -> NDArray[np.float32]:
        if (axis, index) not in self._known:
            self._known[axis, index] = axis_weights(self._grid, axis, index)
        return self._known[axis, index]


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
        mask, rounded = self._finished(count)
        n_valid = int(np.count_nonzero(valid))
        if n_valid < valid.size:
            mask[~valid] = NODATA
            rounded[:, ~valid] = 0
        yield StitchedRows(
            window=Window(row=self._top, col=self._core.col, height=count, width=self._core.width),
            mask=mask,
            probability=rounded,
            n_valid=n_valid,
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
    def _finished(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the first rows as mask and probability, and forget them."""


class _ExactBand(_Band):
    """What a tile gives is final: it is turned into uint8 at once."""

    def __init__(self, core: Window, decision: Decision) -> None:
        super().__init__(core, decision)
        self._mask = np.zeros((0, core.width), dtype=np.uint8)
        self._rounded = np.zeros((decision.n_kept, 0, core.width), dtype=np.uint8)

    def _grow(self, count: int) -> None:
        self._mask = np.pad(self._mask, ((0, count), (0, 0)))
        self._rounded = np.pad(self._rounded, ((0, 0), (0, count), (0, 0)))

    def _share(
        self, share: torch.Tensor, place: tuple[slice, slice], tile: Tile, part: Window
    ) -> None:
        self._decision.finish(
            share,
            torch.from_numpy(self._mask)[place],
            torch.from_numpy(self._rounded)[:, *place],
        )

    def _finished(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask, rounded = self._mask[:count], self._rounded[:, :count]
        self._mask, self._rounded = self._mask[count:], self._rounded[:, count:]
        return mask, rounded


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
        if self._total.device != share.device:
            self._total = self._total.to(share.device)
        along_rows, along_cols = (w.to(share.device) for w in self._weights.of(tile, part))
        self._total[:, *place] += share * along_rows[:, None] * along_cols

    def _finished(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask = np.empty((count, self._core.width), dtype=np.uint8)
        rounded = np.empty((self._decision.n_kept, *mask.shape), dtype=np.uint8)
        self._decision.finish(
            self._total[:, :count], torch.from_numpy(mask), torch.from_numpy(rounded)
        )
        self._total = self._total[:, count:]
        return mask, rounded
