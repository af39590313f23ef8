"""One at a time in a folder: no command pulls the work store or a half output from under another.

The lock is on an empty file `.lock` in a folder of outputs, or on a folder that is made for one
output, and goes with whoever holds it, however that one ends. It keeps out threads of the same
process too. There is none on object stores, on Windows, and on file systems that know no locks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from tilingseg.errors import BusyError, OutputError
from tilingseg.places import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK = ".lock"
PATIENCE_S = 5.0
"""Seconds for which one that is ending, or has been killed, may still hold a folder."""


@contextlib.contextmanager
def alone_in(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep all others out of a folder.

    Args:
        folder: exists.
        patience_s: how long to wait for others to leave, seconds.

    Raises:
        BusyError: another one is still there.
        OutputError: the folder cannot be written.
    """
    if sys.platform == "win32" or is_remote(folder):
        yield
        return
    path = folder / LOCK

    def create() -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    busy = f"another process is at work in {folder}; let it end or choose another folder"
    with _held(path, create, busy, patience_s):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_with(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Make a folder, or take over what a killed process left of it, and keep all others from it.

    Args:
        folder: is to be removed before the block ends; others have to make it anew.
        patience_s: how long to wait for others to end, seconds.

    Raises:
        BusyError: another one still has it.
        OutputError: there is something else of this name.
        OSError: it cannot be made.
    """

    def make() -> int:
        while True:
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            # in this order, as who has it may remove it meanwhile
            if not folder.is_dir() and os.path.lexists(folder):
                raise OutputError(
                    f"{folder} is in the way, which is not of an unfinished output; move it"
                )
            with contextlib.suppress(FileNotFoundError):
                return os.open(folder, os.O_RDONLY)

    if sys.platform == "win32":
        folder.mkdir(exist_ok=True)
        yield
        return
    name = folder.with_suffix("")
    busy = f"another process is writing {name}; let it end or choose another folder"
    with _held(folder, make, busy, patience_s):
        yield


@contextlib.contextmanager
def _held(path: Path, make: Callable[[], int], busy: str, patience_s: float) -> Iterator[None]:
    """Hold the lock on what `make` makes and opens at a path."""
    end = time.monotonic() + patience_s
    while True:
        descriptor = make()
        try:
            is_ours = _try_lock(descriptor)
            if is_ours and _is_current(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)
        if not is_ours:
            if time.monotonic() > end:
                raise BusyError(busy)
            time.sleep(0.1)


def _try_lock(descriptor: int) -> bool:
    import fcntl

    try:
        # not lockf: that one belongs to the process, and lets all its threads in
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def _is_current(descriptor: int, path: Path) -> bool:
    """Tell whether a file is still the one of its name: who was here before removed theirs."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
