"""Boundary points of a traced outline: where they lie, how they scatter, where they turn.

A traced outline runs along pixel edges. Its corners say little, but the midpoints of its unit edges
scatter evenly about the true wall, whatever its direction; where the probabilities on either side
of an edge are known, the point moves to where they cross the threshold. Lines are fitted to these
points by `walls`; nothing is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

_WINDOW = 16
"""Boundary points that a local line is fitted to when the noise is measured."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probability:
    """Probabilities of one class around a shape."""

    values: NDArray[np.uint8]
    """uint8 (height, width), 255 = 1."""
    row: int
    """Scene row of the first array row."""
    col: int
    """Scene column of the first array column."""
    threshold: float
    """Probability from which a pixel belongs to the class."""


def boundary_points(ring: Points) -> tuple[Points, Points]:
    """Return the midpoints of a ring's unit edges and the directions of the edges.

    Args:
        ring: float64 (n + 1, 2), closed, (x, y) in px. Edges that are not a whole number of pixels
            long are divided into pieces of about a pixel.

    Returns:
        points: float64 (k, 2) in the ring's sense.
        along: float64 (k, 2), unit vectors.
    """
    start = ring[:-1]
    step = ring[1:] - start
    length = np.hypot(step[:, 0], step[:, 1])
    count = np.maximum(1, np.rint(length)).astype(np.intp)
    edge = np.repeat(np.arange(len(start)), count)
    position = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    points = start[edge] + step[edge] * ((position + 0.5) / count[edge])[:, None]
    return points, step[edge] / np.maximum(length, 1e-9)[edge, None]


def cross_threshold(points: Points, along: Points, probability: Probability) -> Points:
    """Move midpoints of pixel edges to where the probability crosses the threshold.

    The probability is taken as linear between the centres of the two pixels that share an edge.
    Points whose two pixels do not straddle the threshold (another class won, the scene ends) stay.

    Args:
        points: float64 (n, 2), midpoints of pixel edges, px.
        along: float64 (n, 2), direction of the edge of every point, the inside on its left.
        probability: of the class, around the outline.

    Returns:
        float64 (n, 2): moved by at most half a pixel across the edge.
    """
    left = np.stack([-along[:, 1], along[:, 0]], axis=1)
    inside, known_inside = _look_up(points + left / 2, probability)
    outside, known_outside = _look_up(points - left / 2, probability)
    level = probability.threshold * 255
    straddle = known_inside & known_outside & (inside >= level) & (outside < level)
    fall = np.where(straddle, inside - outside, 1)
    shift = np.where(straddle, 0.5 - (inside - level) / fall, 0.0)
    return points + shift[:, None] * left


def _look_up(at: Points, probability: Probability) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    row = np.floor(at[:, 1]).astype(np.intp) - probability.row
    col = np.floor(at[:, 0]).astype(np.intp) - probability.col
    height, width = probability.values.shape
    known = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    values = probability.values[np.where(known, row, 0), np.where(known, col, 0)]
    return values.astype(np.float64), known


def turning_points(points: Points, tolerance_px: float) -> NDArray[np.intp]:
    """Return the points that Douglas-Peucker keeps: candidates for corners.

    Args:
        points: float64 (n, 2), a ring, not closed.
        tolerance_px: how far a point that is left out may lie from the simplified ring, px.

    Returns:
        intp (m,), ascending indices.
    """
    n = len(points)
    # Douglas-Peucker never drops its first point: begin at one that must be a corner.
    away = points - np.add.reduce(points) / n
    start = int(np.einsum("nc,nc->n", away, away).argmax())
    numbered = np.empty((n + 1, 3))
    numbered[: n - start, :2], numbered[n - start : n, :2] = points[start:], points[:start]
    numbered[n, :2] = points[start]
    numbered[:, 2] = np.arange(n + 1)
    kept = shapely.simplify(shapely.linestrings(numbered), tolerance_px, preserve_topology=False)
    index = shapely.get_coordinates(kept, include_z=True)[:-1, 2].astype(np.intp)
    return np.sort((index + start) % n)


def roughness(sums: NDArray[np.float64]) -> float:
    """Return how far an outline strays from straight lines locally, px².

    The median over the ring of the mean squared distance of 16 neighbouring points from their own
    line: corners do not count, staircases hardly (0.05), the wobble of a network does (0.1 to 0.2).

    Args:
        sums: float64 (6, 2n + 1), running sums of a ring as `walls.running_sums` gives them.
    """
    n = sums.shape[1] // 2
    size = min(_WINDOW, n)
    _, sx, sy, sxx, syy, sxy = (sums[:, size : size + n] - sums[:, :n]) / size
    sxx, syy, sxy = sxx - sx * sx, syy - sy * sy, sxy - sx * sy
    skew = (sxx - syy) / 2
    squares = (sxx + syy) / 2 - np.sqrt(skew * skew + sxy * sxy)
    squares.partition(n // 2)
    return float(squares[n // 2])
