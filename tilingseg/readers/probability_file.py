"""Class probabilities from raster files: the finer input of `tilingseg vectorize`.

One band a class, fractions in 0…1, or bytes whose declared scale makes them such (what a run keeps
with `--probability`). The mask follows from them as in a run: the class above its threshold with
the highest probability. Sub-pixel outlines and confidences follow too, which a mask cannot give.

Nothing else is taken for a probability: a float raster with other values is refused before anything
is written, for which it is read once from end to end.
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
from tilingseg.readers.gdal_access import (
    fit_cache,
    gdal_settings,
    locate_target,
    open_dataset,
    reason_of,
)
from tilingseg.readers.gdal_layout import refuse_container
from tilingseg.readers.mask_file import MAX_CLASSES, georef_of
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
        if not all(_is_fraction(dataset, band) for band in bands):
            dataset.close()
            return None
        classes = _names(target.uri, dataset, bands, names or ())
        stated = stated_levels(dataset.tags().get(THRESHOLDS_TAG, ""), len(bands))
        own = dict(zip(classes, stated, strict=True))
        file = ProbabilityFile(
            _Source(target=fit_cache(target, dataset), dataset=dataset, bands=tuple(bands)),
            georef_of(target.uri, dataset, pixel_m),
            classes,
            _levels(target.uri, own, thresholds),
        )
        file.check()
    except SceneError:
        dataset.close()
        raise
    return file


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    target: GdalTarget
    dataset: Any
    bands: tuple[int, ...]


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
        self._last: tuple[Window, NDArray[np.uint8], NDArray[np.bool_]] | None = None

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

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`.

        Raises:
            SceneError: the window cannot be read.
        """
        values, valid = self._read(window)
        best = np.zeros(values.shape[1:], np.uint8)
        labels = np.full(values.shape[1:], BACKGROUND, np.uint8)
        for index, (band, threshold) in enumerate(zip(values, self.thresholds, strict=True)):
            wins = (band >= 255 * threshold) & (band > best)
            labels[wins] = index + 1
            best[wins] = band[wins]
        labels[~valid] = NODATA
        return labels

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8]:
        """Return the class's probability, uint8 (height, width), 255 = 1.

        Raises:
            SceneError: the window cannot be read.
        """
        band: NDArray[np.uint8] = self._read(window)[0][class_index]
        return band

    def check(self) -> None:
        """Read the file from end to end and see that it holds probabilities.

        Raises:
            SceneError: with a value that is none.
        """
        if np.dtype(self._source.dataset.dtypes[0]).kind != "f":
            return
        for row in range(0, self.height, _SCAN_ROWS_PX):
            height = min(_SCAN_ROWS_PX, self.height - row)
            self._decode(Window(row=row, col=0, height=height, width=self.width))

    def close(self) -> None:
        """Close the file."""
        self._source.dataset.close()

    def _read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return uint8 (classes, height, width) and where all bands hold data; kept for a while.

        The mask and the probabilities of a window are asked for one after the other.
        """
        with self._lock:
            if self._last is None or self._last[0] != window:
                self._last = (window, *self._decode(window))
            return self._last[1], self._last[2]

    def _decode(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        dataset, bands = self._source.dataset, self._source.bands
        area = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with gdal_settings(self._source.target):
                values = dataset.read(bands, window=area)
                valid = (dataset.read_masks(bands, window=area) != 0).all(axis=0)
        except RasterioError as error:
            raise SceneError(
                f"{self._source.target.uri}: rows {window.row}…{window.row_stop - 1} cannot be "
                f"read ({reason_of(error)}); the file may be truncated or damaged"
            ) from error
        if values.dtype == np.uint8:
            return values, valid
        valid &= ~np.isnan(values).any(axis=0)
        values = np.where(valid, values, 0)
        wrong = (values < -_SLACK) | (values > 1 + _SLACK)
        if wrong.any():
            raise SceneError(
                f"{self._source.target.uri} holds {values.dtype} values such as "
                f"{values[wrong][0]:g}: neither probabilities, which lie in 0…1, nor whole "
                "numbers, one for each class (gdal_translate -ot Byte makes those)"
            )
        return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8), valid


def _is_fraction(dataset: Any, band: int) -> bool:
    dtype, scale = np.dtype(dataset.dtypes[band - 1]), dataset.scales[band - 1]
    is_scaled = dtype == np.uint8 and abs(255 * scale - 1) < _SLACK
    return bool(dtype.kind == "f" or (is_scaled and dataset.offsets[band - 1] == 0))


def _names(uri: str, dataset: Any, bands: list[int], given: tuple[str, ...]) -> tuple[str, ...]:
    described = [dataset.descriptions[band - 1] for band in bands]
    if all(described) and len(set(described)) == len(described):
        return tuple(described)
    if not given:
        given = tuple(f"class_{index}" for index in range(1, len(bands) + 1))
    if len(given) != len(bands) or len(bands) > MAX_CLASSES:
        raise SceneError(
            f"{uri} has {len(bands)} bands of probabilities without names, one for each class "
            f"(at most {MAX_CLASSES}); {len(given)} given ({', '.join(given)}): name all of them"
        )
    return given


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
