"""Fill the blocks of a town on sand: halls, malls, blocks of flats, walled villas, empty ground.

What a suburb in the green lacks: roofs as long as a block, as bright or as dull as the ground.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sample_data.plots import CAR_PAINTS, FLAT_ROOFS, put_building
from sample_data.suburb import RGB, Box, Cell, Dice, Frame, Ground, Roof, Things

if TYPE_CHECKING:
    from collections.abc import Iterator

HALL_ROOFS = (
    *((1.10, 1.10, 1.08), (1.05, 1.06, 1.06), (0.95, 0.94, 0.90), (1.00, 1.08, 1.02)),
    *((0.98, 1.02, 1.12), (0.90, 0.86, 0.80), (0.84, 0.84, 0.82), (1.02, 0.94, 1.04)),
    *((0.66, 0.66, 0.64), (0.72, 0.46, 0.34), (0.44, 0.56, 0.66), (0.48, 0.48, 0.47)),
)
"""White, cream and pale coats of sheet metal, brighter than the film can show; clay, blue, grey."""
SLAB_ROOFS = ((0.42, 0.40, 0.37), (0.50, 0.48, 0.44), (0.36, 0.35, 0.33), (0.58, 0.55, 0.50))
"""Dusty flat roofs of blocks of flats."""
_BRIGHTEST = 1.2


class Style(NamedTuple):
    """What the halls of one plot, or of a whole estate, have in common."""

    colour: RGB
    half: float
    gap: float
    kind: str
    rise_m: float
    eave_m: float


def fill_dry_block(dice: Dice, frame: Frame, cell: Cell, things: Things) -> None:
    """Put up what stands between four streets."""
    use = dice.between(0, 1)
    if use < 0.2:
        _villas(dice, frame, cell, things)
    elif use < 0.27:
        return  # bare ground
    estate = _style(dice) if use > 0.65 else None
    for plot in _plots(dice, frame, cell):
        kind = dice.between(0, 1)
        if estate is not None or kind < 0.3:
            _halls(dice, plot, estate or _style(dice), things)
        elif kind < 0.55:
            _mall(dice, plot, things)
        elif kind < 0.88:
            _slabs(dice, plot, things)
        else:  # a car park: as plain as a roof, and none
            things.grounds.append(Ground(box=plot, kind="paving", tint=dice.between(0.2, 1)))


def _style(dice: Dice) -> Style:
    kind, rise_m = dice.pick((("flat", 0.0), ("gable", 1.2), ("gable", 2.5), ("gable", 4.0)))
    half, gap = dice.between(18, 60), dice.between(5, 20)
    return Style(dice.pick(HALL_ROOFS), half, gap, kind, rise_m, dice.between(5, 10))


def _plots(dice: Dice, frame: Frame, cell: Cell) -> Iterator[Box]:
    """Yield the parts of a block, each so short that a straight rectangle fits between streets."""
    middle, half_t = (cell.t0 + cell.t1) / 2, (cell.t1 - cell.t0) / 2 - 11
    count = max(1, round((cell.s1 - cell.s0) / dice.between(130, 210)))
    length = (cell.s1 - cell.s0) / count
    for number in range(count):
        yield frame.box(cell.s0 + (number + 0.5) * length, middle, length / 2 - 4, half_t)


def _halls(dice: Dice, plot: Box, style: Style, things: Things) -> None:
    """Fill a plot with halls side by side, across it or along it."""
    if dice.chance(0.7):
        things.grounds.append(Ground(box=plot, kind="drive", tint=dice.between(0.0, 1)))
    if dice.chance(0.25):
        plot = plot.turned()
    half, shrink = min(style.half, plot.half_u - 1), dice.between(0.0, 0.3)
    at = -plot.half_u
    while at + 2 * half <= plot.half_u:
        length = plot.half_v * dice.between(0.94 - shrink, 0.95)
        if dice.chance(0.95):
            box = plot.part(at + half, 0.95 * plot.half_v - length, half, length)
            long = box if box.half_u >= box.half_v else box.turned()
            roof = Roof(box=long, kind=style.kind, eave_m=style.eave_m, rise_m=style.rise_m)
            put_building(dice, [roof], style.colour, things, _BRIGHTEST)
        _park_row(dice, plot, at + 2 * half + style.gap / 2, style.gap, things)
        at += 2 * half + style.gap


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
    put_building(dice, roofs, dice.pick(HALL_ROOFS), things, _BRIGHTEST)


def _slabs(dice: Dice, plot: Box, things: Things) -> None:
    """Put long blocks of flats, some with a wing, between parked cars on dark ground."""
    things.grounds.append(Ground(box=plot, kind="drive", tint=dice.between(-0.8, 0.4)))
    colour, half_v, gap = dice.pick(SLAB_ROOFS), dice.between(12, 18), dice.between(26, 44)
    v = -plot.half_v + half_v + 4
    while v + half_v <= plot.half_v:
        half_u = plot.half_u * dice.between(0.55, 0.92)
        u = dice.between(-1, 1) * (plot.half_u - half_u)
        main = plot.part(u, v, half_u, half_v)
        roofs = [Roof(box=main, kind="flat", eave_m=dice.between(9, 16), rise_m=0.0)]
        if dice.chance(0.4):
            wing = main.part(dice.pick((-1.0, 1.0)) * (half_u - 12), half_v, 12, 0.45 * gap)
            roofs.append(Roof(box=wing, kind="flat", eave_m=roofs[0].eave_m - 3, rise_m=0.0))
        put_building(dice, roofs, colour, things)
        _park_row(dice, plot.turned(), v + half_v + gap / 2, gap, things)
        v += 2 * half_v + gap


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
            put_building(dice, roofs, colour, things, _BRIGHTEST)
