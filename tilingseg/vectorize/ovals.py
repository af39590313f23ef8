"""Round tanks and towers, oval halls: circles and ellipses through rings of boundary points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.ragged import spread, totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.outlines import Outlines, Points
    from tilingseg.vectorize.ragged import Indexes

_SAGITTA_PX = 0.2
"""How far the sides of the polygon may lie from the curve that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ovals:
    """One circle or ellipse for each ring."""

    centre: Points
    """float64 (2, rings), px."""
    axes: NDArray[np.float64]
    """float64 (rings, 2, 2), the half axes, the longer one first: [ring, x or y, axis], px; 0 for
    what could not be fitted."""
    squares: NDArray[np.float64]
    """Squared distances of the points from the curve, px²; infinite for what could not be
    fitted."""

    @property
    def radii_px(self) -> NDArray[np.float64]:
        """Lengths of the half axes, float64 (rings, 2)."""
        return np.asarray(np.hypot(self.axes[:, 0], self.axes[:, 1]))

    def polygon(self, ring: int) -> Points:
        """Return the corners of a polygon with the area of an oval, float64 (2, k)."""
        longest = float(self.radii_px[ring, 0])
        sides = 4 * max(3, math.ceil(math.pi / math.acos(1 - _SAGITTA_PX / longest) / 4))
        angle = np.arange(sides) * (2 * math.pi / sides)
        out = math.sqrt(2 * math.pi / sides / math.sin(2 * math.pi / sides))
        unit = out * np.stack([np.cos(angle), np.sin(angle)])
        return np.asarray(self.centre[:, ring, None] + self.axes[ring] @ unit)


def fit_circles(outlines: Outlines) -> Ovals:
    """Fit circles to rings by linear least squares."""
    ring, middle, (x, y) = _about_middles(outlines)
    n_rings = middle.shape[1]
    square = x * x + y * y
    # Normal equations of x² + y² = 2ax + 2by + c about the centroid, where Σx = Σy = 0.
    sxx, syy, sxy = (totals(ring, values, n_rings) for values in (x * x, y * y, x * y))
    determinant = sxx * syy - sxy * sxy
    possible = determinant > 0
    determinant[~possible] = 1.0
    p, q = (totals(ring, values * square, n_rings) / 2 for values in (x, y))
    a, b = (p * syy - q * sxy) / determinant, (q * sxx - p * sxy) / determinant
    n = outlines.n_points
    radius = np.where(possible, np.sqrt((sxx + syy) / n + a * a + b * b), 0.0)
    away = np.hypot(x - a[ring], y - b[ring]) - radius[ring]
    squares = np.where(possible, totals(ring, away * away, n_rings), np.inf)
    return Ovals(
        centre=middle + np.stack([a, b]),
        axes=radius[:, None, None] * np.eye(2),
        squares=squares,
    )


def fit_ellipses(outlines: Outlines) -> Ovals:
    """Fit ellipses to rings by linear least squares, each point weighing by its distance."""
    ring, middle, (x, y) = _about_middles(outlines)
    n_rings = middle.shape[1]
    # a x² + b xy + c y² + d x + e y = 1 about the centroid. Lengths of about 1 keep it well posed.
    size = np.sqrt(totals(ring, x * x + y * y, n_rings) / outlines.n_points)
    x, y = x / size[ring], y / size[ring]
    terms = np.stack([x * x, x * y, y * y, x, y])
    normal = np.empty((n_rings, 5, 5))
    for row in range(5):
        for col in range(row + 1):
            normal[:, row, col] = totals(ring, terms[row] * terms[col], n_rings)
            normal[:, col, row] = normal[:, row, col]
    right = np.stack([totals(ring, term, n_rings) for term in terms], axis=1)
    possible = np.linalg.cond(normal) < 1e8
    normal[~possible] = np.eye(5)
    a, b, c, d, e = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T
    # (p − centre)ᵀ shape (p − centre) = 1
    quadratic = np.stack([np.stack([a, b / 2], axis=1), np.stack([b / 2, c], axis=1)], axis=1)
    possible &= 4 * a * c - b * b > 1e-6
    quadratic[~possible] = np.eye(2)
    linear = np.stack([d, e], axis=1)
    centre = -np.linalg.solve(quadratic, linear[:, :, None])[:, :, 0] / 2
    shape = quadratic / (1 - (linear * centre).sum(1) / 2)[:, None, None]
    values, vectors = np.linalg.eigh(shape)
    possible &= values[:, 0] > 1e-6
    axes = vectors / np.sqrt(np.where(possible[:, None], values, 1.0))[:, None]
    offset = np.stack([x, y]) - centre.T[:, ring]
    slope = np.einsum("nij,jn->in", shape[ring], offset)
    away = ((offset * slope).sum(0) - 1) / (2 * np.hypot(*slope) + 1e-9) * size[ring]
    squares = np.where(possible, totals(ring, away * away, n_rings), np.inf)
    axes = np.where(possible[:, None, None], axes * size[:, None, None], 0.0)
    return Ovals(centre=middle + centre.T * size, axes=axes, squares=squares)


def _about_middles(outlines: Outlines) -> tuple[Indexes, Points, Points]:
    """Return the ring of every point, the centroids, and the points about those of their rings."""
    n = outlines.n_points
    ring, _ = spread(n)
    middle = np.stack([totals(ring, values, len(n)) / n for values in outlines.points])
    return ring, middle, outlines.points - middle[:, ring]
