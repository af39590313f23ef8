"""From a mask window to skeleton pixels that do not depend on the window.

Every step looks a known number of pixels far, and the number of thinning passes is capped, so the
pixels of a core are the same whatever the window around it, as long as it shows `halo_px`
more pixels on every side. Libraries thin until nothing changes: then one long diagonal may carry
an influence across the whole scene, and no halo is wide enough. The price of the cap is paid
where nobody misses it: an area wider than `max_width_px` (a car park, an apron) is hollowed
first, so that roads meet its rim and connect round it.

The passes are those of Guo and Hall (1989), "Parallel thinning with two-subiteration algorithms",
Communications of the ACM 32 (3), which keep connectedness and do not eat two pixels wide
diagonals. They visit only pixels whose surroundings have changed: an order of magnitude
less work than passes over the whole window, because roads cover a few percent of a scene.

The graph of these pixels is the business of `network`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tilingseg.grid import Window
from tilingseg.records import NODATA
from tilingseg.vectorize.road_width import half_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.records import MaskReader

EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonLimits:
    """Sizes in pixels that decide what the skeleton ignores; together they give the halo."""

    max_width_px: int
    """Areas wider than this are hollowed out, px."""
    min_speck_px: int
    """Connected pieces of fewer pixels are dropped."""
    min_hole_px: int
    """Holes of fewer pixels are filled, unless they hold nodata."""
    pixel_m: tuple[float, float]
    """Step along a row and along a column, metres, in which radii are measured."""

    @property
    def max_passes(self) -> int:
        """Thinning passes after which any area of allowed width has become a line."""
        # Hollowing compares squares; a diagonal road is √2 wider than the square it holds.
        return int(0.75 * self.max_width_px) + 4

    @property
    def reach_px(self) -> int:
        """Pixels around a core that its skeleton and radii depend on, once specks are gone."""
        return 2 * self.max_passes + self.max_width_px

    @property
    def halo_px(self) -> int:
        """Pixels of the mask around a core that they depend on."""
        small = max(_max_side_px(self.min_speck_px), _max_side_px(self.min_hole_px))
        return self.reach_px + small + 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SkeletonPixels:
    """The skeleton inside one core, sparse, sorted by row and column."""

    rows: NDArray[np.int64]
    """Row of each pixel in the scene, px (n,)."""
    cols: NDArray[np.int64]
    """Column of each pixel in the scene, px (n,)."""
    radii_m: NDArray[np.float64]
    """Half the width of the road at each pixel, metres (n,)."""
    probabilities: NDArray[np.uint8] | None
    """Probability of each pixel, 255 = 1; None: not kept."""
    n_specks: int = 0
    """Pieces dropped because they are smaller than the limit; each is counted in one core."""
    n_holes: int = 0
    """Holes filled; each is counted in one core."""


def skeleton_pixels(
    mask: MaskReader, value: int, core: Window, limits: SkeletonLimits
) -> SkeletonPixels:
    """Return the skeleton of one class inside `core`.

    Args:
        mask: class mask of the whole scene.
        value: mask value of the class.
        core: pixels to answer for; `limits.halo_px` more are read where the scene has them.
        limits: what to ignore.
    """
    window = _grown(core, limits.halo_px, mask.height, mask.width)
    labels = mask.read_mask(window)
    inside = core.slices_in(window)
    road = labels == value
    n_holes = n_specks = 0
    if road.any():
        road, n_holes = _fill_holes(road, labels != NODATA, limits.min_hole_px, inside)
        road, n_specks = _drop_specks(road, limits.min_speck_px, inside)
        shell = _hollow(road, limits.max_width_px)
        line = thin(shell, limits.max_passes)
        _lead_to_square_ends(line, shell, limits.max_width_px // 2)
    else:
        line = road
    rows, cols = np.nonzero(line[inside])
    probability = mask.read_probability(value - 1, core)
    return SkeletonPixels(
        rows=rows + core.row,
        cols=cols + core.col,
        radii_m=half_widths(
            road,
            (rows + inside[0].start, cols + inside[1].start),
            limits.pixel_m,
            (limits.max_width_px, limits.reach_px),
        ),
        probabilities=None if probability is None else probability[rows, cols],
        n_specks=n_specks,
        n_holes=n_holes,
    )


def thin(mask: NDArray[np.bool_], max_passes: int) -> NDArray[np.bool_]:
    """Thin a mask to lines one pixel wide, keeping what is connected connected.

    A pixel of the result depends on nothing farther away than 2 · `max_passes` pixels.

    Args:
        mask: bool (height, width); pixels outside count as False.
        max_passes: passes of two sub-iterations after which thinning stops.

    Returns:
        bool (height, width).
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), dtype=np.uint8)
    padded[1:-1, 1:-1] = mask
    flat = padded.reshape(-1)
    steps = _neighbour_steps(width + 2)
    border = np.flatnonzero(padded.astype(bool) & ~_surrounded(padded))
    stamp = np.empty(flat.size, dtype=np.int32)
    removed: list[NDArray[np.intp]] = [border[:0], border[:0]]
    for half in range(2 * max_passes):
        # A verdict stands until a neighbour goes, so look again only around what has been removed
        # since the same half of the pass before.
        open_again = _neighbours(flat, np.concatenate(removed), steps, stamp)
        seen = np.concatenate([border[flat[border] != 0], open_again]) if half < 2 else open_again
        code = np.zeros(seen.size, dtype=np.uint8)
        for bit, step in enumerate(steps):
            code |= flat[seen + step] << bit
        gone = seen[_REMOVABLE[half % 2][code]]
        flat[gone] = 0
        removed = [removed[1], gone]
        if half and removed[0].size + gone.size == 0:
            break
    return padded[1:-1, 1:-1].astype(bool)


def _removable() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return, for both sub-iterations, which of the 256 neighbourhoods let their pixel go.

    Bit k of a neighbourhood is the k-th neighbour, counterclockwise from the east.
    """
    codes = np.arange(256)
    x = [((codes >> bit) & 1).astype(bool) for bit in range(8)]  # x[0] = east … x[7] = south-east
    even, odd = (0, 2, 4, 6), (1, 3, 5, 7)
    crossings = sum((~x[k] & (x[k + 1] | x[(k + 2) % 8])).astype(int) for k in even)
    pairs_after = sum((x[k] | x[k + 1]).astype(int) for k in even)
    pairs_before = sum((x[k] | x[(k + 1) % 8]).astype(int) for k in odd)
    fewest = np.minimum(pairs_after, pairs_before)
    simple = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
    first = simple & ~((x[1] | x[2] | ~x[7]) & x[0])
    second = simple & ~((x[5] | x[6] | ~x[3]) & x[4])
    return first, second


_REMOVABLE = _removable()


def _neighbour_steps(stride: int) -> tuple[int, ...]:
    """Return flat index steps to the eight neighbours, counterclockwise from the east."""
    return (1, 1 - stride, -stride, -1 - stride, -1, stride - 1, stride, stride + 1)


def _surrounded(padded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which pixels have eight neighbours in the mask; bool, same shape."""
    across = np.zeros(padded.shape, dtype=bool)
    across[:, 1:-1] = (padded[:, :-2] & padded[:, 1:-1] & padded[:, 2:]).astype(bool)
    inside = np.zeros(padded.shape, dtype=bool)
    inside[1:-1] = across[:-2] & across[1:-1] & across[2:]
    return inside


def _neighbours(
    flat: NDArray[np.uint8],
    around: NDArray[np.intp],
    steps: tuple[int, ...],
    stamp: NDArray[np.int32],
) -> NDArray[np.intp]:
    """Return the set pixels next to `around`, each once, in no order; `stamp` is scratch space."""
    near = np.concatenate([around + step for step in steps])
    near = near[flat[near] != 0]
    order = np.arange(near.size, dtype=np.int32)
    stamp[near] = order
    once: NDArray[np.intp] = near[stamp[near] == order]
    return once


def _lead_to_square_ends(line: NDArray[np.bool_], road: NDArray[np.bool_], reach_px: int) -> None:
    """Lead lines on to the middle of square ends that lie along a row or a column.

    Thinning stops half a width before them, and draws no hairs to their corners as it does where
    they lie askew (what becomes of those: `cleaning.prune_spurs`). A round end is left: the line of
    a road that was drawn with one ends in its centre.

    Args:
        line: the thinned mask; changed in place.
        road: the mask that was thinned, same shape.
        reach_px: half the width of the widest road, px.
    """
    inside, thinned = np.pad(road, 1), np.pad(line, 1).view(np.uint8)
    ends = np.flatnonzero(thinned)
    steps = np.array(_neighbour_steps(inside.shape[1]))
    near = thinned.reshape(-1)[ends[:, None] + steps]
    alone = near.sum(axis=1) == 1
    ends, back = ends[alone], steps[near[alone].argmax(axis=1)]
    flat, stride = inside.reshape(-1), inside.shape[1]
    for ahead, aside in ((1, stride), (-1, stride), (stride, 1), (-stride, 1)):
        at = ends[back == -ahead]
        n_ahead, n_left, n_right = (
            _count_on(flat, at, step, reach_px) for step in (ahead, aside, -aside)
        )
        front = at + n_ahead * ahead
        is_square = flat[front + n_left * aside] & flat[front - n_right * aside]
        for start, count in zip(at[is_square].tolist(), n_ahead[is_square].tolist(), strict=True):
            thinned.reshape(-1)[start : start + (count + 1) * ahead : ahead] = 1
    line[:] = thinned[1:-1, 1:-1]


def _count_on(
    flat: NDArray[np.bool_], at: NDArray[np.intp], step: int, reach_px: int
) -> NDArray[np.intp]:
    """Count how many pixels of a mask follow on pixels, at most `reach_px`."""
    count = np.zeros(at.size, dtype=np.intp)
    going = np.ones(at.size, dtype=bool)
    for k in range(1, reach_px + 1):
        going[going] = flat[at[going] + k * step]
        if not going.any():
            break
        count += going
    return count


def _hollow(road: NDArray[np.bool_], max_width_px: int) -> NDArray[np.bool_]:
    """Take away pixels whose square of `max_width_px` lies wholly in the mask."""
    reach = max_width_px // 2
    step = max(reach, 1)
    rows, cols = (side // step * step for side in road.shape)
    blocks = road[:rows, :cols].reshape(rows // step, step, cols // step, step)
    # A square of 2 · reach + 1 holds at least one aligned block of `reach`: most windows end here.
    if not blocks.all(axis=(1, 3)).any():
        return road
    side = 2 * reach + 1
    deep = ndimage.minimum_filter(road.view(np.uint8), size=side, mode="constant", cval=0)
    shell: NDArray[np.bool_] = road & ~deep.astype(bool)
    return shell


def _fill_holes(
    road: NDArray[np.bool_], valid: NDArray[np.bool_], limit_px: int, owner: tuple[slice, slice]
) -> tuple[NDArray[np.bool_], int]:
    """Fill small holes without nodata; return the mask and the number that start in `owner`."""
    labels, n_labels = ndimage.label(~road)
    open_labels = np.zeros(n_labels + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[~valid]):
        open_labels[edge] = True
    small, n_owned = _small_pieces(labels, open_labels, limit_px, owner)
    return road | small, n_owned


def _drop_specks(
    road: NDArray[np.bool_], limit_px: int, owner: tuple[slice, slice]
) -> tuple[NDArray[np.bool_], int]:
    """Drop small pieces; return the mask and the number of them that start in `owner`."""
    labels, n_labels = ndimage.label(road, EIGHT)
    small, n_owned = _small_pieces(labels, np.zeros(n_labels + 1, dtype=bool), limit_px, owner)
    return road & ~small, n_owned


def _small_pieces(
    labels: NDArray[np.int32],
    excluded: NDArray[np.bool_],
    limit_px: int,
    owner: tuple[slice, slice],
) -> tuple[NDArray[np.bool_], int]:
    """Find pieces of fewer than `limit_px` pixels that are compact enough for the halo to show.

    Returns:
        bool (height, width), the pixels of those pieces, and how many have their first pixel in
        row-major order inside `owner`.
    """
    few = np.bincount(labels.reshape(-1)) < limit_px
    few[0] = False
    few &= ~excluded
    chosen = few[labels]
    rows, cols = np.nonzero(chosen)
    if rows.size == 0:
        return chosen, 0
    names = labels[rows, cols]
    order = np.argsort(names, kind="stable")
    rows, cols, names = rows[order], cols[order], names[order]
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    top, left = rows[starts], np.minimum.reduceat(cols, starts)
    high = np.maximum.reduceat(rows, starts) - top + 1
    wide = np.maximum.reduceat(cols, starts) - left + 1
    compact = np.maximum(high, wide) <= _max_side_px(limit_px)
    few[names[starts[~compact]]] = False
    first_col = cols[starts]
    owned = (owner[0].start <= top) & (top < owner[0].stop)
    owned &= (owner[1].start <= first_col) & (first_col < owner[1].stop)
    return few[labels], int(np.count_nonzero(owned & compact))


def _max_side_px(area_px: int) -> int:
    """Return the longest side of a piece that counts as small, px; longer ones are roads."""
    return math.ceil(2 * math.sqrt(area_px))


def _grown(core: Window, halo_px: int, height: int, width: int) -> Window:
    row, col = max(core.row - halo_px, 0), max(core.col - halo_px, 0)
    row_stop = min(core.row_stop + halo_px, height)
    col_stop = min(core.col_stop + halo_px, width)
    return Window(row=row, col=col, height=row_stop - row, width=col_stop - col)
