"""Many scenes in one go: which are done, skipped, tried again, and what the summary says."""

import csv
import errno
import itertools
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely

from tests.cluster_processes import outputs_of
from tests.full_disk import full_disk
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg import flow
from tilingseg.cluster.batch import BatchOptions, one_by_one, plan_batch, run_batch
from tilingseg.cluster.ledger import Ledger
from tilingseg.cluster.manifest import SceneEntry
from tilingseg.cluster.outcome import BatchState, Outcome
from tilingseg.cluster.summary import read_summary
from tilingseg.cluster.tasks import (
    Opened,
    SceneJob,
    infer_region,
    open_scene_job,
    publish_scene,
    shared,
    vectorize_region,
)
from tilingseg.errors import OutputError, SceneError
from tilingseg.folder_lock import alone_in
from tilingseg.job import RunOptions
from tilingseg.output_folder import OutputOptions
from tilingseg.places import place
from tilingseg.tiling import TilingOptions

COG = OutputOptions(formats=("cog",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    for index in range(3):
        pixels = np.ascontiguousarray(smooth_noise(90, 80 + 10 * index, seed=index))
        make_geotiff(folder / f"scene{index}.tif", pixels)
    (folder / "broken.tif").write_bytes(b"II*\0 this is no raster")
    make_model(folder / "tiny.safetensors")
    return folder


@pytest.fixture
def batch(folder, call):
    """Run `tilingseg batch` in this process: (exit code, stdout, stderr)."""
    flags = ("--model", folder / "tiny.safetensors", "--device", "cpu", "--formats", "cog")
    return lambda *arguments: call("batch", *flags, *arguments)


def lines(out):
    from pyarrow import parquet

    return parquet.read_table(out / "summary.parquet").to_pylist()


def statuses(out):
    return {line["scene"]: line["status"] for line in lines(out)}


class TestBatch:
    def test_does_what_is_missing_and_says_what_failed(self, batch, folder, tmp_path):
        out = tmp_path / "out"
        code, stdout, err = batch(folder / "*.tif", "-o", out)
        assert code == 1
        assert stdout.strip() == str(out / "summary.parquet")
        assert "1 of 4 scenes failed" in err
        assert "--retry-failed" in err
        assert "Traceback" not in err
        done = dict.fromkeys(("scene0", "scene1", "scene2"), "done")
        assert statuses(out) == {"broken": "failed"} | done
        written = (out / "scene1" / "scene1_mask.tif").stat().st_mtime_ns

        code, _, err = batch(folder / "*.tif", "-o", out, "--dry-run")
        assert code == 0
        assert "1 before, done again with --retry-failed" in err
        code, _, err = batch(folder / "*.tif", "-o", out)
        assert code == 1
        assert "3 done, 3 of them before" in err
        assert (out / "scene1" / "scene1_mask.tif").stat().st_mtime_ns == written

    def test_failed_scenes_are_tried_again_when_asked_for(self, batch, folder, tmp_path):
        out, path = tmp_path / "out", tmp_path / "late.tif"
        path.write_bytes(b"nothing yet")
        assert batch(path, "-o", out)[0] == 1
        make_geotiff(path, smooth_noise(64, 64))
        assert batch(path, "-o", out)[0] == 1
        assert batch(path, "-o", out, "--retry-failed")[0] == 0
        assert statuses(out) == {"late": "done"}
        assert not (out / "late" / "failed.json").exists()

    def test_an_error_that_nobody_foresaw_ends_no_other_scene(
        self, batch, folder, tmp_path, monkeypatch
    ):
        real_run = flow.run

        def run(uri, *more, **named):
            if uri.endswith("scene1.tif"):
                raise shapely.GEOSException("TopologyException: side location conflict\n at 1 2")
            return real_run(uri, *more, **named)

        monkeypatch.setattr(flow, "run", run)
        code, _, err = batch(folder / "scene*.tif", "-o", tmp_path)
        assert code == 1
        assert "GEOSException: TopologyException: side location conflict at 1 2" in err
        assert statuses(tmp_path) == {"scene0": "done", "scene1": "failed", "scene2": "done"}

    def test_a_limit_leaves_the_rest_for_later(self, batch, folder, tmp_path):
        out = tmp_path / "out"
        code, _, err = batch(folder / "scene*.tif", "-o", out, "--limit", 2)
        assert code == 0
        assert "1 beyond the limit" in err
        assert statuses(out) == {"scene0": "done", "scene1": "done", "scene2": "waiting"}
        assert batch(folder / "scene*.tif", "-o", out, "-q") == (0, "", "")
        assert set(statuses(out).values()) == {"done"}

    def test_a_dry_run_opens_and_writes_nothing(self, batch, folder, tmp_path):
        out = tmp_path / "out"
        code, stdout, _ = batch(folder / "*.tif", "-o", out, "--dry-run")
        assert code == 0
        assert len(stdout.splitlines()) == 4
        assert not out.exists()

    def test_without_pyarrow_the_summary_is_csv(self, batch, folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        out = tmp_path / "out"
        code, stdout, _ = batch(folder / "scene0.tif", folder / "broken.tif", "-o", out)
        assert code == 1
        assert stdout.strip() == str(out / "summary.csv")
        with (out / "summary.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["status"] for row in rows] == ["done", "failed"]
        assert int(rows[0]["n_pixels_valid"]) == 90 * 80
        assert rows[1]["reason"]

    def test_the_model_is_loaded_once(self, batch, folder, tmp_path, monkeypatch):
        import tilingseg.job

        loads = []
        load = tilingseg.job.load_model

        def note(*args, **kwargs):
            loads.append(args)
            return load(*args, **kwargs)

        monkeypatch.setattr(tilingseg.job, "load_model", note)
        make_model(tmp_path / "own.safetensors", seed=1)
        arguments = (folder / "scene*.tif", "-o", tmp_path / "out")
        assert batch(*arguments, "--model", tmp_path / "own.safetensors")[0] == 0
        assert len(loads) == 1

    def test_another_scene_of_the_same_name_is_another_scene(self, batch, tmp_path):
        for day, seed in (("day1", 1), ("day2", 2)):
            (tmp_path / day).mkdir()
            make_geotiff(tmp_path / day / "scene.tif", smooth_noise(64, 64, seed=seed))
        out, first, second = (tmp_path / name for name in ("out", "day1", "day2"))
        assert batch(first / "scene.tif", "-o", out)[0] == 0
        code, _, err = batch(second / "scene.tif", "-o", out)
        assert code == 0
        assert "1 done, 0 of them before" in err
        own = json.loads((out / "scene" / "run.json").read_text())
        assert own["report"]["scene"] == str(first / "scene.tif")
        # together or under another spelling, each is found where it was done
        other = first / ".." / "day1" / "scene.tif"
        code, _, err = batch(other, second / "scene.tif", "-o", out)
        assert code == 0
        assert "2 done, 2 of them before" in err
        assert len([path for path in out.iterdir() if path.is_dir()]) == 2

    def test_the_tiles_of_a_scene_under_way_count(self, folder, tmp_path):
        options = RunOptions(
            model=folder / "tiny.safetensors",
            device="cpu",
            tiling=TilingOptions(tile_size_px=48, region_px=32),
        )
        job = SceneJob(uri=str(folder / "scene0.tif"), out_dir=tmp_path / "out", options=options)
        shares = []
        for outcome in one_by_one([job], 2, lambda state: shares.append(state.share)):
            assert outcome.report is not None
        assert shares == sorted(shares)
        assert any(0 < share < 0.5 for share in shares)

    def test_on_an_object_store(self, batch, folder, object_store):
        out = f"{object_store}/batch"
        code, stdout, err = batch(folder / "scene0.tif", folder / "broken.tif", "-o", out)
        assert code == 1
        assert stdout.strip() == f"{out}/summary.parquet"
        assert "1 of 2 scenes failed" in err
        code, _, err = batch(folder / "scene*.tif", "-o", out, "--limit", 1)
        assert code == 0
        assert "2 done, 1 of them before" in err
        found = {line.scene: line.status for line in read_summary(place(out))}
        assert found == {
            "scene0": "done",
            "scene1": "done",
            "scene2": "waiting",
            "broken": "failed",
        }
        code, _, err = batch(folder / "scene0.tif", "-o", out, "--threshold", 0.9)
        assert (code, "scene0: thresholds: default →" in err) == (1, True)

    def test_a_bucket_that_is_not_there_ends_it_with_the_reason_of_the_scene(
        self, batch, folder, object_store
    ):
        code, _, err = batch(folder / "scene0.tif", "-o", "s3://nobucket/out")
        assert code == 1
        assert "bucket" in err
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize("arguments", [("--cluster", "nope"), ("--cluster-workers", "4")])
    def test_a_dry_run_refuses_what_a_run_would(self, batch, folder, tmp_path, arguments):
        out = tmp_path / "out"
        code, _, err = batch(folder / "scene0.tif", "-o", out, "--dry-run", *arguments)
        assert code != 0
        assert "cluster" in err


class TestOutdated:
    """Results of something else than what is asked for now."""

    def test_another_scene_of_the_same_name_is_done_in_a_folder_of_its_own(self, batch, tmp_path):
        out = tmp_path / "out"
        for day, side in (("day1", 64), ("day2", 96)):
            (tmp_path / day).mkdir()
            make_geotiff(tmp_path / day / "scene.tif", smooth_noise(side, side))
        assert batch(tmp_path / "day1" / "scene.tif", "-o", out)[0] == 0
        assert batch(tmp_path / "day2" / "scene.tif", "-o", out)[0] == 0
        assert lines(out)[0]["n_pixels_valid"] == 96 * 96
        # in company each keeps the folder that it has
        _, _, err = batch(tmp_path / "day*" / "scene.tif", "-o", out, "--dry-run")
        assert "done       2 before" in err
        assert batch(tmp_path / "day*" / "scene.tif", "-o", out)[0] == 0
        assert [line["n_pixels_valid"] for line in lines(out)] == [64 * 64, 96 * 96]
        assert lines(out)[0]["scene"] == "scene"

    def test_other_options_are_told_and_replace_only_when_asked_for(self, batch, folder, tmp_path):
        out, scenes = tmp_path / "out", folder / "scene*.tif"
        assert batch(scenes, "-o", out, "--limit", 2)[0] == 0
        before = (out / "scene0" / "scene0_mask.tif").read_bytes()
        code, _, err = batch(scenes, "-o", out, "--threshold", 0.9)
        assert code == 1
        assert "2 of 3 scenes are outdated, do them again with --update" in err
        assert "scene0: thresholds: default → [[None, 0.9]]" in err
        assert statuses(out) == {"scene0": "outdated", "scene1": "outdated", "scene2": "done"}
        assert (out / "scene0" / "scene0_mask.tif").read_bytes() == before

        written = (out / "scene2" / "scene2_mask.tif").stat().st_mtime_ns
        assert batch(scenes, "-o", out, "--threshold", 0.9, "--update")[0] == 0
        assert set(statuses(out).values()) == {"done"}
        assert (out / "scene2" / "scene2_mask.tif").stat().st_mtime_ns == written
        # how it is computed does not make it another result
        assert (
            batch(scenes, "-o", out, "--threshold", 0.9, "--workers", 1, "--batch-size", 1)[0] == 0
        )

    def test_changed_pixels_and_another_model_file_are_told(self, batch, tmp_path):
        out, path, model = tmp_path / "out", tmp_path / "a.tif", tmp_path / "own.safetensors"
        make_geotiff(path, smooth_noise(64, 64))
        make_model(model, seed=1)
        arguments = (path, "-o", out, "--model", model)
        assert batch(*arguments)[0] == 0
        make_geotiff(path, smooth_noise(64, 64, seed=3))
        os.utime(path, (100, 100))
        make_model(model, seed=2)
        code, _, err = batch(*arguments)
        assert code == 1
        assert "a: the model is another file; the scene has changed since" in err
        assert batch(*arguments, "--update")[0] == 0
        path.unlink()  # what is done stays so when its scene is cleared away
        assert batch(*arguments)[0] == 0

    def test_a_scene_that_failed_while_it_was_done_again_can_be_tried_again(self, batch, tmp_path):
        out, path = tmp_path / "out", tmp_path / "a.tif"
        make_geotiff(path, smooth_noise(64, 64))
        assert batch(path, "-o", out)[0] == 0
        whole = path.read_bytes()
        path.write_bytes(b"II*\0 this is no raster")
        assert batch(path, "-o", out, "--update")[0] == 1
        path.write_bytes(whole)
        assert batch(path, "-o", out, "--retry-failed")[0] == 0

    def test_done_scenes_are_not_opened(self, batch, folder, tmp_path, monkeypatch):
        import tilingseg.job

        out = tmp_path / "out"
        assert batch(folder / "scene*.tif", "-o", out)[0] == 0
        monkeypatch.delattr(tilingseg.job, "open_scene")
        assert batch(folder / "scene*.tif", "-o", out)[0] == 0

    def test_a_model_that_does_not_exist_ends_the_batch_before_it_begins(
        self, batch, folder, tmp_path
    ):
        code, _, err = batch(folder / "*.tif", "-o", tmp_path / "out", "--model", "nowhere.safet")
        assert code == 1
        assert "there is no model file 'nowhere.safet'" in err
        assert not (tmp_path / "out").exists()


def standings(out, *entries):
    return Ledger(out, RunOptions()).look_up(entries)


def note(folder, name, scene, reason="gone"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"scene": scene, "reason": reason}))


class TestTwoAtOnce:
    """Two commands with one folder."""

    def test_a_scene_that_another_process_does_is_left_to_it(
        self, batch, folder, tmp_path, monkeypatch
    ):
        out = tmp_path / "out"
        (out / "scene0").mkdir(parents=True)
        with alone_in(out / "scene0"):
            monkeypatch.setattr("tilingseg.folder_lock.time", Hasty)
            code, _, err = batch(folder / "scene[01].tif", "-o", out)
        assert code == 0
        assert "waiting    1 that another process is at work on" in err
        assert statuses(out) == {"scene0": "waiting", "scene1": "done"}
        assert not (out / "scene0" / "failed.json").exists()

    def test_what_another_process_has_done_meanwhile_has_not_failed(self, batch, folder, tmp_path):
        out, path = tmp_path / "out", folder / "scene0.tif"
        ledger = Ledger(out, RunOptions(model=folder / "tiny.safetensors", outputs=COG))
        plan = plan_batch([SceneEntry(uri=str(path), name="scene0")], ledger, BatchOptions())
        assert batch(path, "-o", out)[0] == 0
        options = RunOptions(model=folder / "tiny.safetensors", outputs=COG)
        _, (line,) = run_batch(plan, ledger, options, one_by_one, lambda state: None)
        assert (line.status, line.reason) == ("done", "")
        assert not (out / "scene0" / "failed.json").exists()

    def test_tasks_of_several_clients_may_run_in_threads_of_one_process(self, folder, tmp_path):
        options = RunOptions(
            model=folder / "tiny.safetensors",
            device="cpu",
            tiling=TilingOptions(tile_size_px=48, region_px=32),
        )
        scene = str(folder / "scene0.tif")
        flow.run(scene, tmp_path / "alone", options=options)
        job = SceneJob(uri=scene, out_dir=tmp_path / "out", options=shared(options))
        start = threading.Barrier(3)

        def client():
            start.wait()
            opened = open_scene_job(job)
            assert isinstance(opened, Opened)
            for index in opened.missing:
                infer_region(job, opened.ticket, index)
            for level, n_parts in enumerate(opened.n_parts):
                for number in range(n_parts):
                    vectorize_region(job, opened.ticket, level, number)
            return publish_scene(job, 0)

        with ThreadPoolExecutor(3) as pool:
            reports = [future.result() for future in [pool.submit(client) for _ in range(3)]]
        assert reports[0].n_tiles == reports[1].n_tiles == reports[2].n_tiles > 4
        assert outputs_of(tmp_path / "out") == outputs_of(tmp_path / "alone")


class Hasty:
    """Time that passes quickly."""

    _now = itertools.count()
    monotonic = staticmethod(lambda: next(Hasty._now) * 10.0)
    sleep = staticmethod(lambda _: None)


class TestSummary:
    @pytest.mark.parametrize("pyarrow", [True, False])
    def test_keeps_the_scenes_that_another_command_has_named(
        self, batch, folder, tmp_path, monkeypatch, pyarrow
    ):
        if not pyarrow:
            monkeypatch.setitem(sys.modules, "pyarrow", None)
        assert batch(folder / "scene0.tif", folder / "broken.tif", "-o", tmp_path)[0] == 1
        before = {line.scene: line for line in read_summary(tmp_path)}
        assert before["scene0"].n_pixels_valid == 90 * 80
        code, _, err = batch(folder / "scene1.tif", "-o", tmp_path)
        assert code == 0
        assert "scenes     1: 1 done" in err
        after = {line.scene: line for line in read_summary(tmp_path)}
        assert after == before | {"scene1": after["scene1"]}
        shutil.rmtree(tmp_path / "broken")
        assert batch(folder / "scene1.tif", "-o", tmp_path)[0] == 0
        assert {line.scene for line in read_summary(tmp_path)} == {"scene0", "scene1"}

    def test_one_that_cannot_be_read_is_written_anew(self, tmp_path):
        assert read_summary(tmp_path) == []
        (tmp_path / "summary.parquet").write_bytes(b"torn")
        assert read_summary(tmp_path) == []


class TestNoPlace:
    def test_a_full_disk_ends_the_batch_and_the_same_command_goes_on(self, batch, folder, tmp_path):
        scenes = folder / "scene*.tif"
        with full_disk(tmp_path / "small", 2000) as small:
            ballast = small / "ballast"
            ballast.write_bytes(b"x" * 1_990_000)
            code, _, err = batch(scenes, "-o", small / "out", "--probability")
            assert code == 1
            assert "scene0.tif: " in err
            assert "No space left on device" in err
            assert "the batch ends here" in err
            assert not list((small / "out").rglob("failed.json"))
            assert not (small / "out" / "scene1").exists()
            ballast.unlink()
            code, _, err = batch(scenes, "-o", small / "out", "--probability")
            assert code == 0, err

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE])
    def test_no_scene_is_noted_or_begun_after_one_that_found_no_place(self, tmp_path, number):
        begun = []

        def carry_out(jobs, n_scenes, watch):
            for job in jobs:
                begun.append(job.uri)
                reason = f"OutputError: cannot write it: {os.strerror(number)}"
                yield Outcome(job=job, report=None, reason=reason, in_output=True)

        ledger = Ledger(tmp_path, RunOptions())
        entries = [SceneEntry(uri=f"/{name}.tif", name=name) for name in "ab"]
        plan = plan_batch(entries, ledger, BatchOptions())
        with pytest.raises(OutputError, match=r"/a\.tif: .*the batch ends here"):
            run_batch(plan, ledger, RunOptions(), carry_out, lambda state: None)
        assert begun == ["/a.tif"]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN])
    def test_a_scene_on_a_disk_that_is_lost_ends_no_other_one(
        self, batch, folder, tmp_path, monkeypatch, number
    ):
        real_run = flow.run

        def run(uri, *more, **named):
            if uri.endswith("scene0.tif"):
                raise SceneError(f"{uri} cannot be read: {os.strerror(number)}")
            if uri.endswith("scene2.tif"):
                raise OutputError(f"cannot write it: {os.strerror(number)}")
            return real_run(uri, *more, **named)

        monkeypatch.setattr(flow, "run", run)
        code, _, err = batch(folder / "scene*.tif", "-o", tmp_path)
        assert code == 1
        assert "scene2.tif: cannot write it" in err
        assert "the batch ends here" in err
        assert (tmp_path / "scene0" / "failed.json").exists()
        assert (tmp_path / "scene1" / "run.json").exists()
        assert not (tmp_path / "scene2").exists()

    def test_a_note_that_cannot_be_written_keeps_the_reason(self, tmp_path):
        (tmp_path / "a").write_text("no folder")
        job = SceneJob(uri="/a.tif", out_dir=tmp_path / "a", options=RunOptions())
        with pytest.raises(OutputError, match=r"/a\.tif failed \(it is torn\), and the output"):
            Ledger(tmp_path, RunOptions()).note(Outcome(job=job, report=None, reason="it is torn"))


class TestPlan:
    def test_overwriting_takes_every_scene(self, tmp_path):
        entries = [SceneEntry(uri=f"/{name}.tif", name=name) for name in "ab"]
        note(tmp_path / "a", "failed.json", "/a.tif")
        ledger = Ledger(tmp_path, RunOptions())
        plan = plan_batch(entries, ledger, BatchOptions())
        assert [standing.entry.name for standing in plan.chosen] == ["b"]
        assert (plan.n_left("failed"), plan.n_left("done")) == (1, 0)
        again = plan_batch(entries, ledger, BatchOptions(overwrite=True))
        assert again.chosen == plan.standings

    def test_folders_stay_those_of_their_scenes_whatever_else_is_named(self, tmp_path):
        first, second = (SceneEntry(uri=f"/{day}/a.tif", name="a") for day in ("x", "y"))
        names = [standing.entry.name for standing in standings(tmp_path, first, second)]
        assert len(set(names)) == 2
        assert all(name.startswith("a-") for name in names)
        note(tmp_path / names[1], "failed.json", second.uri)
        note(tmp_path / "a", "failed.json", first.uri)
        for entries in ((first, second), (second, first), (first,), (second,)):
            for standing in standings(tmp_path, *entries):
                assert standing.line.status == "failed"
                assert standing.entry.name == ("a" if standing.entry.uri == first.uri else names[1])

    def test_an_interrupted_run_keeps_its_folder_from_others(self, tmp_path):
        work = tmp_path / "a" / ".tilingseg-work"
        work.mkdir(parents=True)
        (work / "plan.json").write_text('{"plan": {"scene": {"uri": "/x/a.tif"}}}')
        (own,) = standings(tmp_path, SceneEntry(uri="/x/a.tif", name="a"))
        (other,) = standings(tmp_path, SceneEntry(uri="/y/a.tif", name="a"))
        assert (own.entry.name, own.line.status) == ("a", "waiting")
        assert other.entry.name.startswith("a-")

    def test_a_scene_that_is_done_again_and_fails_has_failed(self, batch, folder, tmp_path):
        assert batch(folder / "scene0.tif", "-o", tmp_path)[0] == 0
        done, failed = tmp_path / "scene0" / "run.json", tmp_path / "scene0" / "failed.json"
        note(tmp_path / "scene0", "failed.json", str(folder / "scene0.tif"))
        os.utime(done, (100, 100))
        assert batch(folder / "scene0.tif", "-o", tmp_path)[0] == 1
        os.utime(failed, (50, 50))
        assert batch(folder / "scene0.tif", "-o", tmp_path)[0] == 0

    def test_a_report_that_cannot_be_read_is_a_failure_of_its_scene(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "run.json").write_text("{")
        (standing,) = standings(tmp_path, SceneEntry(uri="/a.tif", name="a"))
        assert standing.line.status == "failed"
        assert "is no report of a run" in standing.line.reason
        Ledger(tmp_path, RunOptions()).summarise([standing], ())
        assert "| a     | failed |" in (tmp_path / "summary.md").read_text(encoding="utf-8")

    def test_a_note_that_cannot_be_read_is_still_a_failure(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "failed.json").write_text("{")
        (standing,) = standings(tmp_path, SceneEntry(uri="/a.tif", name="a"))
        assert standing.line.status == "failed"
        assert "cannot be read" in standing.line.reason


class TestState:
    def test_scenes_that_are_not_open_yet_count_as_the_mean_of_the_others(self):
        state = BatchState(n_scenes=10, n_scenes_opened=2, n_regions_opened=8, n_regions_done=4)
        assert state.share == pytest.approx(4 / 40)
        assert BatchState(n_scenes=10).share == 0
        assert BatchState(n_scenes=4, n_scenes_done=4).share == 1
        assert BatchState(n_scenes=4, n_scenes_done=1).share == 0.25
