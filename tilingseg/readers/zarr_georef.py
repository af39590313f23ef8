"""What a Zarr array says about its pixels: CRS and transform, names of bands, nodata.

The transform comes from the first of these that is there: coordinate arrays of x and y (they
follow when somebody cuts the data, which a transform written as text does not), the attribute
`spatial:transform`, the `GeoTransform` of the grid mapping variable that rioxarray writes, a plain
`transform`. The CRS comes from the grid mapping variable, from `proj:` attributes, or from GDAL's
`_CRS`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from pyproj import CRS
from pyproj.exceptions import ProjError

from tilingseg.readers.georef import locate
from tilingseg.readers.physical import metres
from tilingseg.readers.zarr_axes import dimension_names
from tilingseg.records import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tilingseg.readers.multiscales import Multiscales
    from tilingseg.readers.source import ReadOptions
    from tilingseg.readers.zarr_store import ZarrStore
    from tilingseg.records import Affine6, Georef

_IRREGULAR = 0.01
"""Steps between coordinates may differ by this share of a step: they are often rounded."""


def georeference(
    store: ZarrStore,
    array: zarr.Array[Any],
    names: tuple[str, ...] | None,
    roles: tuple[str, ...],
    pyramid: Multiscales | None,
    options: ReadOptions,
) -> tuple[Georef, tuple[str, ...]]:
    """Put the georeference of an array together.

    Args:
        store: its groups around the array are looked into.
        array: level 0 of the scene.
        names: names of its axes; None: it has none.
        roles: their meaning.
        pyramid: of the group around it.
        options: `pixel_m` wins over what is measured.

    Returns:
        georef: of the array's own grid.
        notes: what the user should know.

    Raises:
        SceneError: the CRS is unreadable or cannot be placed on the Earth.
    """
    groups = store.groups_around(array.path)
    attributes = [dict(array.attrs), *(dict(group.attrs) for group in groups)]
    mapping = _grid_mapping(array, groups)
    y, x = roles.index("y"), roles.index("x")
    notes: tuple[str, ...] = ()
    transform, stated = None, _stated_transform(attributes, mapping)
    crs = _stated_crs(attributes, mapping)
    if names is not None and groups:
        along_x = _in_units_of(crs, groups[0], names[x], array.shape[x])
        along_y = _in_units_of(crs, groups[0], names[y], array.shape[y])
        if along_x is not None and along_y is not None:
            transform = _from_coordinates(along_x, along_y, stated)
            if transform is None and len(along_x) + len(along_y) > 2:
                notes = ("The x and y coordinates are not evenly spaced and are not used.",)
    transform = transform or stated
    if crs is None and transform and names and names[x].lower() in ("lon", "longitude"):
        crs = "EPSG:4326"
    if transform is None or crs is None:
        missing = "no CRS" if crs is None else "a CRS but no transform"
        notes = (*notes, f"The file has {missing}; coordinates are pixels.")
        crs = None
    shape = array.shape[y], array.shape[x]
    georef = locate(crs, transform or IDENTITY, shape, options, store.target.uri)
    if georef.pixel_m is None and crs is None and pyramid is not None:
        georef = replace(georef, pixel_m=_physical_pixel(pyramid, x, y))
    return georef, notes


def band_names(
    store: ZarrStore, array: zarr.Array[Any], roles: tuple[str, ...], count: int
) -> list[str]:
    """Return the names of the bands of an array; empty: they are not stated."""
    listed = array.attrs.get("long_name") or array.attrs.get("band_names")
    if isinstance(listed, list | tuple) and len(listed) == count:
        return [str(name) for name in listed]
    names, groups = dimension_names(array), store.groups_around(array.path)
    if names is None or not groups or "band" not in roles:
        return []
    values = _coordinate(groups[0], names[roles.index("band")], count)
    if values is None or values.dtype.kind not in "UTO":
        return []
    return [str(name) for name in values]


def nodata_values(array: zarr.Array[Any], n_bands: int) -> tuple[float | None, ...]:
    """Return the value of each band that means nodata; None: the array states none."""
    for key in ("_FillValue", "missing_value", "nodata", "nodatavals"):
        value = array.attrs.get(key)
        listed = list(value) if isinstance(value, list | tuple) and value else [value]
        if listed[0] is not None:
            listed = listed if len(listed) == n_bands else listed[:1] * n_bands
            return tuple(_number(each, array.dtype) for each in listed)
    # xarray keeps `_FillValue` of a v2 array in its fill value, and leaves that empty otherwise.
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in array.attrs:
        return (_number(array.fill_value, array.dtype),) * n_bands
    return (None,) * n_bands


def _number(value: Any, dtype: np.dtype[Any]) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    # xarray writes the bytes of a float fill value as base64 into v3 attributes.
    try:
        raw = base64.b64decode(value, validate=True)
        return float(np.frombuffer(raw, dtype if len(raw) == dtype.itemsize else "<f8")[0])
    except (TypeError, ValueError, IndexError, binascii.Error):
        return None


def _grid_mapping(array: zarr.Array[Any], groups: Sequence[zarr.Group]) -> Mapping[str, Any]:
    named = array.attrs.get("grid_mapping")
    name = named.split(":")[0].split()[0] if isinstance(named, str) and named.strip() else None
    for group in groups:
        for candidate in (name,) if name else ("spatial_ref", "crs"):
            node = group.get(candidate)
            if node is not None:
                return dict(node.attrs)
    return {}


def _coordinate(group: zarr.Group, name: str, length: int) -> NDArray[Any] | None:
    node = group.get(name)
    if not isinstance(node, zarr.Array) or node.shape != (length,):
        return None
    return np.asarray(node[:])


def _in_units_of(crs: str | None, group: zarr.Group, name: str, length: int) -> NDArray[Any] | None:
    """Return coordinates in the unit of the CRS, which need not be the one they state."""
    values = _coordinate(group, name, length)
    unit = None if values is None else metres(1.0, str(group[name].attrs.get("units", "")))
    # Programs write metres without a look at the CRS.
    if values is None or unit in (None, 1.0) or crs is None or values.dtype.kind not in "fiu":
        return values
    try:
        axes = CRS.from_user_input(crs).axis_info
    except ProjError:  # told where the CRS is needed
        return values
    is_length = bool(axes) and axes[0].unit_name not in ("degree", "grad", "radian")
    return values * (unit / axes[0].unit_conversion_factor) if is_length else values


def _stated_crs(attributes: Sequence[Mapping[str, Any]], mapping: Mapping[str, Any]) -> str | None:
    for key in ("crs_wkt", "spatial_ref"):
        if isinstance(mapping.get(key), str) and mapping[key]:
            return str(mapping[key])
    for level in attributes:
        for key in ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson", "_CRS", "crs"):
            if text := _crs_text(level.get(key)):
                return text
    return None


def _crs_text(value: Any) -> str | None:
    if isinstance(value, dict):
        # GDAL keeps several spellings of one CRS side by side.
        value = value.get("wkt") or value.get("projjson") or ("type" in value and value) or None
        return json.dumps(value) if isinstance(value, dict) else value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"EPSG:{value}"
    return value if isinstance(value, str) and value else None


def _stated_transform(
    attributes: Sequence[Mapping[str, Any]], mapping: Mapping[str, Any]
) -> Affine6 | None:
    for level in attributes:
        if (found := _six(level.get("spatial:transform"))) is not None:
            return _shifted(found) if level.get("spatial:registration") == "node" else found
    if (found := _six(mapping.get("GeoTransform"))) is not None:
        c, a, b, f, d, e = found
        return (a, b, c, d, e, f)
    stated = (_six(level.get("transform")) for level in attributes)
    return next((found for found in stated if found is not None), None)


def _from_coordinates(x: NDArray[Any], y: NDArray[Any], stated: Affine6 | None) -> Affine6 | None:
    """Return the transform of a grid from the coordinates of its pixel centres.

    Along an axis of one pixel they do not tell its size, which is then that of the transform that
    is stated too, or that of the other axis, with north up.
    """
    along_x, along_y = _regular(x), _regular(y)
    if stated is not None and stated[1] == stated[3] == 0:
        step_x, step_y = stated[0], stated[4]
    else:
        step_x = abs(along_y[1]) if along_y else 0.0
        step_y = -abs(along_x[1]) if along_x else 0.0
    along_x, along_y = along_x or _single(x, step_x), along_y or _single(y, step_y)
    if along_x is None or along_y is None:
        return None
    (left, step_x), (top, step_y) = along_x, along_y
    return (step_x, 0.0, left - step_x / 2, 0.0, step_y, top - step_y / 2)


def _single(values: NDArray[Any], step: float) -> tuple[float, float] | None:
    """Return (first, step) of a single coordinate, its step known from elsewhere."""
    if len(values) != 1 or values.dtype.kind not in "fiu" or step == 0:
        return None
    return float(values[0]), step


def _regular(values: NDArray[Any]) -> tuple[float, float] | None:
    """Return (first, step) of evenly spaced coordinates."""
    if len(values) < 2 or values.dtype.kind not in "fiu":
        return None
    places = np.asarray(values, np.float64)
    first, step = float(places[0]), float(places[-1] - places[0]) / (len(places) - 1)
    if step == 0 or not math.isfinite(step):
        return None
    strays = np.abs(places - (first + step * np.arange(len(places))))
    # Coordinates stored as float32 carry its rounding.
    rounding = np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    allowed = _IRREGULAR * abs(step) + np.abs(places) * rounding * 2
    return (first, step) if bool((strays <= allowed).all()) else None


def _six(value: Any) -> Affine6 | None:
    """Return six numbers from a list, or from text that separates them by blanks."""
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) not in (6, 9):
        return None
    try:
        a, b, c, d, e, f = (float(part) for part in parts[:6])
    except (TypeError, ValueError):
        return None
    return (a, b, c, d, e, f) if all(map(math.isfinite, (a, b, c, d, e, f))) else None


def _shifted(transform: Affine6) -> Affine6:
    """Move the origin from the centre of the first pixel to its corner."""
    a, b, c, d, e, f = transform
    return (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)


def _physical_pixel(pyramid: Multiscales, x: int, y: int) -> tuple[float, float] | None:
    scale, units = pyramid.levels[0].scale, pyramid.units
    if scale is None or len(units) != len(scale):
        return None
    along_x, along_y = (metres(scale[axis], units[axis]) for axis in (x, y))
    return None if along_x is None or along_y is None else (along_x, along_y)
