"""What a worker keeps open between tasks, with more threads than scenes that it keeps."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster_processes import outputs_of
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg import flow, job
from tilingseg.cluster import tasks
from tilingseg.cluster.tasks import MAX_OPEN, SceneJob, infer_region, open_scene_job, publish_scene
from tilingseg.errors import OutputError
from tilingseg.job import RunOptions
from tilingseg.output_folder import OutputFolder, OutputOptions
from tilingseg.readers import raster
from tilingseg.tiling import TilingOptions

N_THREADS = MAX_OPEN + 2
PATIENCE_S = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for index in range(N_THREADS):
        make_geotiff(folder / f"scene{index}.tif", smooth_noise(90, 120, seed=index))
    make_model(folder / "tiny.safetensors")
    return folder


@pytest.fixture
def bench(monkeypatch):
    """A worker that has just started."""
    bench = tasks._Bench()
    monkeypatch.setattr(tasks, "_BENCH", bench)
    monkeypatch.setattr(job, "_KEPT", type(job._KEPT)())
    return bench


@pytest.fixture
def jobs(folder, tmp_path):
    """One scene a thread, all of one size, opened."""
    options = RunOptions(
        model=folder / "tiny.safetensors",
        device="cpu",
        engine="torch",
        workers=2,
        tiling=TilingOptions(tile_size_px=64),
        outputs=OutputOptions(formats=("cog",), probability=True),
    )
    jobs = [
        SceneJob(
            uri=str(folder / f"scene{index}.tif"), out_dir=tmp_path / f"{index}", options=options
        )
        for index in range(N_THREADS)
    ]
    return [(job, open_scene_job(job)) for job in jobs]


def test_no_scene_is_closed_or_lent_that_another_thread_is_at_work_on(
    bench, jobs, tmp_path, monkeypatch
):
    """All threads are in the middle of a region at once; each on a scene of its own."""
    meeting = threading.Barrier(N_THREADS)
    closed, lost, lent = [], [], []
    real_close, real_run = raster.RasterReader.close, tasks.run_region

    def close(reader):
        closed.append(reader)
        real_close(reader)

    def run_region(job_, *more):
        meeting.wait(PATIENCE_S)
        lost.extend(reader for reader in closed if reader is job_.reader)
        lent.extend(job._KEPT)
        meeting.wait(PATIENCE_S)
        return real_run(job_, *more)

    monkeypatch.setattr(raster.RasterReader, "close", close)
    monkeypatch.setattr(tasks, "run_region", run_region)
    with ThreadPoolExecutor(N_THREADS) as threads:
        done = [threads.submit(infer_region, job_, opened.ticket, 0) for job_, opened in jobs]
        for future in done:
            future.result()
    assert lost == [], "scenes are closed that others read"
    assert lent == [], "engines that others are using wait to be lent"
    assert len(bench._desks) == MAX_OPEN
    assert len(closed) == N_THREADS - MAX_OPEN, "those that nobody uses any more are closed"
    for index, (job_, _) in enumerate(jobs):
        publish_scene(job_, 0)
        flow.run(job_.uri, tmp_path / "alone", options=job_.options)
        assert outputs_of(tmp_path / f"{index}") == outputs_of(tmp_path / "alone")
        tasks.remove(tmp_path / "alone")


def test_a_region_that_is_late_fails_only_where_no_results_are(bench, jobs, monkeypatch):
    (done, opened), (lost, its) = jobs[:2]
    infer_region(done, opened.ticket, 0)
    publish_scene(done, 0)
    tasks.remove(OutputFolder(path=lost.out_dir, scene="").work)
    # a worker that has had neither scene
    monkeypatch.setattr(tasks, "_BENCH", tasks._Bench())
    infer_region(done, opened.ticket, 0)
    with pytest.raises(OutputError, match="there is no work store"):
        infer_region(lost, its.ticket, 0)


def test_what_a_failed_region_still_reads_is_read_before_its_scene_is_closed(
    bench, jobs, monkeypatch
):
    reading, may_go_on, events = threading.Event(), threading.Event(), []
    real_close = raster.RasterReader.close

    def fail(job_, store, region, engine, readers, watch):
        def read():
            reading.set()
            may_go_on.wait(PATIENCE_S)
            events.append("read")

        readers.submit(read)
        reading.wait(PATIENCE_S)
        raise OSError("the network file system is away")

    def close(reader):
        events.append("closed")
        real_close(reader)

    monkeypatch.setattr(raster.RasterReader, "close", close)
    (job_, opened), *others = jobs
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "run_region", fail)
        with pytest.raises(OSError, match="away"):
            infer_region(job_, opened.ticket, 0)
    *before, (last, its) = others[:MAX_OPEN]
    for other, opened in before:
        infer_region(other, opened.ticket, 0)
    threading.Timer(1.0, may_go_on.set).start()
    infer_region(last, its.ticket, 0)
    assert events == ["read", "closed"]
