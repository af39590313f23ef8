"""Take from a road graph what thinning and noise have put in: hairs, split crossings, crumbs.

Decisions are about what one sees in the mask, not about the skeleton: a hair counts by how far
it sticks out of the road it grows from, two junctions are one when their road areas overlap.
Every decision looks a bounded distance far, and ties are broken by the place of a node.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.vectorize.junctions import axis_of, off_axes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.vectorize.network import Edge, Network

PRUNE_ROUNDS = 4
"""Rounds of pruning: hairs on hairs go, and the reach of a decision stays bounded."""
ARTEFACT_OF_RADIUS = 0.8
"""A hair that sticks out by less than this share of the road's radius is thinning's own: the
corners of a square end draw two that stick out by half a radius."""
SAME_JUNCTION = 1.05
"""Two junctions are one if they are closer than this share of both radii together: side roads
that leave a road less than its width apart."""
SAME_CROSSING = 2.4
"""As `SAME_JUNCTION`, where the axes of all roads meet in one point: there two roads cross at a
flat angle, 20° and more."""
OFF_AXIS = 0.4
"""How far an axis may miss that point, in shares of the mean radius."""


def prune_spurs(network: Network, min_spur_m: float) -> None:
    """Cut off dead ends that stick out of their road by less than `min_spur_m` metres.

    Where a road ends in several hairs, the longest goes on as the road; where it ends squarely, two
    hairs lead to its corners, and it goes on between them.
    """
    for _ in range(PRUNE_ROUNDS):
        roots = {
            edge.stop
            for node in network.at
            if network.is_free_end(node)
            for _, edge in network.leaving(node)
            if network.degree(edge.stop) > 2
        }
        doomed = {node: _spurs(network, node, min_spur_m) for node in roots}
        if not any(doomed.values()):
            return
        for node, numbers in doomed.items():
            hairs = [edge for number, edge in network.leaving(node) if number in numbers]
            for number in numbers:
                network.remove(number)
            if len(hairs) == 2 and network.degree(node) == 1:
                network.add(_between(hairs[0], hairs[1]))
        network.dissolve(sorted(roots & network.at.keys()))


def _spurs(network: Network, node: int, min_spur_m: float) -> list[int]:
    """Return the numbers of the edges at a node that are to be cut off."""
    hairs = []
    for number, edge in network.leaving(node):
        if network.is_free_end(edge.stop) and is_spur(network, edge.reversed(), min_spur_m):
            hairs.append((_out_m(edge), edge.stop, number, edge))
    n_staying = network.degree(node) - len(hairs)
    if n_staying >= 2:
        return [number for _, _, number, _ in hairs]
    hairs.sort(key=lambda hair: hair[:2])
    n_kept = 2 - n_staying
    kept = {
        number
        for out_m, _, number, edge in hairs[-n_kept:]
        if n_staying == 0 or out_m >= ARTEFACT_OF_RADIUS * float(edge.radii[0])
    }
    return [number for _, _, number, _ in hairs if number not in kept]


def _between(hair: Edge, other: Edge) -> Edge:
    """Return the straight way from where two hairs begin to the middle of their tips."""
    return type(hair)(
        start=hair.start,
        stop=min(hair.stop, other.stop),
        points=np.stack([hair.points[0], (hair.points[-1] + other.points[-1]) / 2]),
        radii=np.array([hair.radii[0], (hair.radii[-1] + other.radii[-1]) / 2]),
        probabilities=np.stack([hair.probabilities[0], hair.probabilities[-1]]),
    )


def is_spur(network: Network, edge: Edge, min_spur_m: float) -> bool:
    """Tell whether a dead end sticks out of its road by less than `min_spur_m` metres.

    Args:
        network: what the edge belongs to.
        edge: seen from its free end.
        min_spur_m: metres from the edge of the road that it grows from to its own tip.
    """
    artefact_m = ARTEFACT_OF_RADIUS * _known(edge.radii[-1])
    is_dead_end = network.degree(edge.stop) > 2
    return is_dead_end and _out_m(edge.reversed()) < max(min_spur_m, artefact_m)


def _out_m(hair: Edge) -> float:
    """Return how far a hair sticks out of the road at its first point, metres."""
    # The skeleton of a round end stops its own radius before the road does.
    return hair.length - _known(hair.radii[0]) + _known(hair.radii[-1])


def _known(radius_m: float) -> float:
    """Return a radius, metres, and 0 for that of a joined gap, which is NaN."""
    return 0.0 if math.isnan(radius_m) else float(radius_m)


def merge_junctions(network: Network) -> None:
    """Make one node of junctions whose areas overlap, as where two roads cross at a flat angle."""
    leader: dict[int, int] = {}

    def lead(node: int) -> int:
        while leader.get(node, node) != node:
            node = leader[node]
        return node

    short = [number for number, edge in network.edges.items() if _is_inside(network, number, edge)]
    for number in short:
        edge = network.edges[number]
        first, second = sorted((lead(edge.start), lead(edge.stop)))
        leader[second] = first
    clusters: dict[int, list[int]] = {}
    for node in {end for n in short for end in (network.edges[n].start, network.edges[n].stop)}:
        clusters.setdefault(lead(node), []).append(node)
    places = {node: network.places[node] for members in clusters.values() for node in members}
    for number in short:
        network.remove(number)
    for members in clusters.values():
        _unite(network, sorted(members), places)


def _is_inside(network: Network, number: int, edge: Edge) -> bool:
    """Tell whether an edge between two junctions is no road but the inside of one junction."""
    if min(network.degree(edge.start), network.degree(edge.stop)) < 3 or edge.start == edge.stop:
        return False
    radius_m = (float(edge.radii[0]) + float(edge.radii[-1])) / 2
    share = edge.length / (2 * radius_m)
    if share <= SAME_JUNCTION or share > SAME_CROSSING:
        return share <= SAME_JUNCTION
    axes = [
        axis_of(arm, radius_m, 4 * radius_m)
        for node in (edge.start, edge.stop)
        for other, arm in network.leaving(node)
        if other != number
    ]
    middle = (network.places[edge.start] + network.places[edge.stop]) / 2
    return off_axes(middle, axes, edge.length) <= OFF_AXIS * radius_m


def _unite(network: Network, members: list[int], places: dict[int, NDArray[np.float64]]) -> None:
    """Move all edges of the members to the first that is left, in the middle of all."""
    x, y = (sum(float(places[node][axis]) for node in members) / len(members) for axis in (0, 1))
    reach_m = max(float(np.hypot(*(places[node] - (x, y)))) for node in members)
    present = [node for node in members if node in network.at]
    if not present:
        return
    first = present[0]
    for node in present[1:]:
        for number in network.at.pop(node):
            edge = network.edges[number]
            edge.start = first if edge.start == node else edge.start
            edge.stop = first if edge.stop == node else edge.stop
            network.at[first].append(number)
        del network.places[node]
    network.places[first] = np.array([x, y])
    network.reach[first] = reach_m
    network.dissolve([first])


def drop_short_pieces(network: Network, min_length_m: float) -> NDArray[np.float64]:
    """Drop connected pieces of less than `min_length_m` metres of road.

    Returns:
        float64 (n, 2): x and y of one point of each dropped piece, metres.
    """
    dropped = [network.dots]
    seen: set[int] = set()
    for node in list(network.at):
        if node in seen or node not in network.at:
            continue
        nodes, numbers = _piece(network, node)
        seen |= nodes
        length_m = sum(network.edges[number].length for number in numbers)
        if length_m < min_length_m and not nodes & network.cut:
            dropped.append(network.places[min(nodes)][None])
            for number in numbers:
                network.remove(number)
    network.dots = np.concatenate(dropped)
    return network.dots


def _piece(network: Network, node: int) -> tuple[set[int], set[int]]:
    """Return all nodes and edges that are connected with a node."""
    nodes, numbers, todo = {node}, set[int](), [node]
    while todo:
        for number in network.at[todo.pop()]:
            numbers.add(number)
            edge = network.edges[number]
            for end in (edge.start, edge.stop):
                if end not in nodes:
                    nodes.add(end)
                    todo.append(end)
    return nodes, numbers
