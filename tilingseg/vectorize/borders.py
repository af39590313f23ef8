"""A border channel: where a model says itself that two buildings touch.

Some networks have one class more, `building_boundary` beside `building`, trained on the pixels
along which buildings meet. These pixels are ground of the buildings, so the class gives no layer of
its own: `bordered` shows them as buildings, and says how far inside of a building every pixel
is, which is what `instances` cuts along. Without such a class a mask is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilingseg.records import MaskView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import MaskReader

SUFFIX = "_boundary"
"""What the name of a class ends with that marks the borders of another."""


def is_border(name: str, classes: Sequence[str]) -> bool:
    """Tell whether a class marks the borders of another one of the same mask."""
    return name.lower().removesuffix(SUFFIX) in {
        other.lower() for other in classes if other.lower() != name.lower()
    }


def bordered(mask: MaskReader, class_index: int) -> MaskReader:
    """Return a mask in which the borders of a class belong to it; the mask itself without any.

    Args:
        mask: of the whole scene.
        class_index: position of the class.
    """
    if isinstance(mask, BorderedMask):
        return mask
    names = [name.lower() for name in mask.classes]
    border = f"{names[class_index]}{SUFFIX}"
    return BorderedMask(mask, class_index, names.index(border)) if border in names else mask


class BorderedMask(MaskView):
    """A `MaskReader` in which the pixels of a border class are those of the class it divides."""

    def __init__(self, mask: MaskReader, class_index: int, border_index: int) -> None:
        """Look at two classes of a mask as one.

        Args:
            mask: with both classes.
            class_index: position of the class that is divided.
            border_index: position of the class that divides it.
        """
        super().__init__(mask)
        self._class, self._border = class_index, border_index

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): labels, the border's replaced."""
        labels = self._mask.read_mask(window)
        return np.where(labels == self._border + 1, np.uint8(self._class + 1), labels)

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the probability of a class, that of its border included; None: not kept."""
        own = self._mask.read_probability(class_index, window)
        if class_index != self._class or own is None:
            return own
        border = self._mask.read_probability(self._border, window)
        return own if border is None else _sum(own, border)

    def read_inside(self, window: Window) -> NDArray[np.uint8]:
        """Return how sure it is that pixels are in a building and on no border, 255 = 1.

        Where no probabilities are kept, the labels decide.
        """
        own = self._mask.read_probability(self._class, window)
        border = self._mask.read_probability(self._border, window)
        if own is None or border is None:
            labels = self._mask.read_mask(window)
            return np.where(labels == self._class + 1, np.uint8(255), np.uint8(0))
        share = _sum(own, border).astype(np.uint16) * (255 - border) / 255
        inside: NDArray[np.uint8] = np.rint(share).astype(np.uint8)
        return inside


def _sum(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    total = np.minimum(one.astype(np.uint16) + other, 255)
    summed: NDArray[np.uint8] = total.astype(np.uint8)
    return summed
