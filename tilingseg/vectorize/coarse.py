"""A mask seen through larger pixels, for what needs no detail.

A road's axis is no better known at five centimetres a pixel than at thirty, but its skeleton takes
36 times the work and every look into the surroundings six times the halo. Blocks are aligned to
the scene, so that a coarse pixel is the same through any window.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.grid import Window
from tilingseg.records import BACKGROUND, NODATA, Georef

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.records import Affine6, MaskReader


class CoarseMask:
    """A `MaskReader` of one class whose pixels are blocks of `factor` × `factor` finer ones.

    A block has the class where at least half of its pixels have it, and no data where none has
    data. At the right and bottom edge blocks count the pixels that there are.
    """

    def __init__(self, mask: MaskReader, value: int, factor: int) -> None:
        """Look at one class of a mask.

        Args:
            mask: the finer mask.
            value: mask value of the class; all others are background here.
            factor: pixels along the side of a block, px, at least 1.
        """
        self._mask, self._value, self._factor = mask, value, factor
        self.height, self.width = -(-mask.height // factor), -(-mask.width // factor)
        self.classes = mask.classes
        step = mask.georef.pixel_m
        self.georef: Georef = dataclasses.replace(
            mask.georef,
            transform=_coarser(mask.georef.transform, factor),
            in_file=_coarser(mask.georef.in_file, factor),
            pixel_m=None if step is None else (step[0] * factor, step[1] * factor),
        )

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width) of coarse pixels: the class, background or no data."""
        labels = self._mask.read_mask(self._finer(window))
        n_pixels = self._sums(np.ones_like(labels))
        has_class = 2 * self._sums(labels == self._value) >= n_pixels
        no_data = self._sums(labels == NODATA) == n_pixels
        coarse = np.where(has_class, self._value, np.where(no_data, NODATA, BACKGROUND))
        return coarse.astype(np.uint8)

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the mean probability of each block, uint8 (height, width), 255 = 1."""
        finer = self._mask.read_probability(class_index, self._finer(window))
        if finer is None:
            return None
        means = self._sums(finer) / self._sums(np.ones_like(finer))
        return np.rint(means).astype(np.uint8)

    def _finer(self, window: Window) -> Window:
        """Return the finer pixels under coarse ones."""
        k = self._factor
        return Window(
            row=window.row * k,
            col=window.col * k,
            height=min(window.row_stop * k, self._mask.height) - window.row * k,
            width=min(window.col_stop * k, self._mask.width) - window.col * k,
        )

    def _sums(self, finer: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.int32]:
        """Add up the pixels of each block, int32 (height, width)."""
        rows, cols = (np.arange(0, side, self._factor) for side in finer.shape)
        down = np.add.reduceat(finer, rows, axis=0, dtype=np.int32)
        sums: NDArray[np.int32] = np.add.reduceat(down, cols, axis=1, dtype=np.int32)
        return sums


def _coarser(transform: Affine6, factor: int) -> Affine6:
    a, b, c, d, e, f = transform
    return (a * factor, b * factor, c, d * factor, e * factor, f)
