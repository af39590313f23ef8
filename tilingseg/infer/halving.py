"""A device whose memory is short: batches are halved, then tiles, and what fitted is remembered.

Every library says in its own way that memory is short; here it is recognised, whoever says it.

A batch of several tiles is halved until it fits. A single tile that does not fit is inferred in
pieces: its used part is cut in two on the network's lattice and each half is given its halo from
the tile, so that the result is that of the whole tile. The run goes on with the size that fitted.
Tiles of networks without a halo cannot be cut; there the user has to ask for smaller ones.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Engine, Part
    from tilingseg.model.spec import Geometry


TRIES = 3
"""Times that a tile is tried before it is cut for the rest of the run."""
LAST_TRIES = 10
"""The same where it cannot be cut, which ends the run."""
_SHORT = "out of memory", "not enough memory", "alloc", "could not create a primitive"
"""What errors of CUDA, PyTorch, ONNX Runtime, OpenVINO and oneDNN say, in small letters."""


class HalvingEngine:
    """An engine that retries with less at once when its device runs out of memory."""

    def __init__(self, engine: Engine, geometry: Geometry) -> None:
        """Wrap an engine; the first batch is tried whole.

        Args:
            engine: what runs out of memory.
            geometry: lattice and halo of its network.
        """
        self._engine = engine
        self._geometry = geometry
        self._most_tiles: int | None = None
        self._most_px: int | None = None

    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch, in pieces where it must be; see `Engine.probabilities`.

        Raises:
            torch.OutOfMemoryError: not even the smallest piece of a tile fits.
        """
        found: list[torch.Tensor] = []
        n_done, n_tiles = 0, len(pixels)
        while n_done < n_tiles:
            size = min(n_tiles - n_done, self._most_tiles or n_tiles)
            now = slice(n_done, n_done + size)
            if size == 1:
                found.append(self._one(pixels[now], valid[now], part))
            else:
                try:
                    found.append(self._whole(pixels[now], valid[now], part))
                except torch.OutOfMemoryError:
                    self._most_tiles = size // 2
                    continue
            n_done += size
        return found[0] if len(found) == 1 else torch.cat(found)

    def _whole(self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part) -> torch.Tensor:
        try:
            return self._engine.probabilities(pixels, valid, part)
        except Exception as error:
            if isinstance(error, MemoryError) or any(it in str(error).lower() for it in _SHORT):
                raise torch.OutOfMemoryError(str(error)) from error
            raise

    def _one(self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part) -> torch.Tensor:
        shape = pixels.shape[2], pixels.shape[3]
        area = shape[0] * shape[1]
        axis, halves = self._halves(part, shape)
        can_be_cut = all(_area(window) < area for window, _ in halves)
        if not can_be_cut or self._most_px is None or area <= self._most_px:
            for left in reversed(range(TRIES if can_be_cut else LAST_TRIES)):
                try:
                    return self._whole(pixels, valid, part)
                except torch.OutOfMemoryError:
                    if not left and not can_be_cut:
                        raise
                _release()  # memory that another program has given back by now, too
            self._most_px = area - 1
        found = [
            self._one(pixels[:, :, *window], valid[:, *window], inner) for window, inner in halves
        ]
        return torch.cat(found, dim=2 + axis)

    def _halves(self, part: Part, shape: tuple[int, int]) -> tuple[int, list[tuple[Part, Part]]]:
        """Cut what is used of a tile in two along its longer side.

        Returns:
            axis: 0 for rows, 1 for columns.
            halves: (what is read of the tile, what is used of that); one that is all of the tile
                where there is no halo to give.
        """
        if self._geometry.halo_px is None:
            return 0, [((slice(0, shape[0]), slice(0, shape[1])), part)]
        spans = [cut.indices(length)[:2] for cut, length in zip(part, shape, strict=True)]
        axis = int(spans[1][1] - spans[1][0] > spans[0][1] - spans[0][0])
        start, stop = spans[axis]
        multiple = self._geometry.multiple_px
        middle = (start + stop) // 2 // multiple * multiple
        if not start < middle < stop:
            middle = stop
        cuts = [(start, middle), (middle, stop)] if middle < stop else [(start, stop)]
        return axis, [self._with_halo(axis, cut, spans, shape) for cut in cuts]

    def _with_halo(
        self, axis: int, cut: tuple[int, int], spans: list[tuple[int, int]], shape: tuple[int, int]
    ) -> tuple[Part, Part]:
        halo, multiple = self._geometry.halo_px or 0, self._geometry.multiple_px
        window, inner = [], []
        for number, length in enumerate(shape):
            start, stop = cut if number == axis else spans[number]
            first = max(0, (start - halo) // multiple * multiple)
            last = min(length, -(-(stop + halo) // multiple) * multiple)
            window.append(slice(first, last))
            inner.append(slice(start - first, stop - first))
        return (window[0], window[1]), (inner[0], inner[1])


def _area(window: Part) -> int:
    rows, cols = window
    return int((rows.stop - rows.start) * (cols.stop - cols.start))


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
