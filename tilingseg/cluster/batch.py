"""Many scenes in one go: which are to be done, who does them, what became of them.

A scene that is done is skipped, one that failed is tried again only when asked for: a batch that is
repeated does what is missing and nothing else.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilingseg import flow
from tilingseg.cluster.ledger import Ledger
from tilingseg.cluster.outcome import BatchState, Outcome, reason_of
from tilingseg.cluster.tasks import SceneJob
from tilingseg.errors import TilingSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tilingseg.cluster.ledger import Line
    from tilingseg.cluster.manifest import SceneEntry
    from tilingseg.cluster.outcome import Watch
    from tilingseg.job import RunOptions

    CarryOut = Callable[[Iterable[SceneJob], int, Watch], Iterator[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What the user may ask of a batch."""

    retry_failed: bool = False
    """Try scenes again that failed before."""
    limit: int | None = None
    """Most scenes to do now; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch will do; no scene has been opened for it."""

    entries: tuple[SceneEntry, ...]
    """All scenes that were named."""
    chosen: tuple[SceneEntry, ...]
    """Those that will be done now."""
    n_done: int
    """Scenes that are done."""
    n_failed: int
    """Scenes that failed before and are left alone."""
    n_later: int
    """Scenes beyond the limit."""


def plan_batch(
    entries: Iterable[SceneEntry], out_dir: Path, options: BatchOptions, *, overwrite: bool
) -> BatchPlan:
    """Look up which scenes are missing.

    Args:
        entries: all scenes.
        out_dir: folder of the batch.
        options: what the user asked for.
        overwrite: do scenes again that are done.
    """
    ledger, wanted, n_done, n_failed = Ledger(out_dir), [], 0, 0
    entries = tuple(ledger.settle(entries))
    for entry, status in zip(entries, ledger.statuses(entries), strict=True):
        if status == "done" and not overwrite:
            n_done += 1
        elif status == "failed" and not (options.retry_failed or overwrite):
            n_failed += 1
        else:
            wanted.append(entry)
    chosen = tuple(wanted[: options.limit])
    return BatchPlan(
        entries=entries,
        chosen=chosen,
        n_done=n_done,
        n_failed=n_failed,
        n_later=len(wanted) - len(chosen),
    )


def run_batch(
    plan: BatchPlan, out_dir: Path, options: RunOptions, carry_out: CarryOut, watch: Watch
) -> tuple[Path, list[Line]]:
    """Do the chosen scenes of a batch.

    Args:
        plan: which scenes.
        out_dir: folder of the batch: a folder for each scene, and the summary.
        options: how each is done.
        carry_out: who does them: `one_by_one`, or the workers of a cluster.
        watch: told how far the batch is.

    Returns:
        Path of the summary, and its lines: all scenes that were named.

    Raises:
        TilingSegError: the batch cannot go on at all; what is done is kept.
    """
    ledger = Ledger(out_dir)
    jobs = (
        SceneJob(uri=entry.uri, out_dir=ledger.of(entry), options=options) for entry in plan.chosen
    )
    # closed at once when this ends early: workers must not go on with what nobody waits for
    with closing(carry_out(jobs, len(plan.chosen), watch)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            ledger.note(outcome)
    return ledger.summarise(plan.entries)


def one_by_one(jobs: Iterable[SceneJob], n_scenes: int, watch: Watch) -> Iterator[Outcome]:
    """Do scenes in this process, on all its devices, one after the other.

    Args:
        jobs: what to do, with the same model, which is loaded once.
        n_scenes: how many they are.
        watch: told how far the batch is.

    Yields:
        What became of each scene.
    """
    state = BatchState(n_scenes=n_scenes, n_workers=1)
    for job in jobs:
        start = time.monotonic()
        outcome = _attempt(job, state, watch)
        state.n_scenes_done += 1
        state.scene_share = 0.0
        state.n_scenes_failed += outcome.report is None
        watch(state)
        yield Outcome(
            job=job,
            report=outcome.report,
            reason=outcome.reason,
            seconds=round(time.monotonic() - start, 3),
        )


def _attempt(job: SceneJob, state: BatchState, watch: Watch) -> Outcome:
    n_before = state.n_tiles_done

    def count(stage: str, done: int, total: int) -> None:
        if stage == "tiles":
            state.n_tiles_done = n_before + done
            state.scene_share = done / max(1, total)
            watch(state)

    try:
        report = flow.run(job.uri, job.out_dir, options=job.options, progress=count)
    except (TilingSegError, OSError, RuntimeError, ValueError, LookupError, MemoryError) as error:
        return Outcome(job=job, report=None, reason=reason_of(error))
    return Outcome(job=job, report=report)
