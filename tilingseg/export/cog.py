"""Masks and probabilities as cloud-optimised GeoTIFF.

A COG stores its overviews before its full resolution, so it cannot be written in one pass. The
result goes window by window into a plain tiled GeoTIFF beside the output, and GDAL's COG driver,
which streams through its block cache, makes the COG from that. The plain file is not compressed
where that costs little room: compressing it and its overviews takes as long as the COG itself.

A disk that fills up while a file is being closed is no exception in GDAL but a line in its log; so
every output is read back and its checksums are compared before it gets its name.

Class masks have nearest overviews, so that no level holds a class that is not in the scene; nodata
is the value 255. Probabilities use all 256 values, so their nodata is an internal mask band; their
overviews are averages of the valid pixels.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
import zlib
from contextlib import contextmanager, suppress
from ctypes import CDLL
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from tilingseg.atomic import whole
from tilingseg.errors import OutputError
from tilingseg.export.windows import moved, read_probabilities, transform_of, windows
from tilingseg.palette import class_colour
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import Georef, MaskReader

Tags = tuple[tuple[str, str], ...]
"""(key, value) pairs for the metadata of an output."""

BLOCK_PX = 512
"""Side of the blocks of a file, px."""
CACHE_BYTES = 32 * 2**20
"""GDAL's block cache while an output is written: windows are whole blocks, so that nothing is
fetched twice; its own default grows with the machine."""
PLAIN_BYTES = 1_000_000_000
"""Outputs up to this size, not compressed, may stand on the disk as they are for a moment."""
CLASSES_TAG = "TILINGSEG_CLASSES"
"""JSON object: mask value → class name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What distinguishes one kind of raster from another."""

    n_bands: int
    nodata: int | None
    """None: an internal mask band says what is valid."""
    overviews: str
    """Resampling of the overviews, in GDAL's words."""
    predictor: str
    """Transformation before compression, in GDAL's words."""
    describe: Callable[[Any], None]
    """Writes colours, names and tags into an open, still empty dataset."""
    read: Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]
    """Gives uint8 (bands, height, width) and bool (height, width), True = valid; None: nodata."""


def write_mask_cog(path: Path, result: MaskReader, extent: Window, tags: Tags = ()) -> None:
    """Write the class mask as `path`, and the class names for its legend as `path`.aux.xml.

    One uint8 band: 0 background, k + 1 class k, 255 nodata; with a colour table.

    Args:
        path: file to write; an existing one is replaced when the new one is whole.
        result: the mask.
        extent: the part of `result` that is written, px.
        tags: metadata, such as the model's name and hash.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    names = ("background", *result.classes)
    colours = {k + 1: class_colour(k) for k in range(len(result.classes))}

    def describe(dataset: Any) -> None:
        dataset.write_colormap(1, {BACKGROUND: (0, 0, 0)} | colours)
        dataset.set_band_description(1, "class")
        classes = json.dumps({str(k): name for k, name in enumerate(names)}, ensure_ascii=False)
        dataset.update_tags(**{CLASSES_TAG: classes} | dict(tags))

    def read(window: Window) -> tuple[NDArray[np.uint8], None]:
        return result.read_mask(window)[None], None

    layer = _Layer(
        n_bands=1,
        nodata=NODATA,
        overviews="NEAREST",
        predictor="NO",  # differences of class values made a mask of real streets 11 % larger
        describe=describe,
        read=read,
    )
    _write(path, layer, result.georef, extent)
    _write_legend(path.with_name(path.name + ".aux.xml"), names)


def write_probability_cog(path: Path, result: MaskReader, extent: Window, tags: Tags = ()) -> None:
    """Write the class probabilities as `path`: one uint8 band a class, 255 = 1 (scale 1/255).

    Nodata is an internal mask band, because every value is a probability.

    Args:
        path: file to write; an existing one is replaced when the new one is whole.
        result: the mask with its probabilities.
        extent: the part of `result` that is written, px.
        tags: metadata, such as the model's name and hash.

    Raises:
        OutputError: probabilities were not kept, or the disk is full or cannot be written.
    """
    n_classes = len(result.classes)

    def describe(dataset: Any) -> None:
        dataset.scales = (1 / 255,) * n_classes
        dataset.offsets = (0.0,) * n_classes
        dataset.descriptions = result.classes
        dataset.update_tags(**dict(tags))

    def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        valid = result.read_mask(window) != NODATA
        return read_probabilities(result, window, valid), valid

    layer = _Layer(
        n_bands=n_classes,
        nodata=None,
        overviews="AVERAGE",
        predictor="STANDARD",
        describe=describe,
        read=read,
    )
    _write(path, layer, result.georef, extent)


def _write(path: Path, layer: _Layer, georef: Georef, extent: Window) -> None:
    with whole(path) as part, _quiet_gdal():
        try:
            same = _write_cog(part, layer, georef, extent)
            reason = "it reads back differently, the disk is full or damaged"
        # rasterio lets some of GDAL's own through, and calls what GDAL does not explain SystemError
        except (RasterioError, CPLE_BaseError, SystemError) as error:
            same, reason = False, " ".join(str(error.__cause__ or error).split())
        if not same:
            free_mb = shutil.disk_usage(path.parent).free // 10**6
            if free_mb == 0:  # GDAL tells of what it could not read back instead
                reason = os.strerror(errno.ENOSPC)
            raise OutputError(f"cannot write {path}: {reason} ({free_mb} MB are free)")


def _write_cog(path: Path, layer: _Layer, georef: Georef, extent: Window) -> bool:
    """Write a COG and tell whether it reads back as what was to be written."""
    blocks = path.with_name(path.name + ".blocks.tif")
    checksums = _write_blocks(blocks, layer, georef, extent)
    rasterio.shutil.copy(
        blocks,
        path,
        driver="COG",
        compress="DEFLATE",
        level=5,  # half the time of GDAL's default for masks that are a tenth larger
        predictor=layer.predictor,
        blocksize=BLOCK_PX,
        bigtiff="IF_SAFER",
        overview_resampling=layer.overviews,
        num_threads="ALL_CPUS",
    )
    return _read_back(path, extent, masked=layer.nodata is None) == checksums


def _write_blocks(path: Path, layer: _Layer, georef: Georef, extent: Window) -> list[int]:
    """Write a plain tiled GeoTIFF and return the checksum of each of its windows."""
    checksums = []
    is_plain = layer.n_bands * extent.area <= PLAIN_BYTES
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=extent.height,
        width=extent.width,
        count=layer.n_bands,
        dtype="uint8",
        nodata=layer.nodata,
        crs=georef.crs,
        transform=Affine(*transform_of(georef, extent)),
        tiled=True,
        blockxsize=BLOCK_PX,
        blockysize=BLOCK_PX,
        interleave="pixel",
        photometric="MINISBLACK",
        bigtiff="IF_SAFER",
        **({} if is_plain else {"compress": "DEFLATE", "zlevel": 1}),  # read once and thrown away
    ) as dataset:
        layer.describe(dataset)
        for window in windows(extent.height, extent.width):
            pixels, valid = layer.read(moved(window, extent))
            dataset.write(pixels, window=_rasterio_window(window))
            if valid is not None:
                dataset.write_mask(valid, window=_rasterio_window(window))
            checksums.append(_checksum(pixels, valid))
    if is_plain and layer.nodata is not None:  # the driver's own are compressed, then read again
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews(_overview_factors(extent), Resampling[layer.overviews.lower()])
    return checksums


def _overview_factors(extent: Window) -> list[int]:
    """Return how much each overview is reduced, as GDAL's COG driver does it."""
    longer, factors = max(extent.height, extent.width), list[int]()
    while longer >> len(factors) > BLOCK_PX:
        factors.append(2 << len(factors))
    return factors


def _read_back(path: Path, extent: Window, *, masked: bool) -> list[int]:
    with rasterio.open(path) as dataset:
        checksums = []
        for window in windows(extent.height, extent.width):
            pixels, valid = dataset.read(window=_rasterio_window(window)), None
            if masked:
                valid = dataset.read_masks(1, window=_rasterio_window(window)) > 0
            checksums.append(_checksum(pixels, valid))
    return checksums


def _checksum(pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None) -> int:
    """Return the checksum of pixels, and of their validity where they do not tell it."""
    found = zlib.crc32(np.ascontiguousarray(pixels).data)
    return found if valid is None else zlib.crc32(np.packbits(valid).data, found)


def _rasterio_window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing to standard error what GDAL is told as well and raises.

    It does so where a write fails. The library is the one that rasterio has loaded: from beside
    rasterio, where its wheels bring it, or the system's.
    """
    package = Path(rasterio.__file__).parent
    brought = [*package.glob("../rasterio.libs/*tiff*"), *package.glob(".dylibs/*tiff*")]
    for name in map(str, brought) if brought else filter(None, [find_library("tiff")]):
        with suppress(OSError, AttributeError):
            CDLL(name).TIFFSetErrorHandler(None)


@contextmanager
def _quiet_gdal() -> Iterator[None]:
    """Bound GDAL's cache, keep masks inside the file, and accept rasters that lie nowhere."""
    _silence_libtiff()
    settings: dict[str, Any] = {"GDAL_TIFF_INTERNAL_MASK": True}
    if "GDAL_CACHEMAX" not in os.environ:
        settings["GDAL_CACHEMAX"] = CACHE_BYTES
    with warnings.catch_warnings(), rasterio.Env(**settings):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _write_legend(path: Path, names: tuple[str, ...]) -> None:
    """Write GDAL's side file, the only place where it keeps the names of mask values."""
    categories = "".join(f"      <Category>{escape(name)}</Category>\n" for name in names)
    text = (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{categories}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
