"""Freed memory stays with the process while tiles are inferred.

The C library of Linux hands large blocks back to the kernel as soon as they are freed, and the next
layer of the network gets fresh pages, each of which is cleared and mapped first: a third of the
processor time of a forward pass on large tiles. While regions are inferred every block comes from a
heap that is kept; afterwards it is given back. Other systems keep their own ways.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # names of malloc.h, for mallopt
_NEVER = 2**31 - 1
_USUAL = 32 * 2**20
"""What glibc's own, moving threshold arrives at, bytes."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed inside for what is allocated next; give it back at the end."""
    library = _c_library()
    if library is None:
        yield
        return
    # Heaps of single threads end at 64 MB; only the common one can hold the maps of a large tile.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_THRESHOLD, _NEVER)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)


def _c_library() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
