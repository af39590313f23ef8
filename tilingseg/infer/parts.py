"""Which parts of a tile are worth a graph of their own.

In exact stitching most tiles use the same part: all but the halo. Tiles at an edge of the scene use
more on that side, the last ones something else again. Compiling a graph takes as long as inferring
some tiles, so there are four at most: the common part, the common rows or columns across the whole
tile, and whole tiles, each only where enough tiles profit.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilingseg.grid import Span, TileGrid
    from tilingseg.infer.engine import Part

_ENOUGH = 16
"""Tiles from which a graph of their own is worth its compilation, measured: a compilation takes the
time that the smaller part saves on 4 tiles in fp32 and on 20 in int8."""


def common_parts(grid: TileGrid) -> tuple[Part, ...]:
    """Return the parts that get graphs of their own, beside whole tiles.

    Args:
        grid: the tiles of the scene, stitched exactly.
    """
    height, width = grid.tile_shape
    rows, n_rows = _commonest(grid.row_span(row) for row in range(grid.n_rows))
    cols, n_cols = _commonest(grid.col_span(col) for col in range(grid.n_cols))
    whole = slice(0, height), slice(0, width)
    served = (
        ((rows, cols), n_rows * n_cols),
        ((whole[0], cols), (grid.n_rows - n_rows) * n_cols),
        ((rows, whole[1]), n_rows * (grid.n_cols - n_cols)),
    )
    return tuple(part for part, count in served if count >= _ENOUGH)


def _commonest(spans: Iterable[Span]) -> tuple[slice, int]:
    """Return the core that most tiles have along one axis, in pixels of the tile, and how many."""
    cores = Counter((span.core_start - span.start, span.core_stop - span.start) for span in spans)
    (start, stop), count = max(cores.items(), key=lambda item: (item[1], item[0]))
    return slice(start, stop), count
