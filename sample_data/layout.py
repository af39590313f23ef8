"""Where things lie in a synthetic suburb: streets first, then what fills the blocks between them.

Streets follow a warped grid, so that they bend and never run along the rows of pixels. Only
`Generator.random` and scalar trigonometry, rounded, decide where things go: the same seed gives
the same suburb on every machine.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import LineString, Polygon

from sample_data.estate import fill_dry_block
from sample_data.plots import CAR_PAINTS, fill_block, grow_tree
from sample_data.suburb import Box, Building, Cell, Dice, Frame, Ground, Layout, Road, Things

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shapely.geometry.base import BaseGeometry

MARGIN_PX = 60.0
"""Things this far outside still reach into the scene with their shadows."""


def lay_out(seed: int, height: int, width: int, *, dry: bool = False) -> Layout:
    """Invent a suburb in the green, or a town on sand.

    Args:
        seed: any integer ≥ 0; the same seed and size give the same suburb.
        height: rows, px.
        width: columns, px.
        dry: on sand, with halls and malls.
    """
    dice = Dice(seed, 0)
    bends = tuple(
        (dice.between(18, 34), dice.between(800, 1300), dice.between(0, 6)) for _ in range(2)
    )
    frame = Frame(width / 2, height / 2, round(dice.between(0.15, 0.65), 4), bends)
    roads, cells = _streets(dice, frame, height, width)
    things = Things([], [], [], [])
    seen = shapely.box(-MARGIN_PX, -MARGIN_PX, width + MARGIN_PX, height + MARGIN_PX)
    if dry:
        everywhere = Box(width / 2, height / 2, 1.0, 0.0, width, height)
        things.grounds.append(Ground(box=everywhere, kind="sand", tint=dice.between(0, 1)))
    fill = fill_dry_block if dry else fill_block
    for cell in cells:
        if seen.intersects(_outline(frame, cell)):
            fill(dice, frame, cell, things)
    carriageway = shapely.union_all([road.polygon for road in roads])
    _line_streets(dice, roads, things, 0.25 if dry else 1.0)
    turn = round(dice.between(0.09, 0.16), 4)
    at = dice.between(0.06, 0.12) * width, dice.between(0.01, 0.03) * height
    corner = Box(*at, round(math.cos(turn), 6), round(math.sin(turn), 6), 0, 0)
    return _without_clashes(
        Layout(
            height=height, width=width, roads=roads, corner=corner,
            grounds=tuple(things.grounds), buildings=tuple(things.buildings),
            trees=tuple(things.trees), cars=tuple(things.cars),
        ),
        carriageway,
    )  # fmt: skip


def _streets(
    dice: Dice, frame: Frame, height: int, width: int
) -> tuple[tuple[Road, ...], list[Cell]]:
    reach = 0.5 * math.sqrt(height**2 + width**2) + 200
    lines_t = _steps(dice, reach, 128, 172)
    lines_s = _steps(dice, reach, 230, 420)
    avenue_t, avenue_s = len(lines_t) // 2, len(lines_s) // 2 - 1
    seen = shapely.box(-MARGIN_PX, -MARGIN_PX, width + MARGIN_PX, height + MARGIN_PX)
    roads: list[Road] = []

    def add(points: list[tuple[float, float]], road_width: float) -> None:
        line = LineString(points).simplify(0.08).intersection(seen)
        for piece in getattr(line, "geoms", [line]):
            if piece.length > 4 * road_width:
                shape = piece.buffer(road_width / 2, quad_segs=16, cap_style="flat")
                roads.append(Road(centreline=piece, width=road_width, polygon=shape))

    widths_t = [
        26.0 if i == avenue_t else round(dice.between(13, 17), 1) for i in range(len(lines_t))
    ]
    for t, road_width in zip(lines_t, widths_t, strict=True):
        add([frame.at(float(s), t) for s in np.arange(-reach, reach, 8)], road_width)
    cells: list[Cell] = []
    for j, s in enumerate(lines_s):
        road_width = 22.0 if j == avenue_s else round(dice.between(12, 15), 1)
        kept = [j == avenue_s or dice.chance(0.75) for _ in lines_t[1:]]
        for first, last in _runs(kept):
            stops = np.arange(lines_t[first], lines_t[last], 8)
            add([frame.at(s, float(t)) for t in (*stops, lines_t[last])], road_width)
        if j:
            s0, s1 = lines_s[j - 1] + 16, s - 16
            for i, (t0, t1) in enumerate(pairwise(lines_t)):
                edges = t0 + widths_t[i] / 2, t1 - widths_t[i + 1] / 2
                cells.append(Cell(s0, s1, *edges))
    start, end = (
        (-80.0, dice.between(0.5, 0.8) * height),
        (width + 80.0, dice.between(0.1, 0.4) * height),
    )
    middle = dice.between(0.35, 0.65) * width, dice.between(0.6, 1.0) * height
    add([_bezier(start, middle, end, k / 120) for k in range(121)], 20.0)
    return tuple(roads), cells


def _steps(dice: Dice, reach: float, low: float, high: float) -> list[float]:
    lines = [-reach]
    while lines[-1] < reach:
        lines.append(round(lines[-1] + dice.between(low, high), 2))
    return lines


def _runs(kept: list[bool]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) line numbers of each run of kept segments between neighbouring lines."""
    first = None
    for i, keep in enumerate([*kept, False]):
        if keep and first is None:
            first = i
        elif not keep and first is not None:
            yield first, i
            first = None


def _bezier(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], k: float
) -> tuple[float, float]:
    weights = (1 - k) ** 2, 2 * k * (1 - k), k**2
    x, y = (sum(w * p[i] for w, p in zip(weights, (a, b, c), strict=True)) for i in (0, 1))
    return round(x, 4), round(y, 4)


def _outline(frame: Frame, cell: Cell) -> Polygon:
    corners = ((cell.s0, cell.t0), (cell.s1, cell.t0), (cell.s1, cell.t1), (cell.s0, cell.t1))
    return Polygon([frame.at(s, t) for s, t in corners])


def _line_streets(dice: Dice, roads: Sequence[Road], things: Things, green: float) -> None:
    """Park cars along the kerbs and plant trees behind them, a share `green` of them."""
    for road in roads:
        for side in (-1.0, 1.0):
            kerb = side * (road.width / 2 - 3.2)
            avenue = road.width > 18
            at = dice.between(10, 60)
            while at < road.centreline.length - 12:
                box = _along(road.centreline, at)
                if not avenue or dice.chance(0.4):
                    lane = kerb if not avenue else side * road.width / 4
                    car = box.part(0, lane, 4.5, 1.9)
                    things.cars.append((car, dice.pick(CAR_PAINTS)))
                at += dice.between(12, 190)
            at = dice.between(10, 40)
            while at < road.centreline.length and dice.chance(0.985):
                spot = _along(road.centreline, at).at(0, side * (road.width / 2 + 7.5))
                if dice.chance((0.8 if avenue else 0.35) * green):
                    things.trees.append(grow_tree(dice, spot, 4.0, 7.0))
                at += dice.between(20, 34)


def _along(line: LineString, at: float) -> Box:
    a, b = line.interpolate(at - 2), line.interpolate(at + 2)
    length = math.sqrt((b.x - a.x) ** 2 + (b.y - a.y) ** 2)
    cos, sin = round((b.x - a.x) / length, 6), round((b.y - a.y) / length, 6)
    return Box(round((a.x + b.x) / 2, 4), round((a.y + b.y) / 2, 4), cos, sin, 0, 0)


def _without_clashes(layout: Layout, carriageway: BaseGeometry) -> Layout:
    """Drop what stands on a road, in another building, or out of sight."""
    sight = shapely.box(-MARGIN_PX, -MARGIN_PX, layout.width + MARGIN_PX, layout.height + MARGIN_PX)
    shapely.prepare([carriageway, sight])
    kept: list[Building] = []
    candidates = shapely.STRtree([building.polygon for building in layout.buildings])
    for i, building in enumerate(layout.buildings):
        near = candidates.query(building.polygon, predicate="dwithin", distance=3.0)
        first = all(k >= i for k in near)
        on_road = shapely.dwithin(carriageway, building.polygon, 5.0)
        if first and not on_road and sight.intersects(building.polygon):
            kept.append(building)
    standing = shapely.STRtree([building.polygon for building in kept])

    def clear(x: float, y: float, room: float, verge: float) -> bool:
        point = shapely.Point(x, y)
        inside = sight.intersects(point) and not carriageway.dwithin(point, verge)
        return inside and not len(standing.query(point, predicate="dwithin", distance=room))

    return Layout(
        height=layout.height, width=layout.width, roads=layout.roads, corner=layout.corner,
        grounds=layout.grounds, buildings=tuple(kept),
        trees=tuple(t for t in layout.trees
                    if clear(t.x, t.y, 0.75 * t.radius, min(3.5, t.radius))),
        cars=tuple(c for c in layout.cars if sight.contains(c[0].polygon())
                   and not len(standing.query(c[0].polygon(), predicate="dwithin", distance=1.0))),
    )  # fmt: skip
