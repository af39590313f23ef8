"""Touching buildings are told apart, and cut along straight lines that both sides keep.

Two signs separate buildings inside one shape. A network doubts the wall between touching houses, or
has a channel for it (see `borders`): the probability has a valley from side to side that is deep in
the mean over its length. And a mask
of buildings that touch at a corner has a neck that is much narrower than either side. Both are
found by watershed, of the probability or of the distance from the outline. With neither sign the
shape stays whole: wings of one house, courtyards and narrow buildings are not cut.

The boundary between two parts becomes a straight line along which the traced polygon is cut. The
pieces cover the polygon exactly; fitting their walls is for `footprint`, which keeps the cuts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from shapely import LineString, Polygon
from skimage.segmentation import watershed

from tilingseg.vectorize.clearance import fill
from tilingseg.vectorize.distance import distance_inside
from tilingseg.vectorize.outlines import boundary_points, turning_points
from tilingseg.vectorize.ragged import totals
from tilingseg.vectorize.walls import main_directions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
_SLACK_PX = 16.0
"""A cut may be this much longer than one and a half times the contact that asks for it."""
_COMPACT = 0.82
"""A shape that fills this share of its convex hull has no neck."""
_SNAP_DEG = 20.0
"""A cut that is this near to the main direction, or square to it, takes it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """A polygon cut into buildings."""

    polygons: list[Polygon]
    """The pieces; together they are the polygon."""
    cuts: NDArray[np.float64]
    """float64 (k, 2, 2), the straight cuts: two points (x, y) each, px."""

    def with_cuts(self) -> Iterator[tuple[Polygon, NDArray[np.float64]]]:
        """Yield every piece with the cuts that may be walls of it: a block has thousands."""
        low, high = self.cuts.min(1) - 1, self.cuts.max(1) + 1
        for piece, (left, bottom, right, top) in zip(
            self.polygons, shapely.bounds(self.polygons), strict=True
        ):
            near = (low < (right, top)).all(1) & (high > (left, bottom)).all(1)
            yield piece, self.cuts[near]


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
    return _cut(polygon, labels, (around.col, around.row), direction)


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
    # in place: a block of a dense town has millions of pixels
    height = np.subtract(_VALLEY_WEIGHT * drop, open_ground, out=open_ground)
    labels = _watershed(height, markers, mask=own).astype(np.int32)
    del height, open_ground, peaks, markers
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
    pairs, at = _edges(labels)
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
    for a, b, at in _contacts(labels):
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
    for a, b, at in _contacts(labels):
        top, left = np.maximum(at[:, :2].min(0) - margin, 0)
        bottom, right = at[:, :2].max(0) + margin + 1
        near = cores[top:bottom, left:right]
        away = ndimage.distance_transform_edt(near != a)[near == b]
        if not (near == a).any() or not len(away) or away.min() > length_px:
            return False
    return True


def _edges(labels: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pixel edges between labels.

    Returns:
        The labels on both sides, the lower one first, intp (k, 2); and intp (k, 4): row and column
        of a pixel and the step to its neighbour in the other part.
    """
    pairs, places = [], []
    for step in ((0, 1), (1, 0)):
        first = labels[: labels.shape[0] - step[0], : labels.shape[1] - step[1]]
        second = labels[step[0] :, step[1] :]
        row, col = np.nonzero((first != second) & (first > 0) & (second > 0))
        pairs.append(np.sort(np.stack([first[row, col], second[row, col]], axis=1), axis=1))
        places.append(np.column_stack([row, col, np.full((len(row), 2), step)]))
    return np.concatenate(pairs).astype(np.intp), np.concatenate(places).astype(np.intp)


def _contacts(labels: NDArray[np.int32]) -> list[tuple[int, int, NDArray[np.intp]]]:
    """Return (lower label, higher label, contact) for all pairs of labels that touch.

    A contact is intp (k, 4), as of `_edges`.
    """
    pairs, places = _edges(labels)
    if not len(pairs):
        return []
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, places = pairs[order], places[order]
    starts = np.flatnonzero(np.diff(pairs, axis=0, prepend=-1).any(1))
    return [
        (int(pairs[start, 0]), int(pairs[start, 1]), part)
        for start, part in zip(starts, np.split(places, starts[1:]), strict=True)
    ]


def _cut(
    polygon: Polygon, labels: NDArray[np.int32], origin: tuple[int, int], direction: float
) -> Pieces | None:
    chords, walls = [], []
    for _, _, contact in _contacts(labels):
        middles = contact[:, 1::-1] + 0.5 + contact[:, :1:-1] / 2 + origin
        for group in _groups(middles):
            straight = _straight(group, polygon, direction)
            if straight is not None:
                chords.append(straight[0])
                walls.append(straight[1])
    if not chords:
        return None
    lines = [polygon.boundary, *map(LineString, chords)]
    faces = shapely.get_parts(shapely.polygonize([shapely.union_all(lines)]))
    inside = shapely.point_on_surface(faces)
    keep = shapely.contains(polygon, inside)
    faces, at = faces[keep], shapely.get_coordinates(inside[keep]).astype(np.intp) - origin
    pieces = _gather(faces, labels[at[:, 1], at[:, 0]])
    return Pieces(polygons=pieces, cuts=np.array(walls)) if len(pieces) > 1 else None


def _gather(faces: NDArray[np.object_], owner: NDArray[np.int32]) -> list[Polygon]:
    """Join the faces of every owner; what hangs loose goes to the piece with most common border."""
    pieces: list[Polygon] = []
    loose: list[Polygon] = []
    for label in np.unique(owner):
        parts = shapely.get_parts(shapely.union_all(faces[owner == label]))
        parts = parts[np.argsort(-shapely.area(parts), kind="stable")]
        pieces.append(parts[0])
        loose.extend(parts[1:])
    for part in loose:
        common = shapely.length(shapely.intersection(np.array(pieces), part))
        best = int(common.argmax())
        joined = shapely.union(pieces[best], part)
        if isinstance(joined, Polygon):
            pieces[best] = joined
    return pieces


def _groups(points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Divide contact points into runs that hang together: a courtyard is cut on two sides."""
    a, b = cKDTree(points).query_pairs(1.5, output_type="ndarray").T
    links = csr_array((np.ones(len(a)), (a, b)), shape=(len(points), len(points)))
    n, group = connected_components(links, directed=False)
    return [points[group == k] for k in range(n)]


def _straight(
    points: NDArray[np.float64], polygon: Polygon, direction: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Put a straight line through contact points.

    Returns:
        Two float64 (2, 2): the chord from side to side of the polygon, and its part along the
        contact, which is the wall between the two buildings.
    """
    middle = points.mean(0)
    x, y = (points - middle).T
    angle = 0.5 * np.arctan2(2 * (x @ y), x @ x - y @ y)
    off = (angle - direction + np.pi / 4) % (np.pi / 2) - np.pi / 4
    if abs(off) < np.radians(_SNAP_DEG):
        angle -= off
    along = np.array([np.cos(angle), np.sin(angle)])
    reach = (points - middle) @ along
    longest = 1.5 * (reach.max() - reach.min()) + _SLACK_PX
    # A chord that goes on beyond this is too long; a short line meets few edges of a large block.
    half = longest + 1
    line = shapely.linestrings(np.array([middle - half * along, middle + half * along]))
    chords = shapely.get_parts(shapely.intersection(line, polygon))
    if not len(chords):
        return None
    nearest = chords[shapely.distance(chords, shapely.points(middle)).argmin()]
    ends = shapely.get_coordinates(nearest)
    if len(ends) < 2:
        return None
    ends = ends[[0, -1]]
    low, high = np.sort((ends - middle) @ along)
    if high - low > longest or max(high, -low) > half - 0.5:
        return None
    span = np.clip([reach.min() - 1, reach.max() + 1], low, high)
    # A little longer than the chord, so that it crosses the outline in spite of rounding.
    chord = middle + np.outer([low - 1e-6, high + 1e-6], along)
    return chord, middle + np.outer(span, along)


def dissolve_overlaps(polygons: list[Polygon]) -> list[Polygon]:
    """Make the footprints of one shape a partition: common borders exact, no overlap.

    Where two cover the same ground the earlier one keeps it. Corners move to a grid of 1/1024 px.

    Args:
        polygons: valid, px.

    Returns:
        As many valid polygons, fewer where one has lost all its ground.
    """
    lines = shapely.union_all([polygon.boundary for polygon in polygons], grid_size=1 / 1024)
    faces = shapely.get_parts(shapely.polygonize([lines]))
    inside = shapely.point_on_surface(faces)
    owner = np.full(len(faces), -1)
    point, polygon = shapely.STRtree(polygons).query(inside, predicate="within")
    # The last write counts: the earliest polygon comes last.
    order = np.argsort(-polygon, kind="stable")
    owner[point[order]] = polygon[order]
    result = []
    for k in range(len(polygons)):
        parts = shapely.get_parts(shapely.union_all(faces[owner == k]))
        if len(parts):
            result.append(parts[shapely.area(parts).argmax()])
    return result
