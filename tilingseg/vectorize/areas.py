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
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.errors import VectorizeError
from tilingseg.records import Feature
from tilingseg.vectorize.subpixel import SubpixelOutlines

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

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
    pixel_m = mask.georef.pixel_m or (1.0, 1.0)
    min_area_px2 = options.min_area_m2 / (pixel_m[0] * pixel_m[1])
    fine: SubpixelOutlines | None = None
    classes = mask.classes
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
        if tolerance_px:
            # Topology-preserving: no ring crosses itself or another one.
            polygons = shapely.simplify(polygons, tolerance_px, preserve_topology=True)
        for shape, polygon in zip(large, polygons, strict=True):
            yield Feature(
                class_name=classes[shape.value - 1],
                geometry=polygon,
                confidence=shape.confidence,
                last=shape.last,
            )


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
    pixels: deque[list[float]] = deque()

    def members() -> Iterator[Shape]:
        for group in groups:
            pixels.append([shape.polygon.area for shape in group])
            yield from group

    features = areas(members(), mask, AreaOptions(threshold=threshold))
    for first in features:
        weights = pixels.popleft()
        parts = [first, *islice(features, len(weights) - 1)]
        confidence = first.confidence
        if confidence is not None:
            known = [part.confidence or 0.0 for part in parts]
            confidence = float(np.average(known, weights=weights))
        outlines = shapely.get_parts([part.geometry for part in parts]).tolist()
        yield replace(parts[-1], geometry=shapely.MultiPolygon(outlines), confidence=confidence)
