"""The foreman: hands the tasks of many scenes to the workers of a Dask cluster, and counts.

A scene is opened, its missing regions are inferred, their vectors are made and joined, its outputs
are published: four kinds of task, each a few hundred bytes. Only so many tasks are handed out as
the workers need to stay busy, so that client and scheduler hold no more for a million regions than
for a hundred, and scenes end one after the other instead of all at the end.

What fails. A region that raises is tried again, `ATTEMPTS` times in all, behind the others. When
a worker dies, Dask gives its region to another one; a region that several workers died with is
tried once more when nothing else runs, for it may have been near the guilty one by chance. A region
that still fails is reported, the rest of its scene is done and kept, and the scene is not
published. A store that cannot be written ends its scene. A lost scheduler ends everything; nothing
that was complete is lost.
"""

from __future__ import annotations

import asyncio
import queue
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin
from distributed.scheduler import KilledWorker

from tilingseg.cluster.course import OPENING, REGIONS, Course
from tilingseg.cluster.outcome import BatchState, Outcome, reason_of
from tilingseg.cluster.tasks import (
    Opened,
    infer_region,
    open_scene_job,
    publish_scene,
    take_place,
    vectorize_region,
    warm_up,
)
from tilingseg.errors import ClusterError, OutputError, TilingSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distributed import Client, Future, Worker

    from tilingseg.cluster.clusters import Crew
    from tilingseg.cluster.outcome import Watch
    from tilingseg.cluster.tasks import SceneJob
    from tilingseg.job import RunOptions
    from tilingseg.progress import Progress
    from tilingseg.records import RunReport

ATTEMPTS = 3
"""How often a region or the opening of a scene may raise before it counts as failed."""
LOOK_S = 2.0
"""Seconds between looks at the number of workers and at whether the scheduler still answers."""


class LoadModel(WorkerPlugin):
    """Loads the network when a worker starts."""

    name = "tilingseg"

    def __init__(self, options: RunOptions) -> None:
        """Keep which network to load."""
        self._options = options

    async def setup(self, worker: Worker) -> None:
        """Load the network beside the worker's event loop; what is wrong the tasks will say."""
        number = re.search(r"(\d+)$", str(worker.name))
        take_place(int(number[1]) if number else 0)
        await asyncio.to_thread(warm_up, self._options)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    scene: Course
    index: int | None
    """Number of the task in its level; None: the scene itself, opened or published."""
    future: Future[Any]


class _Foreman:
    """Holds the futures of one batch."""

    def __init__(self, client: Crew, scenes: Iterator[SceneJob], n_scenes: int) -> None:
        self._client: Client = client
        self._trouble = client.trouble
        self._waiting = scenes
        self._scenes: list[Course] = []
        self._flying: dict[str, _Task] = {}
        self._arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._looked_s = float("-inf")
        self._manned_s = time.monotonic()
        self._capacity = 0
        self._serial = 0
        self._done: list[Outcome] = []
        self.state = BatchState(n_scenes=n_scenes)

    def outcomes(self, watch: Watch) -> Iterator[Outcome]:
        """Hand out tasks until every scene has an outcome."""
        while self._hand_out():
            for key in self._arrivals():
                self._take_back(self._flying.pop(key))
            yield from self._done
            self._done.clear()
            watch(self.state)

    def drop(self) -> None:
        """Take back what the workers have not begun."""
        for task in self._flying.values():
            task.future.cancel()
        self._flying.clear()

    def _hand_out(self) -> bool:
        """Fill the workers up; False: nothing is left to wait for."""
        self._look()
        while len(self._flying) < self._capacity:
            if (scene := next((s for s in self._scenes if s.ready), None)) is not None:
                self._submit_next(scene, scene.ready.popleft())
            elif (job := next(self._waiting, None)) is not None:
                scene = Course(job=job)
                self._scenes.append(scene)
                self._submit(scene, None, open_scene_job, job)
            else:
                break
        if not self._flying:
            suspect = next((s for s in self._scenes if s.suspects), None)
            if suspect is not None:
                self._submit_next(suspect, suspect.suspects.popleft())
        return bool(self._flying)

    def _look(self) -> None:
        """Ask how many tasks the workers can take."""
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return
        try:
            n_threads = sum(self._client.nthreads().values())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise _lost(self._client) from error
        self._looked_s = now
        self.state.n_workers = n_threads
        if n_threads:
            self._manned_s = now
        elif reason := self._trouble(now - self._manned_s):
            raise ClusterError(f"{reason}; complete regions are kept, repeat the command to go on")
        # one task waits behind each one that runs; some must wait for workers to be asked for
        self._capacity = max(8, 2 * n_threads)

    def _submit_next(self, scene: Course, index: int) -> None:
        """Hand out a task of the scene's level."""
        if scene.level == REGIONS:
            self._submit(scene, index, infer_region, scene.job, scene.ticket, index)
        else:
            arguments = (scene.job, scene.ticket, scene.level, index)
            self._submit(scene, index, vectorize_region, *arguments)

    def _submit(
        self, scene: Course, index: int | None, function: Callable[..., Any], *args: Any
    ) -> None:
        self._serial += 1
        future = self._client.submit(
            function, *args, pure=False, key=f"{function.__name__}-{id(self):x}-{self._serial}"
        )
        scene.flying += 1
        self._flying[str(future.key)] = _Task(scene=scene, index=index, future=future)
        future.add_done_callback(lambda done: self._arrived.put(str(done.key)))

    def _arrivals(self) -> list[str]:
        """Wait for tasks to end, at most until the next look."""
        try:
            keys = [self._arrived.get(timeout=LOOK_S)]
        except queue.Empty:
            return []
        while not self._arrived.empty():
            keys.append(self._arrived.get())
        return keys

    def _take_back(self, task: _Task) -> None:
        scene, future = task.scene, task.future
        scene.flying -= 1
        if future.status == "error":
            error = future.exception()
            if task.index is None:
                self._scene_failed(scene, error)
            else:
                self._task_failed(scene, task.index, error)
        elif future.status != "finished":
            raise _lost(self._client)
        elif task.index is not None:
            scene.failures.pop(task.index, None)
            if scene.level == REGIONS:
                self.state.n_regions_done += 1
            else:
                self.state.n_parts_done += 1
        else:
            result = future.result()
            if isinstance(result, Opened):
                self._opened(scene, result)
            else:
                self._close(scene, report=result)
                return
        if scene in self._scenes and scene.ticket:
            self._go_on(scene)

    def _opened(self, scene: Course, opened: Opened) -> None:
        scene.begin(opened)
        self.state.n_scenes_opened += 1
        self.state.n_regions_opened += opened.n_regions
        self.state.n_regions_done += scene.n_resumed
        self.state.n_parts_opened += sum(opened.n_parts)

    def _go_on(self, scene: Course) -> None:
        """Begin the next level of a scene, publish it, or give it up."""
        if scene.is_waiting:
            return
        if scene.has_failed:
            self._close(scene, reason=scene.reason(), in_output=bool(scene.broken))
        elif not scene.advance():
            self._submit(scene, None, publish_scene, scene.job, scene.n_resumed)

    def _task_failed(self, scene: Course, index: int, error: BaseException) -> None:
        reason, count = _why(error), scene.attempts.get(index, 0) + 1
        scene.attempts[index] = count
        if isinstance(error, KilledWorker) and index not in scene.failures:
            scene.suspects.append(index)
        elif count < ATTEMPTS and not scene.broken and not isinstance(error, KilledWorker):
            scene.ready.append(index)
            return
        elif isinstance(error, OutputError):
            scene.give_up(reason)
        scene.failures[index] = reason

    def _scene_failed(self, scene: Course, error: BaseException) -> None:
        count = scene.attempts.get(OPENING, 0) + 1
        scene.attempts[OPENING] = count
        if isinstance(error, TilingSegError | KilledWorker) or count >= ATTEMPTS:
            self._close(scene, reason=_why(error), in_output=isinstance(error, OutputError))
        elif scene.ticket:
            self._submit(scene, None, publish_scene, scene.job, scene.n_resumed)
        else:
            self._submit(scene, None, open_scene_job, scene.job)

    def _close(
        self,
        scene: Course,
        *,
        report: RunReport | None = None,
        reason: str = "",
        in_output: bool = False,
    ) -> None:
        self._scenes.remove(scene)
        self.state.n_scenes_done += 1
        self.state.n_scenes_failed += report is None
        seconds = time.monotonic() - scene.start_s
        self._done.append(
            Outcome(
                job=scene.job,
                report=report,
                reason=reason,
                in_output=in_output,
                seconds=round(seconds, 3),
            )
        )


def carry_out(
    client: Crew, scenes: Iterable[SceneJob], n_scenes: int, watch: Watch
) -> Iterator[Outcome]:
    """Do scenes on the workers of a cluster.

    Args:
        client: connected to the scheduler.
        scenes: what to do, with the same model; taken one by one as workers become free.
        n_scenes: how many they are.
        watch: told how far the batch is.

    Yields:
        What became of each scene, in the order in which they end.

    Raises:
        ClusterError: the scheduler is gone, or no worker will come; what is complete stays so.
    """
    foreman = _Foreman(client, iter(scenes), n_scenes)
    try:
        yield from foreman.outcomes(watch)
    finally:
        foreman.drop()


def run_scene(client: Crew, scene: SceneJob, progress: Progress) -> RunReport:
    """Do one scene on the workers of a cluster.

    Args:
        client: connected to the scheduler.
        scene: what to do.
        progress: told how many regions are complete.

    Raises:
        ClusterError: the scene failed, or the scheduler is gone; complete regions are kept.
    """

    def watch(state: BatchState) -> None:
        if state.n_parts_done:
            progress("vectors", state.n_parts_done, state.n_parts_opened)
        elif not state.n_workers:
            progress("waiting for workers", 0, 1)
        elif state.n_regions_opened:
            progress("regions", state.n_regions_done, state.n_regions_opened)

    (outcome,) = carry_out(client, [scene], 1, watch)
    if outcome.report is None:
        raise ClusterError(outcome.reason)
    return outcome.report


def _why(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return "its workers died with it; give them more memory, or look into their logs"
    return reason_of(error)


def _lost(client: Client) -> ClusterError:
    address = getattr(client.scheduler, "address", "")
    return ClusterError(
        f"the scheduler {address} does not answer any more; complete regions are kept, repeat the "
        "command to go on"
    )
