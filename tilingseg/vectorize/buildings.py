"""Traced shapes become building footprints: the stream, and the order of the steps for one shape.

A shape is taken apart where buildings touch (`instances`), every part is fitted (`footprint`), and
walls step back where they would cross into a neighbour (`clearance`). All of it looks only at the
shape and the pixels around it, so shapes can be treated one by one, in any process, in bounded
memory, and a footprint does not depend on what else is in the scene or on how the scene was cut.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, get_args

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize

from tilingseg.errors import VectorizeError
from tilingseg.records import Feature
from tilingseg.vectorize.clearance import barred_pixels, fill, keep_clear
from tilingseg.vectorize.cuts import dissolve_overlaps
from tilingseg.vectorize.footprint import Part, Regularize, begun_at_the_top, fit_footprints
from tilingseg.vectorize.instances import separate
from tilingseg.vectorize.outlines import Probability
from tilingseg.vectorize.processes import in_processes
from tilingseg.vectorize.surroundings import BlockReader, Surroundings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from shapely import Polygon

    from tilingseg.records import Georef, MaskReader, Shape

_BATCH = 256
"""Shapes that travel to a worker together."""
_FEW_BATCHES = 4
"""Batches that the calling process does before it asks others for help."""
_MARGIN_PX = 12
"""Pixels looked at around a shape: more than twice what a footprint may leave it, so that what
lies farther away cannot meet it."""

_SQUARE = 1e-6
"""Relative difference between the sides of a pixel that no building shows: rounding of the map
projection alone shall not decide between two walls that fit as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildingOptions:
    """How footprints are made."""

    regularize: Regularize = "auto"
    """`auto`: right angles, with diagonals, free directions and ovals where the outline asks for
    them; `strict`: right angles alone, and the outline where they cannot follow it; `off`: the
    traced outline without the steps of pixels."""
    threshold: float = 0.5
    """Probability from which a pixel belongs to the class, in (0, 1)."""
    min_area_m2: float = 4.0
    """Smaller shapes are left out, m² on the ground (px² where the pixel size is not known)."""
    min_hole_m2: float = 2.0
    """Smaller courtyards are filled, m² on the ground (px² where the pixel size is not known)."""
    separate: bool = True
    """Whether touching buildings are told apart."""
    workers: int = 1
    """Processes; 1: the calling one. The footprints do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            VectorizeError: naming the value and what it must be.
        """
        if self.regularize not in get_args(Regularize):
            raise VectorizeError(f"regularize {self.regularize!r} is not one of off, auto, strict")
        if not 0 < self.threshold < 1:
            raise VectorizeError(f"threshold must lie between 0 and 1, got {self.threshold}")
        if min(self.min_area_m2, self.min_hole_m2) < 0:
            raise VectorizeError(
                f"areas must be 0 or more, got {self.min_area_m2} and {self.min_hole_m2} m²"
            )
        if self.workers < 1:
            raise VectorizeError(f"workers must be 1 or more, got {self.workers}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """One shape on its way to a worker."""

    shape: Shape
    surroundings: Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What a worker needs to know of the scene."""

    scale: tuple[float, float]
    """Relative size of a pixel along x and y, with an area of 1."""
    pixel_m2: float
    """Area of a pixel on the ground, m²; 1 where it is not known."""


def footprints(
    shapes: Iterable[Shape],
    mask: MaskReader,
    options: BuildingOptions | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Feature]:
    """Turn the traced shapes of one class into building footprints.

    Args:
        shapes: of one mask value, in the order of `trace`.
        mask: that they were traced from.
        options: how footprints are made.
        left_out: counts, with the reason, the shapes that give no footprint.

    Yields:
        Footprints in the order of their shapes: valid polygons in pixel coordinates of which no two
        overlap.
    """
    options = options or BuildingOptions()
    ground = _ground(mask.georef)
    batches = _batches(shapes, mask, options, ground, left_out)
    fit = partial(_fit_batch, options=options, ground=ground, classes=mask.classes)
    # Processes that others have started for a while may have none of their own.
    alone = options.workers == 1 or multiprocessing.current_process().daemon
    # Few shapes are done before a process has started.
    for batch in batches if alone else islice(batches, _FEW_BATCHES):
        yield from fit(batch)
    following = next(batches, None)
    if following is not None:
        rest = chain([following], batches)
        for features in in_processes(fit, rest, options.workers, preload=__name__):
            yield from features


def _ground(georef: Georef) -> _Ground:
    x_m, y_m = georef.pixel_m or (1.0, 1.0)
    mean = georef.pixel_m2**0.5
    is_square = abs(x_m - y_m) < _SQUARE * mean
    scale = (1.0, 1.0) if is_square else (x_m / mean, y_m / mean)
    return _Ground(scale=scale, pixel_m2=georef.pixel_m2)


def _batches(
    shapes: Iterable[Shape],
    mask: MaskReader,
    options: BuildingOptions,
    ground: _Ground,
    left_out: Counter[str] | None,
) -> Iterator[list[_Task]]:
    """Drop what is too small and add the pixels around the rest."""
    stream = iter(shapes)
    readers: dict[int, BlockReader] = {}
    unit = "px²" if mask.georef.pixel_m is None else "m²"
    reason = f"building smaller than {options.min_area_m2:g} {unit}"
    while chosen := list(islice(stream, _BATCH)):
        polygons = [shape.polygon for shape in chosen]
        large = shapely.area(polygons) * ground.pixel_m2 >= options.min_area_m2
        if left_out is not None and not large.all():
            left_out[reason] += int((~large).sum())
        bounds = shapely.bounds(polygons).astype(int).tolist()
        batch = []
        for shape, box, keep in zip(chosen, bounds, large, strict=True):
            if keep:
                reader = readers.setdefault(shape.value, BlockReader(mask, shape.value))
                batch.append(_Task(shape=shape, surroundings=reader.around(box, _MARGIN_PX)))
        yield batch


def _fit_batch(
    batch: list[_Task], options: BuildingOptions, ground: _Ground, classes: tuple[str, ...]
) -> list[Feature]:
    min_hole_px2 = options.min_hole_m2 / ground.pixel_m2
    taken_apart = [_take_apart(task, options, min_hole_px2) for task in batch]
    parts = [part for shape in taken_apart for part in shape.parts]
    fitted = iter(fit_footprints(parts, options.regularize, ground.scale))
    found: list[Polygon] = []
    owners: list[tuple[Shape, float | None]] = []
    for task, shape in zip(batch, taken_apart, strict=True):
        polygons = [
            keep_clear(polygon, part.polygon, shape.barred)
            for part, polygon in zip(shape.parts, fitted, strict=False)
        ]
        apart = list(enumerate(polygons)) if len(polygons) == 1 else dissolve_overlaps(polygons)
        found += [polygon for _, polygon in apart]
        owners += [(task.shape, shape.confidences[part]) for part, _ in apart]
    placed = begun_at_the_top(np.array(found)).tolist() if found else []
    return [
        Feature(
            class_name=classes[owner.value - 1],
            geometry=polygon,
            confidence=confidence,
            last=owner.last,
        )
        for (owner, confidence), polygon in zip(owners, placed, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _TakenApart:
    """One shape before it is fitted."""

    parts: list[Part]
    confidences: list[float | None]
    """Of each part."""
    barred: NDArray[np.intp]
    """intp (k, 2), (x, y) of the pixels that no footprint of it may enter."""


def _take_apart(task: _Task, options: BuildingOptions, min_hole_px2: float) -> _TakenApart:
    shape, around = task.shape, task.surroundings
    traced = shape.polygon
    probability = None
    if around.probability is not None:
        probability = Probability(
            values=around.probability, row=around.row, col=around.col, threshold=options.threshold
        )
    alone = np.count_nonzero(around.same) == round(traced.area)
    own = around.same if alone else fill(traced, around)
    barred = np.zeros((0, 2), np.intp) if alone else barred_pixels(own, around)
    polygon = _fill_holes(traced, min_hole_px2)
    pieces = separate(polygon, own, around) if options.separate else None
    if pieces is None:
        parts, confidences = [Part(polygon=polygon, probability=probability)], [shape.confidence]
    else:
        confidences = _confidences(pieces.polygons, around, shape.confidence)
        parts = [
            Part(polygon=piece, probability=probability, cuts=cuts)
            for piece, cuts in pieces.with_cuts()
        ]
    return _TakenApart(parts=parts, confidences=confidences, barred=barred)


def _confidences(
    pieces: list[Polygon], around: Surroundings, of_all: float | None
) -> list[float | None]:
    """Return the mean probability of each piece; that of all where a piece holds no pixel."""
    if around.probability is None:
        return [of_all] * len(pieces)
    # GDAL takes the identity for "lies nowhere" and warns: there one more column is drawn.
    left = int(around.row == around.col == 0)
    height, width = around.same.shape
    drawn = rasterize(
        zip(pieces, range(1, len(pieces) + 1), strict=True),
        out_shape=(height, width + left),
        transform=Affine(1, 0, around.col - left, 0, 1, around.row),
        dtype=np.int32,
    )[:, left:]
    owner = drawn[around.same]
    n = np.bincount(owner, minlength=len(pieces) + 1)[1:]
    total = np.bincount(owner, around.probability[around.same], len(pieces) + 1)[1:]
    return [
        float(sum_ / (255 * count)) if count else of_all
        for sum_, count in zip(total, n, strict=True)
    ]


def _fill_holes(polygon: Polygon, min_area_px2: float) -> Polygon:
    if not polygon.interiors:
        return polygon
    holes = shapely.get_rings(polygon)[1:]
    return shapely.Polygon(
        polygon.exterior, [h for h in holes if shapely.area(shapely.Polygon(h)) >= min_area_px2]
    )
