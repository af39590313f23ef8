"""The summary of a batch: one line a scene, once for programs and once for people.

It has a line for every scene of the folder, those that an earlier command named as it left them.
What the lines say is the ledger's.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tilingseg.atomic import write_whole
from tilingseg.places import refusals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TYPES: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scene in the summary."""

    scene: str
    """Name of its folder."""
    status: str
    """`done`, `failed`, `outdated` or `waiting`."""
    uri: str
    """Path or URL."""
    folder: str
    """Folder of its outputs."""
    n_pixels_valid: int = 0
    """Pixels that got a class or background."""
    n_pixels_nodata: int = 0
    """Pixels without data or outside the area."""
    n_tiles: int = 0
    """Tiles inferred."""
    n_features: int = 0
    """Features of all layers."""
    seconds: float = 0.0
    """Work of all stages, seconds, on whichever machine."""
    reason: str = ""
    """Why it failed, or what its results differ in from what is asked for."""


def read_summary(folder: Path) -> list[Line]:
    """Return the lines of the summary that stands in a folder; none where it cannot be read."""
    try:
        rows = _rows(folder)
        return [
            Line(**{item.name: _TYPES[str(item.type)](row[item.name]) for item in fields(Line)})
            for row in rows
        ]
    except refusals(ValueError, KeyError, TypeError, csv.Error):
        return []


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        text = (folder / "summary.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    data = (folder / "summary.parquet").read_bytes()
    rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def write_summary(folder: Path, lines: list[Line]) -> Path:
    """Write the summary as Parquet, or CSV where pyarrow is missing, and as a readable table.

    Args:
        folder: of the batch.
        lines: in the order of the scenes.

    Returns:
        Path of the former.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(folder / "summary.md", _readable(lines))
    data = _parquet(lines)
    path = folder / ("summary.csv" if data is None else "summary.parquet")
    write_whole(path, _csv(lines) if data is None else data)
    return path


def _parquet(lines: list[Line]) -> bytes | None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    names = [item.name for item in fields(Line)]
    buffer = io.BytesIO()
    table = pyarrow.table({name: [getattr(line, name) for line in lines] for name in names})
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _readable(lines: list[Line]) -> str:
    """Lay the summary out as a table of Markdown, the scenes that lack something first."""
    order = {"failed": 0, "outdated": 1, "waiting": 2}
    rows = [("scene", "status", "valid px", "features", "seconds", "reason")]
    for line in sorted(lines, key=lambda line: order.get(line.status, 3)):
        numbers = (f"{line.n_pixels_valid:,}", f"{line.n_features:,}", f"{line.seconds:,.1f}")
        reason = line.reason.replace("|", "\\|")
        rows.append((line.scene, line.status, *numbers, reason))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    texts = [
        [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)] for row in rows
    ]
    texts.insert(1, ["-" * width for width in [*widths, len("reason")]])
    return "".join(f"| {' | '.join(text)} |\n" for text in texts)


def _csv(lines: list[Line]) -> str:
    names = [item.name for item in fields(Line)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()
