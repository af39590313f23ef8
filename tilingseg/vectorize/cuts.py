"""Straight cuts between the buildings of one shape, which both sides keep as their common wall.

The boundary between two parts becomes a straight line along which the traced polygon is cut. The
pieces cover the polygon exactly; fitting their walls is for `footprint`, which keeps the cuts, and
`dissolve_overlaps` makes the footprints a partition again. Which pixels belong to which part is
for `instances`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from shapely import LineString, Polygon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SLACK_PX = 16.0
"""A cut may be this much longer than one and a half times the contact that asks for it."""
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


def cut(
    polygon: Polygon, labels: NDArray[np.int32], origin: tuple[int, int], direction: float
) -> Pieces | None:
    """Cut a polygon along straight lines between labels.

    Args:
        polygon: valid, along pixel edges, px.
        labels: int32 (height, width), the part of every pixel of the polygon, 0 outside.
        origin: column and row of the first label in the scene, px.
        direction: of most walls, radians: lines near to it, or square to it, take it.

    Returns:
        The pieces; None where no line could be drawn.
    """
    chords, walls = [], []
    for _, _, contact in contacts(labels):
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


def dissolve_overlaps(polygons: list[Polygon]) -> list[tuple[int, Polygon]]:
    """Make the footprints of one shape a partition: common borders exact, no overlap.

    Where two cover the same ground the earlier one keeps it. Corners move to a grid of 1/1024 px.

    Args:
        polygons: valid, px.

    Returns:
        Valid polygons and the places of those that they were; one that has lost all its ground is
        left out.
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
            result.append((k, parts[shapely.area(parts).argmax()]))
    return result


def edges(labels: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
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


def contacts(labels: NDArray[np.int32]) -> list[tuple[int, int, NDArray[np.intp]]]:
    """Return (lower label, higher label, contact) for all pairs of labels that touch.

    A contact is intp (k, 4), as of `edges`.
    """
    pairs, places = edges(labels)
    if not len(pairs):
        return []
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, places = pairs[order], places[order]
    starts = np.flatnonzero(np.diff(pairs, axis=0, prepend=-1).any(1))
    return [
        (int(pairs[start, 0]), int(pairs[start, 1]), part)
        for start, part in zip(starts, np.split(places, starts[1:]), strict=True)
    ]
