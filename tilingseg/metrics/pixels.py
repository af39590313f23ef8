"""Pixel scores of one class: IoU, F1, precision, recall, and the IoU of the boundaries.

Scenes are larger than memory, so everything is a count that adds up: count the windows, sum the
counts, then ask for scores. Labels are partial (a set may hold buildings and no roads), so classes
are counted one by one, and pixels that the truth does not know count for nothing.

Boundary IoU follows Cheng, Girshick, Dollár, Berg and Kirillov (2021), "Boundary IoU", CVPR: the
IoU of the rims, the pixels of an object that are within a distance of its outline. Plain IoU says
little about the outlines of large objects; this says nothing else. Two departures, since a scene is
no photograph: the edge of the scene, and of what the truth knows, is no outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tilingseg.errors import TilingSegError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255
"""Truth value of a pixel that is not labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCounts:
    """Pixels of one class, found against true; counts of several windows add up with `+`."""

    n_hit: int = 0
    """Found and true."""
    n_false: int = 0
    """Found, not true."""
    n_missed: int = 0
    """True, not found."""
    n_clear: int = 0
    """Neither."""

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """Return the counts of both."""
        return PixelCounts(
            n_hit=self.n_hit + other.n_hit,
            n_false=self.n_false + other.n_false,
            n_missed=self.n_missed + other.n_missed,
            n_clear=self.n_clear + other.n_clear,
        )

    @property
    def n_union(self) -> int:
        """Found or true."""
        return self.n_hit + self.n_false + self.n_missed

    @property
    def n_known(self) -> int:
        """All that are labelled."""
        return self.n_union + self.n_clear

    @property
    def iou(self) -> float:
        """Intersection over union, 0…1; NaN where the class is neither found nor true."""
        return _share(self.n_hit, self.n_union)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0…1; NaN as `iou`."""
        return _share(2 * self.n_hit, 2 * self.n_hit + self.n_false + self.n_missed)

    @property
    def precision(self) -> float:
        """Share of the found pixels that are true, 0…1; NaN where none is found."""
        return _share(self.n_hit, self.n_hit + self.n_false)

    @property
    def recall(self) -> float:
        """Share of the true pixels that are found, 0…1; NaN where none is true."""
        return _share(self.n_hit, self.n_hit + self.n_missed)


def count_pixels(found: NDArray[np.uint8], truth: NDArray[np.uint8], value: int = 1) -> PixelCounts:
    """Count the pixels of one class in one window.

    Args:
        found: uint8 (height, width), mask values.
        truth: uint8 (height, width), mask values; `IGNORE` where not labelled.
        value: mask value of the class.

    Raises:
        TilingSegError: the arrays differ in shape.
    """
    _check(found, truth)
    return _counts(found == value, truth == value, truth != IGNORE)


def count_boundary(
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    value: int,
    distance_px: int,
    core: tuple[slice, slice] | None = None,
) -> PixelCounts:
    """Count the rim pixels of one class in one window; their `iou` is the boundary IoU.

    Args:
        found: uint8 (height, width), mask values.
        truth: uint8 (height, width), mask values; `IGNORE` where not labelled.
        value: mask value of the class.
        distance_px: width of the rim, px, at least 1; counted along rows, columns and diagonals.
        core: rows and columns that are counted; the rest is context. Windows with `distance_px` of
            context on every side (as far as the scene reaches) add up to the count of the scene.

    Raises:
        TilingSegError: the arrays differ in shape, or the distance is below 1.
    """
    _check(found, truth)
    if distance_px < 1:
        raise TilingSegError(f"the rim must be at least 1 px wide, got {distance_px}")
    known = truth != IGNORE
    cut = core or (slice(None), slice(None))
    found_rim = _rim(found == value, known, distance_px)[cut]
    true_rim = _rim(truth == value, known, distance_px)[cut]
    return _counts(found_rim, true_rim, known[cut])


def _rim(
    inside: NDArray[np.bool_], known: NDArray[np.bool_], distance_px: int
) -> NDArray[np.bool_]:
    size = 2 * distance_px + 1
    outside = (known & ~inside).astype(np.uint8)
    near = ndimage.maximum_filter(outside, size=size, mode="constant", cval=0)
    return np.asarray(inside & (near > 0))


def _counts(
    found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]
) -> PixelCounts:
    n_hit = int(np.count_nonzero(found & true & known))
    n_found = int(np.count_nonzero(found & known))
    n_true = int(np.count_nonzero(true & known))
    n_known = int(np.count_nonzero(known))
    return PixelCounts(
        n_hit=n_hit,
        n_false=n_found - n_hit,
        n_missed=n_true - n_hit,
        n_clear=n_known - n_found - n_true + n_hit,
    )


def _check(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    if found.shape != truth.shape:
        raise TilingSegError(f"mask {found.shape} and truth {truth.shape} differ in shape")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
