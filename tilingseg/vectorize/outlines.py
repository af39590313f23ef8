"""Boundary points of traced outlines: where they lie, how they scatter, where they turn.

A traced outline runs along pixel edges. Its corners say little, but the midpoints of its unit edges
scatter evenly about the true wall, whatever its direction; where the probabilities on either side
of an edge are known, the point moves to where they cross the threshold. Lines are fitted to these
points by `walls`; nothing is fitted here.

Outlines are small and many, so everything is done for a batch of rings at once (see `ragged`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.vectorize.ragged import first_largest, offsets_of, spread, totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.ragged import Indexes

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlines:
    """The boundary points of rings, one ring after the other; none is closed, none is empty."""

    points: Points
    """float64 (2, n): x and y, px."""
    offsets: Indexes
    """intp (rings + 1,): the first point of every ring, and n."""

    @property
    def n_points(self) -> Indexes:
        """Points of every ring."""
        return np.diff(self.offsets)

    def take(self, rings: Indexes) -> Outlines:
        """Return some of the rings, in the order of `rings`."""
        counts = self.n_points[rings]
        ring, place = spread(counts)
        return Outlines(
            points=self.points[:, self.offsets[rings][ring] + place], offsets=offsets_of(counts)
        )

    def begun_at(self, starts: Indexes) -> Outlines:
        """Return the rings begun at other points, one place in its ring for every ring."""
        ring, place = spread(self.n_points)
        place = (place + starts[ring]) % self.n_points[ring]
        return Outlines(points=self.points[:, self.offsets[ring] + place], offsets=self.offsets)

    def turned(self, angle: NDArray[np.float64]) -> Outlines:
        """Return the rings in frames of their own, each turned by an angle, radians."""
        cos, sin = (np.repeat(f(angle), self.n_points) for f in (np.cos, np.sin))
        x, y = self.points
        return Outlines(
            points=np.stack([x * cos + y * sin, y * cos - x * sin]), offsets=self.offsets
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Running sums along rings, so that the moments of any stretch are one difference."""

    sums: NDArray[np.float64]
    """float64 (6, n + rings): count, Σx, Σy, Σx², Σy², Σxy of the first k points of each ring."""
    offsets: Indexes
    """Of the outlines."""

    @classmethod
    def of(cls, outlines: Outlines) -> Moments:
        """Sum up rings."""
        offsets = outlines.offsets
        x, y = outlines.points
        terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
        sums = np.zeros((6, len(x) + len(offsets) - 1))
        # Ring by ring: a sum over the whole batch would carry the rounding from ring to ring.
        for ring, (start, stop) in enumerate(pairwise(offsets.tolist())):
            into = sums[:, start + ring + 1 : stop + ring + 1]
            np.cumsum(terms[:, start:stop], axis=1, out=into)
        return cls(sums=sums, offsets=offsets)

    def until(self, ring: Indexes, place: Indexes) -> NDArray[np.float64]:
        """Return the sums over the first points of rings.

        Args:
            ring: intp (…), of each stretch.
            place: intp (…), how many points; up to twice around.
        """
        base, n = self.offsets[ring] + ring, np.diff(self.offsets)[ring]
        beyond = place > n
        if not beyond.any():
            return self.sums[:, base + place]
        return self.sums[:, base + np.where(beyond, place - n, place)] + np.where(
            beyond, self.sums[:, base + n], 0.0
        )


def boundary_points(rings: NDArray[np.object_]) -> tuple[Outlines, Points]:
    """Return the midpoints of the unit edges of rings and the directions of the edges.

    Args:
        rings: closed linear rings, px. Edges that are not a whole number of pixels long are
            divided into pieces of about a pixel.

    Returns:
        The points of each ring in its sense, and unit vectors along their edges, float64 (2, n).
    """
    coordinates, ring = shapely.get_coordinates(rings, return_index=True)
    x, y = np.ascontiguousarray(coordinates.T)
    is_edge = ring[1:] == ring[:-1]
    start = np.stack([x[:-1][is_edge], y[:-1][is_edge]])
    step = np.stack([x[1:][is_edge], y[1:][is_edge]]) - start
    length = np.hypot(step[0], step[1])
    count = np.maximum(1, np.rint(length)).astype(np.intp)
    edge, place = spread(count)
    points = start[:, edge] + step[:, edge] * ((place + 0.5) / count[edge])
    per_ring = np.bincount(ring[:-1][is_edge][edge], minlength=len(rings))
    outlines = Outlines(points=points, offsets=offsets_of(per_ring))
    return outlines, step[:, edge] / np.maximum(length, 1e-9)[edge]


def cross_threshold(points: Points, along: Points, probability: Probability) -> Points:
    """Move midpoints of pixel edges to where the probability crosses the threshold.

    The probability is taken as linear between the centres of the two pixels that share an edge.
    Points whose two pixels do not straddle the threshold (another class won, the scene ends) stay.

    Args:
        points: float64 (2, n), midpoints of pixel edges, px.
        along: float64 (2, n), direction of the edge of every point, the inside on its left.
        probability: of the class, around the outline.

    Returns:
        float64 (2, n): moved by at most half a pixel across the edge.
    """
    left = np.stack([-along[1], along[0]])
    inside, known_inside = _look_up(points + left / 2, probability)
    outside, known_outside = _look_up(points - left / 2, probability)
    level = probability.threshold * 255
    straddle = known_inside & known_outside & (inside >= level) & (outside < level)
    fall = np.where(straddle, inside - outside, 1)
    shift = np.where(straddle, 0.5 - (inside - level) / fall, 0.0)
    return np.asarray(points + shift * left)


def _look_up(at: Points, probability: Probability) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    col, row = np.floor(at).astype(np.intp) - [[probability.col], [probability.row]]
    height, width = probability.values.shape
    known = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    values = probability.values[np.where(known, row, 0), np.where(known, col, 0)]
    return values.astype(np.float64), known


def turning_points(outlines: Outlines, tolerance_px: float) -> tuple[Indexes, Indexes]:
    """Return the points that Douglas-Peucker keeps: candidates for corners.

    Args:
        outlines: rings.
        tolerance_px: how far a point that is left out may lie from the simplified ring, px.

    Returns:
        Places in their rings, ascending ring after ring, and how many each ring has (at least 1).
    """
    n, offsets = outlines.n_points, outlines.offsets
    ring, place = spread(n)
    x, y = outlines.points
    # Douglas-Peucker never drops its first point: begin at one that must be a corner.
    mean_x, mean_y = (totals(ring, values, len(n)) / n for values in (x, y))
    away = (x - mean_x[ring]) ** 2 + (y - mean_y[ring]) ** 2
    start = first_largest(away, offsets) - offsets[:-1]
    ring, place = spread(n + 1)
    index = offsets[ring] + (place + start[ring]) % n[ring]
    numbered = np.stack([x[index], y[index], place], axis=1)
    lines = shapely.linestrings(numbered, indices=ring)
    kept = shapely.simplify(lines, tolerance_px, preserve_topology=False)
    corners, ring = shapely.get_coordinates(kept, include_z=True, return_index=True)
    closing = np.append(ring[1:] != ring[:-1], True)
    ring = ring[~closing]
    found = (corners[~closing, 2].astype(np.intp) + start[ring]) % n[ring]
    return np.sort(offsets[ring] + found) - offsets[ring], np.bincount(ring, minlength=len(n))


def roughness(moments: Moments) -> NDArray[np.float64]:
    """Return how far each outline strays from straight lines locally, px².

    The median over the ring of the mean squared distance of 16 neighbouring points from their own
    line: corners do not count, staircases hardly (0.05), the wobble of a network does (0.1 to 0.2).
    """
    n = np.diff(moments.offsets)
    ring, place = spread(n)
    size = np.minimum(_WINDOW, n)[ring]
    window = (moments.until(ring, place + size) - moments.until(ring, place)) / size
    _, sx, sy, sxx, syy, sxy = window
    sxx, syy, sxy = sxx - sx * sx, syy - sy * sy, sxy - sx * sy
    skew = (sxx - syy) / 2
    squares = (sxx + syy) / 2 - np.sqrt(skew * skew + sxy * sxy)
    each = np.split(squares, moments.offsets[1:-1])
    return np.array([np.partition(values, len(values) // 2)[len(values) // 2] for values in each])
