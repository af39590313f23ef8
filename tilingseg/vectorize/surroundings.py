"""The pixels around a shape, read from the mask in blocks that are kept for the next shapes.

Shapes arrive in the order of their last pixel, so consecutive ones lie far apart along a row of
the scene but near each other across rows: a few rows of blocks are all that is ever read twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.grid import Window
from tilingseg.vectorize.borders import BorderedMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.records import MaskReader

_BLOCK_PX = 512
"""Side of a block, px: the chunk side of a work store."""
_ROWS_KEPT = 3
"""Rows of blocks kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """The pixels of a window around one shape; picklable."""

    row: int
    """Scene row of the first array row."""
    col: int
    """Scene column of the first array column."""
    same: NDArray[np.bool_]
    """bool (height, width), True = of the shape's class: the shape and its neighbours."""
    probability: NDArray[np.uint8] | None
    """uint8 (height, width), 255 = 1; None: not kept."""
    inside: NDArray[np.uint8] | None
    """How sure it is that a pixel is not where two objects of the class touch, uint8 (height,
    width), 255 = 1; the probability itself where the model says no more; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """One block of the mask, as `Surroundings`."""

    same: NDArray[np.bool_]
    probability: NDArray[np.uint8] | None
    inside: NDArray[np.uint8] | None


class BlockReader:
    """Reads windows of one class of a mask through a bounded store of blocks."""

    def __init__(self, mask: MaskReader, value: int) -> None:
        """Begin with no block.

        Args:
            mask: where the pixels come from.
            value: mask value of the class.
        """
        self._mask = mask
        self._value = value
        self._blocks: OrderedDict[tuple[int, int], _Block] = OrderedDict()
        self._limit = _ROWS_KEPT * (-(-mask.width // _BLOCK_PX) + 1)

    def around(self, bounds: tuple[int, int, int, int], margin_px: int) -> Surroundings:
        """Return the pixels around a shape.

        Args:
            bounds: min x, min y, max x, max y of the shape, px.
            margin_px: pixels added on every side, as far as the scene reaches.
        """
        left, top, right, bottom = bounds
        col, row = max(0, left - margin_px), max(0, top - margin_px)
        col_stop = min(self._mask.width, right + margin_px)
        row_stop = min(self._mask.height, bottom + margin_px)
        first = self._block(row // _BLOCK_PX, col // _BLOCK_PX)
        same = np.zeros((row_stop - row, col_stop - col), bool)
        probability = None if first.probability is None else np.zeros(same.shape, np.uint8)
        inside = probability
        if first.inside is not first.probability:
            inside = np.zeros(same.shape, np.uint8)
        for i in range(row // _BLOCK_PX, (row_stop - 1) // _BLOCK_PX + 1):
            for j in range(col // _BLOCK_PX, (col_stop - 1) // _BLOCK_PX + 1):
                block = self._block(i, j)
                top_px, left_px = i * _BLOCK_PX, j * _BLOCK_PX
                rows = slice(max(row, top_px), min(row_stop, top_px + _BLOCK_PX))
                cols = slice(max(col, left_px), min(col_stop, left_px + _BLOCK_PX))
                there = _shifted(rows, row), _shifted(cols, col)
                here = _shifted(rows, top_px), _shifted(cols, left_px)
                same[there] = block.same[here]
                if probability is not None and block.probability is not None:
                    probability[there] = block.probability[here]
                if inside is not probability and inside is not None and block.inside is not None:
                    inside[there] = block.inside[here]
        return Surroundings(row=row, col=col, same=same, probability=probability, inside=inside)

    def _block(self, i: int, j: int) -> _Block:
        if (i, j) in self._blocks:
            self._blocks.move_to_end((i, j))
            return self._blocks[i, j]
        row, col = i * _BLOCK_PX, j * _BLOCK_PX
        window = Window(
            row=row,
            col=col,
            height=min(_BLOCK_PX, self._mask.height - row),
            width=min(_BLOCK_PX, self._mask.width - col),
        )
        same = self._mask.read_mask(window) == self._value
        probability = self._mask.read_probability(self._value - 1, window)
        inside = probability
        if isinstance(self._mask, BorderedMask):
            inside = self._mask.read_inside(window)
        block = _Block(same=same, probability=probability, inside=inside)
        self._blocks[i, j] = block
        if len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)
        return block


def _shifted(span: slice, origin: int) -> slice:
    return slice(span.start - origin, span.stop - origin)
