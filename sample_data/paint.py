"""Turn a layout into pixels: colour, relief, sunlight, cast shadows, camera.

Everything is drawn at twice the final resolution in flat reflectance plus a height field in metres;
the sun then shades the slopes and a march towards it finds the shadows; averaging, a narrow blur
and noise stand for the camera. Array arithmetic is limited to operations that IEEE 754 rounds
exactly (no exp, sin or pow on arrays, no sums), so that every machine draws the same pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sample_data.canvas import SCALE, Canvas, Field, blank, centres
from sample_data.suburb import RGB, Box, Building, Dice, Ground, Layout, Road, Roof, Tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

GSD_M = 0.5
"""Ground size of a final pixel, metres."""
SUN = (-0.52, 0.42)
"""Way towards the sun per metre of height (x right, y down): south-west, 56° high."""
SKY = (0.20, 0.24, 0.31)
"""Share of the light that reaches shadows, per colour: bluer than the sun's."""


def paint(layout: Layout, seed: int) -> NDArray[np.uint8]:
    """Draw a layout.

    Returns:
        uint8 (3, height, width): red, green, blue; never 0, so that 0 can stand for nodata.
    """
    dice = Dice(seed, 1)
    canvas = blank(dice, layout.height * SCALE, layout.width * SCALE)
    for kind in ("sand", "lawn", "field", "wood", "paving", "drive", "pool"):
        for ground in layout.grounds:
            if ground.kind == kind:
                _lay(canvas, ground)
    _pave(canvas, layout.roads)
    for box, rgb in layout.cars:
        _park(canvas, box, rgb)
    for building in layout.buildings:
        for roof in building.roofs:
            _raise(canvas, roof, building)
        for box, kind in building.fittings:
            _fit(canvas, box, kind)
    for tree in layout.trees:
        _plant(canvas, tree, dice)
    return _expose(canvas, dice)


def _lay(canvas: Canvas, ground: Ground) -> None:
    spot = canvas.local(ground.box)
    if spot is None:
        return
    at, u, v = spot
    wobble = canvas.clumps[at] * np.float32(0.7)
    inside = (np.abs(u) + wobble < ground.box.half_u) & (np.abs(v) + wobble < ground.box.half_v)
    clumps, grain, patches = canvas.clumps[at], canvas.grain[at], canvas.patches[at]
    tint = ground.tint
    if ground.kind in ("drive", "paving"):
        base = (0.40 if ground.kind == "drive" else 0.33) + 0.16 * tint
        shade = np.float32(base) + np.float32(0.03) * (clumps + grain) + np.float32(0.05) * patches
        if ground.kind == "paving":  # bay markings of the two rows of parked cars
            bay = np.abs(u - np.floor(u / np.float32(5.6)) * np.float32(5.6)) < 0.3
            lines = bay & (v > 3 - ground.box.half_v) & (v < 29 - ground.box.half_v)
            shade = np.where(
                lines & (np.abs(v + ground.box.half_v - 16) > 3), shade + np.float32(0.2), shade
            )
        canvas.colour(at, inside, (shade, shade * np.float32(0.985), shade * np.float32(0.95)))
        return
    if ground.kind == "pool":
        canvas.colour(at, inside, (0.16, 0.44, 0.50))
        return
    if ground.kind == "field":
        furrow = np.abs(v - np.floor(v / np.float32(4.2)) * np.float32(4.2) - np.float32(2.1))
        texture = np.float32(0.9) + furrow * np.float32(0.08) + np.float32(0.06) * clumps
        dry, fresh = (0.50, 0.42, 0.29), (0.33, 0.40, 0.19)
    else:
        texture = (
            1 + np.float32(0.14) * clumps + np.float32(0.06) * grain + np.float32(0.22) * patches
        )
        dry, fresh = ((0.42, 0.40, 0.27), (0.255, 0.325, 0.175))
        if ground.kind == "wood":
            dry, fresh = (0.24, 0.26, 0.15), (0.20, 0.25, 0.13)
        elif ground.kind == "sand":
            dry, fresh = (0.80, 0.78, 0.72), (0.50, 0.44, 0.36)
    rgb = [texture * np.float32(a + (b - a) * tint) for a, b in zip(dry, fresh, strict=True)]
    canvas.colour(at, inside, rgb)


def _pave(canvas: Canvas, roads: tuple[Road, ...]) -> None:
    """Paint all roads at once, so that junctions join: pavement, asphalt, worn tracks, markings."""
    height, width = canvas.relief.shape
    edge = np.full((height, width), np.float32(1e3))
    """Distance outside the nearest carriageway, final px; negative inside."""
    marks = np.zeros((height, width), np.float32)
    covers = np.zeros((height, width), np.uint8)
    tone = np.zeros((height, width), np.float32)
    for number, road in enumerate(roads):
        across = np.full((height, width), np.float32(1e3))
        along = np.zeros((height, width), np.float32)
        bounds = _measure(canvas, road, across, along)
        if bounds is None:
            continue
        off, reach = across[bounds], np.float32(road.width / 2)
        inside = off < reach
        np.minimum(edge[bounds], off - reach, out=edge[bounds])
        covers[bounds] += inside
        tone[bounds][inside] = np.float32(0.035 * ((number * 7) % 5 - 2))
        wear = np.abs(off - reach / 2) < reach / 6
        tone[bounds][inside & wear] += np.float32(0.018)
        if road.width > 18:
            along = along[bounds]
            dash = along - np.floor(along / 24) * 24 < 11
            middle = (off < np.float32(0.45)) & dash
            marks[bounds][middle | (np.abs(off - reach + np.float32(1.4)) < np.float32(0.3))] = 1
    everywhere = (slice(0, height), slice(0, width))
    kerb = (edge > 0) & (edge < 3.4)
    slab = np.float32(0.47) + np.float32(0.03) * canvas.clumps + np.float32(0.02) * canvas.grain
    canvas.colour(everywhere, kerb, (slab, slab * np.float32(0.98), slab * np.float32(0.94)))
    asphalt = np.float32(0.30) + tone + np.float32(0.022) * canvas.clumps
    asphalt += np.float32(0.022) * canvas.grain + np.float32(0.045) * canvas.patches
    asphalt = np.where((marks > 0) & (covers == 1), np.float32(0.68), asphalt)
    asphalt = np.where(edge > np.float32(-0.5), asphalt + np.float32(0.1), asphalt)
    canvas.colour(
        everywhere, edge < 0, (asphalt, asphalt * np.float32(1.0), asphalt * np.float32(1.01))
    )


def _measure(canvas: Canvas, road: Road, across: Field, along: Field) -> tuple[slice, slice] | None:
    """Fill in the distance to a road's centreline and the distance driven, final px.

    Returns:
        The (rows, cols) that hold the road, or None.
    """
    points = np.asarray(road.centreline.coords)
    reach, driven = road.width / 2 + 4, 0.0
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
        cos, sin = (x1 - x0) / length, (y1 - y0) / length
        box = Box((x0 + x1) / 2, (y0 + y1) / 2, cos, sin, length / 2, 0.0)
        spot = canvas.local(box, reach)
        if spot is not None:
            at, u, v = spot
            past = np.maximum(np.abs(u) - np.float32(length / 2), 0)
            off = np.sqrt(v * v + past * past)
            nearer = off < across[at]
            across[at][nearer] = off[nearer]
            along[at][nearer] = (u + np.float32(driven + length / 2))[nearer]
            boxes.append(at)
        driven += length
    if not boxes:
        return None
    rows, cols = zip(*boxes, strict=True)
    return (
        slice(min(r.start for r in rows), max(r.stop for r in rows)),
        slice(min(c.start for c in cols), max(c.stop for c in cols)),
    )


def _park(canvas: Canvas, box: Box, rgb: RGB) -> None:
    spot = canvas.local(box)
    if spot is None:
        return
    at, u, v = spot
    inside = (np.abs(u) < box.half_u) & (np.abs(v) < box.half_v)
    glass = inside & (np.abs(np.abs(u + np.float32(0.4)) - np.float32(2.0)) < 0.6)
    canvas.colour(at, inside, rgb)
    canvas.colour(at, glass, (0.13, 0.15, 0.18))
    np.copyto(canvas.relief[at], np.float32(1.4), where=inside)


def _raise(canvas: Canvas, roof: Roof, building: Building) -> None:
    box = roof.box
    spot = canvas.local(box)
    if spot is None:
        return
    at, u, v = spot
    to_eave, to_end = np.float32(box.half_v) - np.abs(v), np.float32(box.half_u) - np.abs(u)
    inside = (to_eave >= 0) & (to_end >= 0)
    if roof.kind == "flat":
        wall = np.minimum(to_eave, to_end) < 0.75
        top = np.where(wall, np.float32(roof.eave_m + 0.5), np.float32(roof.eave_m))
        facing, course = np.ones_like(u), np.where(wall, np.float32(0.09), np.float32(0))
    else:
        over_end = (to_end < to_eave) if roof.kind == "hip" else np.zeros_like(inside)
        climb = np.where(over_end, to_end, to_eave)
        top = np.float32(roof.eave_m) + climb * np.float32(roof.rise_m / box.half_v)
        slope = roof.rise_m / (box.half_v * GSD_M)
        down_u = np.where(over_end, np.copysign(np.float32(slope), u), np.float32(0))
        down_v = np.where(over_end, np.float32(0), np.copysign(np.float32(slope), v))
        facing = _lit(box, down_u, down_v)
        course = np.where(climb - np.floor(climb) < 0.5, np.float32(0.012), np.float32(-0.012))
        course = np.where(box.half_v - climb < 0.45, np.float32(0.05), course)
    higher = inside & (top > canvas.relief[at])
    texture = (
        1 + course + np.float32(0.05) * canvas.clumps[at] + np.float32(0.035) * canvas.grain[at]
    )
    texture += np.float32(0.06) * canvas.patches[at]
    canvas.colour(at, higher, [texture * np.float32(value) for value in building.colour])
    np.copyto(canvas.facing[at], facing, where=higher)
    np.copyto(canvas.relief[at], top, where=higher)


def _lit(box: Box, down_u: Field, down_v: Field) -> Field:
    """Return the sunlight on slopes that fall by (down_u, down_v) metres a metre, level = 1."""
    sun_u = np.float32(SUN[0] * box.cos + SUN[1] * box.sin)
    sun_v = np.float32(SUN[1] * box.cos - SUN[0] * box.sin)
    length = np.sqrt(1 + down_u * down_u + down_v * down_v)
    return np.maximum((1 + down_u * sun_u + down_v * sun_v) / length, 0)


def _fit(canvas: Canvas, box: Box, kind: str) -> None:
    spot = canvas.local(box)
    if spot is None:
        return
    at, u, v = spot
    inside = (np.abs(u) < box.half_u) & (np.abs(v) < box.half_v)
    if kind == "panels":
        gap = np.minimum(np.abs(u - np.floor(u / 2) * 2), np.abs(v - np.floor(v / 2) * 2)) < 0.3
        canvas.colour(at, inside, (0.10, 0.13, 0.22))
        canvas.colour(at, inside & gap, (0.22, 0.25, 0.33))
        return
    canvas.colour(at, inside, (0.62, 0.62, 0.62) if kind == "cooler" else (0.42, 0.30, 0.26))
    canvas.relief[at] += np.where(inside, np.float32(1.1), np.float32(0))


def _plant(canvas: Canvas, tree: Tree, dice: Dice) -> None:
    """Draw a crown as a heap of overlapping domes."""
    domes = 5 if tree.radius > 3 else 1
    for i in range(domes):
        radius = tree.radius * (0.72 if i == 0 else dice.between(0.36, 0.6))
        swing = tree.radius - radius if i else 0.0
        x, y = (centre + swing * dice.between(-0.95, 0.95) for centre in (tree.x, tree.y))
        at = canvas.near(x, y, radius + 0.5)
        if at is None:
            continue
        rows, cols = centres(at)
        dx, dy = (
            (cols - np.float32(x)) / np.float32(radius),
            (rows - np.float32(y)) / np.float32(radius),
        )
        ragged = np.float32(0.28) * canvas.clumps[at] + np.float32(0.1) * canvas.grain[at]
        dome = 1 - (dx * dx + dy * dy) + ragged
        up = np.sqrt(np.maximum(dome, 0))
        top = np.float32(tree.height_m * (0.45 if i else 0.5)) * (1 + up)
        where = (dome > 0) & (top > canvas.relief[at])
        steep = np.maximum(up, np.float32(0.35))
        lit = (up + (dx * np.float32(SUN[0]) + dy * np.float32(SUN[1])) * np.float32(0.9)) / steep
        shade = np.clip(
            np.float32(0.45) + np.float32(0.5) * lit, np.float32(0.25), np.float32(1.25)
        )
        leaf = 1 + np.float32(0.22) * canvas.clumps[at] + np.float32(0.14) * canvas.grain[at]
        base = ((0.13, 0.19, 0.10), (0.24, 0.28, 0.14))
        rgb = [leaf * np.float32(a + (b - a) * tree.tint) for a, b in zip(*base, strict=True)]
        canvas.colour(at, where, rgb)
        np.copyto(canvas.facing[at], shade, where=where)
        np.copyto(canvas.relief[at], top, where=where)


def _shadows(canvas: Canvas) -> Field:
    """Return 0 (sun) … 1 (shadow) by marching from every pixel towards the sun."""
    relief = canvas.relief
    height, width = relief.shape
    blocked = np.zeros_like(relief)
    per_step_m = GSD_M / SCALE / max(abs(SUN[0]), abs(SUN[1]))
    tallest_m = float(relief.max())
    for step in range(1, math.ceil(tallest_m / per_step_m) + 1):
        rise = np.float32(step * per_step_m)
        dx = round(step * SUN[0] / max(abs(SUN[0]), abs(SUN[1])))
        dy = round(step * SUN[1] / max(abs(SUN[0]), abs(SUN[1])))
        here = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx)))
        over = relief[there] - relief[here] - rise
        np.maximum(blocked[here], over, out=blocked[here])
    return np.minimum(blocked * np.float32(2.5), 1)


def _expose(canvas: Canvas, dice: Dice) -> NDArray[np.uint8]:
    """Light the scene and photograph it."""
    sun = canvas.facing * (1 - _shadows(canvas))
    shape = (canvas.relief.shape[0] // SCALE, SCALE, canvas.relief.shape[1] // SCALE, SCALE)
    bands = []
    for band, sky in enumerate(SKY):
        lit = canvas.albedo[band] * (np.float32(sky) + np.float32(1 - sky) * sun)
        cells = lit.reshape(shape)
        mean = (cells[:, 0, :, 0] + cells[:, 1, :, 0] + cells[:, 0, :, 1] + cells[:, 1, :, 1]) / 4
        bands.append(_blur(mean))
    image = np.stack(bands)
    haze = np.array([0.030, 0.036, 0.046], np.float32)[:, None, None]
    image = np.sqrt(image * np.float32(0.95) + haze) * np.float32(1.22) - np.float32(0.21)
    shot = dice.rng.random(image.shape[1:], np.float32) + dice.rng.random(
        image.shape[1:], np.float32
    )
    image = image * 255 + (shot - 1) * np.float32(1.2)
    return np.clip(image + np.float32(0.5), 1, 255).astype(np.uint8)


def _blur(field: Field) -> Field:
    """Blur a little, as a lens does: weights 1 6 1 along each axis, edges repeated."""
    for axis, border in ((0, ((1, 1), (0, 0))), (1, ((0, 0), (1, 1)))):
        padded = np.pad(field, border, mode="edge")
        n = field.shape[axis]
        low, mid, high = (padded.take(range(k, k + n), axis=axis) for k in (0, 1, 2))
        field = (low + high + 6 * mid) / 8
    return field
