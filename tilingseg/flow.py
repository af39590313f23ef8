"""The order of the stages: plan, read, infer, stitch, store, export, vectorize.

The only module that knows all of them. `run_region` is the unit of work (one process, several
devices and a cluster call the same function), `run` does a whole scene and is what the command
line and `tilingseg.run` call; what it does is decided in `job`.

Nothing is lost: regions are recorded as they finish, an interrupted run goes on with those that
are missing, and outputs get their final names only when they are whole.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.area import area_mask
from tilingseg.background import Background
from tilingseg.decision import Decision
from tilingseg.errors import OutputError, PlanError, TileError, TilingSegError
from tilingseg.folder_lock import alone_in
from tilingseg.infer import (
    ReadAhead,
    Reading,
    Tally,
    TileSource,
    freed_memory_kept,
    keeps_memory,
    predict,
    threads_divided,
)
from tilingseg.job import RunOptions, prepare, with_engine
from tilingseg.output_folder import OutputFolder
from tilingseg.outputs import Before, finish, publish
from tilingseg.progress import Watch, silent
from tilingseg.quicklook import Lattice, RegionView
from tilingseg.records import RegionReport
from tilingseg.region_writer import RegionWriter
from tilingseg.request import request_of
from tilingseg.scaling import decide_scaling
from tilingseg.stitch import stitch
from tilingseg.store import WorkStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tilingseg.infer import Engine
    from tilingseg.job import Job
    from tilingseg.progress import Progress
    from tilingseg.records import Prediction, Region, RunReport
    from tilingseg.stitch import StitchedRows

READ_AHEAD_BYTES = 24_000_000
"""Pixels that may be read before the network asks for them, bytes."""
READ_AHEAD_GPU_BYTES = 2_000_000_000
"""The same before a GPU, whose network does not need the machine's memory."""


def run(
    uri: str | Path,
    out_dir: str | Path | None = None,
    *,
    options: RunOptions | None = None,
    progress: Progress = silent,
) -> RunReport:
    """Segment one scene and write masks and polygons.

    Args:
        uri: path or URL of the scene.
        out_dir: folder of the outputs; None: `<scene>_tilingseg` in the current folder.
        options: what to do other than by default.
        progress: told how far each stage is.

    Returns:
        What was done, and where the results are.

    Raises:
        TilingSegError: with one line that says what to do; finished regions are kept, and the same
            call goes on from there.
    """
    options = options or RunOptions()
    request = request_of(str(uri), options)
    job, folder = prepare_in(str(uri), out_dir, options)
    try:
        folder.make()
        with alone_in(folder.path):
            store = open_store(job, folder, options)
            if (text := store.finished_report()) is not None:
                return finish(store, folder, text)
            before = Before(request=request, n_resumed=len(store.completed_indexes()))
            infer_regions(job, store, progress)
            return publish(store, folder, options.outputs, before, progress)
    finally:
        job.reader.close()


def run_region(
    job: Job,
    store: WorkStore,
    region: Region,
    engine: Engine,
    pool: ThreadPoolExecutor,
    watch: Watch,
) -> RegionReport:
    """Read, infer, stitch and store one region, then record it as complete.

    Args:
        job: plan, scene and area.
        store: where the pixels go.
        region: which part.
        engine: the network on a device.
        pool: threads for reading.
        watch: is told of finished tiles; may stop the region before its next tile row.

    Raises:
        StoppedError: the watch was told to stop.
    """
    with Background("write") as writer:
        hands = Hands(engine=engine, readers=pool, writer=writer)
        return _infer(job, store, _started(job, region, pool), hands, watch).result()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hands:
    """What one device works with."""

    engine: Engine
    """The network."""
    readers: ThreadPoolExecutor
    """Threads for reading."""
    writer: Background
    """The thread for writing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Started:
    """A region whose tiles are being read."""

    region: Region
    """Which part."""
    reading: Reading
    """Its tiles."""
    view: RegionView
    """What has been seen of it."""


def _started(
    job: Job, region: Region, readers: ThreadPoolExecutor, then: Callable[[], None] | None = None
) -> Started:
    """Make ready to read a region; `then` is called when its last tile is on its way."""
    plan = job.plan
    view = RegionView(Lattice(extent=plan.extent), region.core, plan.scene)
    source = TileSource(
        reader=job.reader,
        area_mask=lambda window: area_mask(job.area, window),
        whole_tile=plan.tiling.stitching != "exact",
        pool=readers,
        read_ahead=_read_ahead(job),
        seen=view.add,
    )
    return Started(region=region, reading=Reading(plan.tile_rows(region), source, then), view=view)


def _read_ahead(job: Job) -> ReadAhead:
    """Return how many tiles may be read before the network asks for them."""
    scene, tiling = job.reader.scene, job.plan.tiling
    pixel_bytes = len(scene.bands) * np.dtype(scene.dtype).itemsize + 1
    tile_bytes = math.prod(tiling.grid.tile_shape) * pixel_bytes
    on_gpu = job.plan.model.device_type == "cuda"
    n_bytes = READ_AHEAD_GPU_BYTES if on_gpu else READ_AHEAD_BYTES
    n_tiles = min(job.workers + tiling.batch_size, 1 + n_bytes // tile_bytes)
    # A GPU may go through a region while a tile is read.
    return ReadAhead(n_tiles=n_tiles, n_next=n_tiles if on_gpu else 1)


def _infer(
    job: Job, store: WorkStore, started: Started, hands: Hands, watch: Watch
) -> Future[RegionReport]:
    """Infer a region; its last rows are written and recorded while the next one is inferred."""
    plan, region, tally, n_valid = job.plan, started.region, Tally(), 0
    decision = Decision(
        class_indexes=plan.model.class_indexes,
        thresholds=plan.model.thresholds,
        keeps_probability=store.keeps_probability,
    )
    start = time.perf_counter()
    predictions = predict(started.reading, hands.engine, plan.tiling.batch_size, tally)
    exact = plan.tiling.stitching == "exact"
    stitched = stitch(_watched(watch, predictions), plan.grid, region.core, decision, exact=exact)
    writer, written = RegionWriter(store, region.core), list[Future[None]]()
    for rows in stitched:
        with tally.clock("idle"):
            task = partial(_write, writer, rows, started.view, tally)
            written.append(hands.writer.begin(task))
        n_valid += rows.n_valid
    spent = time.perf_counter() - start
    tally.add("stitch", spent - tally.worker_s)

    def complete() -> RegionReport:
        for rows_written in written:
            rows_written.result()  # where it failed, the region is not complete
        tally.settle()
        report = _region_report(region, tally, n_valid)
        store.keep_view(region.index, started.view.finish())
        store.complete(region.core, report)
        return report

    return hands.writer.begin(complete)


def _region_report(region: Region, tally: Tally, n_valid: int) -> RegionReport:
    return RegionReport(
        index=region.index,
        n_tiles=tally.n_tiles,
        n_tiles_nodata=tally.n_tiles_nodata,
        n_tiles_outside=tally.n_tiles_outside,
        n_pixels_valid=n_valid,
        seconds=tuple((stage, round(spent, 3)) for stage, spent in tally.seconds.items()),
    )


def _write(writer: RegionWriter, rows: StitchedRows, view: RegionView, tally: Tally) -> None:
    _wait(rows)
    try:
        with tally.clock("write"):
            view.show(rows.window, rows.mask)
            writer.write(rows.window, rows.mask, rows.probability)
    except TilingSegError:
        raise
    except Exception as error:
        raise OutputError(
            f"rows {rows.window.row}–{rows.window.row_stop} px cannot be stored: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _wait(rows: StitchedRows) -> None:
    """Wait for a GPU, whose errors show here: it works later than it is asked to."""
    try:
        rows.arrive()
    except Exception as error:
        raise TileError(
            f"rows {rows.window.row}–{rows.window.row_stop} px: the network failed: "
            f"{str(error).partition(chr(10))[0] or type(error).__name__}"
        ) from error


def _watched(watch: Watch, rows: Iterable[list[Prediction]]) -> Iterator[list[Prediction]]:
    for row in rows:
        watch.passed(len(row))
        yield row


def prepare_in(
    uri: str, out_dir: str | Path | None, options: RunOptions
) -> tuple[Job, OutputFolder]:
    """Prepare a job and its folder; an interrupted run there keeps its engine.

    Raises:
        TilingSegError: see `job.prepare`.
    """
    job = prepare(uri, options)
    folder, use = OutputFolder.of(job.plan.scene.name, out_dir), job.plan.model
    folder.refuse_names(use.spec.classes, use.class_indexes, options.outputs)
    if options.resume and options.engine == "auto":
        job = with_engine(job, WorkStore.engine_of(folder.work))
    return job, folder


def open_store(job: Job, folder: OutputFolder, options: RunOptions) -> WorkStore:
    """Open the work store of an interrupted run of the same plan, or make a new one.

    Raises:
        PlanError: the interrupted run had another plan.
        OutputError: the folder cannot be written or holds outputs that may not be replaced.
    """
    earlier = WorkStore.agreed(folder.work)
    agreed = folder.check(job.plan, options.outputs, earlier, overwrite=options.overwrite)
    wanted = options.outputs.needs_probability
    if options.resume and (store := WorkStore.resume(folder.work, job.plan)) is not None:
        if wanted and not store.keeps_probability:
            raise PlanError(
                f"{folder.work} holds an interrupted run without the probabilities that vectors "
                "need: repeat the earlier command to finish it, or start anew with --no-resume"
            )
        store.agree(agreed)
        return store
    scaling = decide_scaling(job.reader, job.model.spec)
    return WorkStore.create(folder.work, job.plan, scaling, agreed, keep_probability=wanted)


def infer_regions(job: Job, store: WorkStore, progress: Progress) -> None:
    """Do the regions that no earlier run completed, on all devices at once; see `run`.

    Args:
        job: what is to be done; its reader is closed afterwards.
        store: where the pixels go.
        progress: told how many tiles are done.

    Raises:
        TilingSegError: a region cannot be read, inferred or written; finished ones are kept.
    """
    plan, done, lock = job.plan, store.completed_indexes(), threading.Lock()
    missing = (region for region in plan.regions() if region.index not in done)
    n_left, n_next = [plan.n_regions - len(done)], _read_ahead(job).n_next
    n_tiles = [0, 0]  # of completed regions, of all
    for region in plan.regions():
        count = plan.count_tiles(region)
        n_tiles[0] += count * (region.index in done)
        n_tiles[1] += count

    def advance(count: int) -> None:
        with lock:
            n_tiles[0] += count
            progress("tiles", *n_tiles)

    advance(0)
    watch = Watch(advance)

    def take(n_held: int) -> Region | None:
        """Return the next region for a device that has begun some: no more than its share."""
        with lock:
            is_enough = n_held * (len(job.devices) - 1) > n_left[0]
            if watch.stopped or is_enough or (region := next(missing, None)) is None:
                return None
            n_left[0] -= 1
            return region

    def work(device: str) -> None:
        hands: Hands | None = None
        upcoming = deque[Started]()

        def begin_next() -> None:
            while (n_more := n_next - sum(it.reading.n_begun for it in upcoming)) > 0:
                if (region := take(len(upcoming))) is None:
                    return
                upcoming.append(_started(job, region, readers, begin_next))
                upcoming[-1].reading.begin(n_more)

        with (
            ThreadPoolExecutor(job.workers, thread_name_prefix="read") as readers,
            Background("write") as writer,
            ExitStack() as lent,
        ):
            lent.callback(readers.shutdown, wait=False, cancel_futures=True)  # where one fails
            begin_next()
            while upcoming:
                if hands is None:
                    engine = lent.enter_context(job.lent_engine(device, store.scaling))
                    hands = Hands(engine=engine, readers=readers, writer=writer)
                _infer(job, store, upcoming.popleft(), hands, watch)
            writer.wait()

    passes = not keeps_memory(plan.model.engine)
    with freed_memory_kept(passes=passes), threads_divided(job.devices):
        with ThreadPoolExecutor(len(job.devices), thread_name_prefix="device") as workers:
            futures = [workers.submit(work, device) for device in job.devices]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                watch.stop()  # one failed, or Ctrl-C: the others give up too
            for future in finished:
                future.result()
        job.reader.close()  # what it keeps goes before the heap is given back
