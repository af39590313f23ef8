"""What a cluster would do with a huge job: `python pipelines/simulate_cluster.py`.

A queue model of one job, stepped through task by task: one scheduler that handles tasks one after
the other, workers that read, infer and write regions, storage that all of them share, levels of the
tree that joins vectors, and one worker that publishes at the end. Its figures are measured ones
(`bench_cluster.py`, `tilingseg run`); give your own with `--set`.

Left out: workers that come and go, stragglers, and a scheduler that slows down with the number of
its workers.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, fields, replace

import click

FAN = 4
"""Parts along each side that one vector task joins."""
MOST_TASKS = 10_000_000
"""Regions or scenes of a job, at most: each is stepped through, some microseconds each."""
NEVER_ZERO = ("megapixels", "region_px", "storage_mb_s", "scenes")
"""Figures that must be above 0; the others may leave out what they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured."""

    megapixels: float = 1e6
    """Pixels of the job, Mpx; the default is a terapixel."""
    region_px: int = 4096
    """Side of a region, px."""
    region_s: float = 8.1
    """Reading, inferring and writing one region on one worker, seconds."""
    vectors_s: float = 84.0
    """Vectors of one region, seconds; the default is a dense town everywhere."""
    join_s: float = 0.4
    """Joining the pieces of one group of regions, seconds."""
    publish_s: float = 6.0
    """Writing one region's part of the outputs, seconds; one worker does it for a whole scene."""
    scheduler_ms: float = 2.8
    """What client and scheduler do for one task, milliseconds."""
    region_mb: float = 156.0
    """Bytes a region moves to and from storage, MB."""
    storage_mb_s: float = 2000.0
    """What storage moves for all workers together, MB a second."""
    scenes: int = 1
    """Scenes that the pixels are divided into; each is published by one worker."""

    def __post_init__(self) -> None:
        """Refuse figures of no job.

        Raises:
            ValueError: naming the figure.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0) or (item.name in NEVER_ZERO and not value):
                least = "above 0" if item.name in NEVER_ZERO else "0 or more"
                raise ValueError(f"{item.name} is {value}, must be {least}")
        if max(self.n_regions, self.scenes) > MOST_TASKS:
            raise ValueError(
                f"a job of {self.n_regions:,} regions and {self.scenes:,} scenes is too large to "
                f"step through: at most {MOST_TASKS:,} of each"
            )

    @property
    def n_regions(self) -> int:
        """Regions of the job."""
        return max(1, round(self.megapixels * 1e6 / self.region_px**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long the stages of a job take."""

    regions_s: float
    vectors_s: float
    publish_s: float
    limit: str
    """What the regions wait for: workers, scheduler or storage."""

    @property
    def total_s(self) -> float:
        """From start to end, seconds."""
        return self.regions_s + self.vectors_s + self.publish_s


def simulate(costs: Costs, workers: int) -> Forecast:
    """Step through a job.

    Args:
        costs: of its parts.
        workers: each does one task at a time.
    """
    n_regions = costs.n_regions
    handle_s, move_s = costs.scheduler_ms / 1e3, costs.region_mb / costs.storage_mb_s
    regions_s = _queue([costs.region_s] * n_regions, workers, handle_s, move_s)
    busy = {
        "workers": n_regions * costs.region_s / workers,
        "scheduler": n_regions * handle_s,
        "storage": n_regions * move_s,
    }
    vectors_s = _queue([costs.vectors_s] * n_regions, workers, handle_s, 0.0)
    n_tasks = n_regions
    while n_tasks > costs.scenes:
        n_tasks = max(costs.scenes, -(-n_tasks // FAN**2))
        vectors_s += _queue([costs.join_s] * n_tasks, workers, handle_s, 0.0)
    per_scene_s = costs.publish_s * n_regions / costs.scenes
    return Forecast(
        regions_s=regions_s,
        vectors_s=vectors_s,
        publish_s=_queue([per_scene_s] * costs.scenes, workers, handle_s, 0.0),
        limit=max(busy, key=lambda name: busy[name]),
    )


def _queue(tasks_s: list[float], workers: int, handle_s: float, move_s: float) -> float:
    """Return when the last task ends, seconds.

    Args:
        tasks_s: what each takes on a worker, seconds.
        workers: how many work.
        handle_s: what each takes of the one scheduler, before it begins.
        move_s: what each takes of the storage that all share, before it ends.
    """
    free_s = [0.0] * min(workers, len(tasks_s))
    scheduler_s = storage_s = last_s = 0.0
    for task_s in tasks_s:
        scheduler_s = max(scheduler_s, free_s[0]) + handle_s if handle_s else free_s[0]
        # storage serves one task at a time at full speed, which takes as long as all at once
        storage_s = max(storage_s, scheduler_s + task_s - move_s) + move_s
        end_s = max(scheduler_s + task_s, storage_s)
        heapq.heapreplace(free_s, end_s)
        last_s = max(last_s, end_s)
    return last_s


@click.command()
@click.option(
    "--workers", "counts", multiple=True, type=click.IntRange(1), help="Workers; may repeat."
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"A figure of your own; may repeat: {', '.join(item.name for item in fields(Costs))}.",
)
def main(counts: tuple[int, ...], changes: tuple[str, ...]) -> None:
    """Forecast a job with 10, 100 and 1,000 workers."""
    costs = _changed(Costs(), changes)
    click.echo(f"{'workers':>8} {'regions':>9} {'vectors':>9} {'publish':>9} {'all':>9}  limit")
    for workers in counts or (10, 100, 1000):
        found = simulate(costs, workers)
        times = (found.regions_s, found.vectors_s, found.publish_s, found.total_s)
        cells = " ".join(f"{seconds / 3600:>7.2f} h" for seconds in times)
        click.echo(f"{workers:>8,} {cells}  {found.limit}")


def _changed(costs: Costs, changes: tuple[str, ...]) -> Costs:
    """Put figures of `NAME=VALUE` in the place of others; all at once, as they may need each other.

    Raises:
        ClickException: a name or a value is none of a figure.
    """
    kinds = {item.name: type(getattr(costs, item.name)) for item in fields(costs)}
    figures = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds:
            raise click.ClickException(f"{change!r} sets no figure; known: {', '.join(kinds)}")
        try:
            figures[name] = kinds[name](value)
        except ValueError as error:
            raise click.ClickException(f"{change!r} sets no figure: {error}") from error
    try:
        return replace(costs, **figures)
    except (ValueError, OverflowError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
