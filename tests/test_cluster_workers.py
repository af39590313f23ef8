"""One cluster of four processes: same bytes with any of them, and whatever happens to them."""

import json
import os
import signal
import threading
import uuid
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests import saboteurs
from tests.cluster_processes import call, until
from tests.full_disk import full_disk
from tests.makers import make_geotiff, make_model, smooth_noise
from tests.saboteurs import noted
from tilingseg import flow
from tilingseg.job import RunOptions
from tilingseg.output_folder import WORK, OutputOptions
from tilingseg.places import place
from tilingseg.tiling import TilingOptions

pytest.importorskip("distributed", reason="needs the extra [cluster]")

from tilingseg.cluster.clusters import open_cluster
from tilingseg.cluster.foreman import carry_out
from tilingseg.cluster.outcome import BatchState
from tilingseg.cluster.recipe import ClusterRecipe
from tilingseg.cluster.tasks import SceneJob, shared

N_REGIONS = 9
MEMORY_BYTES = 1 << 30
MASKS = OutputOptions(formats=("cog",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def options(folder):
    return RunOptions(
        model=make_model(folder / "tiny.safetensors"),
        device="cpu",
        tiling=TilingOptions(tile_size_px=128, region_px=100),
        outputs=OutputOptions(probability=True),
    )


@pytest.fixture(scope="module")
def client(options, object_store):
    """A cluster of processes of one thread each, which know the object store."""
    recipe = ClusterRecipe(kind="local", workers=1, memory=f"{MEMORY_BYTES}B")
    with open_cluster(recipe, shared(options)) as client:
        yield client


@pytest.fixture
def workers(client):
    """Four workers that are as they should be, before and after."""
    client.cluster.scale(4)
    until(lambda: len(client.nthreads()) == 4)
    yield client
    client.run(saboteurs.mend)


@pytest.fixture(scope="module")
def scenes(folder):
    """A GeoTIFF with nodata, and a random Zarr."""
    pixels = smooth_noise(200, 240, seed=4)
    pixels[:, :50, :70] = 0
    path = folder / "random.zarr"
    array = zarr.create_array(path, shape=(3, 120, 370), chunks=(3, 128, 90), dtype="uint8")
    array[:] = smooth_noise(120, 370, seed=9)
    array.attrs["_FillValue"] = 0
    return {
        "geotiff": str(make_geotiff(folder / "scene.tif", pixels, nodata=0)),
        "zarr": str(path),
    }


@pytest.fixture(scope="module")
def alone(folder, options, scenes):
    """The outputs of one process, by kind of scene."""
    found = {}
    for kind, uri in scenes.items():
        flow.run(uri, folder / kind, options=with_pixel_size(options, kind))
        found[kind] = files_in(folder / kind)
    return found


def with_pixel_size(options, kind):
    return replace(options, pixel_m=0.5) if kind == "zarr" else options


def files_in(out):
    """Every output but run.json, which holds seconds."""
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.name not in ("run.json", "failed.json", ".lock")
    }


def masks_of(files):
    return {name: data for name, data in files.items() if "_mask.tif" in name}


def do(client, uri, out, options):
    """Do one scene: its outcome."""
    job = SceneJob(uri=uri, out_dir=out, options=shared(options))
    (outcome,) = carry_out(client, [job], 1, lambda state: None)
    return outcome


class TestSameBytes:
    @pytest.mark.parametrize("kind", ["geotiff", "zarr"])
    @pytest.mark.parametrize("n_workers", [1, 2, 4])
    def test_with_any_number_of_workers(
        self, client, tmp_path, options, scenes, alone, n_workers, kind
    ):
        client.cluster.scale(n_workers)
        until(lambda: len(client.nthreads()) == n_workers)
        outcome = do(client, scenes[kind], tmp_path / "out", with_pixel_size(options, kind))
        assert outcome.reason == ""
        assert files_in(tmp_path / "out") == alone[kind]
        names = {name.rpartition("_")[2] for name in alone[kind]}
        assert {"mask.tif", "probability.tif", "building.geojson", "road.geojson"} <= names

    def test_from_the_command_line_with_a_scheduler_that_runs(
        self, workers, tmp_path, options, scenes, alone
    ):
        flags = ("--tile-size", 128, "--region-size", 100, "--device", "cpu", "-q")
        address = workers.cluster.scheduler_address
        more = ("--model", options.model, "--probability", "--cluster", address)
        done = call("run", scenes["geotiff"], "-o", tmp_path / "out", *flags, *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert files_in(tmp_path / "out") == alone["geotiff"]


class TestObjectStore:
    def test_goes_on_where_it_was(self, workers, object_store, tmp_path, options, scenes, alone):
        out = place(f"{object_store}/{uuid.uuid4().hex}")
        masks = replace(options, outputs=MASKS)
        workers.run(saboteurs.fail_in, 5, tmp_path)
        assert "1 of 9 regions failed" in do(workers, scenes["geotiff"], out, masks).reason
        workers.run(saboteurs.mend)
        outcome = do(workers, scenes["geotiff"], out, masks)
        assert outcome.report is not None
        assert outcome.report.n_regions_resumed == N_REGIONS - 1
        assert masks_of(files_in(out)) == masks_of(alone["geotiff"])


class TestChunks:
    def test_no_two_workers_write_one(
        self, workers, tmp_path, folder_of_outputs, options, scenes, alone
    ):
        notes = tmp_path / "notes"
        notes.mkdir()
        workers.run(saboteurs.note_writes, str(notes))
        out = folder_of_outputs / "out"
        outcome = do(workers, scenes["geotiff"], out, options)
        assert outcome.reason == ""
        assert files_in(out) == alone["geotiff"]
        report = json.loads((out / "run.json").read_text())["report"]
        assert all(path.startswith(str(out)) for _, path in report["outputs"])
        assert not (out / WORK).exists()
        written = [(key, pid) for key, pid in noted(notes) if "pixels.zarr" in key]
        writers = {pid for _, pid in written}
        times = Counter(key for key, _ in written)
        assert len(writers) > 1
        assert len(times) >= 2 * N_REGIONS
        assert set(times.values()) == {1}, "each chunk is written once, hence by one worker"


class TestFaults:
    def test_half_of_the_workers_are_killed_in_the_middle(
        self, workers, tmp_path, options, scenes, alone
    ):
        notes, calm = tmp_path / "notes", tmp_path / "calm"
        notes.mkdir()
        calm.mkdir()
        names = sorted(workers.nthreads())
        workers.run(saboteurs.linger_in_regions, str(notes), workers=names[:2])
        workers.run(saboteurs.note_regions, str(calm), workers=names[2:])
        killed = []

        def kill():
            until(lambda: len({pid for _, pid in noted(notes)}) == 2)
            for pid in {pid for _, pid in noted(notes)}:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        thread = threading.Thread(target=kill)
        thread.start()
        outcome = do(workers, scenes["geotiff"], tmp_path / "out", replace(options, outputs=MASKS))
        thread.join()
        assert len(killed) == 2
        assert outcome.reason == ""
        assert masks_of(files_in(tmp_path / "out")) == masks_of(alone["geotiff"])
        done = [region for region, _ in noted(calm)]
        assert len(done) == len(set(done)), "nothing is done twice"

    def test_a_worker_runs_out_of_memory(self, workers, tmp_path, options, scenes, alone):
        first = min(workers.nthreads())
        notes = tmp_path / "notes"
        notes.mkdir()
        # the nanny ends a worker that takes more than its share, and starts it again
        workers.run(saboteurs.swallow_memory, str(notes), 2 * MEMORY_BYTES, workers=[first])
        outcome = do(workers, scenes["geotiff"], tmp_path / "out", replace(options, outputs=MASKS))
        assert len(noted(notes)) == 1
        assert outcome.reason == ""
        assert masks_of(files_in(tmp_path / "out")) == masks_of(alone["geotiff"])

    def test_a_region_that_always_fails_is_tried_three_times_and_the_rest_is_done(
        self, workers, tmp_path, options, scenes
    ):
        notes = tmp_path / "notes"
        notes.mkdir()
        workers.run(saboteurs.fail_in, 5, str(notes))
        outcome = do(workers, scenes["geotiff"], tmp_path / "out", replace(options, outputs=MASKS))
        assert len(noted(notes)) == 3
        assert outcome.report is None
        assert outcome.reason.startswith(
            "1 of 9 regions failed (region 5: OSError: the network file system is away)"
        )
        assert not outcome.in_output
        assert len(list((tmp_path / "out" / WORK / "done").iterdir())) == N_REGIONS - 1

    def test_a_full_disk_ends_the_scene_and_the_next_one_goes_on(
        self, workers, tmp_path, options, scenes, alone
    ):
        with full_disk(tmp_path / "small", 200) as small:
            outcome = do(workers, scenes["geotiff"], small / "out", options)
            assert outcome.report is None
            assert "No space left on device" in outcome.reason
            assert outcome.in_output
            assert not list((small / "out").glob("scene_*"))
        outcome = do(workers, scenes["geotiff"], tmp_path / "out", replace(options, outputs=MASKS))
        assert masks_of(files_in(tmp_path / "out")) == masks_of(alone["geotiff"])

    def test_vectors_that_were_made_are_not_made_again(
        self, workers, tmp_path, options, scenes, alone, monkeypatch
    ):
        out = tmp_path / "out"
        monkeypatch.setattr("tilingseg.cluster.foreman.publish_scene", refuse)
        outcome = do(workers, scenes["zarr"], out, with_pixel_size(options, "zarr"))
        assert (outcome.reason, outcome.in_output) == ("not today", True)
        (vectors,) = out.glob(f"{WORK}/vectors-*")
        before = {path: path.stat().st_mtime_ns for path in vectors.rglob("*.npz")}
        assert len(list(vectors.rglob("pieces.npz"))) > 5, "more than one level"
        do(workers, scenes["zarr"], out, with_pixel_size(options, "zarr"))
        assert {path: path.stat().st_mtime_ns for path in vectors.rglob("*.npz")} == before
        monkeypatch.undo()
        assert do(workers, scenes["zarr"], out, with_pixel_size(options, "zarr")).reason == ""
        assert files_in(out) == alone["zarr"]


def refuse(*_arguments):
    from tilingseg.errors import OutputError

    raise OutputError("not today")


def test_the_state_counts_vectors_as_work():
    state = BatchState(n_scenes=1, n_scenes_opened=1, n_regions_opened=6, n_parts_opened=4)
    state.n_regions_done = 6
    state.n_parts_done = 2
    assert state.share == 0.8
    assert np.isclose(BatchState(n_scenes=2, n_scenes_done=1).share, 0.5)
