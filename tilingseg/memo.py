"""What was measured on this machine, kept in the user's cache folder between runs.

Losing it costs a new measurement and nothing else: a folder that cannot be written, a file that
cannot be read are no errors. Each topic is one small JSON file.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tilingseg.atomic import write_whole
from tilingseg.errors import OutputError

_MOST = 64
"""Entries of a topic that are kept, the latest ones."""


def recall(topic: str, key: str) -> Any:
    """Return what was remembered under a key, JSON types; None: nothing."""
    return _entries(topic).get(key)


def remember(topic: str, key: str, value: Any) -> None:
    """Keep a value of JSON types under a key."""
    entries = _entries(topic)
    entries.pop(key, None)
    kept = dict(list(entries.items())[1 - _MOST :])
    with contextlib.suppress(OSError, OutputError, RuntimeError):  # the last: there is no home
        path = _path(topic)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(kept | {key: value}, indent=1))


def _entries(topic: str) -> dict[str, Any]:
    try:
        entries = json.loads(_path(topic).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _path(topic: str) -> Path:
    # Where PyTorch and others of the field keep theirs, on every system.
    return Path("~/.cache/tilingseg").expanduser() / f"{topic}.json"
