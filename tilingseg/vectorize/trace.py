"""From a label raster of any size to polygons, without seams.

The mask is read in bands of rows and traced strip by strip (`strips`). A component that touches no
border of its strip is closed there and then. The others stay open: each strip knows the last row of
the one before, hence both have the same runs there, and components are joined through them before
any polygon exists. Nothing is cut at a border of strips, so nothing has to be merged as geometry.

Shapes come in the order of their last pixel (row-major). That order is known while rows are still
to come, and depends neither on the height of the bands nor on the number of workers. The memory
holds a band, one strip per worker, and the corners of the shapes that reach over the last row.

Pixels that touch only diagonally are not connected: joined, they would make polygons that touch
themselves, which are invalid; `diagonals` gathers such shapes into groups. Filters and
simplification belong to those who use the shapes.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.errors import VectorizeError
from tilingseg.grid import Window
from tilingseg.records import BACKGROUND, NODATA, Shape
from tilingseg.vectorize.rings import close_rings
from tilingseg.vectorize.strips import Measures, Strip, TracedStrip, connect, trace_strip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilingseg.records import MaskReader

_MAX_STRIP_PIXELS = 1 << 24
"""Pixels that one worker traces at a time: a band with more is traced in several strips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How a mask is walked through; the shapes do not depend on it."""

    band_px: int = 512
    """Rows read at a time, px. A multiple of the mask's chunk height reads every chunk once."""
    workers: int = 2
    """Threads that trace bands, at least 1."""

    def __post_init__(self) -> None:
        """Refuse what cannot be walked.

        Raises:
            VectorizeError: a value below 1.
        """
        if self.band_px < 1 or self.workers < 1:
            raise VectorizeError(
                f"tracing needs at least one row and one worker, got {self.band_px} rows and "
                f"{self.workers} workers"
            )


def trace(mask: MaskReader, value: int, options: TraceOptions | None = None) -> Iterator[Shape]:
    """Trace every 4-connected component of one class.

    Args:
        mask: mask of any size; read once from top to bottom, by the calling thread.
        value: mask value of the class, 1…254.
        options: how to walk through the mask; changes neither the shapes nor their order.

    Yields:
        Shapes in the order of their last pixel, row-major.

    Raises:
        VectorizeError: `value` is no class value.
    """
    if not BACKGROUND < value < NODATA:
        raise VectorizeError(f"mask value {value} is no class: only 1…{NODATA - 1} can be traced")
    options = options or TraceOptions()
    corner = Window(row=0, col=0, height=1, width=1)
    has_probability = mask.read_probability(value - 1, corner) is not None
    seam = _Seam(mask.width + 1)
    with ThreadPoolExecutor(options.workers, thread_name_prefix="trace") as pool:
        pending: deque[Future[TracedStrip]] = deque()
        for strip in _read_strips(mask, value, options.band_px, has_probability):
            pending.append(pool.submit(trace_strip, strip))
            if len(pending) > options.workers:
                yield from shapes_of(value, has_probability, *seam.join(pending.popleft().result()))
        for traced in pending:
            yield from shapes_of(value, has_probability, *seam.join(traced.result()))


def _read_strips(
    mask: MaskReader, value: int, band_px: int, has_probability: bool
) -> Iterator[Strip]:
    strip_px = max(1, _MAX_STRIP_PIXELS // mask.width)
    above = np.zeros(mask.width, dtype=np.bool_)
    for top in range(0, mask.height, band_px):
        height = min(band_px, mask.height - top)
        window = Window(row=top, col=0, height=height, width=mask.width)
        inside = mask.read_mask(window) == value
        probability = None
        if has_probability and inside.any():
            probability = mask.read_probability(value - 1, window)
        for first in range(0, height, strip_px):
            part = slice(first, first + strip_px)
            yield Strip(
                row=top + first,
                above=above,
                inside=inside[part],
                is_last=top + min(first + strip_px, height) == mask.height,
                probability=None if probability is None else probability[part],
            )
            above = inside[part][-1].copy()  # a view would keep the whole band


def shapes_of(
    value: int, has_probability: bool, polygons: NDArray[np.object_], measures: Measures
) -> Iterator[Shape]:
    """Yield complete components as shapes.

    Args:
        value: mask value of the class.
        has_probability: whether the mask keeps probabilities.
        polygons: one for each component.
        measures: of the same components.
    """
    for polygon, n_pixels, probability, last in zip(
        polygons,
        *(m.tolist() for m in (measures.n_pixels, measures.probability, measures.last)),
        strict=True,
    ):
        confidence = probability / (255 * n_pixels) if has_probability else None
        yield Shape(value=value, polygon=polygon, confidence=confidence, last=last)


class _Seam:
    """The components that reach the last row traced, and how the next strip continues them."""

    def __init__(self, stride: int) -> None:
        """Begin above the first row of a mask with `stride` lattice points per row."""
        self._stride = stride
        self._above = np.empty(0, dtype=np.intp)  # per run of the last row: its open component
        empty = np.empty(0, dtype=np.int64)
        self._measures = Measures(n_pixels=empty, probability=empty, last=empty)
        self._corners: list[list[NDArray[np.int64]]] = []

    def join(self, traced: TracedStrip) -> tuple[NDArray[np.object_], Measures]:
        """Continue the open components with the next strip.

        Returns:
            The components that are complete now, in the order of their last pixel.
        """
        n_open, n_pieces = len(self._corners), len(traced.corners)
        n_groups, group = connect(self._above, n_open + traced.top, n_open + n_pieces)
        measures = self._measures.join(traced.pieces, group, n_groups)
        corners: list[list[NDArray[np.int64]]] = [[] for _ in range(n_groups)]
        pieces = [*self._corners, *([piece] for piece in traced.corners)]
        for index, arrays in zip(group.tolist(), pieces, strict=True):
            longer, shorter = corners[index], arrays
            if len(longer) < len(shorter):  # each array then moves O(log n) times in all
                longer, shorter = shorter, longer
            longer.extend(shorter)
            corners[index] = longer

        still_open, self._above = np.unique(group[n_open + traced.bottom], return_inverse=True)
        closed = np.setdiff1d(np.arange(n_groups), still_open)
        polygons = self._close([corners[index] for index in closed.tolist()])
        self._measures = measures.take(still_open)
        self._corners = [corners[index] for index in still_open.tolist()]
        return _in_order(polygons, measures.take(closed), traced)

    def _close(self, corners: list[list[NDArray[np.int64]]]) -> NDArray[np.object_]:
        if not corners:
            return np.empty(0, dtype=np.object_)
        whole = [np.concatenate(arrays) for arrays in corners]
        owner = np.repeat(np.arange(len(whole)), [len(codes) for codes in whole])
        return close_rings(np.concatenate(whole), owner, self._stride)


def _in_order(
    polygons: NDArray[np.object_], measures: Measures, traced: TracedStrip
) -> tuple[NDArray[np.object_], Measures]:
    """Merge components that were closed at a seam with those closed inside the strip."""
    polygons = np.concatenate([polygons, traced.polygons])
    own = np.arange(len(polygons))
    measures = measures.join(traced.complete, own, len(own))
    order = np.argsort(measures.last)
    return polygons[order], measures.take(order)
