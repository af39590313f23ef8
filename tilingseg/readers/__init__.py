"""Opening scenes: one function, one contract, whatever the format.

    open_scene ──▶ zarr     Zarr v2 and v3, OME-NGFF, GeoZarr ─┐
               └─▶ geotiff  everything that GDAL opens ────────┴▶ raster: grid, resampling, windows

`bands` chooses what is read, `georef` measures pixels on the ground and fits the grid, `resample`
holds the lattice that makes windows seam-free.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tilingseg.errors import SceneError
from tilingseg.places import unsigned
from tilingseg.readers.geotiff import open_gdal
from tilingseg.readers.raster import RasterReader
from tilingseg.readers.source import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilingseg.readers.source import PixelSource
    from tilingseg.records import SceneReader

__all__ = ["open_scene"]


def open_scene(
    uri: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    band_names: Sequence[str] | None = None,
    gsd_m: float | None = None,
    pixel_m: float | None = None,
    selectors: Mapping[str, int] | None = None,
) -> SceneReader:
    """Open a raster of any size; no pixel is read.

    Args:
        uri: path or URL of a GeoTIFF, COG, VRT, Zarr or any other raster that GDAL opens. A path
            into a Zarr store, such as `scene.zarr/group/array`, selects inside.
        bands: bands to read, from 1, in this order; an index may repeat, such as (1, 1, 1) to show
            a grey scene to a model of three bands. None: by `band_names`.
        band_names: bands that a model wants, such as ("red", "green", "blue"), found by their names
            in the file, else by their position. None: every band but alpha.
        gsd_m: ground pixel size to deliver, metres; the scene is resampled unless its own is within
            10 %. None: the scene's own.
        pixel_m: ground or physical pixel size of the file, metres, where it does not tell or is
            wrong.
        selectors: index along axes of a Zarr array that are neither bands nor y nor x, such as
            {"t": 0, "z": 3}.

    Raises:
        SceneError: the scene cannot be opened, lacks the bands, or does not fit `gsd_m`.
        DependencyError: an optional package is needed to reach it.
    """
    # Loading Zarr takes as long as all the rest; masks are read without it.
    from tilingseg.readers.zarr import open_zarr
    from tilingseg.readers.zarr_store import locate_zarr

    options = ReadOptions(
        bands=None if bands is None else tuple(bands),
        band_names=None if band_names is None else tuple(band_names),
        gsd_m=gsd_m,
        pixel_m=pixel_m,
        selectors=tuple((selectors or {}).items()),
    )
    target = locate_zarr(os.fspath(uri))
    source: PixelSource
    if target is not None:
        source = open_zarr(target, options)
    elif options.selectors:
        raise SceneError(
            f"{unsigned(os.fspath(uri))} is no Zarr; only Zarr arrays have axes to select along"
        )
    else:
        source = open_gdal(os.fspath(uri), options)
    return RasterReader(source, gsd_m)
