"""Class probabilities from raster files: the finer input of `tilingseg vectorize`.

One band a class, fractions in 0…1, or whole numbers of 8 or 16 bits whose declared scale makes them
such (bytes are what a run keeps with `--probability`). The mask follows from them as in a run: the
class above its threshold with the highest probability. Sub-pixel outlines and confidences follow
too, which a mask cannot give.

A float raster is read once from end to end: one with whole numbers beyond 1 is left to masks, and
one with other values is refused before anything is written.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp
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
from tilingseg.readers.mask_file import (
    HIDES_BACKGROUND,
    MAX_CLASSES,
    georef_of,
    hides_background,
    read_valid,
)
from tilingseg.records import BACKGROUND, NODATA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.readers.gdal_access import GdalTarget
    from tilingseg.records import Georef

Thresholds = tuple[tuple[str | None, float], ...]
THRESHOLDS_TAG = "TILINGSEG_THRESHOLDS"
"""Thresholds of the run that wrote the file, one a band, divided by commas."""
THRESHOLD = 0.5
"""Probability from which a pixel belongs to its class, where nobody says another."""
_SLACK = 1e-3
"""What rounding may add to a probability."""
_WORD = 65535
"""Probability 1 in 16 bits."""
_SCAN_ROWS_PX = 512


def open_probabilities(
    uri: str | os.PathLike[str],
    *,
    pixel_m: float | None = None,
    names: tuple[str, ...] | None = None,
    thresholds: Thresholds = (),
) -> ProbabilityFile | None:
    """Open a raster of class probabilities.

    Args:
        uri: path or URL of a raster with a band for each class (and perhaps an alpha band).
        pixel_m: ground or physical pixel size, metres, where the file is silent or wrong.
        names: of the classes where the bands have no descriptions, in their order.
        thresholds: (class, probability) pairs that replace those of the file, or 0.5; class None:
            all.

    Returns:
        None where the raster holds whole numbers: it may be a class mask.

    Raises:
        SceneError: it cannot be opened or read, holds other fractions, or lacks a class.
    """
    target = locate_target(os.fspath(uri))
    dataset = open_dataset(target)
    try:
        refuse_container(dataset, target.uri)
        bands = [k for k, kind in enumerate(dataset.colorinterp, 1) if kind != ColorInterp.alpha]
        source = _Source(target=fit_cache(target, dataset), dataset=dataset, bands=tuple(bands))
        if not all(_is_fraction(dataset, band) for band in bands) or source.is_mask():
            dataset.close()
            return None
        classes = _names(target.uri, dataset, bands, names or ())
        stated = stated_levels(dataset.tags().get(THRESHOLDS_TAG, ""), len(bands))
        levels = _levels(target.uri, dict(zip(classes, stated, strict=True)), thresholds)
        return ProbabilityFile(source, georef_of(target.uri, dataset, pixel_m), classes, levels)
    except SceneError:
        dataset.close()
        raise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """An open file, for one thread at a time."""

    target: GdalTarget
    dataset: Any
    bands: tuple[int, ...]

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return what is stored, (classes, height, width), and where all bands hold data."""
        area = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with gdal_settings(self.target):
                values = self.dataset.read(self.bands, window=area)
                valid = read_valid(self.dataset, self.bands, area)
        except RasterioError as error:
            raise SceneError(
                f"{self.target.uri}: rows {window.row}…{window.row_stop - 1} cannot be read "
                f"({reason_of(error, self.target)}); the file may be truncated or damaged"
            ) from error
        if values.dtype.kind == "f":
            valid &= ~np.isnan(values).any(axis=0)
        return values, valid

    def is_mask(self) -> bool:
        """Tell whether floats are whole numbers beyond 1, and so no probabilities.

        Raises:
            SceneError: they are neither whole numbers nor probabilities.
        """
        if np.dtype(self.dataset.dtypes[0]).kind != "f":
            return False
        beyond, broken = [], []
        height, width = self.dataset.shape
        for row in range(0, height, _SCAN_ROWS_PX):
            rows = min(_SCAN_ROWS_PX, height - row)
            stored, valid = self.read(Window(row=row, col=0, height=rows, width=width))
            values = stored[:, valid]
            beyond += values[(values < -_SLACK) | (values > 1 + _SLACK)][:1].tolist()
            broken += values[values != np.floor(values)][:1].tolist()
            if beyond and broken:
                raise SceneError(
                    f"{self.target.uri} holds {values.dtype} values such as {beyond[0]:g} and "
                    f"{broken[0]:g}: neither probabilities, which lie in 0…1, nor whole numbers, "
                    "one for each class"
                )
        return bool(beyond)


class ProbabilityFile:
    """A class mask cut from probabilities in a raster file: a `MaskReader`. Thread-safe."""

    def __init__(
        self,
        source: _Source,
        georef: Georef,
        classes: tuple[str, ...],
        thresholds: tuple[float, ...],
    ) -> None:
        """Take over an open file; `open_probabilities` is the way to get here."""
        self._source = source
        self._georef = georef
        self._classes = classes
        self.thresholds = thresholds
        """Probability from which a pixel belongs to each class."""
        self._lock = threading.Lock()
        self._last: tuple[Window, NDArray[np.uint8], NDArray[np.uint8]] | None = None

    @property
    def height(self) -> int:
        """Rows, px."""
        return int(self._source.dataset.height)

    @property
    def width(self) -> int:
        """Columns, px."""
        return int(self._source.dataset.width)

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""
        return self._georef

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""
        return self._classes

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions taken while the file was opened."""
        source = self._source
        silent = any(hides_background(source.dataset, band) for band in source.bands)
        return (HIDES_BACKGROUND,) if silent else ()

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`.

        Raises:
            SceneError: the window cannot be read.
        """
        return self._read(window)[1]

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8]:
        """Return the class's probability, uint8 (height, width), 255 = 1.

        Raises:
            SceneError: the window cannot be read.
        """
        band: NDArray[np.uint8] = self._read(window)[0][class_index]
        return band

    def close(self) -> None:
        """Close the file."""
        self._source.dataset.close()

    def _read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return probabilities (classes, height, width) and mask of a window; kept for a while.

        The mask and the probabilities of a window are asked for one after the other.
        """
        with self._lock:
            if self._last is None or self._last[0] != window:
                self._last = (window, *self._decode(window))
            return self._last[1], self._last[2]

    def _decode(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        values, valid = self._source.read(window)
        if values.dtype == np.uint8:
            return values, self._cut(values, valid, 255)
        if values.dtype == np.uint16:
            values = values / np.float32(_WORD)
        values = np.where(valid, np.clip(values, 0, 1), 0)
        # cut before they are rounded: a pixel just below its threshold stays below
        mask = self._cut(values, valid, 1)
        return np.round(values * 255).astype(np.uint8), mask

    def _cut(self, values: NDArray[Any], valid: NDArray[np.bool_], one: int) -> NDArray[np.uint8]:
        """Return the class above its threshold with the highest probability, where `one` is 1."""
        best = np.zeros(valid.shape, values.dtype)
        labels = np.full(valid.shape, BACKGROUND, np.uint8)
        for index, (band, threshold) in enumerate(zip(values, self.thresholds, strict=True)):
            wins = (band >= one * threshold) & (band > best)
            labels[wins] = index + 1
            best[wins] = band[wins]
        labels[~valid] = NODATA
        return labels


def _is_fraction(dataset: Any, band: int) -> bool:
    dtype, scale = np.dtype(dataset.dtypes[band - 1]), dataset.scales[band - 1]
    top = {np.dtype(np.uint8): 255, np.dtype(np.uint16): _WORD}.get(dtype, 0)
    is_scaled = abs(top * scale - 1) < _SLACK
    return bool(dtype.kind == "f" or (is_scaled and dataset.offsets[band - 1] == 0))


def _names(uri: str, dataset: Any, bands: list[int], given: tuple[str, ...]) -> tuple[str, ...]:
    described = [dataset.descriptions[band - 1] for band in bands]
    if all(described) and len(set(described)) == len(described):
        return tuple(described)
    if len(bands) > MAX_CLASSES:
        raise SceneError(f"{uri} has {len(bands)} bands; at most {MAX_CLASSES} can be classes")
    numbered = tuple(f"class_{index}" for index in range(1, len(bands) + 1))
    return class_names(uri, numbered, given, f"{len(bands)} bands of probabilities")


def stated_levels(text: str, count: int) -> tuple[float, ...]:
    """Return the thresholds that a raster states, or the usual ones.

    Args:
        text: what it says under `THRESHOLDS_TAG`.
        count: of its classes.
    """
    try:
        named = tuple(float(part) for part in text.split(","))
    except ValueError:
        named = ()
    is_good = len(named) == count and all(0 < value < 1 for value in named)
    return named if is_good else (THRESHOLD,) * count


def _levels(uri: str, own: dict[str, float], given: Thresholds) -> tuple[float, ...]:
    """Return the threshold of each class: the file's own, or those that are given."""
    chosen = dict(own)
    for name, value in given:
        if not 0 < value < 1:
            raise SceneError(f"threshold {value:g} must lie between 0 and 1")
        if name is not None and name not in chosen:
            raise SceneError(f"{uri} has no class {name!r}; it has {', '.join(own)}")
        chosen.update(dict.fromkeys(own if name is None else (name,), value))
    return tuple(chosen.values())
