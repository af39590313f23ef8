"""Roads as polygons, and the options that roads of both kinds share.

The outline of a traced road is a staircase. It is smoothed with the two-step filter of Taubin
(1995), "Curve and surface smoothing without shrinkage", ICCV: a Gaussian step inwards is
followed by a slightly larger one outwards, so that bends stay as wide as they were, where plain
averaging shaves every convex corner. Centrelines are the business of `centerlines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilingseg.errors import VectorizeError

if TYPE_CHECKING:
    from tilingseg.records import Georef


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


def ground_pixel(georef: Georef) -> tuple[float, float]:
    """Return the steps along a row and a column, metres; (1, 1) where they are not known."""
    return (1.0, 1.0) if georef.pixel_m is None else georef.pixel_m
