"""What is written, and what came of it: the records of the writers.

Batches are the unit of work: large enough for vectorised geometry, small enough for any memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.records import Georef


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of vectors of one scene."""

    name: str
    """Name inside the file and seed of its UUIDs, such as `scene_building`."""
    georef: Georef
    """Where the pixels of the features lie."""
    geometry_type: Literal["Polygon", "MultiPolygon", "LineString"] = "Polygon"
    """Type of every feature's geometry."""
    numbers: tuple[str, ...] = ()
    """Properties of every feature that are numbers: where there is no feature, they still have
    columns."""
    color: tuple[int, int, int] = (230, 60, 40)
    """Red, green, blue, 0…255, in styles and QuPath."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a writer did."""

    n_features: int
    """Features in the file."""
    left_out: tuple[tuple[str, int], ...] = ()
    """(why, count) pairs of features that the file could not hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Measured features, ready to be written."""

    geometries: NDArray[np.object_]
    """In the scene's CRS; in full-resolution pixels (x = column, y = row) where it has none."""
    lonlat: NDArray[np.object_] | None
    """The same in WGS84 degrees, as projected: neither cut nor rounded. None: no CRS."""
    columns: dict[str, NDArray[Any]]
    """Attribute name → one value a feature: int64, float64 with NaN = not known, or object with
    text and None."""
