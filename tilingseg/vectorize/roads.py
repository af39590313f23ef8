"""Roads as polygons, and the options that roads of both kinds share.

A traced outline is a staircase. Plain averaging would straighten it and shave every bend and end;
Taubin (1995), "Curve and surface smoothing without shrinkage", ICCV, follows each step inwards by
one outwards. Here what the first Gaussian took away is smoothed once more and given back, which
leaves what is longer than a few pixels as it was: width and bends stay. The corners of blocks
are still filled more than dead ends are shaved; the area that this adds, up to 1 %, is taken off
evenly along the outline.
Centrelines are the business of `centerlines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d
from shapely import Polygon

from tilingseg.errors import VectorizeError
from tilingseg.records import Feature

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Georef, MaskReader, Shape

SMALL_AREA = "road polygons below the minimum area"
SMALL_HOLE = "holes in road polygons below the minimum area"
MICROSCOPIC_M = 1e-4
"""Pixels up to this size were seen through a microscope, metres."""
OUTLINE_SIGMAS_PX = (2.0, 1.0)
"""Smoothing of outlines, px: the first that leaves a polygon valid is used, or else none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadOptions:
    """What counts as a road; without a known pixel size, a pixel takes the place of a metre."""

    max_gap_m: float = 10.0
    """Longest gap in the mask that is bridged along the direction of the road, metres; 0: none."""
    min_spur_m: float = 10.0
    """Dead ends that stick out of their road by less are cut off, metres; at least 3 px."""
    min_length_m: float = 25.0
    """Connected pieces of road that are shorter in all are dropped, metres; at least 3 px."""
    min_area_m2: float = 20.0
    """Pieces of the mask with a smaller area are dropped and smaller holes filled, m²."""
    max_width_m: float = 40.0
    """Wider areas are no roads, metres: roads lead round their rim."""
    simplify_m: float | None = None
    """Farthest that a vertex left out may lie from the line, metres; None: half a pixel."""
    region_px: int = 2048
    """Side of the block of pixels in memory at a time, px; the result does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            VectorizeError: with the option and its value.
        """
        for name in ("max_gap_m", "min_spur_m", "min_length_m", "min_area_m2"):
            if not getattr(self, name) >= 0:
                raise VectorizeError(f"{name} is {getattr(self, name)}; give 0 or more")
        if not self.max_width_m > 0:
            raise VectorizeError(f"max_width_m is {self.max_width_m}; give more than 0")
        if self.simplify_m is not None and not self.simplify_m >= 0:
            raise VectorizeError(
                f"simplify_m is {self.simplify_m}; give 0 or more, or leave it out"
            )
        if self.region_px < 16:
            raise VectorizeError(f"region_px is {self.region_px}; give 16 or more")


def has_ground(georef: Georef) -> bool:
    """Tell whether the pixels have a size on the ground; those of a microscope have none."""
    return georef.pixel_m is not None and max(georef.pixel_m) > MICROSCOPIC_M


def ground_pixel(georef: Georef) -> tuple[float, float]:
    """Return the steps along a row and a column, metres; (1, 1) where there is no ground."""
    return georef.pixel_m if georef.pixel_m is not None and has_ground(georef) else (1.0, 1.0)


def road_polygons(
    shapes: Iterable[Shape],
    mask: MaskReader,
    options: RoadOptions,
    left_out: Counter[str] | None = None,
) -> Iterator[Feature]:
    """Yield traced road areas as valid polygons with smooth outlines, in pixel coordinates.

    Args:
        shapes: traced pieces of one or several road classes.
        mask: where the shapes come from; gives class names and the pixel size.
        options: `min_area_m2` and `simplify_m` apply.
        left_out: counts, by what and why, of what was dropped; filled while features are drawn.
    """
    pixel_m = ground_pixel(mask.georef)
    min_area_px = options.min_area_m2 / (pixel_m[0] * pixel_m[1])
    tolerance_px = 0.5 if options.simplify_m is None else options.simplify_m * 2 / sum(pixel_m)
    for shape in shapes:
        if shape.polygon.area < min_area_px:
            if left_out is not None:
                left_out[SMALL_AREA] += 1
            continue
        holes = [hole for hole in shape.polygon.interiors if Polygon(hole).area >= min_area_px]
        if left_out is not None:
            left_out[SMALL_HOLE] += len(shape.polygon.interiors) - len(holes)
        yield Feature(
            class_name=mask.classes[shape.value - 1],
            geometry=smooth_polygon(Polygon(shape.polygon.exterior, holes), tolerance_px),
            confidence=shape.confidence,
            last=shape.last,
        )


def smooth_polygon(polygon: Polygon, tolerance_px: float) -> Polygon:
    """Replace the staircases of a traced polygon by smooth outlines of the same area.

    Args:
        polygon: valid, along pixel edges, in px.
        tolerance_px: farthest that a vertex left out may lie from the new outline, px.

    Returns:
        A valid polygon with the same holes; `polygon` itself where smoothing would make rings
        cross, as in pieces one pixel wide.
    """
    # Simplifying keeps the first vertex, and tracing begins where the scene or a region does. Seen
    # from its own corner, the last digits of large coordinates decide nothing either.
    corner = np.floor(polygon.bounds[:2])
    near = shapely.normalize(shapely.transform(polygon, lambda points: points - corner))
    for sigma_px in OUTLINE_SIGMAS_PX:
        rings = [_smooth_ring(ring, sigma_px) for ring in (near.exterior, *near.interiors)]
        smooth = Polygon(rings[0], rings[1:])
        if not smooth.is_valid:
            continue
        simple = shapely.simplify(smooth, tolerance_px, preserve_topology=True)
        if simple.is_valid and not simple.is_empty:
            found: Polygon = shapely.transform(
                _of_area(simple, near.area), lambda points: points + corner
            )
            return found
    return polygon


def _of_area(polygon: Polygon, area_px: float) -> Polygon:
    """Shift an outline by the hundredths of a pixel that give it an area, px²."""
    shift_px = (area_px - polygon.area) / polygon.length
    shifted: BaseGeometry = polygon.buffer(shift_px, join_style="mitre", mitre_limit=2.0)
    if not isinstance(shifted, Polygon) or not shifted.is_valid:
        return polygon
    return shifted if len(shifted.interiors) == len(polygon.interiors) else polygon


def _smooth_ring(ring: shapely.LinearRing, sigma_px: float) -> NDArray[np.float64]:
    """Smooth a closed ring along pixel edges; (n, 2) x and y, px, not closed."""
    corners = shapely.get_coordinates(ring)
    sides = np.abs(corners[1:] - corners[:-1]).sum(axis=1)
    # The middles of pixel edges lie evenly on both sides of the true outline; corners do not.
    at = np.arange(round(float(sides.sum()))) + 0.5
    along = np.concatenate([[0.0], np.cumsum(sides)])
    points = np.column_stack([np.interp(at, along, corners[:, axis]) for axis in (0, 1)])
    sigma = min(sigma_px, len(points) / 16)
    once = gaussian_filter1d(points, sigma, axis=0, mode="wrap")
    smooth: NDArray[np.float64] = once + gaussian_filter1d(
        points - once, sigma, axis=0, mode="wrap"
    )
    return smooth
