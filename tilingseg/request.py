"""What was asked of a run: which scene, with which options. `run.json` repeats it.

By it a later command can tell whether a folder holds just what it wants, without opening the
scene. Options are kept where they differ from the defaults, and only those that results depend on:
the device, the engine or the number of workers may be others. A model counts by the hash of its
file, which stands in the plan, an area of interest by what is in its file.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilingseg.job import RunOptions
from tilingseg.model.load import file_sha256
from tilingseg.places import absolute, unsigned
from tilingseg.records import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HOW = (
    *("model", "further_models", "model_sha256", "torchscript", "device", "engine", "workers"),
    *("batch_size", "region_px", "overwrite", "resume"),
)
"""Options that say how to get at the result, and those of models, which count by their hash."""


def request_of(uri: str, options: RunOptions) -> dict[str, Any]:
    """Return a request as JSON types.

    Args:
        uri: path or URL of the scene.
        options: what to do.
    """
    return {"scene": scene_key(uri), "revision": file_revision(uri), "options": wishes(options)}


def scene_key(uri: str) -> str:
    """Return the one spelling of a scene's path or URL that tells it from others."""
    return unsigned(absolute(uri))


def file_revision(uri: str) -> str:
    """Return what changes with a local file, at the cost of a look into its folder.

    Empty for what is no file or is not here: URLs, Zarr groups, scenes that have been removed.
    """
    path = Path(uri)
    try:
        state = path.stat() if path.is_file() else None
    except OSError:
        return ""
    return "" if state is None else f"{state.st_mtime_ns}-{state.st_size}"


def wishes(options: RunOptions) -> dict[str, Any]:
    """Return the options that results depend on where they are not the defaults, JSON types."""
    found = dict(_wishes(options, RunOptions()))
    if options.area_file is not None:
        found["area_file"] = _content(Path(options.area_file))
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List in which wishes two requests differ, `name: old → new`."""
    return [
        f"{name}: {before.get(name, 'default')} → {after.get(name, 'default')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def model_hash(options: RunOptions) -> str:
    """Return the hash of the model files as plans have it, without loading them.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    return "+".join(file_sha256(name) for name in (options.model, *options.further_models))


def _wishes(options: Any, plain: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name in (item.name for item in fields(options) if item.name not in _HOW):
        value, default = getattr(options, name), getattr(plain, name)
        if is_dataclass(value):
            yield from _wishes(value, default, f"{above}{name}.")
        elif name in ("formats", "classes"):  # their order says nothing
            if value is not None and set(value) != set(default or ()):
                yield f"{above}{name}", sorted(value)
        elif value != default and name != "area_file":
            yield f"{above}{name}", to_json(value)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"{path.name} ({hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"
    except OSError:  # a database in a folder; or nothing, and the run says so
        return path.name
