"""Which layers a mask gives: the vectoriser of each class, chosen by its name.

`building` becomes footprints, `road` becomes polygons and a network of centrelines, every other
class becomes its traced outlines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilingseg.records import Feature
from tilingseg.vectorize.buildings import BuildingOptions, footprints
from tilingseg.vectorize.centerlines import centerlines
from tilingseg.vectorize.roads import RoadOptions, road_polygons
from tilingseg.vectorize.trace import TraceOptions, trace

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from tilingseg.records import MaskReader, Shape
    from tilingseg.vectorize.footprint import Regularize

BUILDINGS = frozenset({"building", "buildings", "house", "houses"})
ROADS = frozenset({"road", "roads", "street", "streets"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """How masks become vectors."""

    regularize: Regularize = "auto"
    """`auto`: footprints with right angles where the outline agrees; `strict`: everywhere;
    `off`: outlines as they were traced, simplified."""
    workers: int = 1
    """Processes that fit footprints; the result does not depend on it."""


def vector_layers(
    mask: MaskReader,
    class_indexes: Sequence[int],
    thresholds: Sequence[float],
    options: VectorOptions,
    left_out: Counter[str],
) -> Iterator[tuple[str, Literal["Polygon", "LineString"], Iterator[Feature]]]:
    """Yield the layers of a mask, one after the other.

    Args:
        mask: class mask of the whole scene.
        class_indexes: classes to vectorise, as positions in `mask.classes`.
        thresholds: probability from which a pixel belongs to the class, for every class.
        options: how.
        left_out: counts, with the reason, what gives no feature; filled while features are drawn.

    Yields:
        Name of the layer (`building`, `road`, `road_centerline`), its geometry type, and its
        features in a fixed order.
    """
    for index in class_indexes:
        name = mask.classes[index]
        shapes = trace(mask, index + 1, TraceOptions(workers=options.workers))
        if name.lower() in BUILDINGS:
            building = BuildingOptions(
                regularize=options.regularize,
                threshold=thresholds[index],
                workers=options.workers,
            )
            yield name, "Polygon", footprints(shapes, mask, building, left_out)
        elif name.lower() in ROADS:
            road = RoadOptions()
            yield name, "Polygon", road_polygons(shapes, mask, road, left_out)
            yield f"{name}_centerline", "LineString", centerlines(mask, index + 1, road, left_out)
        else:
            yield name, "Polygon", _plain(shapes, name)


def _plain(shapes: Iterable[Shape], name: str) -> Iterator[Feature]:
    for shape in shapes:
        yield Feature(class_name=name, geometry=shape.polygon, confidence=shape.confidence)
