"""Quicklook: a reduced copy of the scene and its mask, taken while its tiles are inferred.

The preview shows the scene under its mask. Scenes without overviews would have to be decoded once
more for it, as much work as reading them was. So every tile that has been read leaves the means of
its pixels behind, on the lattice of the picture. A picture pixel belongs to the region, and in it
to the tile, in whose core its first scene pixel lies, and is the mean of that core's share of it:
no two of them write the same one, and the picture is the same whoever does which region when.
Of the mask, classes have no mean: it shows the one in the middle of that share of the region.

What lies outside the area of interest or holds no data stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from tilingseg.records import NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import Scene

SIDE_PX = 1600
"""Longer side of a quicklook, px."""
_MOST_BYTES = 257
"""Bytes that can be added up in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quicklook:
    """A reduced copy, or the part of it that belongs to one region."""

    pixels: NDArray[Any]
    """(shown bands, height, width) in the scene's stored dtype; 0 where not valid."""
    valid: NDArray[np.bool_]
    """bool (height, width), True = some pixel held data."""
    mask: NDArray[np.uint8]
    """uint8 (height, width): background, class values from 1, nodata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Which scene pixels each pixel of a quicklook covers."""

    extent: Window
    """The part of the scene that is shown, px."""
    side_px: int = SIDE_PX
    """Longer side of the quicklook, at most, px."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the quicklook, px."""
        extent = self.extent
        shrink = max(1.0, max(extent.height, extent.width) / self.side_px)
        return max(1, int(extent.height / shrink)), max(1, int(extent.width / shrink))

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the pixels begin along rows and columns, and where the last ones end, px."""
        extent, (n_rows, n_cols) = self.extent, self.shape
        rows = np.arange(n_rows + 1) * extent.height // n_rows + extent.row
        return rows, np.arange(n_cols + 1) * extent.width // n_cols + extent.col

    def owned(self, core: Window) -> tuple[slice, slice]:
        """Return the quicklook's pixels that begin in a window of the scene."""
        rows, cols = self.edges()
        top, bottom = np.searchsorted(rows[:-1], (core.row, core.row_stop))
        left, right = np.searchsorted(cols[:-1], (core.col, core.col_stop))
        return slice(int(top), int(bottom)), slice(int(left), int(right))


class RegionView:
    """Takes what is read of one region, and then what was found in it.

    Thread-safe: no two tiles write the same pixel.
    """

    def __init__(self, lattice: Lattice, core: Window, scene: Scene) -> None:
        """Begin with nothing.

        Args:
            lattice: of the whole quicklook.
            core: the region's pixels.
            scene: what is read.
        """
        self._core = core
        self._bands = shown_bands(scene)
        self._rows, self._cols = lattice.owned(core)
        self._edges = lattice.edges()
        self._stretches: dict[tuple[int, int, int], _Stretch] = {}
        self._middle_rows = _middles(self._edges[0], self._rows, core.row_stop)
        self._middle_cols = _middles(self._edges[1], self._cols, core.col_stop)
        shape = self._middle_rows.size, self._middle_cols.size
        self._pixels = np.zeros((len(self._bands), *shape), scene.dtype)
        self._valid = np.zeros(shape, bool)
        self._mask = np.full(shape, NODATA, np.uint8)

    def add(self, window: Window, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Take the core of one tile.

        Args:
            window: the core, px of the scene; it may reach beyond the region.
            pixels: the scene's dtype (bands, height, width).
            valid: bool (height, width), True = data to be shown.
        """
        part = window.intersection(self._core)
        if part is None:
            return
        rows = self._stretch(0, part.row, part.row_stop)
        cols = self._stretch(1, part.col, part.col_stop)
        if not (rows.owned and cols.owned):
            return
        inside = part.slices_in(window)
        here = (
            slice(rows.first - self._rows.start, rows.first - self._rows.start + rows.owned),
            slice(cols.first - self._cols.start, cols.first - self._cols.start + cols.owned),
        )
        known = valid[inside]
        shown = [pixels[band][inside] for band in self._bands]
        if known.all():
            weight = np.multiply.outer(np.diff(rows.ends), np.diff(cols.ends))
        else:
            shown = [np.where(known, band, 0) for band in shown]
            weight = _summed([known], rows, cols)[0]
        self._valid[here] = weight > 0
        mean = _summed(shown, rows, cols) / np.maximum(weight, 1).astype(np.float32)
        self._pixels[:, *here] = mean if self._pixels.dtype.kind == "f" else np.rint(mean)

    def _stretch(self, axis: int, start: int, stop: int) -> _Stretch:
        """Return what begins between two scene rows or columns; the tiles of a row share it."""
        key = axis, start, stop
        if key not in self._stretches:
            self._stretches[key] = _stretch(self._edges[axis], start, stop)
        return self._stretches[key]

    def show(self, window: Window, mask: NDArray[np.uint8]) -> None:
        """Take finished rows, as wide as the region.

        Args:
            window: where they lie, px of the scene.
            mask: uint8 (height, width).
        """
        start, stop = np.searchsorted(self._middle_rows, (window.row, window.row_stop))
        rows = self._middle_rows[start:stop] - window.row
        self._mask[start:stop] = mask[rows[:, None], self._middle_cols - window.col]

    def finish(self) -> Quicklook:
        """Return the region's part of the quicklook."""
        return Quicklook(pixels=self._pixels, valid=self._valid, mask=self._mask)


def put_together(
    lattice: Lattice, scene: Scene, parts: Iterable[tuple[Window, Quicklook]]
) -> Quicklook:
    """Return the quicklook of a scene.

    Args:
        lattice: where its pixels lie.
        scene: what it shows.
        parts: (core, its part of the quicklook) of the regions.
    """
    shape = lattice.shape
    pixels = np.zeros((len(shown_bands(scene)), *shape), scene.dtype)
    valid, mask = np.zeros(shape, bool), np.full(shape, NODATA, np.uint8)
    for core, part in parts:
        owned = lattice.owned(core)
        pixels[:, *owned], valid[owned], mask[owned] = part.pixels, part.valid, part.mask
    return Quicklook(pixels=pixels, valid=valid, mask=mask)


def shown_bands(scene: Scene) -> tuple[int, ...]:
    """Return the positions of red, green and blue, of what stands for them, or of one as grey."""
    names = [band.name for band in scene.bands]
    if {"red", "green", "blue"} <= set(names):
        return tuple(names.index(name) for name in ("red", "green", "blue"))
    return (0, 1, 2) if len(names) >= 3 else (0,)


def _middles(edges: NDArray[np.int64], owned: slice, core_stop: int) -> NDArray[np.int64]:
    """Return the scene pixel in the middle of each of the quicklook's, but inside the region."""
    starts, stops = edges[owned], edges[owned.start + 1 : owned.stop + 1]
    middles: NDArray[np.int64] = np.minimum((starts + stops) // 2, core_stop - 1)
    return middles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stretch:
    """A run of scene rows or columns, and the pixels of the quicklook that begin there."""

    first: int
    """Position of the first of them."""
    owned: int
    """How many there are."""
    ends: NDArray[np.int64]
    """int (owned + 1,): where they begin in the run, and where the last one ends."""
    sums: csr_array
    """(owned, length of the run): adds up the scene pixels of each."""


def _stretch(edges: NDArray[np.int64], start: int, stop: int) -> _Stretch:
    first, last = (int(at) for at in np.searchsorted(edges[:-1], (start, stop)))
    ends = np.minimum(edges[first : last + 1], stop) - start
    columns = np.arange(ends[0], ends[-1])
    sums = csr_array(
        (np.ones(columns.size, np.uint16), columns, ends - ends[0]),
        shape=(last - first, stop - start),
    )
    return _Stretch(first=first, owned=last - first, ends=ends, sums=sums)


def _summed(bands: list[NDArray[Any]], rows: _Stretch, cols: _Stretch) -> NDArray[Any]:
    """Add up bands, each (height, width), along both axes: (bands, owned rows, owned columns).

    Bytes are added in whole numbers: along the rows in 16 bits where no sum is too large.
    """
    is_small = bands[0].itemsize == 1 and np.diff(rows.ends).max() <= _MOST_BYTES
    kind, wide = (np.uint16, np.uint32) if is_small else (np.float32, np.float64)
    by_row = np.stack([rows.sums.astype(kind, copy=False) @ band.astype(kind) for band in bands])
    # Differences of a running sum: columns cannot be added up in vectors.
    running = np.zeros((*by_row.shape[:2], by_row.shape[2] + 1), wide)
    np.cumsum(by_row, axis=2, dtype=wide, out=running[:, :, 1:])
    total: NDArray[Any] = np.diff(running[:, :, cols.ends], axis=2).astype(np.float32)
    return total
