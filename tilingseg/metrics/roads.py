"""How well one road network agrees with another: where the lines lie, and which ways they offer.

- Completeness, correctness and quality at a buffer, after Heipke, Mayer, Wiedemann and Jamet
  (1997), "Evaluation of automatic road extraction", IAPRS 32: the share of the true length that
  has been found, of the found length that is true, and of both together. They do not see a gap.
- APLS, average path length similarity, after Van Etten, Lindenbaum and Bacastow (2018),
  "SpaceNet: a remote sensing dataset and challenge series", arXiv:1807.01232: how much longer or
  shorter the ways between places become. A gap of one metre in the only bridge shows.

Lines are given in any plane with equal units along both axes: metres of a projected CRS, or
pixels. What is called a metre below is that unit. Reading files and projecting them is left to
the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from shapely import LineString, STRtree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_PLACES = 500
"""Places of one network that ways are compared from; of more, this many are drawn by lot, always
the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadAgreement:
    """Lengths that lie within a buffer of the other network."""

    truth_m: float
    """Length of the true network, metres."""
    found_m: float
    """Length of the found network, metres."""
    truth_matched_m: float
    """True length within the buffer of what was found, metres."""
    found_matched_m: float
    """Found length within the buffer of the truth, metres."""

    @property
    def completeness(self) -> float | None:
        """Share of the truth that was found, 0…1; None: there is no road in truth."""
        return _share(self.truth_matched_m, self.truth_m)

    @property
    def correctness(self) -> float | None:
        """Share of what was found that is true, 0…1; None: nothing was found."""
        return _share(self.found_matched_m, self.found_m)

    @property
    def quality(self) -> float | None:
        """Matched share of what was found or is missing, 0…1; None: there is neither."""
        missing_m = self.truth_m - self.truth_matched_m
        return _share(self.found_matched_m, self.found_m + missing_m)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathAgreement:
    """Average path length similarity of two networks, 0…1; None: no two places are connected."""

    truth_in_found: float | None
    """How well the ways of the true network exist in the found one."""
    found_in_truth: float | None
    """How well the ways of the found network exist in the true one."""

    @property
    def apls(self) -> float | None:
        """Harmonic mean of both directions; None: neither network has a way."""
        if self.truth_in_found is None and self.found_in_truth is None:
            return None
        first, second = self.truth_in_found or 0.0, self.found_in_truth or 0.0
        return 2 * first * second / (first + second) if first + second > 0 else 0.0


def road_agreement(
    truth: Sequence[LineString], found: Sequence[LineString], *, buffer_m: float = 3.0
) -> RoadAgreement:
    """Compare where the lines of two networks lie.

    Args:
        truth: true centrelines.
        found: found centrelines.
        buffer_m: farthest that a found line may lie from the true one, metres.
    """
    return RoadAgreement(
        truth_m=_length(truth),
        found_m=_length(found),
        truth_matched_m=_length_near(truth, found, buffer_m),
        found_matched_m=_length_near(found, truth, buffer_m),
    )


def path_agreement(
    truth: Sequence[LineString],
    found: Sequence[LineString],
    *,
    snap_m: float = 4.0,
    spacing_m: float = 50.0,
) -> PathAgreement:
    """Compare the ways that two networks offer (APLS).

    Lines are connected where they share a vertex. Places are the ends and junctions of a network
    and points along its roads. For every two that are connected, the length of the way is
    compared with the way between the same two places in the other network; where there is
    none, or a place lies too far from any road, the difference counts as 100 %.

    Args:
        truth: true centrelines.
        found: found centrelines.
        snap_m: farthest that a place may lie from a road of the other network, metres.
        spacing_m: longest distance of places along a road, metres.
    """
    return PathAgreement(
        truth_in_found=_ways_kept(truth, found, snap_m, spacing_m),
        found_in_truth=_ways_kept(found, truth, snap_m, spacing_m),
    )


def n_bare_crossings(lines: Sequence[LineString], tolerance_m: float = 1e-3) -> int:
    """Count where two lines meet without a common vertex: `path_agreement` takes no turn there.

    Args:
        lines: centrelines.
        tolerance_m: farthest that a vertex may lie from where they meet, metres.
    """
    shapes = np.asarray(lines, dtype=object)
    first, second = STRtree(shapes).query(shapes, predicate="intersects")
    first, second = first[first < second], second[first < second]
    meetings = shapely.intersection(shapes[first], shapes[second])
    points, pair = shapely.get_coordinates(meetings, return_index=True)
    vertices = np.array([shapely.multipoints(shapely.get_coordinates(it)) for it in shapes], object)
    bare = np.zeros(len(points), dtype=bool)
    for line in (first[pair], second[pair]):
        bare |= shapely.distance(shapely.points(points), vertices[line]) > tolerance_m
    return int(bare.sum())


def _share(part: float, whole: float) -> float | None:
    return min(part / whole, 1.0) if whole > 0 else None


def _length(lines: Sequence[LineString]) -> float:
    return float(shapely.length(np.asarray(lines, dtype=object)).sum()) if len(lines) else 0.0


def _length_near(
    lines: Sequence[LineString], others: Sequence[LineString], buffer_m: float
) -> float:
    """Return the length of the parts of `lines` within `buffer_m` of any of `others`, metres."""
    if not len(lines) or not len(others):
        return 0.0
    wide = shapely.buffer(np.asarray(others, dtype=object), buffer_m, quad_segs=16)
    which, near = STRtree(wide).query(np.asarray(lines, dtype=object), predicate="intersects")
    total_m = 0.0
    for index in np.unique(which):
        area = shapely.union_all(wide[near[which == index]])
        total_m += float(shapely.length(shapely.intersection(lines[index], area)))
    return total_m


def _ways_kept(
    lines: Sequence[LineString], others: Sequence[LineString], snap_m: float, spacing_m: float
) -> float | None:
    """Return the similarity of the ways between places of `lines` in `others`."""
    segments = _segments(lines)
    places = _places(lines, segments, spacing_m)
    if len(places) > MAX_PLACES:
        chosen = np.random.default_rng(0).choice(len(places), MAX_PLACES, replace=False)
        places = places[np.sort(chosen)]
    own = _ways(segments, places, math.inf)
    first, second = np.triu_indices(len(places), 1)
    wanted = own[first, second]
    exists = np.isfinite(wanted) & (wanted > 0)
    if not exists.any():
        return None
    other = _ways(_segments(others), places, snap_m)[first, second][exists]
    return float(1 - np.minimum(np.abs(other - wanted[exists]) / wanted[exists], 1.0).mean())


def _segments(lines: Sequence[LineString]) -> NDArray[np.float64]:
    """Return every straight piece of the lines once, (n, 2, 2): start and stop, x and y."""
    pieces = [shapely.get_coordinates(line) for line in lines]
    pairs = [np.stack([points[:-1], points[1:]], axis=1) for points in pieces if len(points) > 1]
    if not pairs:
        return np.empty((0, 2, 2))
    segments = np.concatenate(pairs)
    has_length: NDArray[np.bool_] = (segments[:, 0] != segments[:, 1]).any(axis=1)
    return segments[has_length]


def _places(
    lines: Sequence[LineString], segments: NDArray[np.float64], spacing_m: float
) -> NDArray[np.float64]:
    """Return ends and junctions, and points along the lines in between, (n, 2) x and y."""
    vertices, degrees = np.unique(segments.reshape(-1, 2), axis=0, return_counts=True)
    found = [vertices[degrees != 2]]
    for line in lines:
        n_parts = math.ceil(line.length / spacing_m)
        between = np.arange(1, n_parts) * (line.length / max(n_parts, 1))
        found.append(shapely.get_coordinates(shapely.line_interpolate_point(line, between)))
    return np.concatenate(found)


def _ways(
    segments: NDArray[np.float64], places: NDArray[np.float64], snap_m: float
) -> NDArray[np.float64]:
    """Return the lengths of the shortest ways between places, metres (n, n); infinite: none.

    Args:
        segments: straight pieces of a network, (m, 2, 2).
        places: x and y, (n, 2); each is moved to the nearest point of the network.
        snap_m: farthest that a place may be moved, metres.
    """
    ways = np.full((len(places), len(places)), np.inf)
    if not len(segments) or not len(places):
        return ways
    where, at = _snapped(segments, places, snap_m)
    points, edges = _split(segments, where[where >= 0], at[where >= 0])
    on_network = np.flatnonzero(where >= 0)
    lengths = np.sqrt(((points[edges[:, 0]] - points[edges[:, 1]]) ** 2).sum(axis=1))
    graph = csr_array((lengths, (edges[:, 0], edges[:, 1])), shape=(len(points), len(points)))
    nodes = _node_of(points, at[on_network])
    distance = dijkstra(graph, directed=False, indices=nodes)
    ways[np.ix_(on_network, on_network)] = distance[:, nodes]
    return ways


def _snapped(
    segments: NDArray[np.float64], places: NDArray[np.float64], snap_m: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Move places onto the nearest segment: its index, −1 if too far, and the place (n, 2)."""
    shapes = np.asarray(shapely.linestrings(segments), dtype=object)
    points = np.asarray(shapely.points(places), dtype=object)
    where = np.full(len(places), -1, dtype=np.intp)
    which, nearest = STRtree(shapes).query_nearest(points, all_matches=False)
    where[which] = nearest
    start, step = segments[where, 0], segments[where, 1] - segments[where, 0]
    share = ((places - start) * step).sum(axis=1) / (step * step).sum(axis=1)
    at = start + np.clip(share, 0.0, 1.0)[:, None] * step
    where[np.sqrt(((at - places) ** 2).sum(axis=1)) > snap_m] = -1
    return where, at


def _split(
    segments: NDArray[np.float64], where: NDArray[np.intp], at: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Split segments at points on them.

    Returns:
        points: every vertex once, (n, 2), in lexicographic order.
        edges: pairs of indices of points, (m, 2), each once.
    """
    n = len(segments)
    owner = np.concatenate([np.arange(n), np.arange(n), where])
    stops = np.concatenate([segments[:, 0], segments[:, 1], at])
    along = np.sqrt(((stops - segments[owner, 0]) ** 2).sum(axis=1))
    order = np.lexsort((along, owner))
    owner, stops = owner[order], stops[order]
    points, index = np.unique(stops, axis=0, return_inverse=True)
    index = index.reshape(-1)
    follows = (owner[1:] == owner[:-1]) & (index[1:] != index[:-1])
    edges = np.column_stack([index[:-1][follows], index[1:][follows]])
    return points, np.unique(np.sort(edges, axis=1), axis=0)


def _node_of(points: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of each place among the sorted points, which hold it exactly."""
    _, index = np.unique(np.concatenate([points, at]), axis=0, return_inverse=True)
    return index.reshape(-1)[len(points) :]
