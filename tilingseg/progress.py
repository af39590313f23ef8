"""Telling people how far a long stage is, and stopping it between two steps.

Stages do not draw bars: they tell a `Progress`, and whoever started them decides what to show.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from tilingseg.errors import TilingSegError
from tilingseg.records import MaskView

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import MaskReader


class StoppedError(TilingSegError):
    """Work was given up because another part failed or the user interrupted the run."""


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` steps of a stage are done."""


def silent(stage: str, done: int, total: int) -> None:
    """Take no note."""


class Watch:
    """Watches over regions: is told of their tiles, and ends them when it is told to stop."""

    def __init__(self, on_tiles: Callable[[int], None] | None = None) -> None:
        """Start watching.

        Args:
            on_tiles: called with the number of tiles that were finished.
        """
        self._on_tiles = on_tiles
        self._stop = threading.Event()

    def stop(self) -> None:
        """End every region before its next tile row."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether no region is to be begun any more."""
        return self._stop.is_set()

    def passed(self, n_tiles: int) -> None:
        """Note that a tile row is finished.

        Raises:
            StoppedError: the region is to be given up.
        """
        if self.stopped:
            raise StoppedError("given up because another region failed")
        if self._on_tiles is not None:
            self._on_tiles(n_tiles)


class WatchedMask(MaskView):
    """A mask that tells how far down it has been read."""

    def __init__(self, mask: MaskReader, progress: Progress) -> None:
        """Watch over `mask` and tell `progress` in rows of pixels."""
        super().__init__(mask)
        self._progress = progress
        self._stage = ""
        self._done = 0

    def begin(self, stage: str) -> None:
        """Start again at the top, for another stage."""
        self._stage = stage
        self._done = 0

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): background, class values from 1, nodata."""
        if window.row_stop > self._done:
            self._done = window.row_stop
            self._progress(self._stage, self._done, self.height)
        return self._mask.read_mask(window)
