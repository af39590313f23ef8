"""Where a scene may hold data, from an overview: what lies elsewhere is not read at all.

Flights and satellite strips fill half of their rectangle. Only an overview is asked that is known
to hold data wherever a single one of its sources does; those of unknown make, which is most, may
have picked pixels. To read on is cheap: empty blocks decode at hundreds of megapixels a second. An
infinite pixel, or one that is NaN because one of its many sources is, cannot tell and counts as
data. One more overview pixel on every side does too, for rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.readers.source import Level, PixelSource

_COARSEST = 32
"""Level 0 pixels for one pixel of an overview that is asked, at most."""
_MOST_PX = 16_000_000
"""Pixels of an overview that is asked, at most: it is read whole."""
_STEP_PX = 4_000_000
_MARGIN_PX = 1
"""Overview pixels around a window that count as part of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coverage:
    """Where an overview holds data."""

    level: Level | None
    """The overview; None: there is none that tells."""
    n_before: NDArray[np.int32]
    """int32 (rows + 1, cols + 1): pixels with data above and left of each corner."""

    def may_hold_data(self, window: Window, scale: tuple[float, float]) -> bool:
        """Tell whether a window may hold data.

        Args:
            window: pixels of the grid that is delivered.
            scale: level 0 pixels for one of those, along (rows, columns).
        """
        if self.level is None:
            return True
        rows = _span(self.level, 0, window.row * scale[0], window.row_stop * scale[0])
        cols = _span(self.level, 1, window.col * scale[1], window.col_stop * scale[1])
        corners = self.n_before[np.ix_(rows, cols)]
        return bool(corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0] > 0)


def read_coverage(source: PixelSource) -> Coverage:
    """Read where a file holds data from the coarsest of its overviews that can tell."""
    fitting = [
        index
        for index, level in enumerate(source.info.levels)
        if index > 0
        and level.shows_specks
        and max(level.scale) <= _COARSEST
        and level.height * level.width <= _MOST_PX
    ]
    if not fitting:
        return Coverage(level=None, n_before=np.zeros((1, 1), np.int32))
    index = fitting[-1]
    level = source.info.levels[index]
    n_before = np.zeros((level.height + 1, level.width + 1), np.int32)
    n_rows = max(1, _STEP_PX // level.width)
    for row in range(0, level.height, n_rows):
        height = min(n_rows, level.height - row)
        window = Window(row=row, col=0, height=height, width=level.width)
        pixels, valid = source.read(index, window, in_part=True)
        spoilt = np.isinf(pixels) if source.info.averages_skip_nan else ~np.isfinite(pixels)
        n_before[row + 1 : row + height + 1, 1:] = valid | spoilt.any(axis=0)
    np.cumsum(n_before, axis=0, out=n_before)
    np.cumsum(n_before, axis=1, out=n_before)
    return Coverage(level=level, n_before=n_before)


def _span(level: Level, axis: int, start: float, stop: float) -> tuple[int, int]:
    """Return the overview pixels that level 0 pixels [start, stop) and the margin fall on."""
    scale, offset = level.scale[axis], level.offset[axis]
    length = (level.height, level.width)[axis]
    first = math.floor((start - offset) / scale) - _MARGIN_PX
    last = math.ceil((stop - offset) / scale) + _MARGIN_PX
    return min(max(first, 0), length), min(max(last, 0), length)
