"""Several looks at a tile: other orientations, other networks, and the mean of what they say.

Turning and mirroring a tile keeps it on the network's lattice, since the sides of tiles are whole
multiples of it; the halo is the widest of all four sides. So an exact tile stays exact: the mean
over the views of a tile is the mean over the views of the whole scene. The order of the sum is
fixed, and so are the bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Engine, Part

D4 = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""The eight orientations of a square: quarter turns, then the same mirrored."""
UPRIGHT = D4[:1]


class MeanEngine:
    """The mean of several engines over several orientations."""

    def __init__(
        self, engines: tuple[Engine, ...], views: tuple[tuple[int, bool], ...] = UPRIGHT
    ) -> None:
        """Combine engines of one device.

        Args:
            engines: give the same classes.
            views: (quarter turns, mirrored) of each look, of `D4`.
        """
        self._engines = engines
        self._views = views

    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch in every view with every network; see `Engine.probabilities`."""
        total: torch.Tensor | None = None
        for turns, mirrored in self._views:
            seen = _view(pixels, turns, mirrored=mirrored)
            known = _view(valid, turns, mirrored=mirrored)
            turned = _turned(part, (pixels.shape[2], pixels.shape[3]), turns, mirrored=mirrored)
            for engine in self._engines:
                found = engine.probabilities(seen, known, turned).rot90(-turns, (2, 3))
                found = found.flip(3) if mirrored else found
                total = found.contiguous() if total is None else total.add_(found)
        assert total is not None
        return total.div_(len(self._views) * len(self._engines))


def _view(array: NDArray[Any], turns: int, *, mirrored: bool) -> NDArray[Any]:
    """Mirror the columns, then turn by quarters; the last two axes are rows and columns."""
    seen = array[..., ::-1] if mirrored else array
    return np.ascontiguousarray(np.rot90(seen, turns, (-2, -1)))


def _turned(part: Part, shape: tuple[int, int], turns: int, *, mirrored: bool) -> Part:
    """Return where a part of a tile lies in a view of it."""
    (top, bottom), (left, right) = (
        cut.indices(length)[:2] for cut, length in zip(part, shape, strict=True)
    )
    height, width = shape
    if mirrored:
        left, right = width - right, width - left
    for _ in range(turns):  # counter-clockwise: the last column becomes the first row
        top, bottom, left, right = width - right, width - left, top, bottom
        height, width = width, height
    return slice(top, bottom), slice(left, right)
