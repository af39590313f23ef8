"""From finished rows to whole chunks: what stands between the stitcher and the work store.

The stitcher gives rows as they come; the store wants each chunk once and whole. Which rows are
finished, and what they hold, is not decided here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.store import WorkStore


class RegionWriter:
    """Collects the finished rows of one region until they fill its chunks."""

    def __init__(self, store: WorkStore, core: Window) -> None:
        """Start at the top of the region.

        Args:
            store: where the pixels go.
            core: the region's pixels.
        """
        self._store = store
        self._core = core
        self._top = core.row
        self._mask: list[NDArray[np.uint8]] = []
        self._probability: list[NDArray[np.uint8]] = []

    def write(
        self, window: Window, mask: NDArray[np.uint8], probability: NDArray[np.uint8]
    ) -> None:
        """Take the next rows, as wide as the region; see `WorkStore.write`."""
        self._mask.append(mask)
        self._probability.append(probability)
        chunk = self._store.plan.chunk_px
        full = (
            window.row_stop
            if window.row_stop == self._core.row_stop
            else (window.row_stop // chunk * chunk)
        )
        if full <= self._top:
            return
        masks, probabilities = np.concatenate(self._mask), np.concatenate(self._probability, axis=1)
        count = full - self._top
        rows = replace(self._core, row=self._top, height=count)
        self._store.write(rows, masks[:count], probabilities[:, :count])
        self._top = full
        # Copies: a view would hold on to all that has been written.
        self._mask, self._probability = [masks[count:].copy()], [probabilities[:, count:].copy()]
