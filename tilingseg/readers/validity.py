"""Which pixels hold data, from nodata tags and numbers that are none.

A nodata value that a camera can deliver, such as 0, makes a pixel invalid only where all selected
bands have it: a shadow with one band at 0 is data. A value that it cannot deliver, such as −9999,
does so in any band. NaN and ±inf in any band are never data:
one infinite pixel would spoil the statistics of the scene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def holds_data(data: NDArray[Any], nodata: tuple[float | None, ...]) -> NDArray[np.bool_]:
    """Tell which pixels hold data in every band.

    Args:
        data: any real type (bands, height, width), as stored.
        nodata: nodata value of each band; None: it has none.

    Returns:
        bool (height, width), True = data.
    """
    values = [_representable(value, data.dtype) for value in nodata]
    tagged = [(band, value) for band, value in zip(data, values, strict=True) if value is not None]
    if not tagged and data.dtype.kind != "f":
        return np.ones(data.shape[1:], bool)
    missing = np.zeros(data.shape[1:], bool)
    if not all(_is_measurable(value) for _, value in tagged):
        for band, value in tagged:
            missing |= band == value
    elif tagged and len(tagged) == len(data):
        first, first_value = tagged[0]
        missing = first == first_value
        for band, value in tagged[1:]:
            missing &= band == value
    if data.dtype.kind == "f":
        missing |= ~_is_number(data).all(axis=0)
    return ~missing


def alpha_holds_data(alpha: NDArray[Any], *, is_mean: bool) -> NDArray[np.bool_]:
    """Tell which pixels an alpha band calls data.

    Args:
        alpha: any real type (height, width); 0 = no data.
        is_mean: it belongs to an overview, and half counts as data.

    Returns:
        bool (height, width), True = data.
    """
    # Wider types are often filled with 255 instead of their largest value, so half is not known.
    return alpha > (127 if is_mean and alpha.dtype == np.uint8 else 0)


def _is_number(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which values are finite in the type that is delivered, float32 at most."""
    small = data.dtype.itemsize <= 4
    finite: NDArray[np.bool_]
    finite = np.isfinite(data) if small else np.abs(data) <= np.finfo(np.float32).max
    return finite


def _is_measurable(nodata: Any) -> bool:
    """Tell whether a camera can deliver the nodata value too."""
    return bool(nodata == 0 or (nodata > 0 and nodata.dtype.kind in "ui"))


def _representable(value: float | None, dtype: np.dtype[Any]) -> Any:
    """Return a nodata value in the type of the pixels; None: no pixel can be equal to it."""
    if value is None or np.isnan(value):
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    if dtype.kind == "b":
        return None
    limits = np.iinfo(dtype)
    return dtype.type(value) if limits.min <= value <= limits.max and value == int(value) else None
