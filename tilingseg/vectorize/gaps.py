"""Join roads across gaps in the mask: under trees, bridges and shadows.

A dead end is joined to another dead end that it faces, or to the road that it points at, when
the gap *in the mask* is short enough. Two ends must choose each other, so that the answer does
not depend on the order in which they are asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from tilingseg.vectorize.cleaning import is_spur
from tilingseg.vectorize.junctions import axis_of, end_radius, tip_radius
from tilingseg.vectorize.network import Edge, path_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.network import Network

COS_AHEAD = math.cos(math.radians(40))
"""How straight ahead the other side of a gap must lie."""
COS_AHEAD_STUMP = math.cos(math.radians(65))
"""The same for a stump, whose own direction is hardly known."""
SNAP_OF_RADIUS = 1.5
"""A road that is met closer than this share of its radius to a junction is met in the junction."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _End:
    """A dead end that looks for its continuation."""

    node: int
    number: int
    place: NDArray[np.float64]
    ahead: NDArray[np.float64]
    radius_m: float
    """Half the width of the road."""
    tip_m: float
    """Metres of road beyond `place`."""
    is_stump: bool
    """Too short to be believed alone; it may only answer to a road that points at it."""


def join_gaps(network: Network, max_gap_m: float, min_spur_m: float, step_m: float) -> int:
    """Bridge gaps of up to `max_gap_m` metres along the direction of the roads.

    Args:
        network: changed in place; bridges have no radii and no probabilities.
        max_gap_m: longest gap, from the mask's edge to the mask's edge, metres.
        min_spur_m: shorter dead ends on a road are joined only if a longer one points at them.
        step_m: size of a pixel, metres.

    Returns:
        The number of gaps bridged.
    """
    ends = _ends(network, min_spur_m, step_m)
    if not ends:
        return 0
    pairs = _facing_pairs(ends, max_gap_m, step_m)
    joined = {node for pair in pairs for node in pair}
    meetings = _meetings(
        network,
        [end for end in ends if end.node not in joined and not end.is_stump],
        max_gap_m,
        step_m,
    )
    for first, second in pairs:
        _bridge(network, first, second)
    n_joined = len(pairs) + len(meetings)
    targets = _split_edges(network, meetings)
    for node, target in targets:
        _bridge(network, node, target)
    network.dissolve(sorted(joined | {node for node, _ in targets}))
    return n_joined


def _ends(network: Network, min_spur_m: float, step_m: float) -> list[_End]:
    ends = []
    for node in sorted(network.at):
        if not network.is_free_end(node):
            continue
        ((number, edge),) = network.leaving(node)
        radius_m = end_radius(edge, step_m)
        axis = axis_of(edge, radius_m, max(4 * radius_m, 8 * step_m))
        if axis is not None:
            ends.append(
                _End(
                    node=node,
                    number=number,
                    place=network.places[node],
                    ahead=axis[1],
                    radius_m=radius_m,
                    tip_m=tip_radius(edge),
                    is_stump=is_spur(network, edge, min_spur_m),
                )
            )
    return ends


def _cost(end: _End, to: NDArray[np.float64], max_m: float, step_m: float) -> float:
    """Rate a continuation at `to`: metres, dearer to the side, infinite if refused."""
    x, y = float(to[0] - end.place[0]), float(to[1] - end.place[1])
    far_m = math.hypot(x, y)
    if far_m > max_m:
        return math.inf
    # A skeleton's end may lie off the axis by as much as its last hook is long.
    slack_m = end.radius_m / 2 + step_m
    forward_m = x * float(end.ahead[0]) + y * float(end.ahead[1])
    sideways_m = math.sqrt(max(far_m * far_m - forward_m * forward_m, 0.0))
    sideways_m = max(sideways_m - slack_m, 0.0)
    cos_ahead = COS_AHEAD_STUMP if end.is_stump else COS_AHEAD
    if forward_m <= 0 or forward_m < cos_ahead * math.hypot(forward_m, sideways_m):
        return math.inf
    return far_m + sideways_m


def _facing_pairs(ends: list[_End], max_gap_m: float, step_m: float) -> list[tuple[int, int]]:
    """Return the pairs of dead ends that are each other's best continuation."""
    places = np.array([end.place for end in ends])
    widest_m = max(end.tip_m for end in ends)
    best: dict[int, tuple[float, int]] = {}
    for i, j in sorted(cKDTree(places).query_pairs(max_gap_m + 2 * widest_m)):
        first, second = ends[i], ends[j]
        if first.is_stump and second.is_stump:
            continue
        max_m = max_gap_m + first.tip_m + second.tip_m
        cost = _cost(first, second.place, max_m, step_m) + _cost(second, first.place, max_m, step_m)
        for a, b in ((first.node, second.node), (second.node, first.node)):
            if cost < math.inf:
                best[a] = min(best.get(a, (math.inf, -1)), (cost, b))
    return [
        (node, other)
        for node, (_, other) in best.items()
        if node < other and best[other][1] == node
    ]


def _meetings(
    network: Network, ends: list[_End], max_gap_m: float, step_m: float
) -> list[tuple[int, int, int]]:
    """Find the road that a dead end points at: (dead end, edge, index of the point met)."""
    numbers = list(network.edges)
    sizes = [len(network.edges[number].points) for number in numbers]
    if not ends:
        return []
    owner = np.repeat(numbers, sizes)
    index = np.concatenate([np.arange(size) for size in sizes])
    points = np.concatenate([network.edges[number].points for number in numbers])
    radii = np.nan_to_num(np.concatenate([network.edges[number].radii for number in numbers]))
    tree = cKDTree(points)
    found = []
    for end in ends:
        near = tree.query_ball_point(end.place, max_gap_m + end.tip_m + float(radii.max()))
        best: tuple[float, float, float, int] | None = None
        for spot in near:
            if owner[spot] == end.number:
                continue
            max_m = max_gap_m + end.tip_m + float(radii[spot])
            cost = _cost(end, points[spot], max_m, step_m)
            key = (cost, float(points[spot, 0]), float(points[spot, 1]), spot)
            if cost < math.inf and (best is None or key < best):
                best = key
        if best is not None:
            found.append((end.node, int(owner[best[3]]), int(index[best[3]])))
    return found


def _split_edges(network: Network, meetings: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Make nodes where dead ends meet roads; return (dead end, node met) pairs."""
    by_edge: dict[int, list[tuple[int, int]]] = {}
    for node, number, index in meetings:
        by_edge.setdefault(number, []).append((index, node))
    targets = []
    for number, found in by_edge.items():
        edge = network.edges[number]
        cuts: dict[int, int] = {}
        for index, node in sorted(found):
            target = _node_near(edge, index)
            # Numbers of pixels are not negative, so the dead end's own makes a new unique one.
            targets.append((node, cuts.setdefault(index, -1 - node) if target is None else target))
        if cuts:
            _cut(network, number, cuts)
    return targets


def _node_near(edge: Edge, index: int) -> int | None:
    """Return the end of an edge that a point on it is close to, or None."""
    near_m = SNAP_OF_RADIUS * float(np.nan_to_num(edge.radii[index]))
    from_start_m = path_length(edge.points[: index + 1])
    from_stop_m = path_length(edge.points[index:])
    if min(from_start_m, from_stop_m) > near_m:
        return None
    return min((from_start_m, edge.start), (from_stop_m, edge.stop))[1]


def _cut(network: Network, number: int, cuts: dict[int, int]) -> None:
    """Replace an edge by pieces that meet in the nodes `cuts`, keyed by index of the point."""
    edge = network.edges[number]
    indices = [0, *sorted(cuts), len(edge.points) - 1]
    nodes = [edge.start, *(cuts[index] for index in sorted(cuts)), edge.stop]
    for k in range(len(indices) - 1):
        piece = slice(indices[k], indices[k + 1] + 1)
        network.add(
            Edge(
                start=nodes[k],
                stop=nodes[k + 1],
                points=edge.points[piece],
                radii=edge.radii[piece],
                probabilities=edge.probabilities[piece],
            )
        )
    network.remove(number)


def _bridge(network: Network, first: int, second: int) -> None:
    """Add a straight edge between two nodes."""
    if first == second:
        return
    start, stop = network.places[first], network.places[second]
    # The ends will belong to the roads on both sides; the middle keeps the gap in memory.
    network.add(
        Edge(
            start=first,
            stop=second,
            points=np.array([start, (start + stop) / 2, stop]),
            radii=np.full(3, np.nan),
            probabilities=np.full(3, np.nan),
        )
    )
