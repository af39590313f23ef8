"""Many scenes in one go: which are to be done, who does them, what became of them.

A scene that is done is skipped; one that failed is tried again, one whose results are outdated is
done again only when asked for: a batch that is repeated does what is missing and nothing else.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilingseg import flow
from tilingseg.cluster.outcome import BatchState, Outcome, reason_of
from tilingseg.cluster.tasks import SceneJob
from tilingseg.errors import BusyError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tilingseg.cluster.ledger import Ledger, Standing
    from tilingseg.cluster.manifest import SceneEntry
    from tilingseg.cluster.outcome import Watch
    from tilingseg.cluster.summary import Line
    from tilingseg.job import RunOptions

    CarryOut = Callable[[Iterable[SceneJob], int, Watch], Iterator[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What the user may ask of a batch."""

    retry_failed: bool = False
    """Try scenes again that failed before."""
    update: bool = False
    """Do scenes again whose results are outdated."""
    overwrite: bool = False
    """Do all scenes again."""
    limit: int | None = None
    """Most scenes to do now; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch will do; no scene has been opened for it."""

    standings: tuple[Standing, ...]
    """How all the scenes stand that were named."""
    chosen: tuple[Standing, ...]
    """Those that will be done now."""
    left: tuple[Standing, ...]
    """Those that stay as they are."""
    n_later: int
    """Scenes beyond the limit."""

    def n_left(self, status: str) -> int:
        """Return how many scenes of a status stay as they are."""
        return sum(standing.line.status == status for standing in self.left)


def plan_batch(entries: Iterable[SceneEntry], ledger: Ledger, options: BatchOptions) -> BatchPlan:
    """Look up which scenes are missing.

    Args:
        entries: all scenes.
        ledger: of the batch's folder.
        options: what the user asked for.

    Raises:
        OutputError: the folder cannot be looked at.
    """
    standings = tuple(ledger.look_up(entries))
    wanted = {"waiting"}
    wanted |= {"failed"} if options.retry_failed else set()
    wanted |= {"outdated"} if options.update else set()
    wanted |= {"done", "failed", "outdated"} if options.overwrite else set()
    missing = [standing for standing in standings if standing.line.status in wanted]
    chosen = tuple(missing[: options.limit])
    return BatchPlan(
        standings=standings,
        chosen=chosen,
        left=tuple(standing for standing in standings if standing.line.status not in wanted),
        n_later=len(missing) - len(chosen),
    )


def run_batch(
    plan: BatchPlan, ledger: Ledger, options: RunOptions, carry_out: CarryOut, watch: Watch
) -> tuple[Path, list[Line]]:
    """Do the chosen scenes of a batch.

    Args:
        plan: which scenes.
        ledger: of the batch's folder.
        options: how each is done.
        carry_out: who does them: `one_by_one`, or the workers of a cluster.
        watch: told how far the batch is.

    Returns:
        Path of the summary, and its lines: all scenes that were named.

    Raises:
        TilingSegError: the batch cannot go on at all; what is done is kept.
    """
    jobs = (
        SceneJob(
            uri=standing.entry.uri,
            out_dir=ledger.of(standing.entry),
            # results that stand where something is to be done were asked to be replaced
            options=replace(options, overwrite=options.overwrite or standing.has_results),
        )
        for standing in plan.chosen
    )
    # closed at once when this ends early: workers must not go on with what nobody waits for
    with closing(carry_out(jobs, len(plan.chosen), watch)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.ends_the_batch:
                raise OutputError(
                    f"{outcome.job.uri}: {outcome.reason}; the batch ends here, as all further "
                    "scenes would fail like that. The same command goes on"
                )
            if not outcome.is_busy and not (outcome.report is None and ledger.is_done(outcome)):
                ledger.note(outcome)
    return ledger.summarise(plan.standings, {standing.entry.name for standing in plan.chosen})


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
        state.n_scenes_failed += outcome.report is None and not outcome.is_busy
        watch(state)
        yield replace(outcome, seconds=round(time.monotonic() - start, 3))


def _attempt(job: SceneJob, state: BatchState, watch: Watch) -> Outcome:
    n_before = state.n_tiles_done

    def count(stage: str, done: int, total: int) -> None:
        if stage == "tiles":
            state.n_tiles_done = n_before + done
            state.scene_share = done / max(1, total)
            watch(state)

    try:
        report = flow.run(job.uri, job.out_dir, options=job.options, progress=count)
    except BusyError as error:
        return Outcome(job=job, report=None, reason=reason_of(error), is_busy=True)
    except Exception as error:  # noqa: BLE001  libraries raise anything; the other scenes go on
        in_output = isinstance(error, OutputError)
        return Outcome(job=job, report=None, reason=reason_of(error), in_output=in_output)
    return Outcome(job=job, report=report)
