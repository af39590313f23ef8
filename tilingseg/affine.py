"""Shapes through an affine transform in the order of GDAL and rasterio: pixels to map and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def moved(shapes: Any, transform: Sequence[float]) -> Any:
    """Return a shape, or an array of them, with every corner moved.

    Args:
        shapes: a geometry, or geometries (n,).
        transform: begins with a, b, c, d, e, f: x becomes a·x + b·y + c, y becomes d·x + e·y + f.
    """
    a, b, c, d, e, f = transform[:6]

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return shapely.transform(shapes, apply)
