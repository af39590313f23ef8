"""Freed memory stays with the process while tiles are inferred.

The C library of Linux hands large blocks back to the kernel as soon as they are freed, and the next
layer of the network gets fresh pages, each of which is cleared and mapped first: a third of the
processor time of a forward pass on large tiles. While regions are inferred every block comes from a
heap that is kept; afterwards it is given back. A runtime that keeps the memory of a pass by itself
needs that for small blocks alone: its large ones would break the heap into pieces each time that
another graph of it takes its turn. Other systems keep their own ways.

Such a heap falls into pieces: buffers of readers lie between those of the network, and what is free
between them no longer holds the next large map. Whatever the size of the scene, it may grow by a
small share beyond what the first forward passes needed; then its free pages are given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tilingseg.infer.engine import Engine, Part

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # names of malloc.h, for mallopt
_NEVER = 2**31 - 1
_LARGE = 4 * 2**20
"""Blocks from which the stages after inference give memory back at once, bytes."""

_SMALL = 2 * 2**20
"""Blocks that are kept whatever the engine, such as tiles that were read, bytes, at most."""

_GROWTH = 1.03
"""What the process may grow to, as a share of what it held after a pass that began tidily."""
_FIRST_PASSES = 2
"""Forward passes until the network has made all that it keeps."""
_LOOK_EVERY_S = 0.02
"""Time in which the process cannot grow by much: networks that take large maps take longer."""


class FrugalEngine:
    """An engine that gives free memory back before it infers, once too much has piled up."""

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine that has not inferred yet."""
        self._engine = engine
        self._n_passes = 0
        self._usual_bytes = 0
        self._looked_s = -math.inf

    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch; see `Engine.probabilities`."""
        is_first, now = self._n_passes < _FIRST_PASSES, time.monotonic()
        is_much = False
        if not is_first and now - self._looked_s > _LOOK_EVERY_S:
            self._looked_s = now
            is_much = resident_bytes() > _GROWTH * self._usual_bytes
        if is_much:
            give_back()
        found = self._engine.probabilities(pixels, valid, part)
        self._n_passes += 1
        if is_first or is_much:  # what a pass that began with nothing left over needs is no waste
            self._usual_bytes = max(self._usual_bytes, resident_bytes())
        return found


def resident_bytes() -> int:
    """Return what this process holds of the machine's memory, bytes; 0 where it is not known."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give the pages of freed memory back to the system."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


@contextlib.contextmanager
def freed_memory_kept(*, passes: bool = True) -> Iterator[None]:
    """Keep what is freed inside for what is allocated next; give it back at the end.

    Args:
        passes: also the blocks of forward passes; False where the engine keeps them by itself.
    """
    library = _c_library()
    if library is None:
        yield
        return
    # Heaps of single threads end at 64 MB; only the common one can hold the maps of a large tile.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_THRESHOLD, _NEVER if passes else _SMALL)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    gc.freeze()  # to look through all that was loaded before takes 0.1 s, at the end of each region
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        gc.collect()  # a network may lie in a circle of references
        gc.unfreeze()
        library.malloc_trim(0)


def _c_library() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
