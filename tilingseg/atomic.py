"""Outputs appear whole: written beside their name as `name.part…`, flushed to disk, renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tilingseg.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a small text file, UTF-8, that appears whole or not at all.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; it becomes `path` when the block ends well.

    Whatever else lies there under names that begin with `path.name + ".part"` is removed, also what
    an earlier, killed process left. An existing `path` stays until its successor is whole.

    Raises:
        OutputError: the file system refused; `path` is as it was before.
    """
    part = path.with_name(path.name + ".part")
    try:
        _remove_parts(path)
        yield part
        _flush(part)
        put_in_place(part, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the first error is the one to report
            _remove_parts(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """As `whole`, for writers that need the file's own name or leave scratch files beside it.

    Raises:
        OutputError: the file system refused; `path` is as it was before.
    """
    folder = path.with_name(path.name + ".part")
    try:
        _remove_parts(path)
        folder.mkdir()
        part = folder / path.name
        yield part
        _flush(part)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the first error is the one to report
            _remove_parts(path)


def _remove_parts(path: Path) -> None:
    prefix = path.name + ".part"
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(prefix):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


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
    if not path.is_dir():
        part.replace(path)
        return
    # No system call exchanges two folders everywhere: the old one steps aside first.
    aside = path.with_name(path.name + ".part.old")
    path.rename(aside)
    try:
        part.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
