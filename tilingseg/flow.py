"""The order of the stages: plan, read, infer, stitch, store, export, vectorize.

The only module that knows all of them. `run_region` is the unit of work (one process, several
devices and a cluster call the same function), `run` does a whole scene and is what the command
line and `tilingseg.run` call; what it does is decided in `job`.

Nothing is lost: regions are recorded as they finish, an interrupted run goes on with those that
are missing, and outputs get their final names only when they are whole.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tilingseg.area import area_mask
from tilingseg.errors import OutputError, PlanError, TilingSegError
from tilingseg.folder_lock import alone_in
from tilingseg.infer import Tally, TileSource, freed_memory_kept, predict, threads_divided
from tilingseg.job import RunOptions, prepare, with_engine
from tilingseg.output_folder import OutputFolder
from tilingseg.outputs import Before, finish, publish
from tilingseg.progress import Watch, silent
from tilingseg.quicklook import Lattice, RegionView
from tilingseg.records import RegionReport
from tilingseg.request import request_of
from tilingseg.scaling import decide_scaling
from tilingseg.stitch import Decision, stitch
from tilingseg.store import RegionWriter, WorkStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tilingseg.infer import Engine
    from tilingseg.job import Job
    from tilingseg.progress import Progress
    from tilingseg.records import Prediction, Region, RunReport
    from tilingseg.stitch import StitchedRows


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
            _infer_regions(job, store, progress)
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
    plan, tally, n_valid = job.plan, Tally(), 0
    exact = plan.tiling.stitching == "exact"
    view = RegionView(Lattice(extent=plan.extent), region.core, plan.scene)
    source = TileSource(
        reader=job.reader,
        area_mask=lambda window: area_mask(job.area, window),
        whole_tile=not exact,
        pool=pool,
        read_ahead=job.workers + plan.tiling.batch_size,
        seen=view.add,
    )
    decision = Decision(
        class_indexes=plan.model.class_indexes,
        thresholds=plan.model.thresholds,
        keeps_probability=store.keeps_probability,
    )
    predictions = predict(plan.tile_rows(region), source, engine, plan.tiling.batch_size, tally)
    writer = RegionWriter(store, region.core)
    start = time.perf_counter()
    stitched = stitch(_watched(watch, predictions), plan.grid, region.core, decision, exact=exact)
    # Written while the next rows are inferred; one write at a time bounds what waits for it.
    with ThreadPoolExecutor(1, thread_name_prefix="write") as background:
        written: Future[None] | None = None
        for rows in stitched:
            with tally.clock("idle"):
                if written is not None:
                    written.result()
            written = background.submit(_write, writer, rows, tally)
            n_valid += rows.n_valid
        with tally.clock("idle"):
            if written is not None:
                written.result()
    spent = time.perf_counter() - start
    tally.add("stitch", spent - tally.worker_s)
    report = RegionReport(
        index=region.index,
        n_tiles=tally.n_tiles,
        n_tiles_nodata=tally.n_tiles_nodata,
        n_tiles_outside=tally.n_tiles_outside,
        n_pixels_valid=n_valid,
        seconds=tuple((stage, round(spent, 3)) for stage, spent in tally.seconds.items()),
    )
    store.keep_view(region.index, view.finish())
    store.complete(region.core, report)
    return report


def _write(writer: RegionWriter, rows: StitchedRows, tally: Tally) -> None:
    try:
        with tally.clock("write"):
            writer.write(rows.window, rows.mask, rows.probability)
    except TilingSegError:
        raise
    except Exception as error:
        raise OutputError(
            f"rows {rows.window.row}–{rows.window.row_stop} px cannot be stored: "
            f"{str(error) or type(error).__name__}"
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
    folder = OutputFolder.of(job.plan, out_dir)
    if options.resume and options.engine == "auto":
        job = with_engine(job, WorkStore.engine_of(folder.work))
    return job, folder


def open_store(job: Job, folder: OutputFolder, options: RunOptions) -> WorkStore:
    """Open the work store of an interrupted run of the same plan, or make a new one.

    Raises:
        PlanError: the interrupted run had another plan.
        OutputError: the folder cannot be written or holds outputs that may not be replaced.
    """
    folder.check(job.plan, options.outputs, overwrite=options.overwrite)
    wanted = options.outputs.needs_probability
    if options.resume and (store := WorkStore.resume(folder.work, job.plan)) is not None:
        if wanted and not store.keeps_probability:
            raise PlanError(
                f"{folder.work} holds an interrupted run without the probabilities that vectors "
                "need: repeat the earlier command to finish it, or start anew with --no-resume"
            )
        return store
    scaling = decide_scaling(job.reader, job.model.spec)
    return WorkStore.create(folder.work, job.plan, scaling, keep_probability=wanted)


def _infer_regions(job: Job, store: WorkStore, progress: Progress) -> None:
    """Do the regions that no earlier run completed, on all devices at once."""
    plan, done, lock = job.plan, store.completed_indexes(), threading.Lock()
    missing = (region for region in plan.regions() if region.index not in done)
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

    def take() -> Region | None:
        with lock:
            return None if watch.stopped else next(missing, None)

    def work(device: str) -> None:
        engine: Engine | None = None
        with (
            ThreadPoolExecutor(job.workers, thread_name_prefix="read") as pool,
            ExitStack() as lent,
        ):
            while (region := take()) is not None:
                engine = engine or lent.enter_context(job.lent_engine(device, store.scaling))
                run_region(job, store, region, engine, pool, watch)

    with freed_memory_kept(), threads_divided(job.devices):
        with ThreadPoolExecutor(len(job.devices), thread_name_prefix="device") as workers:
            futures = [workers.submit(work, device) for device in job.devices]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                watch.stop()  # one failed, or Ctrl-C: the others give up too
            for future in finished:
                future.result()
        job.reader.close()  # what it keeps goes before the heap is given back
