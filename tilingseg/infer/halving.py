"""A device whose memory is short: batches are halved, and the size that fitted is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Engine, Part


class HalvingEngine:
    """An engine that retries with half of a batch when its device runs out of memory."""

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine; the first batch is tried whole."""
        self._engine = engine
        self._most: int | None = None

    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch, in pieces where it must be; see `Engine.probabilities`.

        Raises:
            torch.OutOfMemoryError: not even a single tile fits.
        """
        found: list[torch.Tensor] = []
        n_done, n_tiles = 0, len(pixels)
        while n_done < n_tiles:
            size = min(n_tiles - n_done, self._most or n_tiles)
            now = slice(n_done, n_done + size)
            try:
                found.append(self._engine.probabilities(pixels[now], valid[now], part))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self._most = size // 2
            else:
                n_done += size
        return found[0] if len(found) == 1 else torch.cat(found)
