"""The windows that an export walks through, what it reads there, and where the output lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilingseg.errors import OutputError
from tilingseg.grid import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.records import Affine6, Georef, MaskReader

STEP_PX = 2048
"""Side of the windows: whole blocks and chunks of every output, 4 MB of mask in memory."""


def windows(height: int, width: int, step_px: int = STEP_PX) -> Iterator[Window]:
    """Yield windows of at most `step_px` a side that tile height × width, in row-major order."""
    for row in range(0, height, step_px):
        for col in range(0, width, step_px):
            yield Window(
                row=row,
                col=col,
                height=min(step_px, height - row),
                width=min(step_px, width - col),
            )


def moved(window: Window, extent: Window) -> Window:
    """Return a window of the output as a window of the result that `extent` cuts it from."""
    return Window(
        row=window.row + extent.row,
        col=window.col + extent.col,
        height=window.height,
        width=window.width,
    )


def transform_of(georef: Georef, extent: Window) -> Affine6:
    """Return the affine transform of the output: pixel corner → CRS, (a, b, c, d, e, f)."""
    a, b, c, d, e, f = georef.transform
    return (
        a,
        b,
        a * extent.col + b * extent.row + c,
        d,
        e,
        d * extent.col + e * extent.row + f,
    )


def read_probabilities(
    result: MaskReader, window: Window, valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Read all classes of a window.

    Args:
        result: where from.
        window: pixels of `result`.
        valid: bool (height, width), True = data; elsewhere the probability becomes 0, because what
            a model says about nothing only costs space.

    Returns:
        uint8 (classes, height, width), 255 = 1.

    Raises:
        OutputError: the run did not keep them.
    """
    pixels = np.zeros((len(result.classes), *valid.shape), np.uint8)
    for k, name in enumerate(result.classes):
        read = result.read_probability(k, window)
        if read is None:
            raise OutputError(
                f"the probability of {name} was not kept: run again and ask for probabilities"
            )
        np.copyto(pixels[k], read, where=valid)
    return pixels
