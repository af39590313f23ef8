"""Quicklook: a reduced copy of the scene, taken while its tiles are inferred.

The preview shows the scene under its mask. Scenes without overviews would have to be decoded once
more for it, as much work as reading them was. So every tile that has been read leaves the means of
its pixels behind, on the lattice of the picture. A picture pixel belongs to the region, and in it
to the tile, in whose core its first scene pixel lies, and is the mean of that core's share of it:
no two of them write the same one, and the picture is the same whoever does which region when.

What lies outside the area of interest or holds no data stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import Scene

SIDE_PX = 1600
"""Longer side of a quicklook, px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quicklook:
    """A reduced copy, or the part of it that belongs to one region."""

    pixels: NDArray[Any]
    """(shown bands, height, width) in the scene's stored dtype; 0 where not valid."""
    valid: NDArray[np.bool_]
    """bool (height, width), True = some pixel held data."""


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
    """Takes what is read of one region. Thread-safe: no two tiles write the same pixel."""

    def __init__(self, lattice: Lattice, core: Window, scene: Scene) -> None:
        """Begin with nothing.

        Args:
            lattice: of the whole quicklook.
            core: the region's pixels.
            scene: what is read.
        """
        self._lattice = lattice
        self._core = core
        self._bands = shown_bands(scene)
        self._rows, self._cols = lattice.owned(core)
        shape = self._rows.stop - self._rows.start, self._cols.stop - self._cols.start
        self._pixels = np.zeros((len(self._bands), *shape), scene.dtype)
        self._valid = np.zeros(shape, bool)

    def add(self, window: Window, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Take the core of one tile.

        Args:
            window: the core, px of the scene; it may reach beyond the region.
            pixels: the scene's dtype (bands, height, width).
            valid: bool (height, width), True = data to be shown.
        """
        part = window.intersection(self._core)
        owned = None if part is None else self._lattice.owned(part)
        if part is None or owned is None or not all(cut.stop > cut.start for cut in owned):
            return
        edges = self._lattice.edges()
        inside = part.slices_in(window)
        by_row = _sums(edges[0], owned[0], part.row, part.row_stop)
        by_col = _sums(edges[1], owned[1], part.col, part.col_stop)
        here = (
            slice(owned[0].start - self._rows.start, owned[0].stop - self._rows.start),
            slice(owned[1].start - self._cols.start, owned[1].stop - self._cols.start),
        )
        known = valid[inside]
        is_whole = known.all()
        weight = _summed(known, by_row, by_col)
        self._valid[here] = weight > 0
        for band, result in zip(self._bands, self._pixels, strict=True):
            values = pixels[band][inside]
            shown = values if is_whole else np.where(known, values, 0)
            mean = _summed(shown, by_row, by_col) / np.maximum(weight, 1)
            result[here] = mean if result.dtype.kind == "f" else np.rint(mean)

    def finish(self) -> Quicklook:
        """Return the region's part of the quicklook."""
        return Quicklook(pixels=self._pixels, valid=self._valid)


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
    valid = np.zeros(shape, bool)
    for core, part in parts:
        owned = lattice.owned(core)
        pixels[:, *owned], valid[owned] = part.pixels, part.valid
    return Quicklook(pixels=pixels, valid=valid)


def shown_bands(scene: Scene) -> tuple[int, ...]:
    """Return the positions of red, green and blue, of what stands for them, or of one as grey."""
    names = [band.name for band in scene.bands]
    if {"red", "green", "blue"} <= set(names):
        return tuple(names.index(name) for name in ("red", "green", "blue"))
    return (0, 1, 2) if len(names) >= 3 else (0,)


def _sums(edges: NDArray[np.int64], owned: slice, start: int, stop: int) -> csr_array:
    """Return the matrix that adds up scene pixels start…stop to the quicklook's of `owned`."""
    ends = np.minimum(edges[owned.start : owned.stop + 1], stop) - start
    columns = np.arange(ends[0], ends[-1])
    ones = np.ones(columns.size, np.float32)
    shape = owned.stop - owned.start, stop - start
    return csr_array((ones, columns, ends - ends[0]), shape=shape)


def _summed(values: NDArray[Any], by_row: csr_array, by_col: csr_array) -> NDArray[np.float32]:
    total: NDArray[np.float32] = (by_col @ (by_row @ values.astype(np.float32)).T).T
    return total
