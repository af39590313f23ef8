"""Classes that are neither buildings nor roads: outlines as fine as the mask knows them.

With probabilities these are the lines where the threshold is crossed (`subpixel`), without them the
pixel edges; simplified on request.

Filters come after tracing, hence after everything has been joined over seams: a shape is small or
large by itself, never because of how the scene was cut. Shapes that are left out are counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import compress, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tilingseg.errors import VectorizeError
from tilingseg.records import Feature
from tilingseg.vectorize.subpixel import SubpixelOutlines

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import MaskReader, Shape

SMALL_SHAPE = "shapes below the minimum area"
NEARLY_STRAIGHT_PX = 0.1
"""What probabilities of eight bits say of a place, px: finer corners are noise."""
_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaOptions:
    """What becomes of a traced shape."""

    threshold: float | None = None
    """Probability from which a pixel belongs to the class; None: outlines follow the pixel edges
    even where the mask keeps probabilities."""
    simplify_px: float = 0.0
    """Farthest that a corner which is left out may lie from the new outline, px (twice that for the
    one where its ring begins); 0: all corners between pixels stay, and those within
    `NEARLY_STRAIGHT_PX` of lines at the threshold go."""
    min_area_m2: float = 0.0
    """Smaller shapes are left out, m² by the pixel size at the scene's centre (px² where it is not
    known)."""

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            VectorizeError: with the option and its value.
        """
        for name in ("simplify_px", "min_area_m2"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise VectorizeError(f"{name} must be 0 or more, got {value}")


def areas(
    shapes: Iterable[Shape],
    mask: MaskReader,
    options: AreaOptions | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Feature]:
    """Turn the traced shapes of one class into features.

    Args:
        shapes: of one mask value.
        mask: that they were traced from.
        options: simplification and smallest area.
        left_out: counts, with the reason, the shapes that give no feature.

    Yields:
        Valid polygons in pixel coordinates, in the order of their shapes. Simplified ones keep
        their holes inside and apart, and vanish no more than exact ones do.
    """
    options = options or AreaOptions()
    for batch, polygons, tolerance_px in _outlined(shapes, mask, options, left_out):
        simple = _simplified(polygons, tolerance_px)
        for shape, polygon in zip(batch, simple, strict=True):
            yield _feature(shape, polygon, mask)


def areas_across_corners(
    groups: Iterable[tuple[Shape, ...]], mask: MaskReader, threshold: float
) -> Iterator[Feature]:
    """Turn 8-connected components into features; as `areas`, with nothing left out.

    Args:
        groups: shapes of one mask value that meet in corners, as of `trace_diagonal`.
        mask: that they were traced from.
        threshold: probability from which a pixel belongs to the class.

    Yields:
        Valid MultiPolygons in pixel coordinates, in the order of their groups.
    """
    sizes: deque[int] = deque()

    def members() -> Iterator[Shape]:
        for group in groups:
            sizes.append(len(group))
            yield from group

    batches = _outlined(members(), mask, AreaOptions(threshold=threshold), None)
    outlines = (
        (*one, by) for batch, all_of, by in batches for one in zip(batch, all_of, strict=True)
    )
    for first in outlines:
        group = [first, *islice(outlines, sizes.popleft() - 1)]
        shapes = [shape for shape, _, _ in group]
        # As one: parts that meet in a corner and are simplified one by one may cross there.
        joined = _simplified(shapely.MultiPolygon([polygon for _, polygon, _ in group]), first[2])
        confidence = shapes[0].confidence
        if confidence is not None:
            weights = [shape.polygon.area for shape in shapes]
            known = [shape.confidence or 0.0 for shape in shapes]
            confidence = float(np.average(known, weights=weights))
        geometry = shapely.MultiPolygon(shapely.get_parts(joined).tolist())
        yield replace(_feature(shapes[-1], geometry, mask), confidence=confidence)


def _outlined(
    shapes: Iterable[Shape],
    mask: MaskReader,
    options: AreaOptions,
    left_out: Counter[str] | None,
) -> Iterator[tuple[list[Shape], NDArray[np.object_], float]]:
    """Yield batches of shapes that are large enough.

    Yields:
        shapes: of a batch.
        outlines: their polygons, at the threshold or along the pixel edges.
        tolerance_px: how much they may be simplified.
    """
    min_area_px2 = options.min_area_m2 / mask.georef.pixel_m2
    fine: SubpixelOutlines | None = None
    iterator = iter(shapes)
    while batch := list(islice(iterator, _BATCH)):
        polygons = np.array([shape.polygon for shape in batch], dtype=np.object_)
        is_large = shapely.area(polygons) >= min_area_px2
        if left_out is not None and not is_large.all():
            left_out[SMALL_SHAPE] += int((~is_large).sum())
        large, polygons = list(compress(batch, is_large)), polygons[is_large]
        tolerance_px = options.simplify_px
        if options.threshold is not None and large and large[0].confidence is not None:
            fine = fine or SubpixelOutlines(mask, large[0].value, options.threshold)
            polygons = fine.of(polygons.tolist())
            tolerance_px = max(tolerance_px, NEARLY_STRAIGHT_PX)
        yield large, polygons, tolerance_px


def _simplified(outlines: Any, tolerance_px: float) -> Any:
    """Simplify geometries so that no ring crosses itself or another one of its geometry."""
    if not tolerance_px:
        return outlines
    return shapely.simplify(outlines, tolerance_px, preserve_topology=True)


def _feature(shape: Shape, geometry: BaseGeometry, mask: MaskReader) -> Feature:
    return Feature(
        class_name=mask.classes[shape.value - 1],
        geometry=geometry,
        confidence=shape.confidence,
        last=shape.last,
    )
