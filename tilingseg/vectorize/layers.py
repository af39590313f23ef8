"""Which layers a mask gives: the vectoriser of each class, chosen by its name.

`building` becomes footprints, `road` becomes polygons and a network of centrelines, every other
class becomes its traced outlines.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from tilingseg.vectorize.areas import areas
from tilingseg.vectorize.buildings import BuildingOptions, footprints
from tilingseg.vectorize.centerlines import centerlines
from tilingseg.vectorize.nodata import keep_to_data
from tilingseg.vectorize.roads import RoadOptions, road_polygons
from tilingseg.vectorize.trace import TraceOptions, trace

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from tilingseg.records import Feature, MaskReader
    from tilingseg.vectorize.footprint import Regularize

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
    """`auto`: footprints with right angles where the outline agrees; `strict`: everywhere;
    `off`: outlines as they were traced, simplified."""
    workers: int = field(default_factory=_usable_cpus)
    """Processes that fit footprints; the result does not depend on it. [default: as many as there
    are processors for this process, 8 at most]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorLayer:
    """One layer of a mask, not computed yet."""

    name: str
    """Name of the class, or `road_centerline`."""
    class_index: int
    """Position of the class."""
    geometry_type: Literal["Polygon", "LineString"]
    """Type of every geometry."""
    features: Iterator[Feature]
    """In a fixed order; computed while they are drawn, once."""


def vector_layers(
    mask: MaskReader,
    class_indexes: Sequence[int],
    thresholds: Sequence[float],
    options: VectorOptions,
    left_out: Counter[str],
) -> Iterator[VectorLayer]:
    """Yield the layers of a mask, one after the other.

    Args:
        mask: class mask of the whole scene.
        class_indexes: classes to vectorise, as positions in `mask.classes`.
        thresholds: probability from which a pixel belongs to the class, for every class.
        options: how.
        left_out: counts, with the reason, what gives no feature; filled while features are drawn.
    """
    for index in class_indexes:
        name = mask.classes[index]
        shapes = trace(mask, index + 1, TraceOptions(workers=options.workers))
        layer = partial(VectorLayer, class_index=index)
        if name.lower() in BUILDINGS:
            building = BuildingOptions(
                regularize=options.regularize,
                threshold=thresholds[index],
                workers=options.workers,
            )
            found = keep_to_data(footprints(shapes, mask, building, left_out), mask, left_out)
            yield layer(name=name, geometry_type="Polygon", features=found)
        elif name.lower() in ROADS:
            road = RoadOptions()
            found = keep_to_data(road_polygons(shapes, mask, road, left_out), mask, left_out)
            yield layer(name=name, geometry_type="Polygon", features=found)
            found = centerlines(mask, index + 1, road, left_out)
            yield layer(name=f"{name}_centerline", geometry_type="LineString", features=found)
        else:
            found = areas(shapes, mask, None, left_out)
            yield layer(name=name, geometry_type="Polygon", features=found)
