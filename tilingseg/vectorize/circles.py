"""Round tanks and towers: circles through rings of boundary points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.ragged import spread, totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Outlines, Points

_SAGITTA_PX = 0.2
"""How far the sides of the polygon may lie from the circle that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Circles:
    """One circle for each ring; what could not be fitted has a radius of 0."""

    centre: Points
    """float64 (2, rings), px."""
    radius_px: NDArray[np.float64]
    squares: NDArray[np.float64]
    """Squared distances of the points from the circle, px²."""

    def polygon(self, ring: int) -> Points:
        """Return the corners of a regular polygon with the area of a circle, float64 (2, k)."""
        radius = float(self.radius_px[ring])
        sides = 4 * max(3, math.ceil(math.pi / math.acos(1 - _SAGITTA_PX / radius) / 4))
        angle = np.arange(sides) * (2 * math.pi / sides)
        out = radius * math.sqrt(2 * math.pi / sides / math.sin(2 * math.pi / sides))
        return self.centre[:, ring, None] + out * np.stack([np.cos(angle), np.sin(angle)])


def fit_circles(outlines: Outlines) -> Circles:
    """Fit circles to rings by linear least squares."""
    n = outlines.n_points
    ring, _ = spread(n)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return totals(ring, values, len(n))

    middle = np.stack([total(values) / n for values in outlines.points])
    x, y = outlines.points - middle[:, ring]
    square = x * x + y * y
    # Normal equations of x² + y² = 2ax + 2by + c about the centroid, where Σx = Σy = 0.
    sxx, syy, sxy = total(x * x), total(y * y), total(x * y)
    determinant = sxx * syy - sxy * sxy
    possible = determinant > 0
    determinant[~possible] = 1.0
    p, q = total(x * square) / 2, total(y * square) / 2
    a, b = (p * syy - q * sxy) / determinant, (q * sxx - p * sxy) / determinant
    radius = np.where(possible, np.sqrt((sxx + syy) / n + a * a + b * b), 0.0)
    away = np.hypot(x - a[ring], y - b[ring]) - radius[ring]
    return Circles(centre=middle + np.stack([a, b]), radius_px=radius, squares=total(away * away))
