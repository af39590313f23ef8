"""GeoTIFF, COG, VRT and every other raster that GDAL opens.

Validity comes from every place where a file can state it: an alpha band (0 = no data), mask bands,
nodata tags and NaN. A palette is expanded to red, green and blue, since its numbers mean nothing to
a network.

A scene that has ground control points instead of a transform is warped to a north-up grid. Every
other scene keeps its grid, rotated or not.

GDAL datasets must not be shared between threads: each thread opens its own on first use.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from tilingseg.errors import SceneError
from tilingseg.readers.gdal_access import (
    GDAL_ERRORS,
    fit_cache,
    gdal_settings,
    locate_target,
    open_dataset,
    reason_of,
)
from tilingseg.readers.gdal_layout import describe, refuse_container
from tilingseg.readers.source import as_delivered
from tilingseg.readers.validity import alpha_holds_data, holds_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.readers.gdal_access import GdalTarget
    from tilingseg.readers.gdal_layout import GdalLayout
    from tilingseg.readers.source import ReadOptions, SourceInfo


class _Handle:
    """An open dataset of one thread, and the one beneath it where it is a view."""

    def __init__(self, target: GdalTarget, overview: int | None = None) -> None:
        options = {} if overview is None else {"OVERVIEW_LEVEL": overview}
        self.stored = open_dataset(target, **options)
        try:
            with gdal_settings(target):
                self.dataset = _straightened(self.stored, target)
        except GDAL_ERRORS as error:
            self.stored.close()
            raise SceneError(
                f"{target.uri}: its ground control points cannot be used "
                f"({reason_of(error, target)}); georeference it with gdalwarp first"
            ) from error

    def close(self) -> None:
        self.dataset.close()
        self.stored.close()


class GdalSource:
    """Pixels of one file, read by GDAL; a `PixelSource`."""

    def __init__(self, layout: GdalLayout) -> None:
        """Prepare reading; no file is opened.

        Args:
            layout: how to read, from `open_gdal`.
        """
        self._layout = layout
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()

    def __reduce__(self) -> tuple[type[GdalSource], tuple[GdalLayout]]:
        """Travel without open handles."""
        return GdalSource, (self._layout,)

    @property
    def info(self) -> SourceInfo:
        """What is open."""
        return self._layout.info

    def read(
        self, level: int, window: Window, *, in_part: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read one window of one level; see `PixelSource.read`.

        Raises:
            SceneError: the window cannot be read.
        """
        layout = self._layout
        dataset = self._handle(level).dataset
        area = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with gdal_settings(layout.target):
                mask = self._read_mask(dataset, area)
                if mask is not None and not mask.any():  # masks decode faster than pixels
                    shape = (len(layout.order), *mask.shape)
                    return np.zeros(shape, layout.info.dtype), mask
                stored = dataset.read(list(layout.reads), window=area)
        except GDAL_ERRORS as error:
            raise SceneError(
                f"{layout.target.uri}: rows {window.row}…{window.row_stop - 1}, columns "
                f"{window.col}…{window.col_stop - 1} cannot be read "
                f"({reason_of(error, layout.target)}); the file may be truncated or damaged"
            ) from error
        return _delivered(stored, mask, layout, is_mean=level > 0 and not in_part)

    def close(self) -> None:
        """Release every handle; reading afterwards opens new ones."""
        with self._lock:
            handles, self._handles = list(self._handles), weakref.WeakSet()
            self._mine = threading.local()
        for handle in handles:
            handle.close()

    def _handle(self, level: int) -> _Handle:
        mine = self._mine
        try:
            handles: dict[int, _Handle] = mine.handles
        except AttributeError:
            handles = mine.handles = {}
        if level not in handles:
            handle = _Handle(self._layout.target, self._layout.overviews[level])
            handles[level] = handle
            with self._lock:
                self._handles.add(handle)
        return handles[level]

    def _read_mask(self, dataset: Any, area: RasterioWindow) -> NDArray[np.bool_] | None:
        """Return bool (height, width) from the mask bands; None: there are none."""
        kind = self._layout.mask
        if kind == "none":
            return None
        n_data = len(self._layout.reads) - self._layout.has_alpha
        bands = self._layout.reads[: 1 if kind == "dataset" else n_data]
        masks = dataset.read_masks(list(bands), window=area)
        valid: NDArray[np.bool_] = masks.all(axis=0)
        return valid


def open_gdal(uri: str, options: ReadOptions) -> GdalSource:
    """Open a raster with GDAL.

    Args:
        uri: path, URL, or any name that GDAL understands.
        options: what the caller wants.

    Raises:
        SceneError: it cannot be opened, or does not hold what is wanted.
    """
    target = locate_target(uri)
    handle = _Handle(target)
    try:
        with gdal_settings(target):
            fitted = fit_cache(target, handle.stored)
            return GdalSource(describe(handle.dataset, fitted, options))
    except GDAL_ERRORS as error:
        raise SceneError(f"{target.uri} cannot be opened: {reason_of(error, target)}") from error
    finally:
        handle.close()


def _straightened(dataset: Any, target: GdalTarget) -> Any:
    """Return a north-up view of a dataset that has control points alone, else the dataset."""
    refuse_container(dataset, target.uri)
    points, crs = dataset.gcps
    if not points or crs is None or not dataset.transform.is_identity:
        return dataset
    states_validity = ColorInterp.alpha in dataset.colorinterp or dataset.nodata is not None
    return WarpedVRT(
        dataset,
        src_crs=crs,
        crs=crs,
        resampling=Resampling.bilinear,
        add_alpha=not states_validity,
    )


def _delivered(
    stored: NDArray[Any], mask: NDArray[np.bool_] | None, layout: GdalLayout, *, is_mean: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Turn what was fetched into the bands that were asked for, and their validity."""
    data = stored[: len(stored) - layout.has_alpha]
    valid = holds_data(data, layout.nodata)
    if layout.has_alpha:
        valid &= alpha_holds_data(stored[-1], is_mean=is_mean)
    if mask is not None:
        valid &= mask
    if layout.palette is not None:
        colours = layout.palette[np.minimum(data[0], len(layout.palette) - 1)]
        valid &= colours[..., 3] > 0
        return np.ascontiguousarray(np.moveaxis(colours, 2, 0)[list(layout.order)]), valid
    if layout.order != tuple(range(len(data))):
        data = data[list(layout.order)]
    return as_delivered(data, layout.info.dtype), valid
