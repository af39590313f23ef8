import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.test_plan import make_plan, make_scene
from tilingseg.errors import OutputError, PlanError
from tilingseg.grid import Window
from tilingseg.records import NODATA, RegionReport, Scaling
from tilingseg.region_writer import RegionWriter
from tilingseg.store import WorkStore
from tilingseg.tiling import TilingOptions

SCALING = Scaling(low=(0.0,), high=(255.0,), source="test")
REPORT = RegionReport(
    index=0,
    n_tiles=1,
    n_tiles_nodata=0,
    n_tiles_outside=0,
    n_pixels_valid=5,
    seconds=(("read", 0.5),),
)


@pytest.fixture
def plan():
    return make_plan(make_scene(300, 400))


def write_noise(store, window, seed=0):
    rng = np.random.default_rng(seed)
    shape = (window.height, window.width)
    mask = rng.integers(0, 3, shape, dtype=np.uint8)
    probability = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    store.write(window, mask, probability)
    return mask, probability


def test_gives_back_what_was_written(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    window = Window(row=10, col=20, height=50, width=60)
    mask, probability = write_noise(store, window)
    assert np.array_equal(store.read_mask(window), mask)
    assert np.array_equal(store.read_probability(1, window), probability[1])


def test_is_nodata_where_nothing_was_written(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    assert (store.read_mask(plan.grid.scene_window) == NODATA).all()


def test_keeps_no_file_for_chunks_of_nodata(tmp_path, plan):
    store = WorkStore.create(tmp_path / "work", plan, SCALING)
    window = plan.grid.scene_window
    empty = np.full((300, 400), NODATA, dtype=np.uint8)
    store.write(window, empty, np.zeros((2, 300, 400), dtype=np.uint8))
    assert not [p for p in (tmp_path / "work" / "pixels.zarr").rglob("c/*") if p.is_file()]


def test_goes_on_with_the_same_plan(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    mask, _ = write_noise(store, plan.grid.scene_window)
    store.complete(plan.grid.scene_window, REPORT)
    again = WorkStore.resume(folder_of_outputs / "work", plan)
    assert again is not None
    assert again.completed() == {0: REPORT}
    assert again.scaling == SCALING
    assert np.array_equal(again.read_mask(plan.grid.scene_window), mask)


def test_there_is_nothing_to_go_on_with_in_an_empty_folder(folder_of_outputs, plan):
    assert WorkStore.resume(folder_of_outputs / "work", plan) is None


def test_another_plan_is_refused_with_the_difference(folder_of_outputs, plan):
    WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    other = make_plan(make_scene(300, 400), TilingOptions(region_px=2048))
    with pytest.raises(PlanError, match=r"tiling\.region_px: 1024 → 2048.*--no-resume"):
        WorkStore.resume(folder_of_outputs / "work", other)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_plan_is_refused(folder_of_outputs, plan, text):
    WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    (folder_of_outputs / "work" / "plan.json").write_text(text)
    with pytest.raises(PlanError, match="--no-resume"):
        WorkStore.resume(folder_of_outputs / "work", plan)


def test_creating_starts_anew(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    write_noise(store, plan.grid.scene_window)
    store.complete(plan.grid.scene_window, REPORT)
    anew = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    assert anew.completed() == {}
    assert (anew.read_mask(plan.grid.scene_window) == NODATA).all()


def test_a_store_whose_removal_was_killed_is_none(tmp_path, plan, monkeypatch):
    folder = tmp_path / "work"
    store = WorkStore.create(folder, plan, SCALING)
    write_noise(store, plan.grid.scene_window)
    store.complete(plan.grid.scene_window, REPORT)

    def killed(path, **_):
        if Path(path).exists():  # a file system may begin with any file
            (Path(path) / "pixels.zarr" / "mask" / "c" / "0" / "0").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            WorkStore.create(folder, plan, SCALING)
    assert WorkStore.resume(folder, plan) is None
    assert WorkStore.create(folder, plan, SCALING).completed() == {}


@pytest.mark.parametrize("name", ["pixels.zarr/zarr.json", "pixels.zarr/mask/zarr.json"])
def test_a_store_without_its_pixels_is_refused(folder_of_outputs, plan, name):
    WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    (folder_of_outputs / "work" / name).unlink()
    with pytest.raises(PlanError, match="no readable work store .*--no-resume"):
        WorkStore.resume(folder_of_outputs / "work", plan)


def test_a_completion_record_appears_after_the_pixels_are_flushed(tmp_path, plan, monkeypatch):
    store = WorkStore.create(tmp_path / "work", plan, SCALING)
    write_noise(store, plan.grid.scene_window)
    order = []
    fsync = os.fsync

    def note_sync(descriptor):
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_sync)
    store.complete(plan.grid.scene_window, REPORT)
    monkeypatch.undo()
    chunks = {
        str(path.relative_to(tmp_path))
        for path in (tmp_path / "work" / "pixels.zarr").rglob("*")
        if path.is_file() and path.name != "zarr.json"
    }
    assert chunks
    assert set(order[:-1]) == chunks
    assert re.search(r"done/000000\.json\.\w+\.part$", order[-1])


def test_a_disk_that_is_full_at_the_flush_is_told_in_one_line(tmp_path, plan, monkeypatch):
    store = WorkStore.create(tmp_path / "work", plan, SCALING)
    write_noise(store, plan.grid.scene_window)

    def refuse(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="No space left on device; free some space and repeat"):
        store.complete(plan.grid.scene_window, REPORT)
    assert store.completed() == {}


def test_a_removed_store_is_gone(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    write_noise(store, plan.grid.scene_window)
    store.complete(plan.grid.scene_window, REPORT)
    assert store.is_complete(0)
    assert store.completed_indexes() == {0}
    store.remove()
    assert not (folder_of_outputs / "work").exists()
    assert WorkStore.resume(folder_of_outputs / "work", plan) is None


def test_a_store_has_a_ticket_of_its_own(folder_of_outputs, plan):
    first = WorkStore.create(folder_of_outputs / "work", plan, SCALING).ticket
    again = WorkStore.resume(folder_of_outputs / "work", plan)
    assert again is not None
    assert again.ticket == first != ""
    assert WorkStore.create(folder_of_outputs / "work", plan, SCALING).ticket != first


def test_completion_records_are_json_that_people_can_read(folder_of_outputs, plan):
    store = WorkStore.create(folder_of_outputs / "work", plan, SCALING)
    store.complete(plan.grid.scene_window, REPORT)
    raw = json.loads((folder_of_outputs / "work" / "done" / "000000.json").read_text())
    assert raw["n_tiles"] == 1
    assert raw["seconds"] == [["read", 0.5]]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, plan):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot create the work store"):
        WorkStore.create(tmp_path / "file" / "work", plan, SCALING)


class TestRegionWriter:
    @pytest.mark.parametrize("heights", [[300], [64, 100, 136], [1] * 300, [63, 2, 235]])
    def test_writes_every_chunk_once_and_whole(self, tmp_path, monkeypatch, heights):
        monkeypatch.setattr("tilingseg.tiling.CHUNK_PX", 64)
        plan = make_plan(make_scene(300, 400), TilingOptions(tile_size_px=128))
        store = WorkStore.create(tmp_path / "work", plan, SCALING)
        core = plan.grid.scene_window
        rng = np.random.default_rng(0)
        mask = rng.integers(0, 3, (300, 400), dtype=np.uint8)
        probability = rng.integers(0, 256, (2, 300, 400), dtype=np.uint8)
        written = []
        write = store.write

        def note(window, *arrays):
            written.append(window)
            write(window, *arrays)

        monkeypatch.setattr(store, "write", note)
        writer, top = RegionWriter(store, core), 0
        for height in heights:
            rows = slice(top, top + height)
            window = Window(row=top, col=0, height=height, width=400)
            writer.write(window, mask[rows], probability[:, rows])
            top += height
        assert np.array_equal(store.read_mask(core), mask)
        assert np.array_equal(store.read_probability(1, core), probability[1])
        assert all(window.row % plan.chunk_px == 0 for window in written)
        stops = [window.row for window in written[1:]] + [300]
        assert [window.row_stop for window in written] == stops


def test_masks_alone_are_kept_where_nothing_needs_probabilities(tmp_path, plan):
    store = WorkStore.create(tmp_path / "work", plan, SCALING, keep_probability=False)
    window = Window(row=0, col=0, height=4, width=4)
    store.write(window, np.ones((4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8))
    again = WorkStore.resume(tmp_path / "work", plan)
    assert not again.keeps_probability
    assert again.read_probability(0, window) is None
    assert (again.read_mask(window) == 1).all()
