"""Class masks from raster files: what `tilingseg vectorize` reads.

A mask that this project wrote names its classes in a tag and is taken by its word. Any other raster
of whole numbers is a mask too, also where they are stored as floats, as raster calculators do: 0
and whatever the file declares invalid are not classes, and every other value that occurs is one. To
know them, such a file is read once from end to end; what they are called is for the caller to say.

Many a mask declares its background, 0, to be nodata, so that maps show nothing there. It is ground
without a class all the same: outlines that end there are walls to be straightened, which those at
the border of nodata are not.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers.class_names import class_names
from tilingseg.readers.gdal_access import (
    fit_cache,
    gdal_settings,
    locate_target,
    open_dataset,
    reason_of,
)
from tilingseg.readers.gdal_layout import refuse_container
from tilingseg.readers.georef import SCENE_TRANSFORM_TAG, in_scene_pixels, locate
from tilingseg.readers.physical import physical_pixel_m
from tilingseg.readers.source import ReadOptions
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.readers.gdal_access import GdalTarget
    from tilingseg.records import Georef

CLASSES_TAG = "TILINGSEG_CLASSES"
"""JSON object in the file's metadata: mask value → class name."""
HIDES_BACKGROUND = "The file declares 0 to be nodata; it is read as background."
"""Note of masks and probabilities for which `hides_background`."""
MAX_CLASSES = NODATA - 1
_LARGEST = 1 << 31
"""No class has a larger number in a file of floats; what does is nodata that is not declared."""
_SCAN_ROWS_PX = 512
_SHOWN = 8
"""Values listed in a message."""


def open_mask(
    uri: str | os.PathLike[str],
    *,
    pixel_m: float | None = None,
    names: tuple[str, ...] | None = None,
) -> MaskFile:
    """Open a class mask.

    Args:
        uri: path or URL of a raster with one band of whole numbers (and perhaps an alpha band);
            NaN is nodata.
        pixel_m: ground or physical pixel size, metres, where the file is silent or wrong.
        names: of the classes of a file that does not name them, in the order of their values; left
            aside where one of them is a name that the classes have anyway.

    Raises:
        SceneError: it cannot be opened or read, or is no class mask.
    """
    target = locate_target(os.fspath(uri))
    dataset = open_dataset(target)
    try:
        _refuse_other_rasters(target.uri, dataset)
        stored = _Stored(fit_cache(target, dataset), dataset)
        legend = _legend_of_tag(target.uri, dataset)
        if legend is None:
            legend = _named(target.uri, _legend_of_values(stored), names or ())
        return MaskFile(stored, georef_of(target.uri, dataset, pixel_m), legend)
    except SceneError:
        dataset.close()
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Legend:
    """Which stored values are classes."""

    values: tuple[int, ...]
    """Ascending; value k is mask value k + 1."""
    names: tuple[str, ...]
    """Class names in the same order."""
    nodata: int | None = None
    """A value that means nodata although the file does not declare it."""
    n_nodata: int = 0
    """Pixels that hold it."""


class _Stored:
    """An open file, for one thread at a time."""

    def __init__(self, target: GdalTarget, dataset: Any) -> None:
        self.uri = target.uri
        self.dataset = dataset
        self._target = target
        self._lock = threading.Lock()
        self.hides_background = hides_background(dataset, 1)

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the stored values as whole numbers, and which pixels the file declares valid."""
        area = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with self._lock, gdal_settings(self._target):
                values = self.dataset.read(1, window=area)
                valid = read_valid(self.dataset, (1,), area)
        except RasterioError as error:
            raise SceneError(
                f"{self.uri}: rows {window.row}…{window.row_stop - 1} cannot be read "
                f"({reason_of(error, self._target)}); the file may be truncated or damaged"
            ) from error
        return (values, valid) if values.dtype.kind in "iu" else self._whole(values, valid)

    def _whole(
        self, values: NDArray[np.floating], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        valid &= ~np.isnan(values)
        values = np.where(valid, values, 0)
        wrong = (values != np.floor(values)) | (np.abs(values) > _LARGEST)
        if wrong.any():
            raise SceneError(
                f"{self.uri} holds {values.dtype} values such as {values[wrong][0]:g}; a class "
                "mask holds whole numbers, one for each class (cut probabilities at a threshold, "
                "declare the value of nodata)"
            )
        return values.astype(np.int64), valid

    def windows(self) -> Iterator[Window]:
        """Yield bands of rows that cover the file and read every block once."""
        height, width = self.dataset.shape
        rows = self.dataset.block_shapes[0][0]
        rows *= max(1, _SCAN_ROWS_PX // rows)
        for row in range(0, height, rows):
            yield Window(row=row, col=0, height=min(rows, height - row), width=width)


class MaskFile:
    """A class mask in a raster file: a `MaskReader` without probabilities."""

    def __init__(self, stored: _Stored, georef: Georef, legend: _Legend) -> None:
        """Take over an open file; `open_mask` is the way to get here."""
        self._stored = stored
        self._georef = georef
        self._legend = legend

    @property
    def height(self) -> int:
        """Rows, px."""
        return int(self._stored.dataset.height)

    @property
    def width(self) -> int:
        """Columns, px."""
        return int(self._stored.dataset.width)

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""
        return self._georef

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""
        return self._legend.names

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions taken while the file was opened."""
        notes = [HIDES_BACKGROUND] if self._stored.hides_background else []
        if self._legend.nodata is not None:
            notes.append(
                f"{self._legend.nodata} is taken for not labelled: {self._legend.n_nodata:,} px; "
                f"where it is a class, name it in the tag {CLASSES_TAG}"
            )
        return tuple(notes)

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`.

        Raises:
            SceneError: the window cannot be read, or holds a value that the legend does not name.
        """
        stored, valid = self._stored.read(window)
        if self._legend.nodata is not None:
            valid &= stored != self._legend.nodata
        labels = _positions(stored, (BACKGROUND, *self._legend.values))
        if not valid.all():
            labels[~valid] = NODATA
        unknown = labels == NODATA
        if unknown.any() and (unknown := unknown & valid).any():
            raise SceneError(
                f"{self._stored.uri} holds the value {stored[unknown][0]}, which its tag "
                f"{CLASSES_TAG} does not name; correct the tag or remove it"
            )
        return labels

    def read_probability(self, class_index: int, window: Window) -> None:
        """Return None: a mask file keeps no probabilities."""

    def close(self) -> None:
        """Close the file."""
        self._stored.dataset.close()


def _positions(stored: NDArray[Any], values: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return where in ascending `values` each stored value is found; `NODATA`: nowhere."""
    if stored.dtype == np.uint8 and values[-1] == len(values) - 1:  # they are their own positions
        unknown = stored >= len(values)
        return np.where(unknown, np.uint8(NODATA), stored) if unknown.any() else stored
    if stored.dtype.itemsize <= 2:  # a table of all possible values is ten times faster
        unsigned = f"u{stored.dtype.itemsize}"
        table = np.full(1 << 8 * stored.dtype.itemsize, NODATA, dtype=np.uint8)
        table[np.array(values).astype(stored.dtype).view(unsigned)] = range(len(values))
        return np.take(table, stored.view(unsigned))
    place = np.minimum(np.searchsorted(values, stored), len(values) - 1)
    return np.where(np.array(values)[place] == stored, place, NODATA).astype(np.uint8)


def _refuse_other_rasters(uri: str, dataset: Any) -> None:
    refuse_container(dataset, uri)
    n_data = sum(kind is not ColorInterp.alpha for kind in dataset.colorinterp)
    if n_data != 1:
        raise SceneError(f"{uri} has {n_data} bands; a class mask has one ({_fractions(dataset)})")
    dtype = np.dtype(dataset.dtypes[0])
    if dtype.kind not in "iuf":
        raise SceneError(f"{uri} holds {dtype} values; a class mask holds whole numbers")


def _legend_of_tag(uri: str, dataset: Any) -> _Legend | None:
    text = dataset.tags().get(CLASSES_TAG)
    if text is None:
        return None
    try:
        names = {int(value): str(name) for value, name in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise SceneError(f"{uri}: the tag {CLASSES_TAG} is no JSON object of values") from error
    names.pop(BACKGROUND, None)
    values = tuple(sorted(names))
    if len(set(names.values())) < len(names):
        raise SceneError(f"{uri}: the tag {CLASSES_TAG} gives one name to several values")
    dtype = np.dtype(dataset.dtypes[0])
    if values and values[-1] > (_LARGEST if dtype.kind == "f" else np.iinfo(dtype).max):
        raise SceneError(
            f"{uri}: the tag {CLASSES_TAG} names {values[-1]}, which no pixel can hold"
        )
    return _checked(uri, _Legend(values=values, names=tuple(names[value] for value in values)))


def _legend_of_values(stored: _Stored) -> _Legend:
    """Find out which values occur."""
    found, n_silent = set[int](), 0
    is_byte = stored.dataset.dtypes[0] == "uint8"  # others have room for more classes than 254
    for window in stored.windows():
        pixels, valid = stored.read(window)
        if is_byte:
            n_silent += int(np.count_nonzero(valid & (pixels == NODATA)))
        for value in (BACKGROUND, *found):  # a block seldom holds more, and comparing costs little
            valid &= pixels != value
        if valid.any():
            found.update(np.unique(pixels[valid]).tolist())
        if len(found) > MAX_CLASSES + 2:
            break  # no need to read on: this is no class mask
    # 255 is the usual "not labelled" beside classes, and the usual white of a mask in black and
    # white.
    nodata = NODATA if n_silent and len(found) > 1 else None
    values = tuple(sorted(value for value in found if value != nodata))
    names = tuple(f"class_{value}" for value in values)
    legend = _Legend(values=values, names=names, nodata=nodata, n_nodata=n_silent)
    if len(values) > MAX_CLASSES:
        raise SceneError(
            f"{stored.uri} holds more than {MAX_CLASSES} different values; a class mask has one "
            "value for each class (is it a picture, or a number for each object? "
            f"{_fractions(stored.dataset)})"
        )
    return _checked(stored.uri, legend)


def _named(uri: str, legend: _Legend, names: tuple[str, ...]) -> _Legend:
    """Give the classes of a file names."""
    if not legend.names:  # no pixel has a class: all that are asked for are empty
        return replace(legend, values=tuple(range(1, len(names) + 1)), names=names)
    values = ", ".join(str(value) for value in legend.values[:_SHOWN])
    values += ", …" if len(legend.values) > _SHOWN else ""
    values += "" if legend.nodata is None else f"; {legend.nodata} is taken for not labelled"
    what = f"{len(legend.values)} classes (values {values})"
    return replace(legend, names=class_names(uri, legend.names, names, what))


def _fractions(dataset: Any) -> str:
    """Say how whole numbers become probabilities."""
    top = 65535 if dataset.dtypes[0] == "uint16" else 255
    return (
        "probabilities, one band a class, are fractions in 0…1: "
        f"gdal_translate -ot Float32 -scale 0 {top} 0 1 makes them of whole numbers"
    )


def _checked(uri: str, legend: _Legend) -> _Legend:
    if len(legend.values) > MAX_CLASSES:
        raise SceneError(f"{uri} names more than {MAX_CLASSES} classes")
    if legend.values and legend.values[0] < BACKGROUND:
        raise SceneError(
            f"{uri} holds the value {legend.values[0]}; classes are numbers above 0, so declare it "
            "as nodata (gdal_edit.py -a_nodata …) or replace it"
        )
    return legend


def hides_background(dataset: Any, band: int) -> bool:
    """Tell whether a band declares 0 to be nodata: the background, or no chance of a class.

    Args:
        dataset: open rasterio dataset.
        band: from 1.
    """
    is_value = dataset.mask_flag_enums[band - 1] == [MaskFlags.nodata]
    return bool(is_value and dataset.nodatavals[band - 1] == 0)


def read_valid(dataset: Any, bands: tuple[int, ...], area: RasterioWindow) -> NDArray[np.bool_]:
    """Tell which pixels of classes or probabilities hold data in all bands.

    Args:
        dataset: open rasterio dataset.
        bands: from 1.
        area: the window to read.

    Returns:
        bool (height, width), True = data.
    """
    silent = [band for band in bands if hides_background(dataset, band)]
    valid = np.ones((area.height, area.width), dtype=np.bool_)
    for band in bands:
        is_whole = MaskFlags.all_valid in dataset.mask_flag_enums[band - 1]
        if band not in silent and not is_whole:
            valid &= dataset.read_masks(band, window=area) != 0
    if silent and ColorInterp.alpha in dataset.colorinterp:  # GDAL heeds the value alone
        valid &= dataset.read(dataset.colorinterp.index(ColorInterp.alpha) + 1, window=area) != 0
    return valid


def _refuse_unwarped(uri: str, dataset: Any) -> None:
    points, crs = dataset.gcps
    by_points = bool(points) and crs is not None and dataset.transform.is_identity
    if not by_points and not dataset.tags(ns="RPC"):
        return
    what = "ground control points" if by_points else "rational polynomials (RPCs)"
    terrain = "" if by_points else "-rpc -to RPC_DEM=dem.tif "
    raise SceneError(
        f"{uri} is placed by {what} alone; bring it onto the map with gdalwarp {terrain}-r near "
        "-t_srs EPSG:… first (-r bilinear for probabilities), or give the size of its pixels in "
        "metres to work in pixel coordinates"
    )


def georef_of(uri: str, dataset: Any, pixel_m: float | None) -> Georef:
    """Return where the pixels of an open GDAL dataset lie; metres a pixel as given, if given.

    Raises:
        SceneError: control points or polynomials say where, along no grid: on the map there would
            be other pixels.
    """
    a, b, c, d, e, f = (float(number) for number in dataset.transform[:6])
    is_placed = bool(dataset.crs) and not dataset.transform.is_identity
    crs = dataset.crs.to_wkt() if is_placed else None
    if crs is None and pixel_m is None:
        _refuse_unwarped(uri, dataset)
    georef = locate(crs, (a, b, c, d, e, f), dataset.shape, ReadOptions(pixel_m=pixel_m), uri)
    if crs is not None:
        return georef
    tags = dataset.tags()
    if georef.pixel_m is None:
        georef = replace(georef, pixel_m=physical_pixel_m(tags))
    return in_scene_pixels(georef, tags.get(SCENE_TRANSFORM_TAG))
