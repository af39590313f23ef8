"""Put junctions where the axes of their roads meet, and lead roads to the edge of the scene.

A skeleton bends towards the side road at a junction and runs askew through a crossing. The
straight stretches some radii away know better: a junction is placed at the point closest to all
their axes, and the bent pixels in between are dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.network import DIGITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.network import Edge, Network

    Axis = tuple[NDArray[np.float64], NDArray[np.float64]]

HOLD = 0.25
"""Weight of the place that the skeleton gave, against 1 for the axis of each road."""
BORDER_OF_RADIUS = 0.75
"""A road that ends within this share of its radius from the edge of the scene leaves it."""


def axis_of(edge: Edge, skip_m: float, span_m: float) -> Axis | None:
    """Fit a line to the first stretch of an edge, past its bent beginning.

    Args:
        edge: seen from the end in question.
        skip_m: metres left out at the beginning.
        span_m: metres that are looked at after them.

    Returns:
        A point on the axis and the unit vector towards the beginning, each x and y (2,); None: the
        edge is too short to have a direction.
    """
    steps = edge.points[1:] - edge.points[:-1]
    along = np.concatenate([[0.0], np.cumsum(np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2))])
    skip_m = min(skip_m, float(along[-1]) / 2)
    points = edge.points[(along >= skip_m) & (along <= skip_m + span_m)]
    if len(points) < 2:
        return None
    centre = points.sum(axis=0) / len(points)
    x, y = (points - centre).T
    xx, yy, xy = float((x * x).sum()), float((y * y).sum()), float((x * y).sum())
    if xx + yy == 0:
        return None
    half = math.atan2(2 * xy, xx - yy) / 2
    towards = np.array([math.cos(half), math.sin(half)])
    if float(((points[0] - points[-1]) * towards).sum()) < 0:
        towards = -towards
    return centre, towards


def place_junctions(network: Network, step_m: float) -> None:
    """Move every junction to where the axes of its roads meet.

    Args:
        network: changed in place: `places` and `reach` of nodes of three roads and more.
        step_m: size of a pixel, metres.
    """
    for node in network.at:
        if network.degree(node) < 3:
            continue
        edges = [edge for _, edge in network.leaving(node)]
        radius_m = float(np.nanmax([np.nan_to_num(edge.radii[0]) for edge in edges]))
        reach_m = max(radius_m, step_m) + network.reach.get(node, 0.0)
        network.reach[node] = reach_m
        axes = [axis_of(edge, reach_m, max(3 * radius_m, 6 * step_m)) for edge in edges]
        network.places[node] = _meeting(network.places[node], _in_order(axes), reach_m)


def off_axes(place: NDArray[np.float64], axes: list[Axis | None], reach_m: float) -> float:
    """Return by how much the farthest axis misses the point nearest to all, metres.

    Args:
        place: where the axes should meet, about; x and y, metres (2,).
        axes: from `axis_of`; infinite is returned if one of them is None.
        reach_m: farthest that the point may lie from `place`, metres.
    """
    known = _in_order(axes)
    if len(known) < len(axes):
        return math.inf
    point = _meeting(place, known, reach_m)
    x, y = float(point[0]), float(point[1])
    return max(
        abs((x - centre[0]) * towards[1] - (y - centre[1]) * towards[0])
        for centre, towards in known
    )


def _in_order(axes: list[Axis | None]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return the known axes sorted, so that sums over them do not depend on their order."""
    return sorted((tuple(axis[0]), tuple(axis[1])) for axis in axes if axis is not None)


def _meeting(
    place: NDArray[np.float64],
    axes: list[tuple[tuple[float, ...], tuple[float, ...]]],
    reach_m: float,
) -> NDArray[np.float64]:
    """Return the point nearest to all axes, at most `reach_m` from `place`; x and y (2,)."""
    a, b, d = HOLD, 0.0, HOLD
    right_x = right_y = 0.0
    for (centre_x, centre_y), (x, y) in axes:
        across_x, across_y = -y, x
        offset = across_x * (centre_x - place[0]) + across_y * (centre_y - place[1])
        a, b, d = a + across_x * across_x, b + across_x * across_y, d + across_y * across_y
        right_x, right_y = right_x + across_x * offset, right_y + across_y * offset
    det = a * d - b * b
    move = np.array([(d * right_x - b * right_y) / det, (a * right_y - b * right_x) / det])
    far_m = math.hypot(*move)
    return np.round(place + move * min(1.0, reach_m / far_m if far_m > 0 else 1.0), DIGITS)


def straighten_ends(network: Network, step_m: float) -> None:
    """Replace the last bit of dead ends, which turns into a corner of the road, by their axis.

    Args:
        network: changed in place: the first or last points of edges, and the `places` of their end.
        step_m: size of a pixel, metres.
    """
    for node in list(network.at):
        if not network.is_free_end(node):
            continue
        ((number, edge),) = network.leaving(node)
        radius_m = end_radius(edge, step_m)
        axis = axis_of(edge, radius_m, max(4 * radius_m, 6 * step_m))
        if axis is None or edge.length < 3 * radius_m:
            continue
        centre, towards = axis
        ahead_m = float(((network.places[node] - centre) * towards).sum())
        place = np.round(centre + towards * ahead_m, DIGITS)
        far_m = np.sqrt(((edge.points - place) ** 2).sum(axis=1))
        first = int(np.argmax(far_m > radius_m))
        network.places[node] = place
        network.edges[number] = type(edge)(
            start=edge.start,
            stop=edge.stop,
            points=np.concatenate([place[None], edge.points[first:]]),
            radii=np.concatenate([edge.radii[:1], edge.radii[first:]]),
            probabilities=np.concatenate([edge.probabilities[:1], edge.probabilities[first:]]),
        )


def lead_to_border(network: Network, size_m: tuple[float, float], step_m: float) -> None:
    """Lead roads that leave the scene to its very edge, which their skeleton does not reach.

    Args:
        network: changed in place: `places` of free ends.
        size_m: width and height of the scene, metres.
        step_m: size of a pixel, metres.
    """
    for node in network.at:
        if not network.is_free_end(node):
            continue
        ((_, edge),) = network.leaving(node)
        radius_m = end_radius(edge, step_m)
        axis = axis_of(edge, 0.0, max(4 * radius_m, 6 * step_m))
        if axis is None:
            continue
        towards = axis[1]
        place = network.places[node]
        near_m = tip_radius(edge) + BORDER_OF_RADIUS * radius_m + 2 * step_m
        for side in (0, 1):
            gap_m = size_m[side] - place[side] if towards[side] > 0 else place[side]
            if abs(towards[side]) > 0.5 and gap_m <= near_m:
                place = place + towards * (gap_m / abs(towards[side]))
                break
        inside: NDArray[np.float64] = np.clip(place, 0.0, size_m)
        network.places[node] = np.round(inside, DIGITS)


def tip_radius(edge: Edge) -> float:
    """Return how far the road goes on beyond the first point of an edge, metres.

    That is half its width where it ends round, and next to nothing where it ends squarely.
    """
    return float(np.nan_to_num(edge.radii[0]))


def end_radius(edge: Edge, step_m: float) -> float:
    """Return half the width of a road near the first point of an edge, metres.

    The last pixels lie in a corner of the mask; the road's own width is found behind them.
    """
    known = edge.radii[~np.isnan(edge.radii)]
    return float(np.median(known[: 4 + 4 * int(known[:8].max() / step_m)]))


def edge_paths(network: Network) -> list[Edge]:
    """Return all edges from node to node, without the points that their junctions cover.

    Where nothing is left between two nodes but a straight line, there is one of it, and none where
    a loop has no inside left.
    """
    paths: list[Edge] = []
    straight: dict[tuple[int, int], Edge] = {}
    for edge in network.edges.values():
        path = _edge_path(network, edge)
        if len(path.points) > 3 or (len(path.points) == 3 and path.start != path.stop):
            paths.append(path)
        elif path.start != path.stop:
            ends = min(path.start, path.stop), max(path.start, path.stop)
            straight[ends] = max(path, straight.get(ends, path), key=_knowledge)
    return paths + list(straight.values())


def _knowledge(path: Edge) -> tuple[float, ...]:
    """Rank a path: a road before a bridged gap, a wide one before a narrow one."""
    return tuple(sorted(np.nan_to_num(np.concatenate([path.radii, path.probabilities])).tolist()))


def _edge_path(network: Network, edge: Edge) -> Edge:
    """Return the edge from node to node, without the points that its junctions cover."""
    # The pixel at the end belongs to all edges of its node; what is left belongs to one edge alone.
    first, last = 1, len(edge.points) - 1
    start, stop = network.places[edge.start], network.places[edge.stop]
    first_m, last_m = (network.reach.get(node, 0.0) for node in (edge.start, edge.stop))
    while first < last and _distance(edge.points[first], start) <= first_m:
        first += 1
    while last > first and _distance(edge.points[last - 1], stop) <= last_m:
        last -= 1
    inner = slice(first, last)
    ends = edge.radii[[0, -1]], edge.probabilities[[0, -1]]
    return type(edge)(
        start=edge.start,
        stop=edge.stop,
        points=np.concatenate([start[None], edge.points[inner], stop[None]]),
        radii=np.concatenate([ends[0][:1], edge.radii[inner], ends[0][1:]]),
        probabilities=np.concatenate([ends[1][:1], edge.probabilities[inner], ends[1][1:]]),
    )


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])
