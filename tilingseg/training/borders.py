"""Where objects nearly touch: the weights that keep a network from joining them.

After the original U-Net paper (Ronneberger et al. 2015, equation 2): a background pixel weighs the
more, the nearer its two nearest objects are, exp(-(d1 + d2)² / 2σ²). Computed once a raster, in the
surroundings of each object alone, since the weight fades within a few σ; the paper's weights of
rare classes are the `class_weights` of the loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REACH = 3.5
"""Deviations after which a weight is below 0.003."""


def border_weights(labels: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Weigh the background between objects.

    Args:
        labels: uint8 (height, width): 1 the class, 0 not, anything else unknown. Pixels of the
            class that share an edge are one object.
        sigma_px: σ, px, above 0.

    Returns:
        uint8 (height, width), 255 = 1; 0 on objects and where nothing is known.
    """
    objects, _ = ndimage.label(labels == 1)
    reach = math.ceil(_REACH * sigma_px)
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    for index, found in enumerate(ndimage.find_objects(objects), start=1):
        around = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in found)
        distance = ndimage.distance_transform_edt(objects[around] != index).astype(np.float32)
        first, other = nearest[around], second[around]
        other[:] = np.minimum(other, np.maximum(first, distance))
        first[:] = np.minimum(first, distance)
    weights = np.exp(-np.square(nearest + second) / (2 * sigma_px**2))
    return np.where(labels == 0, np.rint(255 * weights), 0).astype(np.uint8)
