"""Batches, drawn ahead of the step that needs them.

Beside a network that trains on the processor one thread keeps up. A GPU is faster than one thread
can cut windows: there worker processes cut them, run by PyTorch's `DataLoader`. Either way a batch
depends on its number alone, and its look is varied on the device.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader, Dataset

from tilingseg.errors import TrainingError
from tilingseg.training.samples import Batch, cut_batch, draw_batch, vary_batch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tilingseg.training.group import Group
    from tilingseg.training.recipe import TrainingRecipe
    from tilingseg.training.sources import LabelledRaster

_MOST_WORKERS = 8


def workers_for(group: Group, threads: int | None) -> int:
    """Return how many processes should cut windows; 0: a thread of this process.

    Args:
        group: where the network computes, and how many such processes share the machine.
        threads: processor threads that this process may use; None: its share of all.
    """
    # Only a plain fork shares the decoded rasters; elsewhere every worker would hold a copy.
    if group.device.type == "cpu" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_MOST_WORKERS, cores, (threads or cores // group.size) - 1))


def draw_ahead(
    rasters: tuple[LabelledRaster, ...],
    recipe: TrainingRecipe,
    group: Group,
    first_step: int,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Yield batch after batch, without end.

    Args:
        rasters: the decoded training sources.
        recipe: sizes, variation and seed.
        group: the processes that share each step, and the device where batches end.
        first_step: step that the first batch belongs to, from 0.
        workers: processes that cut windows; 0: a thread of this process.
    """
    # Every batch of every process has a number of its own, the same whenever it is drawn.
    first = first_step * recipe.schedule.accumulate * group.size + group.rank
    numbers = itertools.count(first, group.size)
    if workers:
        loader = DataLoader(
            _Windows(rasters=rasters, recipe=recipe),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            multiprocessing_context="fork",
            worker_init_fn=_leave_signals_to_the_parent,
        )
        with _sigterm_blocked():
            batches = iter(loader)
        for batch in batches:
            yield vary_batch(batch, recipe.augment, group.device)
    with ThreadPoolExecutor(max_workers=1) as pool:

        def drawn() -> Future[Batch]:
            return pool.submit(draw_batch, rasters, recipe, next(numbers), group.device)

        ahead = deque(drawn() for _ in range(recipe.schedule.accumulate))
        try:
            while True:
                batch = ahead.popleft().result()
                ahead.append(drawn())
                yield batch
        finally:
            for waiting in ahead:
                waiting.cancel()


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Say in one line that a worker process is gone; PyTorch may raise that at any moment.

    Raises:
        TrainingError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise TrainingError(
            f"a process that cuts windows is gone ({reason}), mostly for want of memory or of room "
            "in /dev/shm; go on with --resume, and fewer --threads for fewer such processes"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Windows(Dataset[Batch]):
    """Batches by their number, as `DataLoader` asks for them."""

    rasters: tuple[LabelledRaster, ...]
    recipe: TrainingRecipe

    def __getitem__(self, number: int) -> Batch:
        return cut_batch(self.rasters, self.recipe, number)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Keep SIGTERM from all threads of the processes that are forked meanwhile.

    A worker cannot do that itself: libraries start threads in it before its first own line.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Let Ctrl-C and SIGTERM, which may be sent to all, end a job only after its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    """Wait for a SIGTERM of one process, and disregard those of others such as a batch system."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
