"""Neighbours never overlap: walls step back where they would cross into another building.

Every shape owns the pixels that are nearer to it than to any other shape of its class. Those cells
are disjoint and each can be worked out from the pixels around one shape, so footprints that stay
inside their cells cannot overlap, whatever the order or the process in which they are made. Where
a fitted wall leaves the cell it moves inward, parallel to itself, until it does not; only where
that fails is the footprint cut, along straight lines where it can be.

Distance is counted in steps, by edge and by corner in turn, which comes near a circle and needs no
more than shifted arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import Polygon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.surroundings import Surroundings

_CELL_PX = 5
"""A cell reaches this far beyond its shape."""
_SLACK_PX = 1 / 1024
"""Kept between footprints of different shapes, so that rounding in map units cannot close it."""
_SIDE_PX = 1 + 2 * _SLACK_PX
_BENT = 3.0
"""Pixels whose convex hull is so many times as large lie around something."""
_NEAR_PX = 12.0
"""A wall is to blame for a pixel no farther away than this: a footprint may leave its shape by half
of it, and a cell reaches as far."""
_BOXES = 4096
"""Pixels that are compared with the walls near to them at a time."""


def barred_pixels(own: NDArray[np.bool_], around: Surroundings) -> NDArray[np.intp]:
    """Return the pixels around the cell of a shape, which no footprint of it may enter.

    Args:
        own: bool (height, width), the pixels of the shape in the window of `around`.
        around: the pixels around it, at least twice as far as a footprint may leave its shape.

    Returns:
        intp (k, 2), (x, y) of pixels in the scene; none where no other shape is near.
    """
    others = around.same & ~own
    if not others.any():
        return np.zeros((0, 2), np.intp)
    # Footprints may reach past the edge of the scene; there too, every pixel has one owner.
    pad = _CELL_PX + 1
    row, col = np.nonzero(_border(_framed(own, pad), _framed(others, pad)))
    return np.stack([col + around.col - pad, row + around.row - pad], axis=1)


def keep_clear(footprint: Polygon, traced: Polygon, barred: NDArray[np.intp]) -> Polygon:
    """Move the walls of a footprint out of the cells of other shapes.

    Args:
        footprint: fitted to `traced`, px.
        traced: what to fall back on where no other way out is found.
        barred: intp (k, 2), (x, y) of the pixels that it must not enter.

    Returns:
        The same footprint where it has all the room it takes; else a valid smaller one.
    """
    if not len(barred):
        return footprint
    left, bottom, right, top = shapely.bounds(footprint)
    col, row = barred.T
    near = (col < right) & (col + 1 > left) & (row < top) & (row + 1 > bottom)
    low_x, low_y = col[near] - _SLACK_PX, row[near] - _SLACK_PX
    boxes = np.asarray(shapely.box(low_x, low_y, low_x + _SIDE_PX, low_y + _SIDE_PX))
    hit = boxes[_overlaps(footprint, boxes)]
    if not len(hit):
        return footprint
    moved = _step_back(footprint, hit)
    if moved is not None and not _overlaps(moved, boxes).any():
        return moved
    groups = shapely.get_parts(shapely.union_all(hit))
    hulls = shapely.convex_hull(groups)
    # Straight, unless they bend around the building: their hull would take it along.
    gone = np.where(shapely.area(hulls) <= _BENT * shapely.area(groups), hulls, groups)
    return _largest(shapely.difference(footprint, shapely.union_all(gone)), traced)


def fill(traced: Polygon, around: Surroundings) -> NDArray[np.bool_]:
    """Return bool (height, width) of the window: True = pixel of a polygon along pixel edges."""
    height, width = around.same.shape
    crossings = np.zeros((height, width + 1), bool)
    coordinates, ring = shapely.get_coordinates(shapely.get_rings(traced), return_index=True)
    corner = coordinates.astype(np.intp) - (around.col, around.row)
    x, y = corner[:-1].T
    y_next = corner[1:, 1]
    upright = (ring[:-1] == ring[1:]) & (y != y_next)
    x, low = x[upright], np.minimum(y, y_next)[upright]
    length = np.abs(y_next - y)[upright]
    start = np.cumsum(length) - length
    rows = np.arange(length.sum()) + np.repeat(low - start, length)
    crossings[rows, np.repeat(x, length)] = True
    return np.logical_xor.accumulate(crossings, axis=1)[:, :width]


def _framed(mask: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    height, width = mask.shape
    result = np.zeros((height + 2 * width_px, width + 2 * width_px), bool)
    result[width_px : width_px + height, width_px : width_px + width] = mask
    return result


def _border(own: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels around the cell of `own`, which its footprint must not enter."""
    cell, taken = own.copy(), others.copy()
    for step in range(_CELL_PX):
        cell_next, taken_next = _grown(cell, step % 2 == 1), _grown(taken, step % 2 == 1)
        # A pixel that both reach in the same step belongs to neither, as seen from both sides.
        cell |= cell_next & ~taken & ~taken_next
        taken |= taken_next & ~cell
    return _grown(cell, corners=True) & ~cell


def _grown(mask: NDArray[np.bool_], corners: bool) -> NDArray[np.bool_]:
    result = mask.copy()
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    across = result.copy() if corners else mask
    result[:, 1:] |= across[:, :-1]
    result[:, :-1] |= across[:, 1:]
    return result


def _overlaps(footprint: Polygon, boxes: NDArray[np.object_]) -> NDArray[np.bool_]:
    shapely.prepare(footprint)
    touch = shapely.intersects(footprint, boxes)
    touch[touch] = ~shapely.touches(footprint, boxes[touch])
    return np.asarray(touch)


def _step_back(footprint: Polygon, boxes: NDArray[np.object_]) -> Polygon | None:
    """Move every wall inward as far as the boxes that it is to blame for require."""
    rings = [
        shapely.get_coordinates(ring)
        for ring in shapely.get_rings(shapely.orient_polygons(footprint))
    ]
    edges = np.concatenate([np.diff(ring, axis=0) for ring in rings])
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    normals /= np.hypot(normals[:, :1], normals[:, 1:])
    starts = np.concatenate([ring[:-1] for ring in rings])
    offsets = np.einsum("ec,ec->e", normals, starts)
    segments = np.asarray(shapely.linestrings(np.stack([starts, starts + edges], axis=1)))
    offsets = offsets + _shifts(shapely.STRtree(segments), normals, boxes)
    moved, first = [], 0
    for ring in rings:
        wall = np.arange(first, first + len(ring) - 1)
        first += len(wall)
        before = np.roll(wall, 1)
        (ax, ay), (bx, by) = normals[before].T, normals[wall].T
        determinant = ax * by - ay * bx
        if (np.abs(determinant) < 0.05).any():
            return None
        a, b = offsets[before], offsets[wall]
        moved.append(np.stack([a * by - b * ay, b * ax - a * bx], axis=1) / determinant[:, None])
    result = Polygon(moved[0], moved[1:])
    return result if result.is_valid and result.area > 0.5 * footprint.area else None


def _shifts(
    walls: shapely.STRtree, normals: NDArray[np.float64], boxes: NDArray[np.object_]
) -> NDArray[np.float64]:
    """Return how far each wall must move inward, px.

    Args:
        walls: segments with the inside on their left.
        normals: float64 (walls, 2), unit vectors inward.
        boxes: pixels that must lie outside.
    """
    shift = np.zeros(len(normals))
    starts = shapely.get_coordinates(walls.geometries)[::2]
    for first in range(0, len(boxes), _BOXES):
        some = boxes[first : first + _BOXES]
        box, wall = walls.query(some, predicate="dwithin", distance=_NEAR_PX)
        corners = shapely.get_coordinates(some).reshape(len(some), 5, 2)[box, :4]
        # A box is out when all of it is on the right of one of them: the one that needs the least.
        depth = np.einsum("kpc,kc->kp", corners - starts[wall][:, None], normals[wall]).max(1)
        order = np.lexsort((wall, depth, box))
        least = order[np.flatnonzero(np.diff(box[order], prepend=-1))]
        np.maximum.at(shift, wall[least], depth[least])
    return shift


def _largest(geometry: shapely.Geometry, traced: Polygon) -> Polygon:
    """Return the largest polygon of a geometry; the traced one where there is none."""
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon)]
    return max(parts, key=lambda part: part.area, default=traced)
