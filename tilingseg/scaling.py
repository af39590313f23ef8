"""How stored values become the 0…1 that a model's normalisation expects: decided once a scene.

Statistics of single tiles would make seams and results that change with the extent. A model may fix
the range itself; uint8 is 0…255; everything else is stretched between two percentiles, per band, of
the valid pixels of a reduced copy of the scene. What was decided goes into the plan and `run.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilingseg.errors import SceneError
from tilingseg.records import Scaling

if TYPE_CHECKING:
    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import SceneReader

PERCENTILES = (1.0, 99.0)
"""Shares of the pixels, percent, that end below 0 and below 1: a few outliers must not decide."""
SAMPLE_SIDE_PX = 1024
"""Longer side of the reduced copy that the percentiles are taken from, px."""


def decide_scaling(reader: SceneReader, spec: ModelSpec) -> Scaling:
    """Decide the value scaling of one scene.

    Args:
        reader: the open scene; read only where the data type alone does not settle it.
        spec: may fix the range.

    Returns:
        One range per band.

    Raises:
        SceneError: a band holds pixels whose values are no numbers.
    """
    scene = reader.scene
    n_bands = len(scene.bands)
    if spec.value_range is not None:
        low, high = spec.value_range
        return _same(n_bands, low, high, "fixed by the model")
    if scene.dtype == "uint8":
        return _same(n_bands, 0.0, 255.0, "the range of uint8")
    pixels, valid = reader.read_reduced(SAMPLE_SIDE_PX)
    if not valid.any():
        return _same(n_bands, 0.0, 1.0, "none: the scene holds no valid pixel")
    lows, highs = [], []
    for index, band in enumerate(pixels, start=1):
        values = band[valid].astype(np.float64)
        if not np.isfinite(values).all():
            raise SceneError(
                f"{scene.uri}: band {index} of those read holds values that are no finite numbers; "
                "declare them as nodata"
            )
        low, high = np.percentile(values, PERCENTILES)
        lows.append(float(low))
        highs.append(float(high) if high > low else float(low) + 1.0)
    source = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of the scene, per band"
    return Scaling(low=tuple(lows), high=tuple(highs), source=source)


def _same(n_bands: int, low: float, high: float, source: str) -> Scaling:
    return Scaling(low=(low,) * n_bands, high=(high,) * n_bands, source=source)
