"""Fill the blocks of a town on sand: long halls, stepped malls, walled villas, empty ground.

What a suburb in the green lacks: roofs as long as a block, as bright as the ground around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sample_data.plots import CAR_PAINTS, FLAT_ROOFS, put_building
from sample_data.suburb import Box, Cell, Dice, Frame, Ground, Roof, Things

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sample_data.suburb import RGB

HALL_ROOFS = (
    *((0.84, 0.84, 0.82), (0.80, 0.79, 0.74), (0.74, 0.80, 0.77), (0.72, 0.74, 0.82)),
    *((0.78, 0.72, 0.78), (0.66, 0.66, 0.64), (0.72, 0.46, 0.34), (0.44, 0.56, 0.66)),
    *((0.48, 0.48, 0.47), (0.62, 0.58, 0.50)),
)
"""White, cream and pale coats of sheet metal, clay red, blue, weathered grey."""


def fill_dry_block(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    """Put up what stands between four streets."""
    use = dice.between(0, 1)
    if use > 0.72:
        if use < 0.92:
            _villas(dice, frame, cell, things)
        return
    for plot in _plots(dice, frame, cell):
        kind = dice.between(0, 1)
        if kind < 0.68:
            _halls(dice, plot, things)
        elif kind < 0.9:
            _mall(dice, plot, things)
        else:  # a car park: as plain and bright as a roof, and none
            things.grounds.append(Ground(box=plot, kind="paving", tint=dice.between(0.4, 1)))


def _plots(dice: Dice, frame: Frame, cell: Cell) -> Iterator[Box]:
    """Yield the parts of a block, each so short that a straight rectangle fits between streets."""
    middle, half_t = (cell.t0 + cell.t1) / 2, (cell.t1 - cell.t0) / 2 - 11
    count = max(1, round((cell.s1 - cell.s0) / dice.between(130, 210)))
    length = (cell.s1 - cell.s0) / count
    for number in range(count):
        yield frame.box(cell.s0 + (number + 0.5) * length, middle, length / 2 - 4, half_t)


def _halls(dice: Dice, plot: Box, things: Things) -> None:
    """Fill a plot with halls side by side, across it or along it."""
    if dice.chance(0.7):
        things.grounds.append(Ground(box=plot, kind="drive", tint=dice.between(0.2, 1)))
    if dice.chance(0.4):
        plot = plot.turned()
    alike, gap = dice.chance(0.6), dice.between(5, 22)
    colour, half = dice.pick(HALL_ROOFS), dice.between(18, 60)
    kind, rise_m = dice.pick((("flat", 0.0), ("gable", 2.2), ("gable", 4.0)))
    eave_m = dice.between(5, 10)
    half = min(half, plot.half_u - 1)
    at = -plot.half_u
    while at + 2 * half <= plot.half_u:
        length = plot.half_v * (0.94 if alike else dice.between(0.5, 0.94))
        if dice.chance(0.92):
            box = plot.part(at + half, 0.94 * plot.half_v - length, half, length)
            long = box if box.half_u >= box.half_v else box.turned()
            roof = Roof(box=long, kind=kind, eave_m=eave_m, rise_m=rise_m)
            put_building(dice, [roof], colour, things)
        _park_row(dice, plot, at + 2 * half + gap / 2, gap, things)
        at += 2 * half + gap
        if not alike:
            colour, half = dice.pick(HALL_ROOFS), dice.between(18, 60)


def _park_row(dice: Dice, plot: Box, u: float, gap: float, things: Things) -> None:
    """Leave lorries and cars in the lane between two halls."""
    v = -plot.half_v
    while gap > 12 and (v := v + dice.between(10, 60)) < plot.half_v:
        half_v = dice.pick((4.4, 4.4, 9.0, 14.0))
        things.cars.append((plot.part(u, v, 2.2, half_v).turned(), dice.pick(CAR_PAINTS)))


def _mall(dice: Dice, plot: Box, things: Things) -> None:
    """Put one building of several heights amid its car park."""
    things.grounds.append(Ground(box=plot, kind="paving", tint=dice.between(0, 1)))
    half_u, half_v = plot.half_u * dice.between(0.5, 0.8), plot.half_v * dice.between(0.45, 0.7)
    middle = plot.part(plot.half_u * dice.between(-0.2, 0.2), 0.12 * plot.half_v, half_u, half_v)
    roofs = [Roof(box=middle, kind="flat", eave_m=dice.between(6, 12), rise_m=0.0)]
    for _ in range(int(dice.between(0, 3.9))):
        u, v = dice.pick((-1.0, 1.0)) * half_u * 0.8, dice.pick((-1.0, 1.0)) * half_v * 0.8
        wing = middle.part(u, v, half_u * dice.between(0.2, 0.4), half_v * dice.between(0.3, 0.5))
        roofs.append(Roof(box=wing, kind="flat", eave_m=dice.between(4, 14), rise_m=0.0))
    put_building(dice, roofs, dice.pick(HALL_ROOFS), things)


def _villas(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    """Put flat roofed houses of several wings behind walls, without gardens."""
    depth = (cell.t1 - cell.t0) / 2
    for side, t_edge in ((1.0, cell.t0), (-1.0, cell.t1)):
        s = cell.s0
        while (plot := dice.between(40, 70)) and s + plot <= cell.s1:
            yard = frame.box(s + plot / 2, t_edge + side * depth / 2, plot / 2 - 1, depth / 2 - 4)
            s += plot
            if dice.chance(0.6):
                things.grounds.append(Ground(box=yard, kind="drive", tint=dice.between(0.2, 1)))
            if dice.chance(0.12):
                continue
            half_u, half_v = yard.half_u * dice.between(0.4, 0.75), yard.half_v * 0.5
            u, v = dice.between(-1, 1), dice.between(-0.6, 0.6)
            main = yard.part(u * (yard.half_u - half_u), v * half_v, half_u, half_v)
            roofs = [Roof(box=main, kind="flat", eave_m=dice.pick((3.5, 7.0)), rise_m=0.0)]
            if dice.chance(0.6):
                wing = main.part(0.6 * half_u, -0.8 * half_v, 0.4 * half_u, 0.5 * half_v)
                roofs.append(Roof(box=wing, kind="flat", eave_m=3.5, rise_m=0.0))
            colour: RGB = dice.pick((*FLAT_ROOFS, *HALL_ROOFS[:4]))
            put_building(dice, roofs, colour, things)
