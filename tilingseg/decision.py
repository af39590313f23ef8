"""From probabilities to what is stored: a class for each pixel, and probabilities as bytes.

On a processor this is done at once. A GPU is asked for it behind the forward pass, and for a copy
into memory that it can write to by itself; whoever needs the bytes waits for them later, while the
next tiles are on their way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tilingseg.records import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STRIP = 128_000
"""Pixels that are turned into classes at once on a processor: they stay in its cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How probabilities become classes."""

    class_indexes: tuple[int, ...]
    """Classes that may be given."""
    thresholds: tuple[float, ...]
    """Least probability, for every class of the model."""
    keeps_probability: bool = True
    """Give probabilities beside the mask."""

    @property
    def n_kept(self) -> int:
        """Classes whose probabilities are given."""
        return len(self.thresholds) if self.keeps_probability else 0

    def classify(self, probability: torch.Tensor) -> torch.Tensor:
        """Give each pixel the most probable class among those above their thresholds.

        Args:
            probability: float32 (classes, height, width) in 0…1.

        Returns:
            uint8 (height, width): background or class index + 1; the first class wins a tie.
        """
        if probability.device.type == "cpu":
            return torch.from_numpy(self._classified(probability.numpy()))
        mask = torch.full_like(probability[0], BACKGROUND, dtype=torch.uint8)
        best = torch.zeros_like(probability[0])
        # Products and maxima instead of choices by a mask, which no vector instruction does.
        for index in sorted(self.class_indexes):
            layer = probability[index]
            passing = layer * (layer >= self.thresholds[index])
            better = (passing > best).view(torch.uint8)
            mask = torch.maximum(mask, better * (index + 1))
            best = torch.maximum(best, passing)
        return mask

    def _classified(self, probability: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Do the same on a processor, where comparisons of NumPy take a fifth of the time."""
        mask = np.full(probability.shape[1:], BACKGROUND, dtype=np.uint8)
        best: NDArray[np.float32] | None = None
        for index in sorted(self.class_indexes):
            layer = probability[index]
            better = layer >= np.float32(self.thresholds[index])
            if best is not None:
                better &= layer > best
            np.maximum(mask, better.view(np.uint8) * np.uint8(index + 1), out=mask)
            if index != max(self.class_indexes):
                passing = layer * better
                best = passing if best is None else np.maximum(best, passing, out=best)
        return mask

    @torch.inference_mode()
    def finish(
        self, probability: torch.Tensor, mask: torch.Tensor, rounded: torch.Tensor
    ) -> Callable[[], None] | None:
        """Turn final probabilities into what is stored.

        Args:
            probability: float32 (classes, height, width) in 0…1, on the device.
            mask: uint8 (height, width) on the host, filled with classes.
            rounded: uint8 (kept classes, height, width) on the host, filled with probabilities,
                255 = 1.

        Returns:
            What fills them, see `finish_later`; None: they are filled.
        """
        if probability.device.type == "cuda":
            return self.finish_later(probability, mask, rounded)
        if probability.device.type != "cpu":
            found = self._on_device(probability, len(rounded)).cpu()
            mask[:], rounded[:] = found[0], found[1:]
            return None
        height, width = probability.shape[1:]
        step = max(1, STRIP // width)
        for top in range(0, height, step):
            strip, rows = probability[:, top : top + step].numpy(), slice(top, top + step)
            mask.numpy()[rows] = self._classified(strip)
            for layer, out in zip(strip, rounded.numpy(), strict=False):  # none where none are kept
                scaled = layer * np.float32(255)
                scaled += np.float32(0.5)
                with np.errstate(invalid="ignore"):  # what a network says may be no number
                    out[rows] = np.clip(scaled, 0, 255, out=scaled)
        return None

    @torch.inference_mode()
    def finish_later(
        self, probability: torch.Tensor, mask: torch.Tensor, rounded: torch.Tensor
    ) -> Callable[[], None]:
        """Ask a GPU for the same, and do not wait for it.

        Args:
            probability: as for `finish`; it may be overwritten by what is asked for afterwards.
            mask: as for `finish`.
            rounded: as for `finish`.

        Returns:
            What waits and fills `mask` and `rounded`; to be called once, in any thread.
        """
        found = self._on_device(probability, len(rounded))
        arriving = found.to("cpu", non_blocking=True)  # in pinned memory
        copied = torch.cuda.current_stream(probability.device).record_event()

        def fill() -> None:
            copied.synchronize()
            found = arriving.numpy()  # whose copies leave PyTorch's threads alone
            mask.numpy()[:], rounded.numpy()[:] = found[0], found[1:]

        return fill

    def _on_device(self, probability: torch.Tensor, n_kept: int) -> torch.Tensor:
        """Return uint8 (1 + kept classes, height, width): the mask, then the probabilities."""
        shape = 1 + n_kept, *probability.shape[1:]
        found = torch.empty(shape, dtype=torch.uint8, device=probability.device)
        found[0] = self.classify(probability)
        for layer, out in zip(probability, found[1:], strict=False):
            out.copy_((layer * 255).add_(0.5).clamp_(0, 255))
        return found
