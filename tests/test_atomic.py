import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tilingseg.atomic import whole, write_whole
from tilingseg.errors import BusyError, OutputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_when_the_block_ends(tmp_path):
    with whole(tmp_path / "mask.tif") as part:
        part.write_text("new")
        assert names(tmp_path) == ["mask.tif.part"]
    assert names(tmp_path) == ["mask.tif"]


def test_the_old_file_stays_when_the_block_fails(tmp_path):
    path = tmp_path / "mask.tif"
    path.write_text("old")

    def interrupted():
        with whole(path) as part:
            part.write_text("new")
            part.with_name(part.name + ".blocks.tif").write_text("in between")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["mask.tif"]
    assert path.read_text() == "old"


def test_what_threads_of_a_failed_writer_still_write_is_removed(tmp_path):
    def write_on(folder):
        for number in range(500):
            try:
                (folder / str(number)).write_text("late")
            except OSError:
                return  # the folder is gone

    def fail():
        with whole(tmp_path / "mask.zarr") as part:
            part.mkdir()
            writer = threading.Thread(target=write_on, args=(part,))
            writers.append(writer)
            writer.start()
            raise OSError(errno.ENOSPC, "No space left on device")

    writers = []
    for _ in range(5):
        with pytest.raises(OutputError, match="No space left"):
            fail()
        writers.pop().join()
        assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_and_neighbours_are_not(tmp_path):
    for leftover in ("mask.tif.part", "mask.tif.part.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "mask.tif.ovr.tmp").write_text("half")
    mine = ["mask.tif.aux.xml", "mask.tif.part1.zip", "mask.tif.parts.txt", "other_mask.tif.part"]
    for name in mine:
        (tmp_path / name).write_text(name)
    with whole(tmp_path / "mask.tif") as part:
        assert names(tmp_path) == sorted([*mine, "mask.tif.part"])
        assert list((tmp_path / "mask.tif.part").iterdir()) == []
        part.write_text("new")
    assert names(tmp_path) == ["mask.tif", *mine]
    assert [(tmp_path / name).read_text() for name in mine] == mine


def test_a_file_that_has_the_name_of_unfinished_outputs_is_not_removed(tmp_path):
    (tmp_path / "mask.tif.part").write_text("a download")
    refused = pytest.raises(OutputError, match=r"mask\.tif\.part is in the way.*move it")
    with refused, whole(tmp_path / "mask.tif"):
        pass
    assert names(tmp_path) == ["mask.tif.part"]
    assert (tmp_path / "mask.tif.part").read_text() == "a download"


def test_of_two_who_write_a_file_at_once_the_second_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tilingseg.atomic.PATIENCE_S", 0.2)
    path = tmp_path / "mask.tif"
    with whole(path) as part:
        part.write_text("first ")
        refused = pytest.raises(BusyError, match=r"another process is writing .*mask\.tif;")
        with refused, whole(path) as other:
            other.write_text("second")
        with part.open("a") as file:
            file.write("and whole")
    assert path.read_text() == "first and whole"
    assert names(tmp_path) == ["mask.tif"]


def test_many_who_write_a_small_file_wait_for_each_other(tmp_path):
    texts = [str(number) * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(tmp_path / "a.json", text), texts))
    assert (tmp_path / "a.json").read_text() in texts
    assert names(tmp_path) == ["a.json"]


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "mask.zarr"
    (path / "c").mkdir(parents=True)
    (path / "c" / "old").write_text("old")
    with whole(path) as part:
        (part / "c").mkdir(parents=True)
        (part / "c" / "new").write_text("new")
        assert (path / "c" / "old").exists()
    assert names(tmp_path) == ["mask.zarr"]
    assert names(path / "c") == ["new"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    path = tmp_path / "mask.zarr"
    path.mkdir()
    (path / "old").write_text("old")
    rename = type(path).rename

    def refuse(self, target):
        if self.parent.name == "mask.zarr.part":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", refuse)
    refused = pytest.raises(OutputError, match=r"cannot write .*mask\.zarr: Permission denied")
    with refused, whole(path) as part:
        part.mkdir()
    assert names(tmp_path) == ["mask.zarr"]
    assert names(path) == ["old"]


def test_a_missing_folder_is_named(tmp_path):
    refused = pytest.raises(OutputError, match=r"cannot write .*gone.*No such file")
    with refused, whole(tmp_path / "gone" / "mask.tif"):
        pass


def test_small_files_are_written_whole(tmp_path):
    write_whole(tmp_path / "a.json", "one")
    write_whole(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "missing" / "a.json", "three")
