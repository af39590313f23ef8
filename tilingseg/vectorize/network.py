"""The road graph: skeleton pixels become nodes and edges, and what is no road is cut away.

Lengths and distances are metres, on a plane whose x runs along a row and y down a column, so that
pixels need not be square. Nodes carry the number of one of their pixels: two graphs traced from
different cut-outs of a scene name the same place alike, and no decision here depends on the order
in which edges are held. Both together make the network independent of regions.

Why an own tracer. `sknw` walks through one dense array with numba and numbers junctions by their
order in it; `skan` measures branches well, also of one dense array, and needs numba and pandas.
Linking sorted pixel numbers takes forty lines of numpy, works on the sparse pixels of any number
of regions, names the same place alike in all of them, and needs nothing new.

Joining gaps is the business of `gaps`, the exact place of junctions that of `junctions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tilingseg.vectorize.skeleton import SkeletonPixels


DIGITS = 6
"""Decimals of lengths and places, metres: sums that differ in their order alone are equal."""


@dataclass(slots=True, kw_only=True, eq=False)
class Edge:
    """A stretch of road between two nodes."""

    start: int
    """Node at the first point."""
    stop: int
    """Node at the last point."""
    points: NDArray[np.float64]
    """(n, 2) x and y, metres, ends included, n at least 2."""
    radii: NDArray[np.float64]
    """Half the width of the road at each point, metres (n,); NaN where a gap was joined."""
    probabilities: NDArray[np.float64]
    """Probability at each point, 0…1 (n,); NaN: not known or a joined gap."""

    @property
    def length(self) -> float:
        """Length along the points, metres."""
        return path_length(self.points)

    def reversed(self) -> Edge:
        """Return the edge seen from its other end."""
        # Copies, because numpy adds up a reversed view in the order of memory: the last digit of a
        # sum would tell in which direction an edge was traced.
        return Edge(
            start=self.stop,
            stop=self.start,
            points=self.points[::-1].copy(),
            radii=self.radii[::-1].copy(),
            probabilities=self.probabilities[::-1].copy(),
        )


@dataclass(slots=True, eq=False)
class Network:
    """A graph under work: edges by number, and the edges at each node."""

    edges: dict[int, Edge] = field(default_factory=dict)
    at: dict[int, list[int]] = field(default_factory=dict)
    """Edges at each node; a loop is listed twice."""
    places: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """x and y of each node, metres (2,)."""
    reach: dict[int, float] = field(default_factory=dict)
    """Metres around a node that its junction covers, where the skeleton bends."""
    cut: set[int] = field(default_factory=set)
    """Ends that only the cut-out makes, where the road goes on."""
    dots: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    """Pieces of road so round that a single pixel was left: x and y, metres (n, 2)."""
    _next: int = 0

    def degree(self, node: int) -> int:
        """Return the number of edges that meet in a node."""
        return len(self.at.get(node, ()))

    def add(self, edge: Edge) -> int:
        """Add an edge between nodes whose places are known or are its ends; return its number."""
        number = self._next
        self._next += 1
        self.edges[number] = edge
        self.at.setdefault(edge.start, []).append(number)
        self.at.setdefault(edge.stop, []).append(number)
        self.places.setdefault(edge.start, edge.points[0])
        self.places.setdefault(edge.stop, edge.points[-1])
        return number

    def remove(self, number: int) -> Edge:
        """Take an edge out; nodes without edges go with it."""
        edge = self.edges.pop(number)
        for node in (edge.start, edge.stop):
            self.at[node].remove(number)
            if not self.at[node]:
                self._forget(node)
        return edge

    def leaving(self, node: int) -> Iterator[tuple[int, Edge]]:
        """Yield (number, edge seen from the node); a loop is yielded in both directions."""
        seen = set()
        for number in self.at[node]:
            edge = self.edges[number]
            forward = edge.start == node and number not in seen
            seen.add(number)
            yield number, edge if forward else edge.reversed()

    def is_free_end(self, node: int) -> bool:
        """Tell whether the road really ends here."""
        return self.degree(node) == 1 and node not in self.cut

    def dissolve(self, nodes: Iterable[int]) -> None:
        """Turn nodes where just two edges meet into points of one edge."""
        for node in nodes:
            numbers = self.at.get(node, [])
            if len(numbers) != 2 or numbers[0] == numbers[1]:
                continue
            first, second = (edge for _, edge in self.leaving(node))
            merged, self._next = self._next, self._next + 1
            self.edges[merged] = _chained(first.reversed(), second)
            for number, far in zip(numbers, (first.stop, second.stop), strict=True):
                listed = self.at[far]
                listed[listed.index(number)] = merged
                del self.edges[number]
            self._forget(node)

    def _forget(self, node: int) -> None:
        del self.at[node], self.places[node]
        self.reach.pop(node, None)


def trace_network(
    pixels: SkeletonPixels, width: int, pixel_m: tuple[float, float], cut_rows: tuple[int, ...]
) -> Network:
    """Turn skeleton pixels into a graph, with a node wherever not just two pixels follow.

    Args:
        pixels: skeleton of whole rows of the scene, sorted by row and column.
        width: columns of the scene, px.
        pixel_m: step along a row and along a column, metres.
        cut_rows: rows of the scene, px, beyond which the road may go on in pixels not given.
    """
    stride = width + 2
    keys = pixels.rows * stride + pixels.cols
    sources, targets = _links(keys, stride)
    degrees = np.bincount(sources, minlength=keys.size)
    starts = np.concatenate([[0], np.cumsum(degrees)])
    near = targets[np.argsort(sources, kind="stable")]
    edge_of_cut = np.zeros(keys.size, dtype=bool)
    for row in cut_rows:
        edge_of_cut |= pixels.rows == row
    points = np.column_stack([(pixels.cols + 0.5) * pixel_m[0], (pixels.rows + 0.5) * pixel_m[1]])
    probabilities = np.full(keys.size, np.nan)
    if pixels.probabilities is not None:
        probabilities[:] = pixels.probabilities / 255.0
    network = Network(dots=points[(degrees == 0) & ~edge_of_cut])
    for chain in _chains(_Neighbours(near.tolist(), starts.tolist(), degrees.tolist())):
        network.add(
            Edge(
                start=int(keys[chain[0]]),
                stop=int(keys[chain[-1]]),
                points=points[chain],
                radii=pixels.radii_m[chain],
                probabilities=probabilities[chain],
            )
        )
    network.cut.update(keys[edge_of_cut].tolist())
    return network


class _Neighbours(NamedTuple):
    """For pixel i: neighbours `near[starts[i] : starts[i + 1]]`, `degrees[i]` of them."""

    near: list[int]
    starts: list[int]
    degrees: list[int]


def _links(keys: NDArray[np.int64], stride: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Link neighbouring pixels, in both directions.

    A diagonal counts only where no pixel leads round the corner: staircases would be full of
    little triangles otherwise.
    """
    here = np.arange(keys.size)
    east, south = _find(keys, keys + 1), _find(keys, keys + stride)
    west = _find(keys, keys - 1)
    south_east = np.where((east < 0) & (south < 0), _find(keys, keys + stride + 1), -1)
    south_west = np.where((west < 0) & (south < 0), _find(keys, keys + stride - 1), -1)
    pairs = [
        (here[found >= 0], found[found >= 0]) for found in (east, south, south_east, south_west)
    ]
    forth = np.concatenate([a for a, _ in pairs])
    back = np.concatenate([b for _, b in pairs])
    return np.concatenate([forth, back]), np.concatenate([back, forth])


def _find(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each wanted number stands in the sorted keys, −1 where it does not."""
    if keys.size == 0:
        return np.empty(0, dtype=np.intp)
    spot = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[spot] == wanted, spot, -1)


def _chains(pixels: _Neighbours) -> Iterator[list[int]]:
    """Yield every chain of pixels between two nodes once, then the rings without a node."""
    near, starts, degrees = pixels
    used = [False] * len(degrees)
    for node, degree in enumerate(degrees):
        if degree == 2:
            continue
        for first in near[starts[node] : starts[node + 1]]:
            if degrees[first] != 2:
                if node < first:
                    yield [node, first]
            elif not used[first]:
                yield _walk(pixels, used, node, first)
    for pixel, degree in enumerate(degrees):
        if degree == 2 and not used[pixel]:
            used[pixel] = True
            yield _walk(pixels, used, pixel, near[starts[pixel]])


def _walk(pixels: _Neighbours, used: list[bool], before: int, here: int) -> list[int]:
    """Follow pixels with two neighbours until a node, or until the ring closes."""
    near, starts, degrees = pixels
    chain = [before]
    while degrees[here] == 2 and not used[here]:
        used[here] = True
        chain.append(here)
        first, second = near[starts[here]], near[starts[here] + 1]
        before, here = here, second if first == before else first
    chain.append(here)
    return chain


def _chained(first: Edge, second: Edge) -> Edge:
    """Join two edges where the first stops and the second starts."""
    # A joined gap knows neither width nor probability at the ends that it shares.
    skip = 1 if np.isnan(second.radii[0]) else 0
    keep = len(first.radii) - (1 - skip)
    return Edge(
        start=first.start,
        stop=second.stop,
        points=np.concatenate([first.points[:keep], second.points[skip:]]),
        radii=np.concatenate([first.radii[:keep], second.radii[skip:]]),
        probabilities=np.concatenate([first.probabilities[:keep], second.probabilities[skip:]]),
    )


def path_length(points: NDArray[np.float64]) -> float:
    """Return the length of a path (n, 2), in its own unit, alike from both of its ends."""
    steps = points[1:] - points[:-1]
    return round(float(np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2).sum()), DIGITS)
