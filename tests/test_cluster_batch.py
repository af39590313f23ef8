"""Many scenes in one go: which are done, skipped, tried again, and what the summary says."""

import csv
import json
import os
import sys

import numpy as np
import pytest

from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg.cli import main
from tilingseg.cluster.batch import BatchOptions, plan_batch
from tilingseg.cluster.ledger import Ledger
from tilingseg.cluster.manifest import SceneEntry
from tilingseg.cluster.outcome import BatchState
from tilingseg.plan import TilingOptions


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
def batch(folder, monkeypatch, capsys):
    """Run `tilingseg batch` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        flags = ("--model", folder / "tiny.safetensors", "--device", "cpu", "--formats", "cog")
        monkeypatch.setattr(sys, "argv", ["tilingseg", "batch", *map(str, (*flags, *arguments))])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def statuses(out):
    from pyarrow import parquet

    table = parquet.read_table(out / "summary.parquet").to_pylist()
    return {line["scene"]: line["status"] for line in table}


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
        assert "1 before, tried again with --retry-failed" in err
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
            lines = list(csv.DictReader(file))
        assert [line["status"] for line in lines] == ["done", "failed"]
        assert int(lines[0]["n_pixels_valid"]) == 90 * 80
        assert lines[1]["reason"]

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
        from tilingseg.cluster.batch import one_by_one
        from tilingseg.cluster.tasks import SceneJob
        from tilingseg.job import RunOptions

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

    @pytest.mark.parametrize("arguments", [("--cluster", "nope"), ("--cluster-workers", "4")])
    def test_a_dry_run_refuses_what_a_run_would(self, batch, folder, tmp_path, arguments):
        out = tmp_path / "out"
        code, _, err = batch(folder / "scene0.tif", "-o", out, "--dry-run", *arguments)
        assert code != 0
        assert "cluster" in err


class TestPlan:
    def test_overwriting_takes_every_scene(self, tmp_path):
        entries = [SceneEntry(uri=f"/{name}.tif", name=name) for name in "abc"]
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "run.json").write_text("{}")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "failed.json").write_text("{}")
        plan = plan_batch(entries, tmp_path, BatchOptions(), overwrite=False)
        assert ([e.name for e in plan.chosen], plan.n_done, plan.n_failed) == (["c"], 1, 1)
        again = plan_batch(entries, tmp_path, BatchOptions(), overwrite=True)
        assert again.chosen == tuple(entries)

    def test_a_scene_that_is_done_again_and_fails_has_failed(self, tmp_path):
        entry = SceneEntry(uri="/a.tif", name="a")
        (tmp_path / "a").mkdir()
        for name, changed_s in (("run.json", 100), ("failed.json", 200)):
            (tmp_path / "a" / name).write_text('{"reason": "gone"}')
            os.utime(tmp_path / "a" / name, (changed_s, changed_s))
        assert Ledger(tmp_path).status(entry) == "failed"
        os.utime(tmp_path / "a" / "run.json", (300, 300))
        assert Ledger(tmp_path).status(entry) == "done"

    def test_a_report_that_cannot_be_read_is_a_failure_of_its_scene(self, tmp_path):
        entry = SceneEntry(uri="/a.tif", name="a")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "run.json").write_text("{")
        _, (line,) = Ledger(tmp_path).summarise([entry])
        assert line.status == "failed"
        assert "is no report of a run" in line.reason
        assert "| a     | failed |" in (tmp_path / "summary.md").read_text(encoding="utf-8")

    def test_a_note_that_cannot_be_read_is_still_a_failure(self, tmp_path):
        entry = SceneEntry(uri="/a.tif", name="a")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "failed.json").write_text("{")
        line = Ledger(tmp_path).line(entry)
        assert line.status == "failed"
        assert "cannot be read" in line.reason


class TestState:
    def test_scenes_that_are_not_open_yet_count_as_the_mean_of_the_others(self):
        state = BatchState(n_scenes=10, n_scenes_opened=2, n_regions_opened=8, n_regions_done=4)
        assert state.share == pytest.approx(4 / 40)
        assert BatchState(n_scenes=10).share == 0
        assert BatchState(n_scenes=4, n_scenes_done=4).share == 1
        assert BatchState(n_scenes=4, n_scenes_done=1).share == 0.25
