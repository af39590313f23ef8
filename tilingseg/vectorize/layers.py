"""Which layers a mask gives: the vectoriser of each class, chosen by its name.

`building` becomes footprints, `road` becomes polygons and a network of centrelines, every other
class becomes its traced outlines. `building_boundary` divides buildings and is no layer.

What fits walls and thins roads is imported where a class asks for it: it brings half of SciPy,
which other masks can do without.

The parts that take long may have been made before, elsewhere, and gathered: the polygons of a class
and the skeletons of its roads. Layers come out the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from tilingseg.errors import VectorizeError
from tilingseg.vectorize.areas import AreaOptions, areas, areas_across_corners
from tilingseg.vectorize.borders import bordered, is_border
from tilingseg.vectorize.diagonals import trace_diagonal
from tilingseg.vectorize.nodata import keep_to_data
from tilingseg.vectorize.trace import TraceOptions, trace

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Sequence

    from tilingseg.grid import Window
    from tilingseg.records import Feature, MaskReader, Shape
    from tilingseg.vectorize.footprint import Regularize
    from tilingseg.vectorize.skeleton import SkeletonPixels

BUILDINGS = frozenset({"building", "buildings", "house", "houses"})
ROADS = frozenset({"road", "roads", "street", "streets"})


_MAX_WORKERS = 8
"""Reading, tracing and writing, which one process does, keep no more than this busy."""


def _usable_cpus() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(count or 1, _MAX_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """How masks become vectors."""

    regularize: Regularize = "auto"
    """`auto`: footprints with right angles where the outline agrees, diagonals and ovals where it
    asks for them; `strict`: right angles or the outline, nothing between; `off`: outlines as they
    were traced, without the steps of pixels."""
    workers: int = field(default_factory=_usable_cpus)
    """Processes that fit footprints; the result does not depend on it. [default: as many as there
    are processors for this process, 8 at most]"""
    connectivity: Literal[4, 8] = 4
    """Of classes that are neither buildings nor roads, 8: pixels that touch in a corner are one
    object, a MultiPolygon; 4: they are two."""

    def __post_init__(self) -> None:
        """Refuse another connectivity.

        Raises:
            VectorizeError: it is neither 4 nor 8.
        """
        if self.connectivity not in (4, 8):
            raise VectorizeError(f"connectivity is 4 or 8, got {self.connectivity}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorLayer:
    """One layer of a mask, not computed yet."""

    name: str
    """Name of the class, or `road_centerline`."""
    class_index: int
    """Position of the class."""
    geometry_type: Literal["Polygon", "MultiPolygon", "LineString"]
    """Type of every geometry."""
    features: Iterator[Feature]
    """In a fixed order; computed while they are drawn, once."""
    numbers: tuple[str, ...] = ()
    """Names of their properties, all numbers."""


class Gathered(Protocol):
    """Parts of the layers that are there already."""

    def polygons(self, class_index: int, left_out: Counter[str]) -> Iterator[Feature]:
        """Yield what `polygons_of` gives for all shapes of a class, in the same order."""

    def skeleton(self, class_index: int, core: Window) -> SkeletonPixels:
        """Return what a core of the centrelines holds."""


def is_road(name: str) -> bool:
    """Tell whether a class becomes centrelines too."""
    return name.lower() in ROADS


def divides_buildings(name: str, classes: Sequence[str]) -> bool:
    """Tell whether a class only says where buildings touch."""
    return is_border(name, [other for other in classes if other.lower() in BUILDINGS])


def layer_names(classes: Sequence[str], class_indexes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the layers that `vector_layers` yields for some classes of a mask."""
    names: list[str] = []
    for name in (classes[index] for index in class_indexes):
        if not divides_buildings(name, classes):
            names += [name, _centerline(name)] if is_road(name) else [name]
    return tuple(names)


def _centerline(name: str) -> str:
    return f"{name}_centerline"


def traced_mask(mask: MaskReader, class_index: int) -> MaskReader:
    """Return the mask that a class is traced in: with buildings, their borders are buildings."""
    is_building = mask.classes[class_index].lower() in BUILDINGS
    return bordered(mask, class_index) if is_building else mask


def polygons_of(
    shapes: Iterable[Shape],
    mask: MaskReader,
    class_index: int,
    threshold: float,
    options: VectorOptions,
    left_out: Counter[str],
) -> Iterator[Feature]:
    """Turn traced shapes into the polygons of their class; each depends on its shape alone.

    Args:
        shapes: of one class.
        mask: that they were traced from.
        class_index: position of the class.
        threshold: probability from which a pixel belongs to the class.
        options: how.
        left_out: counts, with the reason, what gives no feature; filled while features are drawn.
    """
    name = mask.classes[class_index].lower()
    if name in BUILDINGS:
        mask = traced_mask(mask, class_index)
        from tilingseg.vectorize.buildings import BuildingOptions, footprints

        building = BuildingOptions(
            regularize=options.regularize, threshold=threshold, workers=options.workers
        )
        found = footprints(shapes, mask, building, left_out)
        return keep_to_data(found, mask, building.min_area_m2 / mask.georef.pixel_m2, left_out)
    elif is_road(name):
        from tilingseg.vectorize.roads import RoadOptions, ground_pixel, road_polygons

        road = RoadOptions()
        x_m, y_m = ground_pixel(mask.georef)
        found = road_polygons(shapes, mask, road, left_out)
        return keep_to_data(found, mask, road.min_area_m2 / (x_m * y_m), left_out)
    else:
        return areas(shapes, mask, AreaOptions(threshold=threshold), left_out)


def vector_layers(
    mask: MaskReader,
    class_indexes: Sequence[int],
    thresholds: Sequence[float],
    options: VectorOptions,
    left_out: Counter[str],
    gathered: Gathered | None = None,
) -> Iterator[VectorLayer]:
    """Yield the layers of a mask, one after the other.

    Args:
        mask: class mask of the whole scene.
        class_indexes: classes to vectorise, as positions in `mask.classes`.
        thresholds: probability from which a pixel belongs to the class, for every class.
        options: how.
        left_out: counts, with the reason, what gives no feature; filled while features are drawn.
        gathered: parts that are there already; None: all is made here.

    Raises:
        VectorizeError: parts that were gathered are to be joined over corners.
    """
    if gathered is not None and options.connectivity == 8:
        raise VectorizeError("on a cluster, classes are traced with connectivity 4")
    for index in class_indexes:
        name = mask.classes[index]
        if divides_buildings(name, mask.classes):
            continue
        layer = partial(VectorLayer, class_index=index)
        if options.connectivity == 8 and not (name.lower() in BUILDINGS or is_road(name)):
            groups = trace_diagonal(mask, index + 1, TraceOptions(workers=options.workers))
            found = areas_across_corners(groups, mask, thresholds[index])
            yield layer(name=name, geometry_type="MultiPolygon", features=found)
            continue
        if gathered is None:
            traced = traced_mask(mask, index)
            shapes = trace(traced, index + 1, TraceOptions(workers=options.workers))
            found = polygons_of(shapes, mask, index, thresholds[index], options, left_out)
        else:
            found = gathered.polygons(index, left_out)
        yield layer(name=name, geometry_type="Polygon", features=found)
        if is_road(name):
            from tilingseg.vectorize.centerlines import centerlines, line_properties
            from tilingseg.vectorize.roads import RoadOptions

            skeleton = None if gathered is None else partial(gathered.skeleton, index)
            found = centerlines(mask, index + 1, RoadOptions(), left_out, skeleton)
            yield layer(
                name=_centerline(name),
                geometry_type="LineString",
                features=found,
                numbers=line_properties(mask.georef),
            )
