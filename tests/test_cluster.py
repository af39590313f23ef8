"""Runs on real clusters of processes: the bits of one process, whatever dies on the way."""

import json
import os
import re
import signal

import pytest
import rasterio

from tests.cluster_processes import (
    FLAGS,
    call,
    command,
    n_done,
    outputs_of,
    scheduler,
    started,
    until,
    worker,
)
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg.output_folder import WORK

pytest.importorskip("distributed", reason="needs the extra [cluster]")

RASTERS = ("--formats", "cog", "--probability")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def scene(folder):
    pixels = smooth_noise(500, 560)
    pixels[:, :130, :200] = 0
    return make_geotiff(folder / "scene.tif", pixels, nodata=0)


@pytest.fixture(scope="module")
def run(model, scene):
    """Arguments of a run of the scene."""

    def arguments(out, *more, uri=scene):
        return ("run", uri, "-o", out, "--model", model, *FLAGS, *more)

    return arguments


@pytest.fixture(scope="module")
def alone(folder, run):
    """The outputs of one process."""
    done = call(*run(folder / "alone", "--probability"))
    assert done.returncode == 0, done.stderr
    outputs = outputs_of(folder / "alone")
    assert {"scene_mask.tif", "scene_probability.tif", "scene_building.geojson"} <= set(outputs)
    return outputs


def rasters_of(outputs):
    return {name: data for name, data in outputs.items() if name.endswith(".tif")}


class TestSameBits:
    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_local_workers_give_the_bits_of_one_process(self, tmp_path, run, alone, workers):
        out = tmp_path / "out"
        more = ("--probability", "--cluster", "local", "--cluster-workers", workers)
        done = call(*run(out, *more))
        assert (done.returncode, done.stderr) == (0, "")
        assert outputs_of(out) == alone
        report = json.loads((out / "run.json").read_text())["report"]
        assert report["n_regions_resumed"] == 0
        assert not (out / WORK).exists()


class TestFaults:
    @pytest.mark.slow
    def test_a_worker_that_is_killed_loses_nothing(self, tmp_path, run, alone):
        out = tmp_path / "out"
        with (
            scheduler(tmp_path) as (_, address),
            worker(address, tmp_path / "one") as first,
            worker(address, tmp_path / "two"),
            started(*command(*run(out, *RASTERS, "--cluster", address))) as client,
        ):
            until(lambda: n_done(out) >= 2, alive=client)
            os.kill(first.pid, signal.SIGKILL)
            _, err = client.communicate(timeout=120)
        assert (client.returncode, err) == (0, "")
        assert rasters_of(outputs_of(out)) == rasters_of(alone)

    @pytest.mark.slow
    def test_a_scheduler_that_is_killed_is_told_and_the_next_one_goes_on(
        self, tmp_path, run, alone
    ):
        out = tmp_path / "out"
        with (
            scheduler(tmp_path) as (process, address),
            worker(address, tmp_path / "one"),
            started(*command(*run(out, *RASTERS, "--cluster", address))) as client,
        ):
            until(lambda: n_done(out) >= 2, alive=client)
            process.kill()
            _, err = client.communicate(timeout=120)
        assert client.returncode == 1
        assert err.splitlines()[-1].startswith(f"error: the scheduler {address} does not answer")
        assert "Traceback" not in err
        (tmp_path / "scheduler.json").unlink(missing_ok=True)
        with scheduler(tmp_path) as (_, address), worker(address, tmp_path / "two"):
            done = call(*run(out, *RASTERS, "--cluster", address))
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "run.json").read_text())["report"]["n_regions_resumed"] >= 2
        assert rasters_of(outputs_of(out)) == rasters_of(alone)

    @pytest.mark.slow
    def test_a_client_that_is_killed_goes_on_with_the_same_command(self, tmp_path, run, alone):
        out = tmp_path / "out"
        arguments = run(out, *RASTERS, "--cluster", "local")
        with started(*command(*arguments)) as client:
            until(lambda: n_done(out) >= 2, alive=client)
            client.kill()
            client.wait()
            # its workers are still there: the next run begins beside them
            done = call(*arguments)
        assert done.returncode == 0, done.stderr
        assert rasters_of(outputs_of(out)) == rasters_of(alone)

    @pytest.mark.slow
    def test_a_region_that_kills_its_workers_is_named_and_the_rest_is_done(self, tmp_path, run):
        preload = tmp_path / "deadly.py"
        preload.write_text(DEADLY, encoding="utf-8")
        out = tmp_path / "out"
        done = call(
            *run(out, *RASTERS, "--cluster", "local", "--cluster-workers", 1),
            DASK_DISTRIBUTED__WORKER__PRELOAD=str(preload),
            DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0",
        )
        assert done.returncode == 1
        # Python itself may tell of what the dead process left behind
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "1 of 12 regions failed (region 5: its workers died with it" in line
        assert "the other 11 are kept" in line
        assert "Traceback" not in done.stderr
        assert n_done(out) == 11
        assert not list(out.glob("scene_*"))

    @pytest.mark.slow
    def test_a_damaged_part_of_a_scene_is_named_and_the_rest_is_done(self, tmp_path, run):
        path = make_geotiff(tmp_path / "scene.tif", smooth_noise(500, 560))
        with rasterio.open(path) as dataset:
            block = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        with path.open("r+b") as file:
            file.seek(block)
            file.write(bytes(2))  # the head of a deflate stream; damage further on can go unnoticed
        out = tmp_path / "out"
        done = call(*run(out, *RASTERS, "--cluster", "local", "--cluster-workers", 1, uri=path))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        found = re.match(r"error: (\d+) of 12 regions failed \(region \d+: tile \d+ at row", line)
        assert found is not None, line
        assert 1 <= n_done(out) == 12 - int(found[1])
        assert not list(out.glob("scene_*"))


DEADLY = """
import os
import tilingseg.cluster.tasks as tasks

def dask_setup(worker):
    infer = tasks.run_region
    def run_region(job, store, region, *more):
        if region.index == 5:
            os._exit(1)
        return infer(job, store, region, *more)
    tasks.run_region = run_region
"""


class TestWrongClusters:
    def test_an_unknown_kind_is_one_line(self, tmp_path, run):
        done = call(*run(tmp_path / "out", "--cluster", "cloud"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: cluster 'cloud' is none of local, slurm")
        assert not (tmp_path / "out").exists()

    def test_a_scheduler_that_is_not_there_is_one_line(self, tmp_path, run):
        done = call(*run(tmp_path / "out", "--cluster", "tcp://127.0.0.1:9"))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: cluster tcp://127.0.0.1:9: ")

    def test_a_model_that_is_not_there_is_one_line(self, tmp_path, run):
        arguments = [*run(tmp_path / "out", "--cluster", "local", "--cluster-workers", 1)]
        arguments[arguments.index("--model") + 1] = "missing.safetensors"
        done = call(*arguments)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "there is no model file" in line
