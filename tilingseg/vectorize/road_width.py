"""How wide a road is at each pixel of its skeleton.

The distance to the nearest pixel outside says it badly: it counts whole pixels, from a skeleton
that runs half a pixel beside the middle of even widths, and any dent of the edge shortens it. A
stretch of road between two straight edges is cut twice instead, along the row of a pixel and along
its column: runs of h and v metres are those of a width of h v / √(h² + v²), in whatever direction
it goes, and right in the mean where the width is no whole number of pixels. Where a run follows
another road, in junctions, the distance stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

IN_JUNCTION = 1.1
"""Where runs give a radius of more than this share of the distance to the edge, and half a pixel,
they follow another road: the dents of rough edges give less."""


def half_widths(
    road: NDArray[np.bool_],
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
    pixel_m: tuple[float, float],
    reach_px: tuple[int, int],
) -> NDArray[np.float64]:
    """Measure half the width of the road at pixels of its skeleton.

    Args:
        road: bool (height, width).
        at: rows and columns of the pixels, px, each (n,).
        pixel_m: step along a row and along a column, metres.
        reach_px: farthest that the edge of a road is sought, and the end of a run, px.

    Returns:
        Metres (n,).
    """
    rows, cols = at
    step = np.array([pixel_m[1], pixel_m[0]])
    farthest_m = reach_px[0] * float(step.min())
    # Only pixels beside the road can be nearest, and the tree is asked for the skeleton alone:
    # the same numbers as a distance transform of the window, at a fraction of its time.
    beside = np.argwhere(_beside(road))
    if beside.size == 0:
        return np.full(rows.size, farthest_m)
    distance, _ = cKDTree(beside * step).query(
        np.column_stack([rows, cols]) * step, distance_upper_bound=farthest_m
    )
    distance = np.minimum(distance, farthest_m)
    out_rows, out_cols = beside.T
    along_row = step[1] * _runs((rows, cols), (out_rows, out_cols), reach_px[1])
    along_col = step[0] * _runs((cols, rows), (out_cols, out_rows), reach_px[1])
    radii = along_row * along_col / np.hypot(along_row, along_col) / 2
    half_px = float(step.mean()) / 2
    # Between a pixel's centre and the edge of an even and of an odd number of pixels lie 0 or 1/2.
    near = distance - half_px / 2
    is_junction = radii > IN_JUNCTION * distance + half_px
    found: NDArray[np.float64] = np.where(is_junction, near, np.maximum(radii, distance - half_px))
    return found


def _runs(
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
    outside: tuple[NDArray[np.int64], NDArray[np.int64]],
    reach_px: int,
) -> NDArray[np.int64]:
    """Count the pixels of the mask in a row before and behind pixels, theirs included.

    Args:
        at: lines and places in them of the pixels, each (n,).
        outside: the same of all pixels where a run ends.
        reach_px: as far as is looked to each side, px.
    """
    stride = int(max(at[1].max(initial=0), outside[1].max())) + 2 * reach_px
    keys, ends = (line * stride + place for line, place in (at, outside))
    beyond = max(ends.max(), keys.max(initial=0)) + stride
    ends = np.sort(np.concatenate([ends, [-stride, beyond]]))
    following = np.searchsorted(ends, keys)
    before = np.minimum(keys - ends[following - 1], reach_px)
    return before + np.minimum(ends[following] - keys, reach_px) - 1


def _beside(road: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which pixels outside the mask share an edge with one inside; bool, same shape."""
    near = np.zeros(road.shape, dtype=bool)
    near[1:] |= road[:-1]
    near[:-1] |= road[1:]
    near[:, 1:] |= road[:, :-1]
    near[:, :-1] |= road[:, 1:]
    return near & ~road
