"""One strip of a mask: runs of pixels, their connected components and the corners of outlines.

A strip is as wide as the scene, or a block of it with neighbours on its left and right.

Everything is done with the runs of a strip at once; the only arrays with an element a pixel are the
class mask, its copy with a margin, and their differences. What reaches over the strip's border is
handed back in pieces: `trace` joins them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.rings import BELOW, N_FLAGS, RIGHT, UP, close_rings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """Rows of one class of a mask, on their way to a worker."""

    row: int
    """First row, px."""
    above: NDArray[np.bool_]
    """(width,) the row above, which belongs to the strip before; False above the scene."""
    inside: NDArray[np.bool_]
    """(rows, width), True = pixel of the class."""
    is_last: bool
    """Nothing follows below."""
    probability: NDArray[np.uint8] | None
    """(rows, width), 255 = 1; None where none is kept or no pixel is inside."""
    col: int = 0
    """Scene column of the first array column, px."""
    lattice_px: int | None = None
    """Lattice points in a row of the scene; None: the strip is as wide as the scene."""
    has_left: bool = False
    """The first column belongs to the block on the left."""
    has_right: bool = False
    """Another block follows on the right."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measures:
    """What is known of the pixels of components, one element a component."""

    n_pixels: NDArray[np.int64]
    probability: NDArray[np.int64]
    """Sum of uint8 probabilities; 0 where none is kept."""
    last: NDArray[np.int64]
    """Last pixel in row-major order, as its lattice point."""

    def take(self, index: NDArray[np.intp]) -> Measures:
        """Return the measures of some components, in the order of `index`."""
        return Measures(
            n_pixels=self.n_pixels[index],
            probability=self.probability[index],
            last=self.last[index],
        )

    def join(self, other: Measures, group: NDArray[np.intp], n_groups: int) -> Measures:
        """Sum up groups of components.

        Args:
            other: more components, numbered on from these.
            group: per component of both, the index of its group.
            n_groups: groups in all.
        """
        n_pixels, probability, last = (np.zeros(n_groups, dtype=np.int64) for _ in range(3))
        np.add.at(n_pixels, group, np.concatenate([self.n_pixels, other.n_pixels]))
        np.add.at(probability, group, np.concatenate([self.probability, other.probability]))
        np.maximum.at(last, group, np.concatenate([self.last, other.last]))
        return Measures(n_pixels=n_pixels, probability=probability, last=last)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedStrip:
    """One strip, traced: complete components, and pieces of components that may go on."""

    polygons: NDArray[np.object_]
    """Complete components."""
    complete: Measures
    """Of `polygons`."""
    top: NDArray[np.intp]
    """Per run of the row above the strip, from the left: the index of its piece."""
    bottom: NDArray[np.intp]
    """Per run of the strip's last row, from the left: the index of its piece."""
    left: NDArray[np.intp]
    """Per pixel of the class in the column before a block, from the top: the index of its piece."""
    right: NDArray[np.intp]
    """Per pixel of the class in a block's last column, where another block follows: the same."""
    pieces: Measures
    """Of the components that touch one of these rows; the row above is not counted."""
    corners: list[NDArray[np.int64]]
    """Of each piece."""


def trace_strip(strip: Strip) -> TracedStrip:
    """Trace the components of one strip.

    Args:
        strip: may be traced in any thread and in any order.

    Returns:
        The complete components, and pieces of those that touch the row above or the last row.
    """
    flat, edges, stride = _pixel_edges(strip)
    starts, stops = edges[0::2], edges[1::2]
    n_top = int(np.searchsorted(starts, stride))
    n_before_last = int(np.searchsorted(starts, len(flat) - stride))
    n_components, component = _components(flat, starts, stride)
    # a run begins or ends a row at most once
    left = component[n_top:][starts[n_top:] % stride == 0][: len(flat) * strip.has_left]
    right = component[n_top:][stops[n_top:] % stride == stride - 1][: len(flat) * strip.has_right]

    is_open = np.zeros(n_components, dtype=np.bool_)
    is_open[component[:n_top]] = True
    is_open[component[n_before_last:]] = True
    is_open[left] = is_open[right] = True
    # One numbering for both: the complete ones and the pieces are each counted from 0.
    index = np.where(is_open, np.cumsum(is_open), np.cumsum(~is_open)) - 1

    measures = _measure(strip, starts, stops, component, n_top)
    # of several runs, the last one stays
    measures.last[component] = _in_scene(stops - 1, strip, stride)
    corners, run = _corners(flat, edges, stride)
    is_own = _is_own(corners // N_FLAGS, strip, stride)
    corners, owner = corners[is_own], component[run[is_own]]
    corners = _in_scene(corners // N_FLAGS, strip, stride) * N_FLAGS + corners % N_FLAGS
    goes_on = is_open[owner]
    lattice = strip.lattice_px or stride
    return TracedStrip(
        polygons=close_rings(corners[~goes_on], index[owner[~goes_on]], lattice),
        complete=measures.take(np.flatnonzero(~is_open)),
        top=index[component[:n_top]],
        bottom=index[component[n_before_last:]],
        left=index[left],
        right=index[right],
        pieces=measures.take(np.flatnonzero(is_open)),
        corners=_split(corners[goes_on], index[owner[goes_on]], int(is_open.sum())),
    )


def connect(
    left: NDArray[np.intp], right: NDArray[np.intp], n_nodes: int
) -> tuple[int, NDArray[np.intp]]:
    """Group nodes that are linked.

    Args:
        left: node at one end of each link, 0…n_nodes − 1.
        right: node at its other end.
        n_nodes: nodes in all; one without links is a group by itself.

    Returns:
        The number of groups, and the group of each node; groups count in the order of their first
        nodes.
    """
    # Union-find, all links at a time: the later root of each link hangs on the earlier one, paths
    # are cut short, links within a tree are dropped. (SciPy's takes as long, and 0.15 s to load.)
    root = np.arange(n_nodes, dtype=np.intp)
    while len(left):
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(above := root[root], root):
            root = above
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
    is_root = root == np.arange(n_nodes)
    return int(is_root.sum()), (np.cumsum(is_root) - 1)[root]


def _in_scene(points: NDArray[np.int64], strip: Strip, stride: int) -> NDArray[np.int64]:
    """Turn lattice points of a strip, from the row above on, into those of the scene."""
    if strip.lattice_px is None:
        return points + (strip.row - 1) * stride
    rows, cols = np.divmod(points, stride)
    placed: NDArray[np.int64] = (rows + strip.row - 1) * strip.lattice_px + cols + strip.col
    return placed


def _is_own(points: NDArray[np.int64], strip: Strip, stride: int) -> NDArray[np.bool_] | slice:
    """Tell which lattice points a block answers for.

    Neither for the column where it only begins to see its left neighbour, nor for the one that its
    right neighbour sees from both sides.
    """
    if not (strip.has_left or strip.has_right):
        return slice(None)
    cols = points % stride
    own: NDArray[np.bool_] = (cols >= strip.has_left) & (cols < stride - strip.has_right)
    return own


def _pixel_edges(strip: Strip) -> tuple[NDArray[np.bool_], NDArray[np.int64], int]:
    """Lay the rows out in one line and find where runs begin and end.

    Returns:
        flat: bool, the row above and the strip's rows, and after the last strip of a scene an empty
            row. Each row ends with an empty pixel, so that no run spans two rows and the index of
            a pixel is that of the lattice point at its top left.
        edges: indices of `flat` where a run starts (even) or has just stopped (odd), ascending.
        stride: pixels per row of `flat`.
    """
    height, width = strip.inside.shape
    stride = width + 1
    line = np.zeros(1 + (1 + height + strip.is_last) * stride, dtype=np.bool_)
    rows = line[1:].reshape(-1, stride)
    rows[0, :width] = strip.above
    rows[1 : height + 1, :width] = strip.inside
    return line[1:], np.flatnonzero(line[1:] != line[:-1]), stride


def _components(
    flat: NDArray[np.bool_], starts: NDArray[np.int64], stride: int
) -> tuple[int, NDArray[np.intp]]:
    """Number the connected components; return how many there are and the one of each run."""
    # Two runs of neighbouring rows touch where the later of their starts has a pixel of the other
    # run above or below it.
    lower = np.flatnonzero(starts >= stride)
    lower = lower[flat[starts[lower] - stride]]
    above = np.searchsorted(starts, starts[lower] - stride, side="right") - 1
    upper = np.flatnonzero(starts < len(flat) - stride)
    under = starts[upper] + stride
    upper = upper[flat[under] & flat[under - 1]]  # equal starts have been found from below
    below = np.searchsorted(starts, starts[upper] + stride, side="right") - 1
    left, right = np.concatenate([lower, upper]), np.concatenate([above, below])
    return connect(left, right, len(starts))


def _measure(
    strip: Strip,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    component: NDArray[np.intp],
    n_top: int,
) -> Measures:
    """Sum up the strip's own runs, all but the first `n_top`; `last` is left at 0."""
    n_components = int(component.max(initial=-1)) + 1
    starts, length, component = starts[n_top:], (stops - starts)[n_top:], component[n_top:]
    own, sums = length, np.zeros(len(length))
    if strip.has_left:
        own = length - (starts % (strip.inside.shape[1] + 1) == 0)
    if strip.probability is not None and len(length):
        values = strip.probability[strip.inside]  # run after run
        if strip.has_left:
            values[np.nonzero(strip.inside)[1] == 0] = 0
        sums = np.add.reduceat(values, np.cumsum(length) - length, dtype=np.float64)
    # Weights are float64: exact for these integers, which stay far below 2^53.
    return Measures(
        n_pixels=np.bincount(component, own, n_components).astype(np.int64),
        probability=np.bincount(component, sums, n_components).astype(np.int64),
        last=np.zeros(n_components, dtype=np.int64),
    )


def _corners(
    flat: NDArray[np.bool_], edges: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find where outlines turn, on all lattice rows but the first and the one below the last.

    Returns:
        The codes of the corners, with points counted in `flat`, and the run of each.
    """
    n_top = int(np.searchsorted(edges, stride))
    n_before_last = int(np.searchsorted(edges, len(flat) - stride))
    codes, runs = [], []
    for flags, index, step in (
        (UP, np.arange(n_before_last), stride),
        (0, np.arange(n_top, len(edges)), -stride),
    ):
        right = flat[edges[index] + step]
        left = flat[edges[index] + step - 1]
        is_start = index % 2 == 0
        ahead = np.where(is_start, right, left)  # the run's own column goes on
        beside = np.where(is_start, left, right)
        turns = ~ahead | beside
        index, is_start, convex = index[turns], is_start[turns], ~ahead[turns]
        point = edges[index] + (stride if flags else 0)
        below = convex if not flags else ~convex
        codes.append(point * N_FLAGS + flags + below * BELOW + (convex == is_start) * RIGHT)
        runs.append(index // 2)
    return np.concatenate(codes), np.concatenate(runs)


def _split(
    values: NDArray[np.int64], part: NDArray[np.intp], n_parts: int
) -> list[NDArray[np.int64]]:
    """Split values by the part that each belongs to, 0…n_parts − 1."""
    ordered = values[np.argsort(part, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=n_parts))])
    return [ordered[start:stop] for start, stop in pairwise(bounds.tolist())]
