"""Mask and probability as a Zarr 3 group.

A result with a CRS follows CF as rioxarray writes it, one resolution::

    mask          uint8 (y, x), nodata 255, flag_values and flag_meanings name the classes
    probability   uint8 (class, y, x), scale_factor 1/255; where the mask is 255 it means nothing
    class y x     mask values; pixel centres in the CRS (left out where the grid is turned)
    spatial_ref   crs_wkt and GeoTransform

A result without one, such as a microscope slide, follows OME-NGFF 0.5 with a pyramid::

    0 1 2 …       uint8 (y, x): a label image, whose levels are picked, never averaged
    probability/  0 1 2 …   uint8 (c, y, x): an image, whose levels are averages

Chunks are not sharded: fewer files would be kinder to a file system, but many readers cannot open
them yet. Levels are made from the level below, so that memory stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from rasterio.crs import CRS

from tilingseg.atomic import whole
from tilingseg.export.windows import moved, read_probabilities, transform_of, windows
from tilingseg.palette import class_colour
from tilingseg.records import NODATA

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.export.cog import Tags
    from tilingseg.grid import Window
    from tilingseg.records import Georef, MaskReader

CHUNK_PX = 1024
"""Side of a chunk, px; divides the windows that are written."""
NGFF_VERSION = "0.5"


def write_mask_zarr(
    path: Path, result: MaskReader, extent: Window, tags: Tags = (), *, probability: bool = True
) -> None:
    """Write mask and probability as a Zarr 3 group, a folder.

    Args:
        path: folder to write; an existing one is replaced when the new one is whole.
        result: the mask and its probabilities.
        extent: the part of `result` that is written, px.
        tags: metadata, such as the model's name and hash; under `tilingseg` in the attributes.
        probability: write the probabilities too.

    Raises:
        OutputError: probabilities were not kept, or the disk is full or cannot be written.
    """
    with whole(path) as part:
        group = zarr.create_group(part, zarr_format=3)
        classes = {str(k): name for k, name in enumerate(("background", *result.classes))}
        group.attrs["tilingseg"] = {"classes": classes} | dict(tags)
        if result.georef.crs is None:
            _write_ngff(group, result, extent, probability=probability)
        else:
            _write_cf(group, result, extent, probability=probability)


def _write_cf(group: zarr.Group, result: MaskReader, extent: Window, *, probability: bool) -> None:
    _write_coordinates(group, result, extent)
    mask = _create(group, "mask", ("y", "x"), extent, NODATA)
    mask.attrs.update(
        {
            "_FillValue": NODATA,
            "grid_mapping": "spatial_ref",
            "flag_values": list(range(len(result.classes) + 1)),
            # CF separates the meanings by blanks
            "flag_meanings": " ".join(
                "_".join(name.split()) for name in ("background", *result.classes)
            ),
        }
    )
    chances = None
    if probability:
        shape = (len(result.classes),)
        chances = _create(group, "probability", ("class", "y", "x"), extent, 0, shape)
        chances.attrs.update(
            {
                "grid_mapping": "spatial_ref",
                "long_name": list(result.classes),
                "scale_factor": 1 / 255,
                "add_offset": 0.0,
            }
        )
    _fill(mask, chances, result, extent)


def _write_coordinates(group: zarr.Group, result: MaskReader, extent: Window) -> None:
    crs = CRS.from_user_input(result.georef.crs)
    a, b, c, d, e, f = transform_of(result.georef, extent)
    reference = {
        "crs_wkt": crs.to_wkt(),
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}",
    }
    group.create_array("spatial_ref", shape=(), dtype="int64", attributes=dict(reference))[()] = 0
    values = np.arange(1, len(result.classes) + 1, dtype="int64")
    _write_axis(group, "class", values, {"long_name": "mask value"})
    if b == 0 and d == 0:
        names = ("longitude", "latitude") if crs.is_geographic else ("x", "y")
        words = "{}" if crs.is_geographic else "projection_{}_coordinate"
        x = c + a * (np.arange(extent.width) + 0.5)
        y = f + e * (np.arange(extent.height) + 0.5)
        _write_axis(group, "x", x, {"axis": "X", "standard_name": words.format(names[0])})
        _write_axis(group, "y", y, {"axis": "Y", "standard_name": words.format(names[1])})


def _write_axis(
    group: zarr.Group, name: str, values: NDArray[Any], attributes: dict[str, Any]
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        dimension_names=(name,),
        attributes=attributes,
    )
    array[:] = values


def _write_ngff(
    group: zarr.Group, result: MaskReader, extent: Window, *, probability: bool
) -> None:
    mask = _create(group, "0", ("y", "x"), extent, NODATA)
    chances, images = None, None
    if probability:
        images = group.create_group("probability")
        chances = _create(images, "0", ("c", "y", "x"), extent, 0, (len(result.classes),))
    _fill(mask, chances, result, extent)
    # Pixel corners, as far as anybody knows where they lie: of a world file, or in the scene.
    group.attrs["transform"] = list(transform_of(result.georef, extent))
    n_levels = _add_levels(group, mask, averaged=False)
    colours = [
        {"label-value": k + 1, "rgba": [*class_colour(k), 255]} for k in range(len(result.classes))
    ]
    names = [{"label-value": k + 1, "class": name} for k, name in enumerate(result.classes)]
    labels: dict[str, Any] = {
        "colors": [*colours, {"label-value": NODATA, "rgba": [0, 0, 0, 0]}],
        "properties": [*names, {"label-value": NODATA, "class": "nodata"}],
    }
    group.attrs["ome"] = {
        "version": NGFF_VERSION,
        "multiscales": [_multiscale("mask", "yx", result.georef, extent, n_levels)],
        "image-label": labels,
    }
    if images is not None and chances is not None:
        _add_levels(images, chances, averaged=True)
        images.attrs["ome"] = {
            "version": NGFF_VERSION,
            "multiscales": [_multiscale("probability", "cyx", result.georef, extent, n_levels)],
            "omero": {"channels": [_channel(k, name) for k, name in enumerate(result.classes)]},
        }


def _multiscale(
    name: str, axes: str, georef: Georef, extent: Window, n_levels: int
) -> dict[str, Any]:
    """Describe a pyramid; lengths in micrometres where the scene knows its pixel size."""
    known = georef.pixel_m is not None
    size = {"x": 1.0, "y": 1.0, "c": 1.0}
    if georef.pixel_m is not None:
        # metres to micrometres leaves noise behind the twelfth digit
        size |= {"x": round(georef.pixel_m[0] * 1e6, 9), "y": round(georef.pixel_m[1] * 1e6, 9)}
    start = {"x": extent.col * size["x"], "y": extent.row * size["y"], "c": 0.0}
    datasets = []
    for level in range(n_levels):
        factor = 2**level
        # The coordinate of a pixel is that of its centre: averages lie between the pixels below,
        # picked pixels where the first of those lies.
        shift = (factor - 1) / 2 if name == "probability" else 0.0
        scale = [size[a] * (factor if a != "c" else 1) for a in axes]
        offset = [start[a] + (shift * size[a] if a != "c" else 0.0) for a in axes]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": offset},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    unit = {"unit": "micrometer"} if known else {}
    kinds = [
        {"name": a, "type": "channel"} if a == "c" else {"name": a, "type": "space"} | unit
        for a in axes
    ]
    return {"name": name, "axes": kinds, "datasets": datasets}


def _channel(index: int, name: str) -> dict[str, Any]:
    colour = "".join(f"{value:02X}" for value in class_colour(index))
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": name, "color": colour, "window": window, "active": True}


def _create(
    group: zarr.Group,
    name: str,
    axes: tuple[str, ...],
    extent: Window,
    fill: int,
    outer: tuple[int, ...] = (),
) -> zarr.Array[Any]:
    """Make an empty uint8 array (*outer, height, width) of the size of `extent`."""
    return group.create_array(
        name,
        shape=(*outer, extent.height, extent.width),
        chunks=(*(1 for _ in outer), CHUNK_PX, CHUNK_PX),
        dtype="uint8",
        fill_value=fill,
        dimension_names=axes,
    )


def _fill(
    mask: zarr.Array[Any], chances: zarr.Array[Any] | None, result: MaskReader, extent: Window
) -> None:
    for window in windows(extent.height, extent.width):
        at = (slice(window.row, window.row_stop), slice(window.col, window.col_stop))
        source = moved(window, extent)
        values = result.read_mask(source)
        mask[at] = values
        if chances is not None:
            chances[(slice(None), *at)] = read_probabilities(result, source, values != NODATA)


def _add_levels(group: zarr.Group, level: zarr.Array[Any], *, averaged: bool) -> int:
    """Halve an array until it fits one chunk; return the number of levels."""
    axes = ("y", "x") if level.ndim == 2 else ("c", "y", "x")
    number = 0
    while max(level.shape[-2:]) > CHUNK_PX:
        number += 1
        *outer, height, width = level.shape
        half = group.create_array(
            str(number),
            shape=(*outer, -(-height // 2), -(-width // 2)),
            chunks=level.chunks,
            dtype="uint8",
            fill_value=level.fill_value,
            dimension_names=axes,
        )
        for window in windows(height, width):
            at = (slice(window.row, window.row_stop), slice(window.col, window.col_stop))
            pixels = np.asarray(level[(..., *at)])
            small = _averaged(pixels) if averaged else pixels[..., ::2, ::2]
            row, col = window.row // 2, window.col // 2
            to = (slice(row, row + small.shape[-2]), slice(col, col + small.shape[-1]))
            half[(..., *to)] = small
        level = half
    return number + 1


def _averaged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the rounded means of 2 × 2 pixels, uint8 (…, height, width); an odd edge repeats."""
    pad = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
    wide = np.pad(pixels, pad, mode="edge").astype(np.uint16)
    total = (
        wide[..., ::2, ::2] + wide[..., 1::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, 1::2]
    )
    return ((total + 2) // 4).astype(np.uint8)
