"""One at a time in a folder of outputs: no command pulls the work store from under another.

The lock is on an empty file `.lock` in the folder and goes with whoever holds it, however that one
ends. It keeps out threads of the same process too. There is none on object stores, on Windows, and
on file systems that know no locks.
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
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

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
    path, end = folder / LOCK, time.monotonic() + patience_s
    while True:
        try:
            file = path.open("w")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        with file:
            is_ours = _try_lock(file)
            if is_ours and _is_current(file, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        if not is_ours:
            if time.monotonic() > end:
                raise BusyError(
                    f"another process is at work in {folder}; let it end or choose another folder"
                )
            time.sleep(0.1)


def _try_lock(file: TextIO) -> bool:
    import fcntl

    try:
        # not lockf: that one belongs to the process, and lets all its threads in
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def _is_current(file: TextIO, path: Path) -> bool:
    """Tell whether a file is still the one of its name: who was here before removed theirs."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
