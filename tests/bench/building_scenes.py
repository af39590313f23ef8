"""Building scenes with exact truth, for the bench and the tests: seeded and drawn here.

`draw` places buildings of many kinds on a grid; `lay_out` does so with real footprints. `observe`
turns truth into what a network delivers: a probability that is blurred at the walls and wobbles,
and the mask above one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter
from shapely import affinity
from shapely.geometry import Point, Polygon, box

KINDS = (
    "rectangle", "L", "T", "U", "Z", "courtyard", "chamfer", "wing 45", "trapezoid", "free quad",
    "hexagon", "octagon", "tank", "oval", "half round", "shed",
)  # fmt: skip
TOWN = ("house", "house", "house", "L house", "shed")
"""What stands in a dense town."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Buildings and the scene that shows them."""

    polygons: list[Polygon]
    """Pixel coordinates, no two overlap."""
    kinds: list[str]
    """Kind of each polygon."""
    shape: tuple[int, int]
    """(height, width), px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What a network would deliver."""

    exact: np.ndarray
    """uint8 (height, width): 1 where the pixel centre lies in a building."""
    probability: np.ndarray
    """uint8 (height, width): 255 = 1; blurred, with correlated noise."""
    noisy: np.ndarray
    """uint8 (height, width): 1 where the probability is above one half."""


def one(kind: str, rng: np.random.Generator) -> Polygon:
    """Draw one building of a kind, metres, centred on the origin, not rotated."""
    w, h = rng.uniform(7, 12, 2) if "house" in kind else rng.uniform(9, 24, 2)
    rect = box(-w / 2, -h / 2, w / 2, h / 2)
    a, b = rng.uniform(0.35, 0.6, 2)
    if kind in ("L", "L house"):
        return rect.difference(box(w * (0.5 - a), h * (0.5 - b), w, h))
    if kind == "T":
        w = max(w, 14)
        stem = rng.uniform(0.3, 0.45) * w
        bar = rng.uniform(0.35, 0.5) * h
        return box(-w / 2, h / 2 - bar, w / 2, h / 2).union(box(-stem / 2, -h / 2, stem / 2, h / 2))
    if kind == "U":
        w, h = max(w, 15), max(h, 12)
        rect = box(-w / 2, -h / 2, w / 2, h / 2)
        return rect.difference(box(-w / 6, -h / 2 + 0.45 * h, w / 6, h))
    if kind == "Z":
        w, h = max(w, 16), max(h, 12)
        return box(-w / 2, -h / 2, w * 0.1, 0.1 * h).union(box(-w * 0.1, -0.1 * h, w / 2, h / 2))
    if kind == "courtyard":
        w, h = max(w, 16), max(h, 16)
        rect = box(-w / 2, -h / 2, w / 2, h / 2)
        return rect.difference(box(-w / 5, -h / 5, w / 5, h / 5))
    if kind == "chamfer":
        c = rng.uniform(0.3, 0.5) * min(w, h)
        return rect.difference(Polygon([(w / 2 - c, h / 2), (w / 2, h / 2), (w / 2, h / 2 - c)]))
    if kind == "wing 45":
        wing = affinity.rotate(box(0, -4, rng.uniform(13, 18), 4), 45, origin=(0, 0))
        return box(-14, -5, 4, 5).union(wing)
    if kind == "trapezoid":
        s = rng.uniform(0.25, 0.45) * w
        return Polygon([(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2 - s, h / 2), (-w / 2, h / 2)])
    if kind == "free quad":
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * [w / 2, h / 2]
        return Polygon(corners + rng.uniform(-0.14, 0.14, (4, 2)) * min(w, h))
    if kind in ("hexagon", "octagon", "tank", "oval", "half round"):
        return one_round(kind, rng)
    if kind == "shed":
        w, h = 4, rng.uniform(4, 6)
        return box(-w / 2, -h / 2, w / 2, h / 2)
    return rect


def one_round(kind: str, rng: np.random.Generator) -> Polygon:
    """Draw one building with more than four sides around, or none."""
    if kind == "oval":
        return affinity.scale(Point(0, 0).buffer(1, quad_segs=32), *rng.uniform((8, 5), (16, 8)))
    if kind == "half round":
        r = rng.uniform(5, 9)
        return box(-15, -r, 5, r).union(Point(5, 0).buffer(r, quad_segs=32))
    n = {"hexagon": 6, "octagon": 8, "tank": 180}[kind]
    r = rng.uniform(3.5, 12) if kind == "tank" else rng.uniform(7, 12)
    t = np.arange(n) / n * 2 * np.pi
    return Polygon(np.stack([r * np.cos(t), r * np.sin(t)], axis=1))


def row_of_houses(rng: np.random.Generator) -> list[Polygon]:
    """Draw a row of 3 to 6 houses that share walls, metres, with stepped fronts."""
    houses, x = [], 0.0
    for _ in range(int(rng.integers(3, 7))):
        w = rng.uniform(6, 10)
        front = rng.choice([0.0, 0.0, rng.uniform(-2, 2)])
        houses.append(box(x, front, x + w, front + rng.uniform(9, 13)))
        x += w
    return [affinity.translate(house, -x / 2, -5) for house in houses]


def draw(
    seed: int,
    n_each: int = 40,
    gsd_m: float = 0.5,
    kinds: tuple[str, ...] = KINDS,
    step_m: float = 44.0,
) -> Truth:
    """Draw buildings of some kinds, every rotation, on a grid; `row`: a row of touching houses."""
    rng = np.random.default_rng(seed)
    kinds = [k for k in kinds for _ in range(n_each)]
    step = 100.0 if "row" in kinds else step_m
    across = int(np.ceil(np.sqrt(len(kinds))))
    polygons, names = [], []
    for i, kind in enumerate(kinds):
        group = row_of_houses(rng) if kind == "row" else [one(kind, rng)]
        turn = rng.uniform(0, 90)
        centre = (np.array(divmod(i, across)) + 0.5) * step + rng.uniform(-2, 2, 2)
        for part in group:
            part = affinity.rotate(part, turn, origin=(0, 0))
            part = affinity.translate(part, *centre)
            polygons.append(affinity.scale(part, 1 / gsd_m, 1 / gsd_m, origin=(0, 0)))
            names.append(kind)
    side = int(np.ceil(across * step / gsd_m))
    return Truth(polygons=polygons, kinds=names, shape=(side, side))


def observe(truth: Truth, seed: int, party_wall: float = 0.0) -> Observation:
    """Rasterise, blur and wobble.

    Args:
        truth: the buildings.
        seed: of the wobble.
        party_wall: how much the network doubts the walls between touching houses, 0…1.
    """
    rng = np.random.default_rng(seed)
    exact = _burn(truth.polygons, truth.shape)
    blur = gaussian_filter(exact.astype(np.float32), 2.0)
    if party_wall:
        walls = [
            a.buffer(0.75).intersection(b.buffer(0.75))
            for a, b in zip(truth.polygons, truth.polygons[1:], strict=False)
            if a.distance(b) < 0.1
        ]
        seam = _burn(walls, truth.shape)
        blur -= party_wall * np.minimum(1, 2.5 * gaussian_filter(seam.astype(np.float32), 1.2))
    wobble = gaussian_filter(rng.standard_normal(truth.shape).astype(np.float32), 2.5)
    probability = np.clip(blur + 0.12 * wobble / wobble.std(), 0, 1)
    quantised = np.rint(probability * 255).astype(np.uint8)
    return Observation(exact=exact, probability=quantised, noisy=(quantised > 127).astype(np.uint8))


def _burn(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    if not polygons:
        return np.zeros(shape, np.uint8)
    return rasterize([(p, 1) for p in polygons], out_shape=shape, dtype="uint8")


def lay_out(polygons: list[Polygon]) -> Truth:
    """Take real footprints, in pixels, overlaps removed, moved to the origin."""
    polygons = [p for p in polygons if p.is_valid and p.area > 30]
    tree = shapely.STRtree(polygons)
    i, j = tree.query(polygons, predicate="intersects")
    drop = {
        max(a, b)
        for a, b in zip(i, j, strict=True)
        if a != b and polygons[a].intersection(polygons[b]).area > 1
    }
    polygons = [p for k, p in enumerate(polygons) if k not in drop]
    x0, y0, x1, y1 = shapely.total_bounds(polygons)
    moved = [affinity.translate(p, 20 - x0, 20 - y0) for p in polygons]
    return Truth(
        polygons=moved, kinds=["real"] * len(moved), shape=(int(y1 - y0) + 40, int(x1 - x0) + 40)
    )


def set_apart(truth: Truth, gap_px: int = 24, width_px: int = 4000) -> Truth:
    """Lay the same buildings out anew, in rows, so that none touches another."""
    sizes = shapely.bounds(truth.polygons)
    order = np.argsort(sizes[:, 3] - sizes[:, 1], kind="stable")
    moved, x, y, height = [], 0.0, 0.0, 0.0
    for x0, y0, x1, y1 in sizes[order]:
        if x + x1 - x0 + 2 * gap_px > width_px:
            x, y, height = 0.0, y + height + gap_px, 0.0
        moved.append((x + gap_px - x0, y + gap_px - y0))
        x, height = x + x1 - x0 + gap_px, max(height, y1 - y0)
    polygons = [
        affinity.translate(truth.polygons[k], *step) for k, step in zip(order, moved, strict=True)
    ]
    return Truth(
        polygons=polygons,
        kinds=[truth.kinds[k] for k in order],
        shape=(int(y + height) + 2 * gap_px, width_px + int(np.ptp(sizes[:, ::2], axis=1).max())),
    )
