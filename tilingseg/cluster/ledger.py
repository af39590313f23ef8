"""What became of the scenes of a batch, kept where it cannot be lost: in their own folders.

`run.json` says that a scene is done, `failed.json` that it failed and why. A batch that is killed
therefore knows at its next start what it had done, and two batches may share a folder. The summary
is a table made from these files at the end.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tilingseg.atomic import whole, write_whole
from tilingseg.errors import OutputError
from tilingseg.output_folder import OutputFolder
from tilingseg.outputs import read_report

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tilingseg.cluster.manifest import SceneEntry
    from tilingseg.cluster.outcome import Outcome

FAILED = "failed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scene in the summary."""

    scene: str
    """Name of its folder."""
    status: str
    """`done`, `failed` or `waiting`."""
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
    """Why it failed."""


class Ledger:
    """The folder of a batch: one folder a scene, and the summary."""

    def __init__(self, folder: Path) -> None:
        """Use an existing folder or one that is made with the first scene."""
        self.folder = folder

    def of(self, entry: SceneEntry) -> Path:
        """Return the folder of a scene's outputs."""
        return self.folder / entry.name

    def status(self, entry: SceneEntry) -> str:
        """Return `done`, `failed` or `waiting`; opens no file."""
        if (self.of(entry) / "run.json").exists():
            return "done"
        return "failed" if (self.of(entry) / FAILED).exists() else "waiting"

    def note(self, outcome: Outcome) -> None:
        """Keep what became of a scene.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = outcome.job.out_dir / FAILED
        if outcome.report is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the output folder {path.parent} cannot be written: {error.strerror or error}"
            ) from error
        write_whole(path, json.dumps({"uri": outcome.job.uri, "reason": outcome.reason}, indent=1))

    def line(self, entry: SceneEntry) -> Line:
        """Read what became of a scene."""
        folder, status = self.of(entry), self.status(entry)
        found: dict[str, Any] = {}
        if status == "failed":
            found["reason"] = _reason(folder / FAILED)
        elif status == "done":
            report = read_report(OutputFolder(path=folder, scene=entry.name))
            assert report is not None
            found = {
                "n_pixels_valid": report.n_pixels_valid,
                "n_pixels_nodata": report.n_pixels_nodata,
                "n_tiles": report.n_tiles,
                "n_features": sum(count for _, count in report.n_features),
                "seconds": round(sum(spent for _, spent in report.seconds), 3),
            }
        return Line(scene=entry.name, status=status, uri=entry.uri, folder=str(folder), **found)

    def summarise(self, entries: Iterable[SceneEntry]) -> tuple[Path, list[Line]]:
        """Write the summary: Parquet, or CSV where pyarrow is missing.

        Returns:
            Its path and lines, in the order of the entries.

        Raises:
            OutputError: it cannot be written.
        """
        lines = [self.line(entry) for entry in entries]
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            path = self.folder / "summary.csv"
            write_whole(path, _csv(lines))
            return path, lines
        path = self.folder / "summary.parquet"
        names = [item.name for item in fields(Line)]
        table = pyarrow.table({name: [getattr(line, name) for line in lines] for name in names})
        with whole(path) as part:
            parquet.write_table(table, part)
        return path, lines


def _reason(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} cannot be read"


def _csv(lines: list[Line]) -> str:
    names = [item.name for item in fields(Line)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()
