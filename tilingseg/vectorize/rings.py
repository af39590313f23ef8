"""Rings from corners: the geometry of shapes whose outline follows pixel edges.

A shape made of pixels is determined by the lattice points where its outline turns. Along one row of
the lattice its horizontal edges pair these corners up from left to right, along one column its
vertical edges do so from top to bottom; going along the two kinds of edges in turn walks the rings.
So outlines need no walk from pixel to pixel: all shapes of a batch are closed together by two sorts
and pointer jumping, and corners that were found in different bands of a mask need only be put into
one array.

One int64 holds a corner: ``(row · stride + column) · 8 + flags`` with a stride above the largest
column, so that sorting corners sorts them along the rows of the lattice.

Where two pixels of one shape meet in a lattice point only diagonally, the outline turns around the
two pixels that are *not* of the shape. Each ring then passes a point once, and the polygon is
valid: rings touch there, none crosses or touches itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

UP = 1
"""Flag: the corner's vertical edge leads up from it, not down."""
BELOW = 2
"""Flag: the shape lies below the corner's horizontal edge, not above."""
RIGHT = 4
"""Flag: the corner's horizontal edge leads to the right, not to the left."""
N_FLAGS = 8
"""Corners at one lattice point have codes from ``point · N_FLAGS`` on."""


def close_rings(
    corners: NDArray[np.int64], owner: NDArray[np.intp], stride: int
) -> NDArray[np.object_]:
    """Build the polygons that whole sets of corners stand for.

    Args:
        corners: codes of all corners of every shape, in any order; fastest as few sorted runs.
        owner: per corner, the index of its shape; every index from 0 to the largest occurs.
        stride: lattice points per row that the codes were made with.

    Returns:
        One valid polygon per shape, in the order of the indices, corners on integers, x = column,
        y = row. Shells run clockwise on the screen (y down), holes the other way; shells begin at
        their first corner in row-major order.
    """
    if not len(corners):
        return np.empty(0, dtype=np.object_)
    order = np.argsort(corners, kind="stable")  # timsort: the runs are merged, not sorted anew
    codes, owner = corners[order], owner[order]
    start, following = _horizontal_edges(codes, _vertical_partners(codes, owner, stride))
    root = _first_of_cycle(following)
    rank = _steps_from_root(following, root)

    roots = np.flatnonzero(root == np.arange(len(root)))
    # The first ring of a shape holds its first corner, which no hole can hold: it is the shell.
    by_owner = np.argsort(owner[start[roots]], kind="stable")
    roots = roots[by_owner]
    n_points = 2 * np.bincount(root, minlength=len(root))[roots] + 1
    ring_offsets = np.concatenate([[0], np.cumsum(n_points)])
    first_point = np.empty(len(root), dtype=np.int64)
    first_point[roots] = ring_offsets[:-1]

    points = np.empty(ring_offsets[-1], dtype=np.int64)
    place = first_point[root] + 2 * rank
    points[place] = codes[start] // N_FLAGS
    points[place + 1] = codes[start ^ 1] // N_FLAGS
    points[ring_offsets[1:] - 1] = points[ring_offsets[:-1]]
    y, x = np.divmod(points, stride)
    rings_per_shape = np.bincount(owner[start[roots]])
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.stack([x, y], axis=1).astype(np.float64),
        (ring_offsets, np.concatenate([[0], np.cumsum(rings_per_shape)])),
    )


def _vertical_partners(
    codes: NDArray[np.int64], owner: NDArray[np.intp], stride: int
) -> NDArray[np.int64]:
    """Return, per sorted corner, the index of the corner at the other end of its vertical edge."""
    points = codes // N_FLAGS
    sequence = np.arange(len(codes))
    # Two corners share a point where pixels meet diagonally. The one that ends the edge from above
    # comes first in its column, unless both belong to one shape: then the ends are exchanged, which
    # makes the outline turn around the other two pixels.
    first = np.flatnonzero(points[1:] == points[:-1])
    leads_up = (codes[first] & UP) != 0
    exchange = first[leads_up == (owner[first] == owner[first + 1])]
    sequence[exchange], sequence[exchange + 1] = exchange + 1, exchange

    column = points % stride
    if stride <= 1 << 16:
        column = column.astype(np.uint16)  # NumPy sorts 16-bit keys by radix, ten times faster
    along_columns = sequence[np.argsort(column, kind="stable")]
    partner = np.empty(len(codes), dtype=np.int64)
    partner[along_columns[0::2]] = along_columns[1::2]
    partner[along_columns[1::2]] = along_columns[0::2]
    return partner


def _horizontal_edges(
    codes: NDArray[np.int64], vertical_partner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Direct the horizontal edges, which pair sorted corners 2i and 2i + 1, and link them.

    Returns:
        start: per edge, the index of the corner where it begins with the shape on its right hand.
        following: per edge, the index of the next edge of the ring.
    """
    below = (codes[0::2] & BELOW) != 0
    start = 2 * np.arange(len(below)) + ~below
    return start, vertical_partner[start ^ 1] // 2


def _first_of_cycle(following: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, per element of a permutation, the smallest index in its cycle."""
    smallest, jump = np.minimum(np.arange(len(following)), following), following
    while True:
        reduced: NDArray[np.int64] = np.minimum(smallest, smallest[jump])
        if np.array_equal(reduced, smallest):
            return smallest
        smallest, jump = reduced, jump[jump]


def _steps_from_root(following: NDArray[np.int64], root: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, per element of a permutation, the steps that lead to it from its cycle's root."""
    own = np.arange(len(following))
    previous = np.empty_like(following)
    previous[following] = own
    back = np.where(root == own, own, previous)
    steps: NDArray[np.int64] = (root != own).astype(np.int64)
    while (further := steps[back]).any():
        steps += further
        back = back[back]
    return steps
