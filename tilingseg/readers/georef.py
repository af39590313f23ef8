"""Ground pixel size, and the grid on which a scene is delivered.

Metres on the ground are measured along the geodesic at the centre of the scene, whatever its CRS:
0.149 "m" of web mercator in Nepal are 0.132 m, and degrees are metres too. The delivered grid is
the file's own, scaled along its rows and columns; rotation and CRS stay as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from tilingseg.errors import SceneError
from tilingseg.records import Affine6, Georef

if TYPE_CHECKING:
    from tilingseg.readers.source import ReadOptions

SCENE_TRANSFORM_TAG = "TILINGSEG_SCENE_TRANSFORM"
"""Transform of the scene's file, in a result of a run without a CRS: a, b, c, d, e, f."""
_SAME = 0.1
"""Relative difference of pixel sizes that a network does not notice; not worth resampling."""
_TOO_COARSE = 4.0
_TOO_FINE = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredGrid:
    """The pixel grid that a reader delivers."""

    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    scale: tuple[float, float]
    """File pixels for one delivered pixel, along (rows, columns); (1, 1): as stored."""
    georef: Georef
    """Where the delivered pixels lie."""
    notes: tuple[str, ...] = ()
    """What was decided, for the user."""


def locate(
    crs: str | None, transform: Affine6, shape: tuple[int, int], options: ReadOptions, uri: str
) -> Georef:
    """Measure the ground pixel size and put the georeference together.

    Args:
        crs: authority code, WKT or PROJ string; None: pixel coordinates.
        transform: pixel corner → CRS, in the order of `Georef.transform`.
        shape: (height, width), px.
        options: `pixel_m` wins over what is measured.
        uri: the scene, for messages.

    Returns:
        The georeference of the file's own grid, its CRS shortened to an authority code where one
        fits exactly.

    Raises:
        SceneError: the CRS is unreadable, nobody knows where on the Earth it lies, or the pixels
            have no area there.
    """
    given = None if options.pixel_m is None else (options.pixel_m, options.pixel_m)
    if crs is None:
        return Georef(crs=None, transform=transform, pixel_m=given)
    try:
        parsed = CRS.from_user_input(crs)
        to_wgs84 = Transformer.from_crs(parsed, "EPSG:4326", always_xy=True)
    except ProjError as error:
        raise SceneError(_unusable(crs, uri)) from error
    if parsed.is_engineering or parsed.is_geocentric:
        raise SceneError(_unusable(parsed.name, uri))
    a, b, _, d, e, _ = transform
    if a * e == b * d:
        raise SceneError(
            f"{uri} has pixels without an area: its transform is {a:g}, {b:g}, {d:g}, {e:g}; "
            "assign the true one (gdal_edit.py -a_ullr ULX ULY LRX LRY FILE)"
        )
    authority = parsed.to_authority(min_confidence=100)
    text = ":".join(authority) if authority else parsed.to_wkt()
    measured = given or _ground_pixel(to_wgs84, transform, shape)
    return Georef(crs=text, transform=transform, pixel_m=measured)


def in_scene_pixels(georef: Georef, scene_transform: str | None) -> Georef:
    """Say where the pixels of a run's result lie in the file of its scene.

    Args:
        georef: of the result.
        scene_transform: what it says under `SCENE_TRANSFORM_TAG`; None: nothing.
    """
    last_row = (0.0, 0.0, 1.0)
    try:
        stated = [float(part) for part in (scene_transform or "").split()]
        scene = np.reshape([*stated, *last_row], (3, 3))
        found = np.linalg.solve(scene, np.reshape([*georef.transform, *last_row], (3, 3)))
    except ValueError:  # no six numbers, or a grid without an area
        return georef
    a, b, c, d, e, f, *_ = found.ravel().tolist()
    return replace(georef, in_file=(a, b, c, d, e, f))


def fit_grid(
    source: Georef, shape: tuple[int, int], gsd_m: float | None, uri: str
) -> DeliveredGrid:
    """Decide on the grid to deliver.

    Args:
        source: georeference of the file's own grid.
        shape: its (height, width), px.
        gsd_m: ground pixel size that is wanted, metres; None: the file's own.
        uri: the scene, for messages.

    Raises:
        SceneError: the file is too coarse or far too fine for that pixel size.
    """
    own = DeliveredGrid(height=shape[0], width=shape[1], scale=(1.0, 1.0), georef=source)
    if gsd_m is None:
        return own
    if source.pixel_m is None:
        return replace(
            own,
            notes=(
                f"The ground pixel size is not known; pixels are taken as they are, although the "
                f"model works at {_metres(gsd_m)}.",
            ),
        )
    along_x, along_y = source.pixel_m
    _refuse_misfit(source, gsd_m, uri)
    if max(abs(along_x / gsd_m - 1), abs(along_y / gsd_m - 1)) <= _SAME:
        note = f"Read at its own pixel size of {_metres(source.gsd_m)}, within 10 % of the model's."
        exact = math.isclose(along_x, gsd_m, rel_tol=1e-3)
        return own if exact else replace(own, notes=(note,))
    scale = (gsd_m / along_y, gsd_m / along_x)
    a, b, c, d, e, f = source.transform
    georef = replace(
        source,
        transform=(a * scale[1], b * scale[0], c, d * scale[1], e * scale[0], f),
        pixel_m=(gsd_m, gsd_m),
        in_file=(scale[1], 0.0, 0.0, 0.0, scale[0], 0.0),
    )
    return DeliveredGrid(
        height=_length(shape[0], scale[0]),
        width=_length(shape[1], scale[1]),
        scale=scale,
        georef=georef,
        notes=(f"Resampled from {_metres(source.gsd_m)} to {_metres(gsd_m)} a pixel.",),
    )


def _length(n_source: int, scale: float) -> int:
    # Nothing of the scene is cut off; a remainder of rounding makes no pixel of its own.
    return max(1, math.ceil(n_source / scale - 1e-6))


def _refuse_misfit(source: Georef, gsd_m: float, uri: str) -> None:
    ratio = (source.gsd_m or gsd_m) / gsd_m
    sizes = f"{uri} has pixels of {_metres(source.gsd_m)}, wanted are {_metres(gsd_m)}"
    if ratio > _TOO_COARSE:
        raise SceneError(
            f"{sizes}: {ratio:.3g} times too coarse to show what the model looks for; use a model "
            "for this resolution, or --gsd to run on other pixels all the same"
        )
    if ratio < 1 / _TOO_FINE:
        raise SceneError(
            f"{sizes}: {1 / ratio:.3g} times finer, so not the kind of scene that the model was "
            "trained on; use a model for this resolution, or --gsd to run on other pixels all the "
            "same"
        )


def _ground_pixel(
    to_wgs84: Transformer, transform: Affine6, shape: tuple[int, int]
) -> tuple[float, float] | None:
    """Return metres of one pixel along x and y at the centre, None where that has no answer."""
    a, b, c, d, e, f = transform
    row, col = shape[0] / 2, shape[1] / 2
    # One pixel to both sides of the centre, along the rows and along the columns.
    cols = [col - 0.5, col + 0.5, col, col]
    rows = [row, row, row - 0.5, row + 0.5]
    x = [a * i + b * j + c for i, j in zip(cols, rows, strict=True)]
    y = [d * i + e * j + f for i, j in zip(cols, rows, strict=True)]
    lon, lat = to_wgs84.transform(x, y)
    if not all(map(math.isfinite, [*lon, *lat])) or max(map(abs, lat)) > 90:
        return None
    _, _, along_x = Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])
    _, _, along_y = Geod(ellps="WGS84").inv(lon[2], lat[2], lon[3], lat[3])
    return (float(along_x), float(along_y)) if along_x > 0 and along_y > 0 else None


def _unusable(crs: str, uri: str) -> str:
    quoted = re.match(r'\s*\w+\[\s*"([^"]*)"', crs)
    name = " ".join((quoted[1] if quoted else crs).split())[:80]
    return (
        f"{uri} has the CRS {name!r}, which cannot be placed on the Earth; assign the true one "
        "(gdal_edit.py -a_srs EPSG:… FILE), or remove it to work in pixels (-a_srs None)"
    )


def _metres(value: float | None) -> str:
    if value is None:
        return "unknown size"
    return f"{value:.4g} m" if value >= 1e-3 else f"{value * 1e6:.4g} µm"
