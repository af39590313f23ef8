"""What became of the scenes of a batch, kept where it cannot be lost: in their own folders.

`run.json` says that a scene is done, `failed.json` that it failed and why. A batch that is killed
therefore knows at its next start what it had done, and two batches may share a folder. Of both, the
newer one counts: a scene that is done again may fail. The summary is a table made from these files
at the end, once for programs and once for people.
"""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tilingseg.atomic import write_whole
from tilingseg.errors import OutputError
from tilingseg.output_folder import OutputFolder
from tilingseg.outputs import read_report
from tilingseg.places import is_remote, refusals, remove, why

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tilingseg.cluster.manifest import SceneEntry
    from tilingseg.cluster.outcome import Outcome

FAILED = "failed.json"
LOOKS = 16
"""Folders looked at together: a shared or remote one answers each question late."""


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

    def settle(self, entries: Iterable[SceneEntry]) -> list[SceneEntry]:
        """Give each scene the folder it had before; none gets that of another scene.

        Scenes of one name that come together have folders with a hash, one that comes alone has
        not: which it was the reports tell.

        Raises:
            OutputError: a folder cannot be looked at.
        """
        with ThreadPoolExecutor(LOOKS) as pool:
            return list(pool.map(self._settled, entries))

    def _settled(self, entry: SceneEntry) -> SceneEntry:
        names = dict.fromkeys((entry.unmistakable, entry.plain, entry.name))
        owners = {name: _owner(self.folder / name) for name in names}
        mine = next((name for name in names if owners[name] == entry.uri), None)
        if mine is None:
            mine = entry.name if owners[entry.name] is None else entry.unmistakable
        return replace(entry, name=mine)

    def status(self, entry: SceneEntry) -> str:
        """Return `done`, `failed` or `waiting`; opens no file."""
        done_s = _changed_s(self.of(entry) / "run.json")
        failed_s = _changed_s(self.of(entry) / FAILED)
        if done_s is None and failed_s is None:
            return "waiting"
        if done_s is None:
            return "failed"
        return "done" if failed_s is None or failed_s <= done_s else "failed"

    def statuses(self, entries: Iterable[SceneEntry]) -> list[str]:
        """Return the status of each entry."""
        with ThreadPoolExecutor(LOOKS) as pool:
            return list(pool.map(self.status, entries))

    def note(self, outcome: Outcome) -> None:
        """Keep what became of a scene.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = outcome.job.out_dir / FAILED
        try:
            if outcome.report is not None:
                remove(path)
                return
            if not is_remote(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"uri": outcome.job.uri, "reason": outcome.reason}, indent=1)
            write_whole(path, text)
        except refusals(OutputError) as error:
            failed = f"{outcome.job.uri} failed ({outcome.reason}), and " if outcome.reason else ""
            raise OutputError(
                f"{failed}the output folder {path.parent} cannot be written: {why(error)}"
            ) from error

    def line(self, entry: SceneEntry) -> Line:
        """Read what became of a scene."""
        folder, status = self.of(entry), self.status(entry)
        found: dict[str, Any] = {}
        if status == "failed":
            found["reason"] = _reason(folder / FAILED)
        elif status == "done":
            try:
                found = _counts(OutputFolder(path=folder, scene=entry.name))
            except OutputError as error:
                status, found["reason"] = "failed", str(error)
        return Line(scene=entry.name, status=status, uri=entry.uri, folder=str(folder), **found)

    def summarise(self, entries: Iterable[SceneEntry]) -> tuple[Path, list[Line]]:
        """Write the summary as Parquet, or CSV where pyarrow is missing, and as a readable table.

        Returns:
            Path of the former, and the lines in the order of the entries.

        Raises:
            OutputError: it cannot be written.
        """
        with ThreadPoolExecutor(LOOKS) as pool:
            lines = list(pool.map(self.line, entries))
        write_whole(self.folder / "summary.md", _readable(lines))
        data = _parquet(lines)
        path = self.folder / ("summary.csv" if data is None else "summary.parquet")
        write_whole(path, _csv(lines) if data is None else data)
        return path, lines


def _counts(folder: OutputFolder) -> dict[str, Any]:
    report = read_report(folder)
    if report is None:
        raise OutputError(f"{folder.report} is gone")
    return {
        "n_pixels_valid": report.n_pixels_valid,
        "n_pixels_nodata": report.n_pixels_nodata,
        "n_tiles": report.n_tiles,
        "n_features": sum(count for _, count in report.n_features),
        "seconds": round(sum(spent for _, spent in report.seconds), 3),
    }


def _owner(folder: Path) -> str | None:
    """Return the uri of the scene that a folder was used for; None: of none."""
    for name, where in (("run.json", ("report", "scene")), (FAILED, ("uri",))):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in where:
                found = found[key]
            return str(found)
        except FileNotFoundError:
            continue
        except refusals(ValueError, KeyError, TypeError):
            return None  # its status will say what is wrong with it
    return None


def _changed_s(path: Path) -> float | None:
    """Return when a file was last written, seconds; None: there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
    except refusals() as error:
        raise OutputError(f"{path} cannot be looked at: {why(error)}") from error


def _reason(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except refusals(ValueError, KeyError, TypeError):
        return f"{path} cannot be read"


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
    """Lay the summary out as a table of Markdown, the failed scenes first."""
    order = {"failed": 0, "waiting": 1}
    rows = [("scene", "status", "valid px", "features", "seconds", "reason")]
    for line in sorted(lines, key=lambda line: order.get(line.status, 2)):
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
