"""Whether something that is measured was learnt: refuses splits that share or touch ground.

A model that has seen a place scores better there than anywhere else, and nobody notices. Three
things are looked at, for every pair of a training and a held-out raster:

- ground: rectangles on the map, or in one file, that overlap or touch;
- duplicates: the same picture under two names, whatever its size and encoding;
- neighbours without a place: one's last row or column continues in the other's first.

The last two compare pixels, and their limits were chosen on 222,000 pairs of edges of aerial and
microscope images: of neighbouring parts of one mosaic about half are recognised, of unrelated ones
none. Some pair of a careless split is therefore found, not every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.training.sources import LabelledRaster

CONTINUES = 0.65
"""Correlation of their details from which two edges may be one…"""
STEP = 1.35
"""…if the step between them is at most so large, in steps between neighbouring rows inside."""
DUPLICATE = 0.95
"""Correlation from which two reduced copies are one picture."""
_SMOOTH_PX = 31
_DEPTH_PX = 2
_REDUCED_PX = 32
_LEAST_DEVIATION = 1e-3
"""Of values in 0…1: what is flatter has no features to compare."""


@dataclass(frozen=True, slots=True, eq=False)
class _Edge:
    """The outermost rows or columns of a raster."""

    values: NDArray[np.float64]
    details: NDArray[np.float64] | None
    """Without what is smooth, length 1; None: nothing to see."""
    step: float
    """Mean square difference to the next ones inside."""


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What is compared of one raster."""

    raster: LabelledRaster
    reduced: NDArray[np.float64] | None
    """Small copy, mean 0, length 1; None: nothing to see."""
    edges: dict[str, _Edge]
    """Top, bottom, left, right."""


def refuse_leaks(
    training: tuple[LabelledRaster, ...], held_out: tuple[LabelledRaster, ...]
) -> None:
    """Refuse held-out rasters that a training raster shows, or touches.

    Args:
        training: rasters that weights are fitted to.
        held_out: rasters that are measured.

    Raises:
        TrainingError: naming both rasters and what they share.
    """
    looks = [_look(raster) for raster in held_out]
    for raster in training if looks else ():
        mine = _look(raster)
        for other in looks:
            if raster.source is other.raster.source:
                continue  # split by blocks: training does not see the pixels of the others
            if why := _shared_ground(raster, other.raster) or _shared_look(mine, other):
                raise TrainingError(
                    f"training raster {raster.name!r} of {raster.source.name!r} and held-out "
                    f"raster {other.raster.name!r} of {other.raster.source.name!r} {why}: what is "
                    "measured must not be learnt, leave one of them out"
                )


def _shared_ground(one: LabelledRaster, other: LabelledRaster) -> str | None:
    a, b = one.place, other.place
    if a is None or b is None:
        return None
    if a.uri == b.uri:
        rows = a.window.row <= b.window.row_stop and b.window.row <= a.window.row_stop
        cols = a.window.col <= b.window.col_stop and b.window.col <= a.window.col_stop
        return "overlap or touch in one file" if rows and cols else None
    if a.lonlat is None or b.lonlat is None:
        return None
    west, south = max(a.lonlat[0], b.lonlat[0]), max(a.lonlat[1], b.lonlat[1])
    east, north = min(a.lonlat[2], b.lonlat[2]), min(a.lonlat[3], b.lonlat[3])
    return "overlap or touch on the map" if west <= east and south <= north else None


def _shared_look(one: _Look, other: _Look) -> str | None:
    if _alike(one.reduced, other.reduced) > DUPLICATE:
        return "show the same picture"
    placed = [look.raster.place for look in (one, other)]
    if all(place is not None and place.lonlat is not None for place in placed):
        return None  # the map has said that they do not touch
    for edge, opposite in (("bottom", "top"), ("right", "left")):
        for a, b in ((one, other), (other, one)):
            if _is_one(a.edges[edge], b.edges[opposite]):
                return "continue in each other"
    return None


def _is_one(a: _Edge, b: _Edge) -> bool:
    if _alike(a.details, b.details) <= CONTINUES:
        return False
    return bool(np.square(a.values - b.values).mean() <= STEP**2 * max(a.step, b.step))


def _alike(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> float:
    return 0.0 if a is None or b is None or a.shape != b.shape else float((a * b).sum())


def _look(raster: LabelledRaster) -> _Look:
    low, high = raster.scaling.low[0], raster.scaling.high[0]
    grey = np.where(raster.valid, (raster.pixels.mean(axis=0) - low) / (high - low), 0.0)
    size = min(_REDUCED_PX, *grey.shape)
    reduced = np.stack(
        [
            np.stack([block.mean() for block in np.array_split(rows, size, axis=1)])
            for rows in np.array_split(grey, size, axis=0)
        ]
    )
    sides = {"top": grey, "bottom": grey[::-1], "left": grey.T, "right": grey.T[::-1]}
    return _Look(
        raster,
        _unit(reduced - reduced.mean()),
        {name: _edge(rows) for name, rows in sides.items()},
    )


def _edge(rows: NDArray[np.float64]) -> _Edge:
    values = rows[:_DEPTH_PX].mean(axis=0)
    inside = rows[_DEPTH_PX : 2 * _DEPTH_PX].mean(axis=0) if len(rows) > _DEPTH_PX else values
    return _Edge(
        values,
        _unit(values - ndimage.uniform_filter1d(values, _SMOOTH_PX)),
        float(np.square(values - inside).mean()),
    )


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if values.std() < _LEAST_DEVIATION:
        return None
    unit: NDArray[np.float64] = values / np.sqrt((values**2).sum())
    return unit
