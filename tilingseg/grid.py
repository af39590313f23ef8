"""Windows, tiles and the one grid of a scene: integer pixel arithmetic and nothing else.

One axis, with stride S, halo H and tile size T = S + 2H; `=` is the core, `-` the halo::

    scene   0        S        2S       3S    N   P
            |--------|--------|--------|-----|...|
    tile 0  ==========----              starts at the edge: the network's own zero padding must
    tile 1       ----==========----     meet the true edge, or its values would differ
    tile 2              -----==========-----
    tile 3                    ---------======..   anchored inward at P - T

Cores tile the scene without gap or overlap and start at multiples of S, so that a chunk of S pixels
has one owner. Every tile starts and ends at multiples of F (`multiple_px`, the product of the
network's strides); P is N rounded up to a multiple of F. Under these rules, with H at least the
network's halo, the core of a tile equals inference on the whole scene. Blended stitching uses the
same grid: its tiles overlap by 2H and all of a tile is written, weighted.

A region of a run *selects* tiles of this grid. It never plans a grid of its own: the result would
depend on how the scene was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilingseg.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Window:
    """A half-open rectangle of pixels of one scene."""

    row: int
    """First row, px; may be negative."""
    col: int
    """First column, px; may be negative."""
    height: int
    """Rows, px, at least 1."""
    width: int
    """Columns, px, at least 1."""

    def __post_init__(self) -> None:
        """Refuse an empty window."""
        if self.height < 1 or self.width < 1:
            raise PlanError(f"a window needs at least one pixel, got {self.height} × {self.width}")

    @property
    def row_stop(self) -> int:
        """The row after the last one, px."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """The column after the last one, px."""
        return self.col + self.width

    @property
    def area(self) -> int:
        """Pixels in the window."""
        return self.height * self.width

    def intersection(self, other: Window) -> Window | None:
        """Return the common part, or None: emptiness is a normal answer here."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        row_stop = min(self.row_stop, other.row_stop)
        col_stop = min(self.col_stop, other.col_stop)
        if row_stop <= row or col_stop <= col:
            return None
        return Window(row=row, col=col, height=row_stop - row, width=col_stop - col)

    def contains(self, other: Window) -> bool:
        """Tell whether `other` lies wholly inside."""
        return self.intersection(other) == other

    def slices_in(self, outer: Window) -> tuple[slice, slice]:
        """Return the (rows, cols) slices that cut this window out of an array that shows `outer`.

        Raises:
            PlanError: this window is not inside `outer`.
        """
        if not outer.contains(self):
            raise PlanError(f"{self} is not inside {outer}")
        row, col = self.row - outer.row, self.col - outer.col
        return slice(row, row + self.height), slice(col, col + self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One tile along one axis: what it reads and what it owns, px."""

    start: int
    """First pixel of the tile."""
    stop: int
    """Pixel after the tile's last one; may lie past the scene, up to the padded size."""
    core_start: int
    """First pixel of the core."""
    core_stop: int
    """Pixel after the core's last one; never past the scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What the network sees once. Holds no pixels."""

    index: int
    """Position in row-major order of the grid."""
    row: int
    """Row of the grid."""
    col: int
    """Column of the grid."""
    window: Window
    """Read from the scene; reaches past the right and bottom edge up to the padded size."""
    core: Window
    """The part that this tile alone owns; inside the scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """The arrangement of all tiles of one scene, in row-major order."""

    height: int
    """Rows of the scene, px."""
    width: int
    """Columns of the scene, px."""
    tile_size_px: int
    """Side of a tile, px; a scene whose padded side is shorter gets a tile of that side."""
    overlap_px: int
    """Pixels that neighbouring tiles share: tile size − stride; even."""
    multiple_px: int = 1
    """Tile origins and sizes are multiples of this."""

    def __post_init__(self) -> None:
        """Refuse arrangements that have a gap or leave the lattice.

        Raises:
            PlanError: with the value and the nearest one that works.
        """
        size, overlap, multiple = self.tile_size_px, self.overlap_px, self.multiple_px
        if min(self.height, self.width, multiple) < 1:
            raise PlanError(f"a scene of {self.height} × {self.width} px cannot be tiled")
        if not 0 <= overlap < size:
            raise PlanError(f"overlap {overlap} px must be at least 0 and below the tile {size} px")
        if size % multiple:
            better = max(multiple, size // multiple * multiple)
            raise PlanError(f"tile size {size} px is no multiple of {multiple}; use {better}")
        if overlap % (2 * multiple):
            better = -(-overlap // (2 * multiple)) * 2 * multiple
            raise PlanError(f"overlap {overlap} px is no multiple of {2 * multiple}; use {better}")

    @property
    def stride_px(self) -> int:
        """Step between tile cores, px."""
        return self.tile_size_px - self.overlap_px

    @property
    def halo_px(self) -> int:
        """Pixels read around a core on every side, px."""
        return self.overlap_px // 2

    @property
    def n_rows(self) -> int:
        """Rows of tiles."""
        return self._count(self.height)

    @property
    def n_cols(self) -> int:
        """Columns of tiles."""
        return self._count(self.width)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(height, width) of every tile, px: one shape for the whole scene."""
        return (
            min(self.tile_size_px, self._padded(self.height)),
            min(self.tile_size_px, self._padded(self.width)),
        )

    @property
    def scene_window(self) -> Window:
        """The whole scene."""
        return Window(row=0, col=0, height=self.height, width=self.width)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return self.n_rows * self.n_cols

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles in row-major order."""
        for row in range(self.n_rows):
            for col in range(self.n_cols):
                yield self.tile(row, col)

    def tile(self, row: int, col: int) -> Tile:
        """Return the tile in `row` and `col` of the grid."""
        rows, cols = self.row_span(row), self.col_span(col)
        return Tile(
            index=row * self.n_cols + col,
            row=row,
            col=col,
            window=_window(rows.start, rows.stop, cols.start, cols.stop),
            core=_window(rows.core_start, rows.core_stop, cols.core_start, cols.core_stop),
        )

    def row_span(self, row: int) -> Span:
        """Return what the tiles in `row` of the grid read and own along the rows."""
        return self._span(row, self.height)

    def col_span(self, col: int) -> Span:
        """Return what the tiles in `col` of the grid read and own along the columns."""
        return self._span(col, self.width)

    def rows_touching(self, start: int, stop: int) -> range:
        """Return the grid rows whose tiles reach into scene rows [start, stop)."""
        return self._touching(start, stop, self.height)

    def cols_touching(self, start: int, stop: int) -> range:
        """Return the grid columns whose tiles reach into scene columns [start, stop)."""
        return self._touching(start, stop, self.width)

    def _padded(self, length: int) -> int:
        return -(-length // self.multiple_px) * self.multiple_px

    def _count(self, length: int) -> int:
        padded = self._padded(length)
        if padded <= self.tile_size_px:
            return 1
        return -(-(padded - self.halo_px) // self.stride_px)

    def _span(self, index: int, length: int) -> Span:
        padded, count = self._padded(length), self._count(length)
        if not 0 <= index < count:
            raise PlanError(f"tile position {index} is outside 0…{count - 1}")
        size = min(self.tile_size_px, padded)
        start = min(max(index * self.stride_px - self.halo_px, 0), padded - size)
        last = index == count - 1
        return Span(
            start=start,
            stop=start + size,
            core_start=index * self.stride_px,
            core_stop=length if last else (index + 1) * self.stride_px,
        )

    def _touching(self, start: int, stop: int, length: int) -> range:
        count, stride, halo = self._count(length), self.stride_px, self.halo_px
        # Clamping at the edges moves only the first and the last tiles, inward: widen by the
        # tiles that can be affected and keep those that really reach in.
        low = max(0, (start - 2 * self.tile_size_px) // stride)
        high = min(count, (stop + halo + self.tile_size_px) // stride + 2)
        hits = [
            index
            for index in range(low, high)
            if (span := self._span(index, length)).start < stop and span.stop > start
        ]
        return range(hits[0], hits[-1] + 1) if hits else range(0)


def _window(row: int, row_stop: int, col: int, col_stop: int) -> Window:
    return Window(row=row, col=col, height=row_stop - row, width=col_stop - col)
