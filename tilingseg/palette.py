"""Colours of classes: the same in masks, labels and previews."""

from __future__ import annotations

import colorsys

RGB = tuple[int, int, int]

_FIRST: tuple[RGB, ...] = (
    (230, 30, 110),
    (255, 200, 40),
    (40, 150, 235),
    (60, 190, 90),
    (190, 90, 220),
    (30, 200, 200),
    (250, 130, 60),
    (160, 110, 60),
)
"""Far apart from one another, also for most colour-blind eyes, and from vegetation and asphalt."""


def class_colour(index: int) -> RGB:
    """Return the colour of a class, red-green-blue 0…255; no two of 254 classes are the same.

    Args:
        index: position of the class, from 0.
    """
    if index < len(_FIRST):
        return _FIRST[index]
    step = index - len(_FIRST)
    # The golden ratio never repeats a hue; brightness alternates so that neighbours stay apart.
    hue = (0.11 + step * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(
        hue, (0.85, 0.55)[step % 2], (0.95, 0.75, 0.55)[step % 3]
    )
    return round(255 * red), round(255 * green), round(255 * blue)
