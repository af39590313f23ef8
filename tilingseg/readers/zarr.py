"""Zarr v2 and v3, OME-NGFF and GeoZarr.

Chunks are decoded once and kept for the tiles around them, within a fixed budget: tiles overlap,
and a chunk is often larger than a tile. Everything that is missing for a window is fetched in one
request, so that zarr can have many chunks under way at once: remote stores are slow without.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.errors import BaseZarrError

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.places import refusals, why
from tilingseg.readers.source import as_delivered
from tilingseg.readers.validity import alpha_holds_data, holds_data
from tilingseg.readers.zarr_axes import fetch
from tilingseg.readers.zarr_layout import describe
from tilingseg.readers.zarr_store import ZarrStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.readers.source import ReadOptions, SourceInfo
    from tilingseg.readers.zarr_layout import ZarrLayout
    from tilingseg.readers.zarr_store import ZarrTarget

_CACHE_BYTES = 256_000_000

_ChunkKey = tuple[int, int, int]
"""(level, row of chunks, column of chunks)."""


class ZarrSource:
    """Pixels of one scene in a Zarr store; a `PixelSource`."""

    def __init__(self, layout: ZarrLayout) -> None:
        """Prepare reading; nothing is opened.

        Args:
            layout: how to read, from `open_zarr`.
        """
        self._layout = layout
        self._lock = threading.Lock()
        self._arrays: dict[int, list[Any]] = {}
        self._chunks: OrderedDict[_ChunkKey, NDArray[Any]] = OrderedDict()
        self._n_bytes = 0

    def __reduce__(self) -> tuple[type[ZarrSource], tuple[ZarrLayout]]:
        """Travel without open arrays."""
        return ZarrSource, (self._layout,)

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
        stored = self._stored(level, window)
        data = stored[: len(stored) - layout.has_alpha]
        valid = holds_data(data, layout.nodata)
        if layout.has_alpha:
            valid &= alpha_holds_data(stored[-1], is_mean=level > 0 and not in_part)
        if layout.order != tuple(range(len(data))):
            data = data[list(layout.order)]
        return as_delivered(data, layout.info.dtype), valid

    def close(self) -> None:
        """Let go of arrays and decoded chunks; reading afterwards opens them again."""
        with self._lock:
            self._arrays.clear()
            self._chunks.clear()
            self._n_bytes = 0

    def _stored(self, level: int, window: Window) -> NDArray[Any]:
        """Return the fetched bands of a window, assembled from chunks."""
        arrays = self._open(level)
        roles = self._layout.roles
        shape = self._layout.info.levels[level]
        height, width = (arrays[0].chunks[roles.index(axis)] for axis in "yx")
        keys = [
            (level, row, col)
            for row in range(window.row // height, -(-window.row_stop // height))
            for col in range(window.col // width, -(-window.col_stop // width))
        ]
        chunks = self._cached(keys)
        if missing := [key for key in keys if key not in chunks]:
            rows, cols = [key[1] for key in missing], [key[2] for key in missing]
            top, left = min(rows) * height, min(cols) * width
            box = Window(
                row=top,
                col=left,
                height=min((max(rows) + 1) * height, shape.height) - top,
                width=min((max(cols) + 1) * width, shape.width) - left,
            )
            data = self._fetch(arrays, box)
            if len(missing) == len(keys) and box == window:
                # Whole chunks are asked for: nothing of them will be wanted by a neighbour.
                return data
            for key in missing:
                row, col = key[1] * height - top, key[2] * width - left
                chunks[key] = data[:, row : row + height, col : col + width].copy()
            self._keep({key: chunks[key] for key in missing})
        return _assembled(chunks, (height, width), window)

    def _open(self, level: int) -> list[Any]:
        with self._lock:
            if level not in self._arrays:
                layout = self._layout
                store = ZarrStore(layout.target)
                self._arrays[level] = [store.array(path) for path in layout.paths[level]]
            return self._arrays[level]

    def _fetch(self, arrays: list[Any], box: Window) -> NDArray[Any]:
        layout = self._layout
        area = slice(box.row, box.row_stop), slice(box.col, box.col_stop)
        fixed = dict(layout.fixed)
        try:
            parts = [fetch(array, layout.roles, fixed, layout.positions, area) for array in arrays]
        # What a damaged chunk raises is up to its codec.
        except refusals(BaseZarrError, ValueError, RuntimeError, KeyError, zlib.error) as error:
            raise SceneError(
                f"{layout.target.uri}: rows {box.row}…{box.row_stop - 1}, columns {box.col}…"
                f"{box.col_stop - 1} cannot be read ({why(error)}); a chunk may be damaged"
                f"{' or refused by the server' * layout.target.is_remote}"
            ) from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _cached(self, keys: list[_ChunkKey]) -> dict[_ChunkKey, NDArray[Any]]:
        with self._lock:
            found = {key: self._chunks[key] for key in keys if key in self._chunks}
            for key in found:
                self._chunks.move_to_end(key)
        return found

    def _keep(self, chunks: dict[_ChunkKey, NDArray[Any]]) -> None:
        with self._lock:
            for key, data in chunks.items():
                if key not in self._chunks:
                    self._chunks[key] = data
                    self._n_bytes += data.nbytes
            # One stays whatever its size: decoding it again for the next tile would cost more.
            while self._n_bytes > _CACHE_BYTES and len(self._chunks) > 1:
                _, oldest = self._chunks.popitem(last=False)
                self._n_bytes -= oldest.nbytes


def open_zarr(target: ZarrTarget, options: ReadOptions) -> ZarrSource:
    """Open a scene in a Zarr store.

    Args:
        target: store and inner path, from `locate_zarr`.
        options: what the caller wants.

    Raises:
        SceneError: it cannot be opened, or does not hold what is wanted.
        DependencyError: a package is needed to reach it.
    """
    return ZarrSource(describe(target, options))


def _assembled(
    chunks: dict[_ChunkKey, NDArray[Any]], size: tuple[int, int], window: Window
) -> NDArray[Any]:
    """Put a window together from the chunks that it meets."""
    first = next(iter(chunks.values()))
    out = np.empty((len(first), window.height, window.width), first.dtype)
    for (_, row, col), data in chunks.items():
        place = Window(
            row=row * size[0], col=col * size[1], height=data.shape[1], width=data.shape[2]
        )
        common = place.intersection(window)
        if common is not None:
            to, of = common.slices_in(window), common.slices_in(place)
            out[:, to[0], to[1]] = data[:, of[0], of[1]]
    return out
