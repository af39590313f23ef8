"""What a synthetic suburb consists of: records, and the dice that everything is drawn from.

All lengths are pixels of the finished scene (x = column, y = row, corners on integers) unless a
name ends in `_m`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from shapely import LineString, Polygon

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
RGB = tuple[float, float, float]
"""Reflectance, 0…1."""


class Dice:
    """The only source of chance of one drawing."""

    def __init__(self, seed: int, stream: int) -> None:
        """Start stream number `stream` of `seed`; streams do not disturb one another."""
        self.rng = np.random.Generator(np.random.PCG64([seed, stream]))

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return float(self.rng.random()) < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one item, all equally likely."""
        return items[int(self.rng.random() * len(items))]


class Box(NamedTuple):
    """A rectangle in any direction."""

    x: float
    y: float
    cos: float
    sin: float
    half_u: float
    half_v: float

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Return (x, y) of a point given along the rectangle's own axes, from its centre."""
        return self.x + u * self.cos - v * self.sin, self.y + u * self.sin + v * self.cos

    def part(self, u: float, v: float, half_u: float, half_v: float) -> Box:
        """Return a rectangle with the same axes, centred at (u, v)."""
        return Box(*self.at(u, v), self.cos, self.sin, half_u, half_v)

    def turned(self) -> Box:
        """Return the same rectangle with u and v exchanged."""
        return Box(self.x, self.y, -self.sin, self.cos, self.half_v, self.half_u)

    def polygon(self) -> Polygon:
        """Return the outline."""
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return Polygon([self.at(i * self.half_u, j * self.half_v) for i, j in signs])


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """A rectangle of roof; its ridge runs along u."""

    box: Box
    kind: str
    """`gable`, `hip` or `flat`."""
    eave_m: float
    rise_m: float
    """Ridge above eave."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Building:
    """One building: the union of its roofs."""

    roofs: tuple[Roof, ...]
    colour: RGB
    fittings: tuple[tuple[Box, str], ...]
    """(rectangle, kind) of chimneys, skylights, solar panels and air conditioners."""
    polygon: Polygon


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Road:
    """One road; the carriageway is all that lies within half its width of the centreline."""

    centreline: LineString
    width: float
    polygon: Polygon


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A rectangle of ground cover."""

    box: Box
    kind: str
    """`sand`, `lawn`, `field`, `wood`, `paving`, `drive` or `pool`."""
    tint: float
    """0…1: from dry to fresh, from dark to light."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One crown."""

    x: float
    y: float
    radius: float
    height_m: float
    tint: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """All things of one scene."""

    height: int
    width: int
    roads: tuple[Road, ...]
    grounds: tuple[Ground, ...]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    cars: tuple[tuple[Box, RGB], ...]
    corner: Box
    """The rotated footprint of the flight: pixels with u < 0 or v < 0 hold no data."""


class Frame(NamedTuple):
    """The warped grid: s runs along the streets, t across them, both from the scene's centre."""

    x: float
    y: float
    angle: float
    bends: tuple[tuple[float, float, float], ...]
    """(amplitude, wavelength, phase) of the warp of s and of t."""

    def at(self, s: float, t: float) -> tuple[float, float]:
        """Return (x, y) of a point of the grid."""
        (a, length_a, phase_a), (b, length_b, phase_b) = self.bends
        u = s + a * math.sin(t / length_a * math.tau + phase_a)
        v = t + b * math.sin(s / length_b * math.tau + phase_b)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return round(self.x + u * cos - v * sin, 4), round(self.y + u * sin + v * cos, 4)

    def box(self, s: float, t: float, half_s: float, half_t: float) -> Box:
        """Return a rectangle centred at (s, t) that runs along the street there."""
        (x0, y0), (x1, y1) = self.at(s - 2, t), self.at(s + 2, t)
        length = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
        cos, sin = round((x1 - x0) / length, 6), round((y1 - y0) / length, 6)
        return Box(*self.at(s, t), cos, sin, half_s, half_t)


class Cell(NamedTuple):
    """One block between four streets: the ends of its plots along s and t."""

    s0: float
    s1: float
    t0: float
    t1: float


class Things(NamedTuple):
    """What has been placed so far."""

    grounds: list[Ground]
    buildings: list[Building]
    trees: list[Tree]
    cars: list[tuple[Box, RGB]]
