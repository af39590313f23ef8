"""Outputs appear whole: written in a folder `name.part` beside them, flushed to disk, renamed.

Objects of an object store do so by themselves; `write_whole` and `write_shared` know them.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tilingseg.errors import OutputError
from tilingseg.folder_lock import PATIENCE_S, alone_with
from tilingseg.places import is_remote, move, refusals, remove, why

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_TRIES, _PAUSE_S = 20, 0.1
_WRITTEN_TO = {errno.ENOTEMPTY, errno.ENOENT}
"""A file came after the folder was emptied, or got its final name before it was removed."""


def make_folder(path: Path) -> None:
    """Make a folder for results, and those above it; one that is there already is kept.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be written: {error.strerror}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file that appears whole or not at all; text as UTF-8.

    Args:
        path: in a folder or on an object store.
        content: all of it.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    if not is_remote(path):
        with whole(path) as part:
            part.write_bytes(data)
        return
    try:
        path.write_bytes(data)
    except refusals() as error:
        raise OutputError(f"cannot write {path}: {why(error)}") from error


def write_shared(path: Path, content: str | bytes) -> None:
    """Write a small file whole, as `write_whole`, without a look at the others in its folder.

    Several processes may write it at once, with the same content: each has a file of its own until
    it is renamed. What a killed one leaves behind stays.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    if is_remote(path):
        write_whole(path, content)
        return
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; it becomes `path` when the block ends well.

    It has the name of `path`, in the folder `path.name + ".part"`, where its writer may leave what
    it likes beside it. That folder is removed, also the one that an earlier, killed process left,
    and nothing else: names that begin alike are those of other people's files. One that is at work
    there is waited for. An existing `path` stays until its successor is whole.

    Raises:
        BusyError: another process is writing it, and does not end soon.
        OutputError: the file system refused; `path` is as it was before.
    """
    folder = path.with_name(path.name + ".part")
    try:
        with alone_with(folder, PATIENCE_S):
            try:
                for leftover in folder.iterdir():
                    remove(leftover)
                _remove_folder(_aside(path))
                part = folder / path.name
                yield part
                _flush(part)
                put_in_place(part, path)
            finally:
                with suppress(OSError):  # the first error is the one to report
                    _remove_folder(folder)
                    _remove_folder(_aside(path))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _aside(path: Path) -> Path:
    """Return where a folder waits while its successor takes its place."""
    return path.with_name(path.name + ".part.old")


def _remove_folder(folder: Path) -> None:
    """Remove a folder in which threads of a writer that failed, such as Zarr, may still write.

    What has its name and is no folder, or nothing, is left alone.
    """
    if not folder.is_dir():
        return
    for tries_left in reversed(range(_TRIES)):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in _WRITTEN_TO or not tries_left:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _flush(part: Path) -> None:
    """Force a file, or every file of a folder and the folders themselves, to the disk."""
    for name in (part, *part.rglob("*")) if part.is_dir() else (part,):
        if name.is_dir() and os.name == "nt":
            continue  # Windows cannot open a folder, and has no need to
        descriptor = os.open(name, os.O_RDONLY if name.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_in_place(part: Path, path: Path) -> None:
    """Rename a finished file or folder over what may stand under the final name."""
    if is_remote(path):
        move(part, path)
        return
    if not path.is_dir():
        part.replace(path)
        return
    # No system call exchanges two folders everywhere: the old one steps aside first.
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed in here
    path.rename(aside)
    try:
        part.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
