"""The fields that a scene is painted on, their noise, and how a rectangle finds its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sample_data.suburb import Box, Dice

Field: TypeAlias = NDArray[np.float32]
SCALE = 2
"""Drawn pixels per final pixel, along each axis."""


@dataclass(kw_only=True)
class Canvas:
    """What is painted: float32 fields of (height, width) at drawing resolution, but `albedo`."""

    albedo: Field
    """(3, height, width), reflectance 0…1."""
    relief: Field
    """Height above ground, metres."""
    facing: Field
    """Sunlight on the surface relative to level ground, ≥ 0."""
    grain: Field
    """Noise −1…1 from pixel to pixel."""
    clumps: Field
    """Noise −1…1 of about a metre."""
    patches: Field
    """Noise −1…1 of tens of metres."""

    def near(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Return the (rows, cols) within `reach` final px of a point, None if out of sight."""
        height, width = self.relief.shape
        rows = slice(
            max(0, math.floor((y - reach) * SCALE)), min(height, math.ceil((y + reach) * SCALE))
        )
        cols = slice(
            max(0, math.floor((x - reach) * SCALE)), min(width, math.ceil((x + reach) * SCALE))
        )
        return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None

    def local(
        self, box: Box, spare: float = 1.0
    ) -> tuple[tuple[slice, slice], Field, Field] | None:
        """Return the pixels around a rectangle and their (u, v) along its axes, final px."""
        at = self.near(box.x, box.y, box.half_u + box.half_v + spare)
        if at is None:
            return None
        y, x = centres(at)
        dx, dy = x - np.float32(box.x), y - np.float32(box.y)
        cos, sin = np.float32(box.cos), np.float32(box.sin)
        return at, dx * cos + dy * sin, dy * cos - dx * sin

    def colour(
        self, at: tuple[slice, slice], where: NDArray[np.bool_], rgb: Sequence[float | Field]
    ) -> None:
        """Set the reflectance of some pixels; `rgb` holds three numbers or fields."""
        for band, value in enumerate(rgb):
            np.copyto(self.albedo[band][at], np.asarray(value, np.float32), where=where)


def blank(dice: Dice, height: int, width: int) -> Canvas:
    """Return level meadow, height × width drawn pixels."""
    grain = dice.rng.random((height, width), np.float32) * 2 - 1
    clumps = (_noise(dice, height, width, 3) + _noise(dice, height, width, 7)) * np.float32(0.6)
    patches = _noise(dice, height, width, 90) * np.float32(0.6) + _noise(
        dice, height, width, 31
    ) * np.float32(0.4)
    dry = np.clip(patches * np.float32(0.9) + np.float32(0.45), 0, 1)
    texture = 1 + np.float32(0.10) * clumps + np.float32(0.06) * grain
    albedo = np.stack([
        (np.float32(fresh) + dry * np.float32(dead - fresh)) * texture
        for fresh, dead in ((0.26, 0.44), (0.315, 0.41), (0.19, 0.30))
    ])  # fmt: skip
    return Canvas(
        albedo=albedo, grain=grain, clumps=clumps, patches=patches,
        relief=np.zeros((height, width), np.float32), facing=np.ones((height, width), np.float32),
    )  # fmt: skip


def _noise(dice: Dice, height: int, width: int, step_px: int) -> Field:
    """Return smooth noise −1…1 with one random value every `step_px` drawn pixels."""
    rows, cols = height // step_px + 2, width // step_px + 2
    lattice = dice.rng.random((rows, cols), np.float32) * 2 - 1
    for axis, length in ((0, height), (1, width)):
        at = np.arange(length, dtype=np.float32) / np.float32(step_px)
        low = at.astype(np.int64)
        part = at - low
        part = part * part * (3 - 2 * part)
        part = part[:, None] if axis == 0 else part[None, :]
        a, b = np.take(lattice, low, axis=axis), np.take(lattice, low + 1, axis=axis)
        lattice = a + (b - a) * part
    return lattice


def centres(at: tuple[slice, slice]) -> tuple[Field, Field]:
    """Return y (rows, 1) and x (1, cols) of pixel centres, final px."""
    y = (np.arange(at[0].start, at[0].stop, dtype=np.float32) + np.float32(0.5)) / SCALE
    x = (np.arange(at[1].start, at[1].stop, dtype=np.float32) + np.float32(0.5)) / SCALE
    return y[:, None], x[None, :]
