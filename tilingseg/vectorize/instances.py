"""Touching buildings are told apart: which pixels of one shape belong to which of them.

Two signs separate buildings inside one shape. A network doubts the wall between touching houses, or
has a channel for it (see `borders`): the probability has a valley from side to side that is deep in
the mean over its length. And a mask of buildings that touch at a corner has a neck that is much
narrower than either side. Both are found by watershed, of the probability or of the distance from
the outline. With neither sign the shape stays whole: wings of one house, courtyards and narrow
buildings are not cut. Where the line between two parts runs is for `cuts`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from shapely import Polygon
from skimage.segmentation import watershed

from tilingseg.vectorize.clearance import fill
from tilingseg.vectorize.cuts import Pieces, contacts, cut, edges
from tilingseg.vectorize.distance import distance_inside
from tilingseg.vectorize.outlines import boundary_points, turning_points
from tilingseg.vectorize.ragged import totals
from tilingseg.vectorize.walls import main_directions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tilingseg.vectorize.surroundings import Surroundings

_watershed: Callable[..., NDArray[np.int32]] = watershed  # scikit-image does not say its types

_VALLEY_PX = 7
"""Wider dips of the probability are no walls."""
_OPEN_DROP = 0.1
"""Ground with a smaller drop belongs to no valley."""
_VALLEY_WEIGHT = 10.0
"""Drop against distance from the valley, px, when ground is shared out: cuts follow the bottom."""
_MIN_DROP = 0.12
"""A valley is this much lower than both sides, as a share, in the mean over its length ..."""
_STRAIGHT_DROP = 0.16
"""The same along the straight line through a valley, at its deepest within a pixel."""
_DROPS = (0.03, 0.06, 0.09, 0.12, 0.15)
"""Shallower valleys are removed first, in this order."""
_DROP_PX = 0.8
"""... and lower still where it is short: plus this over its length in px."""
_RIM_PX = 2
"""Pixels at the rim of a shape where the probability falls off anyway."""
_MIN_VALLEY_PX = 4
"""Low pixels inside a shape below which no valley is looked for."""
_MIN_PART_PX2 = 24.0
"""No building is smaller than this ..."""
_MIN_PART_SHARE = 0.08
"""... nor than this share of the shape ..."""
_CERTAIN_PART_PX2 = 80.0
"""... unless it is larger than this: long rows of houses are one shape too."""
_COMPACT = 0.82
"""A shape that fills this share of its convex hull has no neck."""


def separate(polygon: Polygon, own: NDArray[np.bool_], around: Surroundings) -> Pieces | None:
    """Cut a shape into buildings.

    Args:
        polygon: valid, along pixel edges, px.
        own: bool (height, width), its pixels in the window of `around`.
        around: the pixels around it, with the probability where there is one.

    Returns:
        The pieces; None where the shape is one building.
    """
    share = _MIN_PART_SHARE * np.count_nonzero(own)
    smallest = max(_MIN_PART_PX2, min(share, _CERTAIN_PART_PX2))
    shell = Polygon(polygon.exterior)
    labels = None
    if around.inside is not None:
        labels = _split_by_valley(own, around.inside, smallest)
    if labels is None and shell.area < _COMPACT * shapely.convex_hull(shell).area:
        # A passage beside a courtyard is no neck: the courtyard counts as part of the building.
        labels = _split_by_neck(fill(shell, around), smallest)
    if labels is None:
        return None
    outline, _ = boundary_points(np.array([polygon.exterior]))
    corners = outline.points[:, turning_points(outline, 2.0)[0]]
    direction = main_directions(corners, np.array([corners.shape[1]]))[0]
    return cut(polygon, labels, (around.col, around.row), direction)


def _split_by_valley(
    own: NDArray[np.bool_], probability: NDArray[np.uint8], smallest: float
) -> NDArray[np.int32] | None:
    """Divide a shape into basins of the probability, and join those with no valley between."""
    core = ~ndimage.binary_dilation(~own, iterations=_RIM_PX)
    if not core.any():
        return None
    drop = _valleys(own, probability)
    if np.count_nonzero(core & (drop > _MIN_DROP)) < _MIN_VALLEY_PX:
        return None
    # Where a valley has a hole, the ground around it is as narrow as the hole: basins of the
    # distance from the valleys do not run together there, those of the probability do.
    open_ground = distance_inside(own & (drop < _OPEN_DROP))
    peaks = (open_ground > 2) & (
        open_ground >= ndimage.maximum_filter(open_ground, size=_VALLEY_PX)
    )
    markers, n = ndimage.label(peaks, structure=np.ones((3, 3)))
    if n < 2:
        return None
    # A block of a dense town has millions of pixels, and scikit-image takes 50 bytes for each.
    height = _VALLEY_WEIGHT * drop
    height -= open_ground
    del open_ground, peaks, core
    labels = _watershed(height, markers, mask=own).astype(np.int32, copy=False)
    del height, markers
    labels = _join_crooked(_join_basins(labels, drop, smallest), drop, _far_in(own))
    return labels if labels.max() > 1 else None


def _valleys(own: NDArray[np.bool_], probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how far the probability lies below its surroundings, as a share, 0 outside."""
    height = np.where(own, probability, 0).astype(np.float32)
    ceiling = ndimage.grey_closing(height, size=_VALLEY_PX)
    return np.where(own, 1 - height / np.maximum(ceiling, 1), 0)


def _join_basins(
    labels: NDArray[np.int32], drop: NDArray[np.float32], smallest: float
) -> NDArray[np.int32]:
    """Join basins, each with the neighbour that the shallowest valley parts it from.

    Shallow ones first: the boundary of a small basin is short and says little, that of a whole
    house says much. Which basins are one is known per basin; pixels are looked at only once.
    """
    pairs, at = edges(labels)
    here, there = drop[at[:, 0], at[:, 1]], drop[at[:, 0] + at[:, 2], at[:, 1] + at[:, 3]]
    depths = np.maximum(here, there).astype(np.float64)
    size: NDArray[np.float64] = np.bincount(labels.ravel()).astype(np.float64)
    group = np.arange(len(size))
    for limit in (*_DROPS, None):
        while True:
            target = _join_once(group[pairs], depths, size, limit, smallest)
            if target is None:
                break
            n = len(target)
            links = csr_array((np.ones(n), (np.arange(n), target)), shape=(n, n))
            joined = connected_components(links, directed=False)[1]
            # Background is the only one that stays alone for sure: it keeps the lowest number.
            group, size = joined[group], totals(joined, size, int(joined.max()) + 1)
    return group[labels].astype(np.int32)


def _join_once(
    pairs: NDArray[np.intp],
    depths: NDArray[np.float64],
    size: NDArray[np.float64],
    limit: float | None,
    smallest: float,
) -> NDArray[np.intp] | None:
    """Return what each basin is joined with; None where valleys part all of them.

    With no limit, the drop asked for depends on the length, and what is too small for a building
    goes with a neighbour whatever lies between.

    Args:
        pairs: intp (k, 2), the basins on both sides of every pixel edge between two.
        depths: float64 (k,), drop there.
        size: pixels of every basin.
        limit: drop from which on a valley parts.
        smallest: building, px².
    """
    apart = pairs[:, 0] != pairs[:, 1]
    code = np.sort(pairs[apart], axis=1) @ np.array([len(size), 1])
    contacts, contact = np.unique(code, return_inverse=True)
    length = np.bincount(contact)
    depth = np.bincount(contact, weights=depths[apart]) / length
    asked = _MIN_DROP + _DROP_PX / length if limit is None else np.full(len(length), limit)
    one = np.stack(np.divmod(contacts, len(size)), axis=1)
    small = (size[one] < smallest) & (limit is None)
    row, side = np.nonzero((depth < asked)[:, None] | small)
    if not len(row):
        return None
    first, other = one[row, side], one[row, 1 - side]
    # The last write counts: the shallowest valley, of equal ones the first.
    order = np.lexsort((-np.arange(len(row)), -depth[row]))
    target = np.arange(len(size))
    target[first[order]] = other[order]
    return target


def _far_in(own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels well inside a shape; a channel that is open in places is no outside."""
    closed = ndimage.binary_closing(own, np.ones((5, 5)))
    return np.asarray(~ndimage.binary_dilation(~closed, iterations=_RIM_PX))


def _join_crooked(
    labels: NDArray[np.int32], drop: NDArray[np.float32], inner: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Join parts whose valley is not deep along a straight line, away from the rim.

    Noise winds, walls do not; and across a narrow waist the probability is low from both rims.
    """
    deep = ndimage.maximum_filter(drop, size=3)
    limit = np.array(drop.shape)[:, None] - 1
    joined = np.arange(int(labels.max()) + 1)
    for a, b, at in contacts(labels):
        middles = at[:, :2] + at[:, 2:] / 2
        middle = middles.mean(0)
        row, col = (middles - middle).T
        angle = 0.5 * np.arctan2(2 * (row @ col), row @ row - col @ col)
        along = row * np.cos(angle) + col * np.sin(angle)
        line = middle[:, None] + np.outer([np.cos(angle), np.sin(angle)], along)
        row, col = np.minimum(np.rint(np.maximum(line, 0)), limit).astype(np.intp)
        known = inner[row, col]
        depth = ndimage.map_coordinates(deep, line[:, known], order=1)
        if len(depth) < _MIN_VALLEY_PX or depth.mean() < _STRAIGHT_DROP + _DROP_PX / len(depth):
            joined[joined == joined[b]] = joined[a]
    return np.unique(joined, return_inverse=True)[1][labels].astype(np.int32)


def _split_by_neck(own: NDArray[np.bool_], smallest: float) -> NDArray[np.int32] | None:
    depth = distance_inside(own)
    level, deepest = 1.5, float(depth.max())
    while 2 * level < deepest:
        parts, n = ndimage.label(depth > level)
        if n > 1:
            # Both sides at least twice as wide as the neck between them.
            size = np.bincount(parts.ravel(), minlength=n + 1)
            wide = np.unique(parts[depth >= 2 * level])
            wide = wide[size[wide] >= smallest / 4]
            if len(wide) > 1:
                rank = np.zeros(n + 1, np.int32)
                rank[wide] = np.arange(1, len(wide) + 1)
                labels = _watershed(-depth, rank[parts], mask=own).astype(np.int32)
                return labels if _are_short(labels, rank[parts], 3 * level + 3) else None
        level *= 1.3
    return None


def _are_short(labels: NDArray[np.int32], cores: NDArray[np.int32], length_px: float) -> bool:
    """Tell whether all necks are contacts, not passages that belong to the building."""
    margin = math.ceil(length_px) + 1
    for a, b, at in contacts(labels):
        top, left = np.maximum(at[:, :2].min(0) - margin, 0)
        bottom, right = at[:, :2].max(0) + margin + 1
        near = cores[top:bottom, left:right]
        away = ndimage.distance_transform_edt(near != a)[near == b]
        if not (near == a).any() or not len(away) or away.min() > length_px:
            return False
    return True
