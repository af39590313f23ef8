"""What a worker does: open a scene, infer one of its regions, publish its outputs.

A task gets a `SceneJob` (some hundred bytes) and a region's index; the worker makes the plan anew
and refuses to go on where it is not the one in the work store: another version, model file, scene
or kind of device would give other bits. Open scenes and the network stay loaded between tasks.

Every task may be done twice. A region with a completion record is not done again, chunks are
written whole with the same bytes, and a folder is opened and published by one process at a time.

Knows nothing of Dask: the foreman decides where these functions run.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tilingseg.cluster.vectors import GatheredVectors, tree_levels, vectorize_part
from tilingseg.errors import OutputError, PlanError, TilingSegError
from tilingseg.flow import open_store, prepare_in, run_region
from tilingseg.folder_lock import alone_in
from tilingseg.infer import freed_memory_kept, keeps_memory
from tilingseg.job import load_once
from tilingseg.output_folder import OutputFolder
from tilingseg.outputs import Before, finish, publish, read_report
from tilingseg.places import absolute, remove
from tilingseg.progress import Watch
from tilingseg.request import request_of
from tilingseg.store import WorkStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilingseg.infer import Engine
    from tilingseg.job import Job, RunOptions
    from tilingseg.records import RunReport

_P = ParamSpec("_P")
_T = TypeVar("_T")

WAIT_S = float("inf")
"""A task waits for another one that opens or publishes the same scene, however large it is."""
MAX_OPEN = 4
"""Scenes that a worker keeps open: those that its next regions may come from. Those that its
threads are at work on stay open however many they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """One scene to be done: all that a worker is told."""

    uri: str
    """Path or URL of the scene, the same on every worker."""
    out_dir: Path
    """Folder of its outputs, or prefix of an object store: the same on every worker."""
    options: RunOptions
    """What to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What opening a scene found."""

    ticket: str
    """Tells this work store from an earlier one in the same folder."""
    n_regions: int
    """Regions of the plan."""
    missing: tuple[int, ...]
    """Indexes of the regions that no earlier run completed."""
    n_parts: tuple[int, ...] = ()
    """Tasks of each level that make the vectors; none: they are made when it is published."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Desk:
    """One scene, ready for its regions."""

    job: Job
    store: WorkStore
    engine: Engine
    readers: ThreadPoolExecutor
    """Threads for reading, each with files of this scene open."""
    leave: ExitStack
    """Gives back the engine, waits for the readers and closes the scene."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Engines do one region at a time, where a worker has several threads."""


class _Bench:
    """What this process keeps between tasks: open scenes with their engines and readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._desks: OrderedDict[tuple[SceneJob, str], _Desk] = OrderedDict()
        self._users: Counter[tuple[SceneJob, str]] = Counter()
        self.device_index = 0

    @contextlib.contextmanager
    def desk(self, scene: SceneJob, ticket: str) -> Iterator[_Desk]:
        """Lend the desk of a scene, set up on first use; it stays while someone is at it."""
        key = (scene, ticket)
        with self._lock:
            if key not in self._desks:
                self._desks[key] = self._set_up(scene)
            self._desks.move_to_end(key)
            self._users[key] += 1
            desk = self._desks[key]
            self._clear_away()
        try:
            yield desk
        finally:
            with self._lock:
                self._users[key] -= 1
                self._clear_away()

    def _clear_away(self) -> None:
        """Close the scenes that nobody has used for longest and that nobody is at work on."""
        idle = [key for key in self._desks if not self._users[key]]
        for key in idle[: max(0, len(self._desks) - MAX_OPEN)]:
            del self._users[key]
            self._desks.pop(key).leave.close()

    def _set_up(self, scene: SceneJob) -> _Desk:
        job, folder = prepare_in(scene.uri, scene.out_dir, scene.options)
        with ExitStack() as stack:
            stack.callback(job.reader.close)
            store = _resume(job, folder)
            # a region that failed leaves reads behind that no one waits for but this
            readers = stack.enter_context(ThreadPoolExecutor(job.workers, "read"))
            device = job.devices[self.device_index % len(job.devices)]
            engine = stack.enter_context(job.lent_engine(device, store.scaling))
            return _Desk(
                job=job, store=store, engine=engine, readers=readers, leave=stack.pop_all()
            )


_BENCH = _Bench()


def shared(options: RunOptions) -> RunOptions:
    """Make options fit for workers: those that Dask watches over may start no processes."""
    options = placed(options)
    vectors = replace(options.outputs.vectors, workers=1)
    return replace(options, outputs=replace(options.outputs, vectors=vectors))


def placed(options: RunOptions) -> RunOptions:
    """Make the paths in options absolute: workers have a current folder of their own."""
    first, *others = (
        absolute(name) if Path(name).suffix else name
        for name in map(str, (options.model, *options.further_models))
    )
    return replace(
        options,
        model=first,
        further_models=tuple(others),
        area_file=None if options.area_file is None else Path(options.area_file).absolute(),
    )


def take_place(index: int) -> None:
    """Take note which worker of its machine this process is: it takes that device."""
    _BENCH.device_index = index


def warm_up(options: RunOptions) -> None:
    """Load the network ahead of the first task; where it cannot be, the tasks say so by name."""
    with contextlib.suppress(TilingSegError):
        load_once(options)


def _plainly(task: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let errors leave a task without those that caused them, not all of which can be pickled."""

    @functools.wraps(task)
    def plain(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return task(*args, **kwargs)
        except TilingSegError as error:
            told = type(error)(str(error))
        raise told

    return plain


@_plainly
def open_scene_job(scene: SceneJob) -> Opened | RunReport:
    """Plan a scene and open its work store, or make one.

    Returns:
        The regions that are missing; or the report, where an earlier run was killed between its
        last output and its last step.

    Raises:
        TilingSegError: scene, model, options or folder are unusable.
    """
    job, folder = prepare_in(scene.uri, scene.out_dir, scene.options)
    try:
        folder.make()
        with alone_in(folder.path, WAIT_S):
            store = open_store(job, folder, scene.options)
            if (text := store.finished_report()) is not None:
                return finish(store, folder, text)
            done = store.completed_indexes()
        return Opened(
            ticket=store.ticket,
            n_regions=job.plan.n_regions,
            missing=tuple(i for i in job.plan.region_indexes() if i not in done),
            n_parts=tree_levels(job.plan, scene.options.outputs),
        )
    finally:
        job.reader.close()


@_plainly
def infer_region(scene: SceneJob, ticket: str, index: int) -> None:
    """Infer and store one region, unless it is complete.

    Raises:
        TilingSegError: the region cannot be read, inferred or written.
    """
    with _unless_done(scene), _BENCH.desk(scene, ticket) as desk:
        region = desk.job.plan.region(index)
        passes = not keeps_memory(desk.job.plan.model.engine)
        with desk.turn, freed_memory_kept(passes=passes):
            if not desk.store.is_complete(index):
                run_region(desk.job, desk.store, region, desk.engine, desk.readers, Watch())


@_plainly
def vectorize_region(scene: SceneJob, ticket: str, level: int, number: int) -> None:
    """Make the vectors of a region, or join those of several; see `vectors`.

    Raises:
        TilingSegError: the mask cannot be read or the vectors not be written.
    """
    with _unless_done(scene), _BENCH.desk(scene, ticket) as desk:
        vectorize_part(desk.store, scene.options.outputs, level, number)


@_plainly
def publish_scene(scene: SceneJob, n_resumed: int) -> RunReport:
    """Write the outputs of a scene whose regions are complete.

    Args:
        scene: which one.
        n_resumed: regions that an earlier run had completed.

    Raises:
        TilingSegError: the outputs cannot be written; the work store is kept.
    """
    request = request_of(scene.uri, scene.options)
    job, folder = prepare_in(scene.uri, scene.out_dir, scene.options)
    try:
        with alone_in(folder.path, WAIT_S):
            is_gone = not (folder.work / "plan.json").exists()
            if is_gone and (report := read_report(folder)) is not None:
                remove(folder.work)  # what came too late
                return report  # another client, or a worker that was given up for lost
            store = _resume(job, folder)
            if (text := store.finished_report()) is not None:
                return finish(store, folder, text)
            outputs = scene.options.outputs
            in_parts = bool(tree_levels(job.plan, outputs))
            gathered = GatheredVectors(store, outputs) if in_parts else None
            before = Before(request=request, n_resumed=n_resumed, gathered=gathered)
            return publish(store, folder, outputs, before)
    finally:
        job.reader.close()


@contextlib.contextmanager
def _unless_done(scene: SceneJob) -> Iterator[None]:
    """Let a part of a scene fail unnoticed that another client has published meanwhile."""
    try:
        yield
    except (TilingSegError, OSError, LookupError, ValueError):
        folder = OutputFolder(path=scene.out_dir, scene="")
        if (folder.work / "plan.json").exists() or not folder.report.exists():
            raise


def _resume(job: Job, folder: OutputFolder) -> WorkStore:
    try:
        store = WorkStore.resume(folder.work, job.plan)
    except PlanError as error:
        raise PlanError(
            f"this worker plans {job.plan.scene.uri} differently from the one that opened it: "
            f"{error}"
        ) from error
    if store is None:
        raise OutputError(
            f"there is no work store in {folder.work}: is it a folder that every worker shares?"
        )
    return store
