import pytest

from tilingseg import memo


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_keeps_the_latest_entries_between_runs(home):
    for number in range(memo._MOST + 3):
        memo.remember("speeds", f"tile {number}", {"seconds": number})
    assert memo.recall("speeds", "tile 2") is None
    assert memo.recall("speeds", "tile 3") == {"seconds": 3}
    assert memo.recall("engines", "tile 3") is None


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_file_is_nothing_remembered(home, text):
    memo.remember("speeds", "a", 1)
    (home / ".cache/tilingseg/speeds.json").write_text(text)
    assert memo.recall("speeds", "a") is None
    memo.remember("speeds", "a", 2)
    assert memo.recall("speeds", "a") == 2


def test_a_folder_that_cannot_be_made_is_no_error(home):
    (home / ".cache").write_text("in the way")
    memo.remember("speeds", "a", 1)
    assert memo.recall("speeds", "a") is None
