"""Fill the blocks between streets: houses on plots, halls, terraces, woods and fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import shapely

from sample_data.suburb import RGB, Box, Building, Cell, Dice, Frame, Ground, Roof, Things, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

RESIDENTIAL_ROOFS = (
    (0.56, 0.31, 0.23), (0.62, 0.36, 0.27), (0.47, 0.27, 0.22), (0.40, 0.33, 0.29),
    (0.36, 0.36, 0.38), (0.46, 0.45, 0.45), (0.29, 0.29, 0.32), (0.54, 0.47, 0.40),
)  # fmt: skip
"""Clay, brown and slate, red-green-blue reflectance."""
FLAT_ROOFS = ((0.72, 0.72, 0.70), (0.60, 0.60, 0.60), (0.50, 0.49, 0.47), (0.66, 0.62, 0.56))
CAR_PAINTS = (
    (0.85, 0.85, 0.85),
    (0.16, 0.16, 0.18),
    (0.55, 0.57, 0.60),
    (0.45, 0.10, 0.09),
    (0.12, 0.20, 0.42),
)


def fill_block(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    use = dice.between(0, 1)
    if use < 0.70:
        _plots(dice, frame, cell, things)
    elif use < 0.80:
        _yard(dice, frame, cell, things)
    elif use < 0.89:
        _terraces(dice, frame, cell, things)
    else:
        _green(dice, frame, cell, things, "wood" if dice.chance(0.55) else "field")


def _plots(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    depth = (cell.t1 - cell.t0) / 2
    for side, t_edge in ((1.0, cell.t0), (-1.0, cell.t1)):
        s = cell.s0
        while (plot := dice.between(31, 46)) and s + plot <= cell.s1:
            ground = frame.box(s + plot / 2, t_edge + side * depth / 2, plot / 2 - 0.6, depth / 2)
            if side < 0:
                ground = Box(ground.x, ground.y, -ground.cos, -ground.sin, *ground[4:])
            things.grounds.append(Ground(box=ground, kind="lawn", tint=dice.between(0, 1)))
            if not dice.chance(0.06):
                _house(dice, ground, things)
            s += plot


def _house(dice: Dice, plot: Box, things: Things) -> None:
    """Put a house with its drive, shed and trees on a plot; the street lies towards −v."""
    half_u = min(dice.between(9, 14), plot.half_u - 3.5)
    half_v = dice.between(7, 10)
    setback = dice.between(10, 16)
    v = -plot.half_v + setback + half_v
    u = dice.between(-1, 1) * (plot.half_u - half_u - 2.5)
    main = plot.part(u, v, half_u, half_v)
    kind = dice.pick(("gable", "gable", "hip", "hip", "flat"))
    main_roof = _roof(dice, main if dice.chance(0.75) else main.turned(), kind)
    roofs = [main_roof]
    if dice.chance(0.45):
        half = dice.between(0.42, 0.55) * half_u
        shift = dice.pick((-1.0, 1.0, 0.0)) * (half_u - half)
        back = dice.between(3, 6)
        wing = main.part(shift, half_v + back - half / 2, half, back + half / 2)
        low = kind if kind == "flat" else "gable"
        roofs.append(
            Roof(
                box=wing.turned(), kind=low, eave_m=main_roof.eave_m, rise_m=main_roof.rise_m * 0.8
            )
        )
    colour = dice.pick(FLAT_ROOFS if kind == "flat" else RESIDENTIAL_ROOFS)
    put_building(dice, roofs, colour, things)
    free = plot.half_u - 3.5 if u < 0 else -plot.half_u + 3.5
    reach = dice.between(0.5, 1.1) * half_v + setback / 2
    drive = plot.part(free, -plot.half_v + reach - 2, 2.8, reach + 2)
    things.grounds.append(Ground(box=drive, kind="drive", tint=dice.between(0, 1)))
    if dice.chance(0.5):
        car = plot.part(free, -plot.half_v + dice.between(6, 14), 1.9, 4.5)
        things.cars.append((car.turned(), dice.pick(CAR_PAINTS)))
    if dice.chance(0.4):
        patio = main.part(dice.between(-0.4, 0.4) * half_u, half_v + 2.5, dice.between(3, 6), 4)
        things.grounds.append(Ground(box=patio, kind="drive", tint=dice.between(0, 1)))
    behind = v + half_v + 14
    if dice.chance(0.12) and behind < plot.half_v:
        pool = plot.part(free * dice.between(-0.8, 0.2), v + half_v + 9, dice.between(4, 7), 3)
        things.grounds.append(Ground(box=pool, kind="pool", tint=dice.between(0, 1)))
    if dice.chance(0.3) and behind + 6 < plot.half_v:
        shed = plot.part(-free * 0.7, plot.half_v - 6, dice.between(3, 5), dice.between(3, 4))
        roof = Roof(box=shed, kind="flat", eave_m=2.4, rise_m=0.0)
        put_building(dice, [roof], dice.pick(FLAT_ROOFS), things)
    for _ in range(int(dice.between(0, 4.5))):
        spot = plot.at(dice.between(-1, 1) * plot.half_u, dice.between(v + half_v, plot.half_v))
        things.trees.append(grow_tree(dice, spot, 4.0, 9.5))
    if dice.chance(0.6):
        hedge_u = plot.half_u * dice.pick((-1.0, 1.0))
        for step in np.arange(-0.2, 1.0, 0.09):
            things.trees.append(
                grow_tree(dice, plot.at(hedge_u, float(step) * plot.half_v), 1.6, 2.6)
            )


def _yard(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    """Fill a block with halls and car parks."""
    middle = (cell.t0 + cell.t1) / 2
    depth = (cell.t1 - cell.t0) / 2 - 5
    s = cell.s0 + 8
    while (length := dice.between(80, 150)) and s + length <= cell.s1:
        plot = frame.box(s + length / 2, middle, length / 2 - 1, depth)
        things.grounds.append(Ground(box=plot, kind="paving", tint=dice.between(0, 1)))
        half_v = depth * dice.between(0.45, 0.62)
        hall = plot.part(0, depth - half_v - 6, length / 2 - dice.between(8, 16), half_v)
        roof = Roof(box=hall, kind="flat", eave_m=dice.between(5, 9), rise_m=0.0)
        put_building(dice, [roof], dice.pick(FLAT_ROOFS), things)
        for row in (-depth + 8, -depth + 24):
            for u in np.arange(-length / 2 + 8, length / 2 - 8, 5.6):
                if dice.chance(0.55):
                    car = plot.part(float(u), row, 1.9, 4.4).turned()
                    things.cars.append((car, dice.pick(CAR_PAINTS)))
        s += length + 4


def _terraces(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    """Fill a block with long rows of flats."""
    depth = cell.t1 - cell.t0
    plot = frame.box(
        (cell.s0 + cell.s1) / 2, (cell.t0 + cell.t1) / 2, (cell.s1 - cell.s0) / 2, depth / 2
    )
    things.grounds.append(Ground(box=plot, kind="lawn", tint=dice.between(0.3, 0.9)))
    kind, colour = dice.pick((("flat", FLAT_ROOFS), ("gable", RESIDENTIAL_ROOFS)))
    paint, rise_m = dice.pick(colour), 0.0 if kind == "flat" else 3.0
    eave_m = dice.between(8, 12)
    for t in (cell.t0 + 26, cell.t1 - 26):
        s = cell.s0 + 6
        while (length := dice.between(60, 110)) and s + length <= cell.s1:
            row = frame.box(s + length / 2, t, length / 2 - 5, 11.5)
            roof = Roof(box=row, kind=kind, eave_m=eave_m, rise_m=rise_m)
            put_building(dice, [roof], paint, things)
            s += length
    for _ in range(14):
        spot = plot.at(dice.between(-1, 1) * plot.half_u, dice.between(-0.25, 0.25) * depth)
        things.trees.append(grow_tree(dice, spot, 5.0, 9.0))


def _green(dice: Dice, frame: Frame, cell: Cell, things: Things, kind: str) -> None:
    half_s, half_t = (cell.s1 - cell.s0) / 2, (cell.t1 - cell.t0) / 2
    plot = frame.box((cell.s0 + cell.s1) / 2, (cell.t0 + cell.t1) / 2, half_s - 2, half_t - 3)
    things.grounds.append(Ground(box=plot, kind=kind, tint=dice.between(0, 1)))
    count = half_s * half_t / (60 if kind == "wood" else 900)
    for _ in range(int(count)):
        u, v = dice.between(-1, 1), dice.between(-1, 1)
        if kind == "field":
            v = math.copysign(0.97, v)
        things.trees.append(grow_tree(dice, plot.at(u * plot.half_u, v * plot.half_v), 5.0, 11.0))


def grow_tree(dice: Dice, spot: tuple[float, float], low: float, high: float) -> Tree:
    radius = dice.between(low, high)
    height_m = min(1.1 * radius, 4 + 0.6 * radius)
    return Tree(x=spot[0], y=spot[1], radius=radius, height_m=height_m, tint=dice.between(0, 1))


def _roof(dice: Dice, box: Box, kind: str) -> Roof:
    long = box if box.half_u >= box.half_v else box.turned()
    rise_m = 0.0 if kind == "flat" else long.half_v * 0.5 * dice.between(0.55, 0.85)
    return Roof(box=long, kind=kind, eave_m=dice.pick((3.0, 5.2, 5.8)), rise_m=rise_m)


def put_building(
    dice: Dice, roofs: list[Roof], colour: RGB, things: Things, brightest: float = 0.85
) -> None:
    """Put up one building of several roofs, with what stands on the first of them."""
    polygon = shapely.union_all([roof.box.polygon() for roof in roofs])
    shade = dice.between(0.85, 1.12)
    tinted = tuple(min(brightest, value * shade) for value in colour)
    fittings = tuple(_fittings(dice, roofs[0]))
    things.buildings.append(
        Building(roofs=tuple(roofs), colour=tinted, polygon=polygon, fittings=fittings)
    )


def _fittings(dice: Dice, roof: Roof) -> Iterator[tuple[Box, str]]:
    box = roof.box
    if roof.kind == "flat":
        for _ in range(int(dice.between(0, box.half_u * box.half_v / 90))):
            u, v = dice.between(-0.8, 0.8) * box.half_u, dice.between(-0.7, 0.7) * box.half_v
            yield box.part(u, v, dice.between(1.2, 2.8), dice.between(1.2, 2.2)), "cooler"
        return
    if dice.chance(0.6):
        yield (
            box.part(dice.between(-0.7, 0.7) * box.half_u, dice.between(-2, 2), 0.9, 0.9),
            "chimney",
        )
    if dice.chance(0.22):
        side = dice.pick((-0.5, 0.5)) * box.half_v
        yield box.part(0, side, box.half_u * dice.between(0.3, 0.6), box.half_v * 0.28), "panels"
