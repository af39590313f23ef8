"""RasterReader: the one `SceneReader`, over the pixels of any format.

It delivers the grid that the model sees. Where that is the file's own grid, windows go straight to
the source. Otherwise the coarsest level that is still as fine as the wanted pixels is read with the
context that the window's edge needs, and resampled on a lattice that belongs to the scene.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers.coverage import Coverage, read_coverage
from tilingseg.readers.georef import fit_grid
from tilingseg.readers.resample import Axis, resample
from tilingseg.records import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.readers.source import Level, PixelSource

_STEP_PX = 1_000_000
"""Source pixels read at once while resampling: bounds memory however far a scene is shrunk, and
what is summed up stays in a processor's cache (4,000,000 took 1.3 times as long)."""
_PREVIEW_PX = 1_000_000_000
"""Source pixels that a reduced copy may cost where the file has no overview to take it from."""
_SAMPLE_PX = 512
"""Side of one sample of such a copy in source pixels: worth decoding the blocks that it meets."""
_LEVEL_SLACK = 1.01
"""A level may be this much coarser than wanted: 501 of 1001 pixels still count as one half."""


class RasterReader:
    """An open scene on the grid that was asked for."""

    def __init__(self, source: PixelSource, gsd_m: float | None = None) -> None:
        """Decide on the grid; no pixel is read.

        Args:
            source: the file, its bands chosen.
            gsd_m: ground pixel size to deliver, metres; None: the file's own.

        Raises:
            SceneError: the file's pixels do not fit `gsd_m`.
        """
        info = source.info
        full = info.levels[0]
        grid = fit_grid(info.georef, (full.height, full.width), gsd_m, info.uri)
        self._source = source
        self._gsd_m = gsd_m
        self._scale = grid.scale
        self._coverage: Coverage | None = None
        self._lock = threading.Lock()
        self._scene = Scene(
            uri=info.uri,
            name=info.name,
            revision=info.revision,
            height=grid.height,
            width=grid.width,
            bands=info.bands,
            dtype=info.dtype,
            georef=grid.georef,
            source=info.georef,
            source_shape=(full.height, full.width),
            notes=info.notes + grid.notes,
        )

    def __reduce__(self) -> tuple[type[RasterReader], tuple[PixelSource, float | None]]:
        """Travel as the recipe, without open handles."""
        return RasterReader, (self._source, self._gsd_m)

    @property
    def scene(self) -> Scene:
        """What is open."""
        return self._scene

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read one window at full resolution; see `SceneReader.read`.

        Raises:
            SceneError: the window is outside the scene or cannot be read.
        """
        whole = Window(row=0, col=0, height=self.scene.height, width=self.scene.width)
        if not whole.contains(window):
            raise SceneError(
                f"rows {window.row}…{window.row_stop - 1}, columns {window.col}…"
                f"{window.col_stop - 1} are outside {self.scene.uri} "
                f"({whole.height} × {whole.width} px)"
            )
        if self._scale == (1.0, 1.0):
            return self._source.read(0, window)
        return self._resampled(window, self._level(self._scale, averaged=True), self._scale)

    def read_reduced(self, max_side_px: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read the whole scene, reduced; see `SceneReader.read_reduced`.

        Where no overview makes this cheap, each part of the result shows the middle of its part of
        the scene at a higher magnification: the statistics hold, and the cost stays bounded.
        """
        if max_side_px < 1:
            raise SceneError(f"a reduced scene needs a side of at least 1 px, got {max_side_px}")
        height, width = self.scene.height, self.scene.width
        factor = max(height, width) / max_side_px
        whole = Window(row=0, col=0, height=height, width=width)
        if factor <= 1:
            return self.read(whole)
        shape = max(1, round(height / factor)), max(1, round(width / factor))
        scale = self._scale[0] * height / shape[0], self._scale[1] * width / shape[1]
        level = self._level(scale, averaged=False)
        target = Window(row=0, col=0, height=shape[0], width=shape[1])
        size = self._source.info.levels[level]
        if size.height * size.width > _PREVIEW_PX:
            return self._sampled(target, level, scale)
        pixels, valid = self._resampled(target, level, scale)
        if level > 0 and self.scene.dtype == "float32" and not valid.any():
            # a few infinite pixels make all averages infinite
            return self._sampled(target, 0, scale)
        return pixels, valid

    def may_hold_data(self, window: Window) -> bool:
        """Tell whether a window may hold a valid pixel; see `SceneReader.may_hold_data`."""
        with self._lock:  # read once, when the first tile asks
            if self._coverage is None:
                self._coverage = read_coverage(self._source)
        return self._coverage.may_hold_data(window, self._scale)

    def close(self) -> None:
        """Release every handle; reading afterwards opens new ones."""
        self._source.close()

    def _level(self, scale: tuple[float, float], *, averaged: bool) -> int:
        """Return the coarsest level that is not coarser than `scale`."""
        fits = [
            index
            for index, level in enumerate(self._source.info.levels)
            if level.scale[0] <= scale[0] * _LEVEL_SLACK
            and level.scale[1] <= scale[1] * _LEVEL_SLACK
            and (level.averaged or not averaged)
        ]
        return max(fits, key=lambda index: self._source.info.levels[index].scale, default=0)

    def _resampled(
        self, window: Window, index: int, scale: tuple[float, float]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Resample one window of the lattice with `scale` level-0 pixels a pixel."""
        level = self._source.info.levels[index]
        rows, cols = _axes(level, scale)
        pixels = np.empty((len(self.scene.bands), window.height, window.width), self.scene.dtype)
        valid = np.empty((window.height, window.width), bool)
        for part in _parts(window, max(1.0, rows.scale * cols.scale)):
            top, bottom, by_row = rows.weights(part.row, part.row_stop)
            left, right, by_col = cols.weights(part.col, part.col_stop)
            needed = Window(row=top, col=left, height=bottom - top, width=right - left)
            inside = part.slices_in(window)
            result = resample(*self._source.read(index, needed), by_row, by_col)
            pixels[:, inside[0], inside[1]], valid[inside] = result
        return pixels, valid

    def _sampled(
        self, target: Window, index: int, scale: tuple[float, float]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Fill `target` with cells that each show the middle of their part, magnified."""
        level = self._source.info.levels[index]
        zoom = math.sqrt(level.height * level.width / _PREVIEW_PX)
        rows, cols = _axes(level, scale)
        cell = max(1, round(_SAMPLE_PX * zoom / max(rows.scale, cols.scale)))
        pixels = np.empty((len(self.scene.bands), target.height, target.width), self.scene.dtype)
        valid = np.empty((target.height, target.width), bool)
        for part in _tiles(target, cell):
            top, bottom, by_row = _zoomed(rows, part.row, part.row_stop, zoom)
            left, right, by_col = _zoomed(cols, part.col, part.col_stop, zoom)
            needed = Window(row=top, col=left, height=bottom - top, width=right - left)
            inside = part.slices_in(target)
            result = resample(*self._source.read(index, needed), by_row, by_col)
            pixels[:, inside[0], inside[1]], valid[inside] = result
        return pixels, valid


def _axes(level: Level, scale: tuple[float, float]) -> tuple[Axis, Axis]:
    rows, cols = (
        Axis(n_source=length, scale=wanted / own, offset=-offset / own)
        for length, wanted, own, offset in zip(
            (level.height, level.width), scale, level.scale, level.offset, strict=True
        )
    )
    return rows, cols


def _zoomed(axis: Axis, start: int, stop: int, zoom: float) -> tuple[int, int, Any]:
    """Return weights of [start, stop), its pixels `zoom` times smaller around the same middle."""
    middle = axis.offset + (start + stop) / 2 * axis.scale
    scale = axis.scale / zoom
    offset = middle - (stop - start) / 2 * scale
    return Axis(n_source=axis.n_source, scale=scale, offset=offset).weights(0, stop - start)


def _parts(window: Window, source_px_per_px: float) -> Iterator[Window]:
    """Halve a window along its longer side until its source pixels fit in memory."""
    if window.area == 1 or window.area * source_px_per_px <= _STEP_PX:
        yield window
        return
    row, col, height, width = window.row, window.col, window.height, window.width
    if height >= width:
        half = height // 2
        halves = (row, col, half, width), (row + half, col, height - half, width)
    else:
        half = width // 2
        halves = (row, col, height, half), (row, col + half, height, width - half)
    for r, c, h, w in halves:
        yield from _parts(Window(row=r, col=c, height=h, width=w), source_px_per_px)


def _tiles(window: Window, side: int) -> Iterator[Window]:
    for row in range(window.row, window.row_stop, side):
        for col in range(window.col, window.col_stop, side):
            height = min(side, window.row_stop - row)
            width = min(side, window.col_stop - col)
            yield Window(row=row, col=col, height=height, width=width)
