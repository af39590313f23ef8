"""What became of the scenes of a batch, kept where it cannot be lost: in their own folders.

`run.json` says that a scene is done, `failed.json` that it failed and why. A batch that is killed
therefore knows at its next start what it had done, and two batches may share a folder. Of both, the
newer one counts: a scene that is done again may fail.

A scene is done where `run.json` tells of this very scene, in its present revision, with the options
and the model that are asked for now. Results of something else are `outdated`: they are neither
taken for what was asked for nor replaced before the user says so. No scene is opened for that; a
local file costs a look into its folder, and what lies behind a URL is taken to be as it was.

A scene's folder bears its name. Where that folder tells of another scene, or several new scenes
have one name, a hash of the path or URL is added, and the folder that a scene once got stays its
own whatever else is named beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tilingseg.atomic import write_whole
from tilingseg.cluster.manifest import SceneEntry
from tilingseg.cluster.summary import Line, read_summary, write_summary
from tilingseg.errors import OutputError
from tilingseg.output_folder import WORK, OutputFolder
from tilingseg.outputs import report_in
from tilingseg.places import is_remote, refusals, remove, why
from tilingseg.request import changes, file_revision, model_hash, scene_key, wishes

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from tilingseg.cluster.outcome import Outcome
    from tilingseg.job import RunOptions

FAILED = "failed.json"
LOOKS = 16
"""Folders looked at together: a shared or remote one answers each question late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one scene stands."""

    entry: SceneEntry
    """The scene, under the name of its folder."""
    line: Line
    """What the summary says of it."""
    has_results: bool = False
    """Whether results of an earlier run stand in its folder, up to date or not."""


class Ledger:
    """The folder of a batch: one folder a scene, and the summary."""

    def __init__(self, folder: Path, options: RunOptions) -> None:
        """Use an existing folder or one that is made with the first scene.

        Args:
            folder: of the batch.
            options: what is asked for; results of other options are outdated.

        Raises:
            ModelError: there is no such model.
        """
        self.folder = folder
        self._wishes = wishes(options)
        self._model = model_hash(options)

    def of(self, entry: SceneEntry) -> Path:
        """Return the folder of a scene whose name is that of its folder."""
        return self.folder / entry.name

    def look_up(self, entries: Iterable[SceneEntry]) -> list[Standing]:
        """Find the folder of each scene and how it stands.

        Raises:
            OutputError: the folder cannot be looked at.
        """
        entries = tuple(entries)
        counts, folders = Counter(entry.name for entry in entries), self._folders()

        def look(entry: SceneEntry) -> Standing:
            own = replace(entry, name=f"{entry.name}-{_hash(entry)}")
            if own.name in folders and (found := self._standing(own, is_own=True)):
                return found
            is_alone = counts[entry.name] == 1
            if entry.name not in folders:
                return self._waiting(entry if is_alone else own)
            return self._standing(entry, is_own=is_alone) or self._waiting(own)

        with ThreadPoolExecutor(LOOKS) as pool:
            return list(pool.map(look, entries))

    def _waiting(self, entry: SceneEntry) -> Standing:
        folder = str(self.of(entry))
        line = Line(scene=entry.name, status="waiting", uri=entry.uri, folder=folder)
        return Standing(entry=entry, line=line)

    def _folders(self) -> frozenset[str]:
        try:
            return frozenset(path.name for path in self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):  # the latter for a prefix without objects
            return frozenset()
        except refusals() as error:
            raise OutputError(f"{self.folder} cannot be looked at: {why(error)}") from error

    def _standing(self, entry: SceneEntry, *, is_own: bool) -> Standing | None:
        """Read how a scene stands in a folder that exists; None: it is another scene's.

        Args:
            entry: the scene, under the name of the folder.
            is_own: a folder that tells of no scene is this one's.
        """
        folder, path = self.of(entry), self.of(entry) / FAILED
        done, failed = _read(folder / "run.json"), _read(path)
        run, note = _parsed(done), _parsed(failed)
        if (owner := _owner(folder, run, note)) != scene_key(entry.uri) and (owner or not is_own):
            return None
        waiting = self._waiting(entry)
        if done is not None and (failed is None or not _is_newer(path, folder / "run.json")):
            found = self._found(entry, done, run)
        elif failed is not None:
            found = {"status": "failed", "reason": _at(note, "reason") or f"{path} cannot be read"}
        else:
            return waiting
        line = replace(waiting.line, **found)
        return Standing(entry=entry, line=line, has_results=done is not None)

    def _found(self, entry: SceneEntry, text: str, run: Any) -> dict[str, Any]:
        """Return what `run.json` says of a scene, as fields of its line."""
        try:
            found = _counts(OutputFolder(path=self.of(entry), scene=entry.name), text)
            different = self._differences(entry, run)
        except OutputError as error:
            return {"status": "failed", "reason": str(error)}
        status = "outdated" if different else "done"
        return {**found, "status": status, "reason": "; ".join(different)}

    def _differences(self, entry: SceneEntry, run: dict[str, Any]) -> list[str]:
        """List why the results of a run are not those that are asked for."""
        request = run.get("request")
        if request is None:  # by a version that did not keep it
            return []
        found = changes(request["options"], self._wishes)
        if run["plan"]["model"]["sha256"] != self._model:
            found.append("the model is another file")
        now = file_revision(entry.uri)
        if now and request["revision"] and now != request["revision"]:
            found.append("the scene has changed since")
        return found

    def is_done(self, outcome: Outcome) -> bool:
        """Tell whether another process has meanwhile done a scene that could not be done here.

        Raises:
            OutputError: its folder cannot be looked at.
        """
        if outcome.job.options.overwrite:  # what stands there is older
            return False
        entry = SceneEntry(uri=outcome.job.uri, name=outcome.job.out_dir.name)
        found = self._standing(entry, is_own=True)
        return found is not None and found.line.status == "done"

    def note(self, outcome: Outcome) -> None:
        """Keep what became of a scene.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = outcome.job.out_dir / FAILED
        note = {"scene": scene_key(outcome.job.uri), "reason": outcome.reason}
        try:
            if outcome.report is not None:
                remove(path)
                return
            if not is_remote(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(note, indent=1))
        except refusals(OutputError) as error:
            failed = f"{outcome.job.uri} failed ({outcome.reason}), and " if outcome.reason else ""
            raise OutputError(
                f"{failed}the output folder {path.parent} cannot be written: {why(error)}"
            ) from error

    def summarise(
        self, before: Iterable[Standing], tried: Container[str]
    ) -> tuple[Path, list[Line]]:
        """Write the summary of the batch.

        Args:
            before: how the scenes stood.
            tried: names of those that were done again; they and what was not done are looked up.

        Returns:
            Path of the table for programs, which other scenes of the folder keep their lines in,
            and the lines of these scenes in their order.

        Raises:
            OutputError: it cannot be written.
        """

        def look(standing: Standing) -> Line:
            if standing.line.status == "done" and standing.entry.name not in tried:
                return standing.line
            now = self._standing(standing.entry, is_own=True)
            return standing.line if now is None else now.line

        with ThreadPoolExecutor(LOOKS) as pool:
            lines = list(pool.map(look, before))
        names = {line.scene for line in lines}
        folders = self._folders() - names
        others = [line for line in read_summary(self.folder) if line.scene in folders]
        return write_summary(self.folder, [*lines, *others]), lines


def _hash(entry: SceneEntry) -> str:
    return hashlib.sha256(scene_key(entry.uri).encode()).hexdigest()[:8]


def _read(path: Path) -> str | None:
    """Return what a file holds; None: there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        return ""
    except refusals() as error:
        raise OutputError(f"{path} cannot be read: {why(error)}") from error


def _parsed(text: str | None) -> Any:
    """Return what JSON holds; None: it is none, or there is no text."""
    try:
        return json.loads(text or "")
    except ValueError:
        return None


def _owner(folder: Path, run: Any, note: Any) -> str:
    """Return the scene that a folder tells of; empty: of none."""
    found = _at(run, "request", "scene") or _at(run, "report", "scene") or _at(note, "scene")
    if not found:  # a run that was interrupted
        found = _at(_parsed(_read(folder / WORK / "plan.json")), "plan", "scene", "uri")
    return scene_key(found) if found else ""


def _at(found: Any, *keys: str) -> str:
    """Return a text inside parsed JSON; empty: it is not there."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _counts(folder: OutputFolder, text: str) -> dict[str, Any]:
    report = report_in(folder, text)
    return {
        "n_pixels_valid": report.n_pixels_valid,
        "n_pixels_nodata": report.n_pixels_nodata,
        "n_tiles": report.n_tiles,
        "n_features": sum(count for _, count in report.n_features),
        "seconds": round(sum(spent for _, spent in report.seconds), 3),
    }


def _is_newer(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_mtime > other.stat().st_mtime
    except refusals() as error:
        raise OutputError(f"{path} cannot be looked at: {why(error)}") from error
