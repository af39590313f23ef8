"""What the axes of a Zarr array mean, and how a window of it is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilingseg.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tilingseg.readers.source import ReadOptions

_ROWS = {"y", "lat", "latitude", "row", "rows", "northing", "height", "line", "lines"}
_COLUMNS = {"x", "lon", "longitude", "col", "column", "columns", "easting", "width", "sample"}
_BANDS = {"band", "bands", "c", "channel", "channels", "class", "wavelength", "rgb", "rgba", "s"}
_FETCHED = ("y", "x", "band")
_MOST_BANDS = 16
"""An unnamed first or last axis up to this length counts bands."""


def dimension_names(array: Any) -> tuple[str, ...] | None:
    """Return the names that an array gives its axes; None: it does not name all of them."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if not names or len(names) != array.ndim or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def axis_roles(names: Sequence[str] | None, shape: tuple[int, ...], uri: str) -> tuple[str, ...]:
    """Say what each axis is: `y`, `x`, `band`, or the name under which it is selected.

    Args:
        names: names of the axes; None: go by the shape.
        shape: of the array.
        uri: the scene, for messages.

    Raises:
        SceneError: rows and columns cannot be told.
    """
    if len(shape) < 2:
        raise SceneError(f"{uri} is an array of {len(shape)} axis; a scene needs rows and columns")
    if names is not None:
        roles = tuple(_role(name) for name in names)
        if roles.count("y") == 1 and roles.count("x") == 1 and roles.count("band") <= 1:
            return roles
        if not all(name.startswith("dim_") for name in names):
            raise SceneError(
                f"{uri} has the axes {', '.join(names)}, of which rows and columns cannot be told; "
                "name them y and x"
            )
    return _roles_by_shape(shape)


def _role(name: str) -> str:
    lower = name.lower()
    for role, known in (("y", _ROWS), ("x", _COLUMNS), ("band", _BANDS)):
        if lower in known:
            return role
    return name


def _roles_by_shape(shape: tuple[int, ...]) -> tuple[str, ...]:
    if len(shape) == 3 and shape[2] <= _MOST_BANDS < shape[0]:
        return ("y", "x", "band")
    leading = {2: (), 3: ("band",), 4: ("axis0", "band"), 5: ("t", "band", "z")}
    unnamed = tuple(f"axis{index}" for index in range(len(shape) - 3))
    return (*leading.get(len(shape), (*unnamed, "band")), "y", "x")


def fixed_indexes(
    roles: Sequence[str], shape: tuple[int, ...], options: ReadOptions, uri: str
) -> Mapping[str, int]:
    """Return the index to read along each axis that is neither band nor y nor x.

    Raises:
        SceneError: an axis longer than 1 is not selected, or a selector fits no axis.
    """
    selectors = dict(options.selectors)
    lengths = {role: n for role, n in zip(roles, shape, strict=True) if role not in _FETCHED}
    if unknown := sorted(set(selectors) - set(lengths)):
        has = f"it has {', '.join(lengths)}" if lengths else "none is left to select"
        raise SceneError(f"{uri} has no axis {unknown[0]!r} to select along; {has}")
    for name, length in lengths.items():
        if name not in selectors and length > 1:
            raise SceneError(
                f"{uri} has {length} positions along its axis {name!r}; choose one: "
                f"--select {name}=0 … {name}={length - 1}"
            )
        if not 0 <= selectors.setdefault(name, 0) < length:
            raise SceneError(
                f"{uri}: position {selectors[name]} is outside axis {name!r}, 0…{length - 1}"
            )
    return selectors


def fetch(
    array: Any,
    roles: Sequence[str],
    fixed: Mapping[str, int],
    bands: Sequence[int],
    area: tuple[slice, slice],
) -> NDArray[Any]:
    """Fetch part of an array, whatever the order of its axes.

    Args:
        array: a Zarr array.
        roles: meaning of each axis, from `axis_roles`.
        fixed: index along the other axes.
        bands: positions along the band axis, from 0; (0,) where there is none.
        area: (rows, columns) to fetch.

    Returns:
        The stored type in native byte order, (bands, rows, columns).
    """
    low, high = min(bands), max(bands) + 1
    spread = high - low > len(bands)
    if spread and "band" in roles and array.chunks[roles.index("band")] == 1:
        return np.concatenate([fetch(array, roles, fixed, (band,), area) for band in bands])
    index = {"y": area[0], "x": area[1], "band": slice(low, high)}
    data = np.asarray(array[tuple(index.get(role, fixed.get(role, 0)) for role in roles)])
    left = [role for role in roles if role in index]
    if "band" not in left:
        data, left = data[None], ["band", *left]
    data = data.transpose([left.index(role) for role in ("band", "y", "x")])
    if list(bands) != list(range(low, high)):
        data = data[[band - low for band in bands]]
    return np.ascontiguousarray(data, data.dtype.newbyteorder("="))
