import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tilingseg.atomic import write_whole
from tilingseg.errors import DependencyError, OutputError
from tilingseg.places import (
    absolute,
    is_remote,
    move,
    place,
    plain_name,
    refusals,
    remove,
    safe_name,
    unsigned,
    upload,
)


def files_under(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_paths_stay_paths():
    assert place("a/b") == Path("a/b")
    assert place("file:///a/b") == Path("/a/b")
    assert place(Path("/a")) == Path("/a")
    assert not is_remote(place("a/b"))


def test_a_path_has_one_spelling(tmp_path):
    (tmp_path / "deep").mkdir()
    for text in (
        "a.tif",
        "./a.tif",
        "deep/../a.tif",
        "deep//..//a.tif",
        f"file://{tmp_path}/a.tif",
    ):
        assert absolute(text, tmp_path) == str(tmp_path / "a.tif")
    (tmp_path / "else" / "where").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "else" / "where")
    assert Path(absolute("link/../a.tif", tmp_path)).resolve() == tmp_path / "else" / "a.tif"
    for text in ("s3://b/../a.tif", "/vsizip/a.zip/../b.tif", "https://h/a.tif"):
        assert absolute(text, tmp_path) == text


def test_names_that_gdal_understands_have_one_spelling_of_their_file(tmp_path):
    for name in ("a.tif", "b.nc", "deep/c.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for text, there in (
        ("GTIFF_DIR:2:./a.tif", "GTIFF_DIR:2:{}/a.tif"),
        ("DERIVED_SUBDATASET:AMPLITUDE:a.tif", "DERIVED_SUBDATASET:AMPLITUDE:{}/a.tif"),
        ('NETCDF:"b.nc":t', 'NETCDF:"{}/b.nc":t'),
        ('HDF5:"deep/../deep/c.h5"://band', 'HDF5:"{}/deep/c.h5"://band'),
    ):
        spelled = there.format(tmp_path)
        assert absolute(text, tmp_path) == spelled
        assert absolute(spelled, Path("/")) == spelled
        assert absolute(text, tmp_path / "deep") == text, "no such file is there"
    (tmp_path / "GTIFF_DIR:1:a.tif").touch()
    assert absolute("GTIFF_DIR:1:a.tif", tmp_path) == str(tmp_path / "GTIFF_DIR:1:a.tif")
    for text in ("gs://b/1:a.tif", "vrt://a.tif?bands=1", "simplecache::s3://b/a.tif"):
        assert absolute(text, tmp_path) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("building", "building"),
        ("forest/wood", "forest_wood"),
        ("../a: b?", "a_b"),
        ("Straße", "Straße"),
        ("u\N{COMBINING DIAERESIS}", "ü"),
        ("*", "class"),
        ("काठमांडू", "काठमांडू"),
        ("กรุงเทพ 2", "กรุงเทพ_2"),
        ("a \N{COMBINING DIAERESIS}b", "a_b"),
        ("\N{HOUSE BUILDING}\N{VARIATION SELECTOR-16}", "class"),
    ],
)
def test_any_text_becomes_a_name_for_files(text, plain):
    assert plain_name(text, "class") == plain


@given(st.text())
def test_names_without_marks_are_as_they_were(text):
    assume(not any(unicodedata.category(char)[0] == "M" for char in text))
    assert safe_name(text) == re.sub(r"[^\w.-]+", "_", text)
    assert safe_name(text, "+") == re.sub(r"[^\w.\-+]+", "_", text)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://h/a.tif?sv=1&se=2&sig=x%3D", "https://h/a.tif"),
        ("https://h/a.tif?X-Amz-Date=1&id=3&X-Amz-Signature=2", "https://h/a.tif?id=3"),
        ("https://h/get?size=3&id=4", "https://h/get?size=3&id=4"),
        ("/a?sig=1.tif", "/a?sig=1.tif"),
        ("s3://b/a.tif", "s3://b/a.tif"),
    ],
)
def test_signatures_are_no_part_of_a_url(url, plain):
    assert unsigned(url) == plain


def test_an_unknown_kind_of_store_is_named():
    pytest.importorskip("upath", reason="needs the extra [remote]")
    with pytest.raises(DependencyError, match=r"foo://x cannot be reached.*tilingseg\[remote\]"):
        place("foo://x")


def test_small_files_appear_whole_on_both(folder_of_outputs):
    write_whole(folder_of_outputs / "a.json", "ä")
    assert (folder_of_outputs / "a.json").read_text(encoding="utf-8") == "ä"
    remove(folder_of_outputs / "a.json")
    remove(folder_of_outputs / "a.json")
    assert not (folder_of_outputs / "a.json").exists()


@pytest.fixture
def prefix(object_store, request):
    return place(f"{object_store}/{request.node.name}")


class TestObjectStore:
    def test_copies_files_and_folders(self, tmp_path, prefix):
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "a.tif").write_bytes(b"1")
        (tmp_path / "deep" / "er" / "b").write_bytes(b"2")
        upload([tmp_path / "a.tif", tmp_path / "deep"], prefix)
        assert files_under(prefix) == {"a.tif": b"1", "deep/er/b": b"2"}

    def test_moves_one_object_and_not_those_whose_names_go_on(self, prefix):
        for name in ("a.tif", "a.tif.aux.xml"):
            write_whole(prefix / "from" / name, name)
        write_whole(prefix / "a.tif", "old")
        move(prefix / "from" / "a.tif", prefix / "a.tif")
        assert files_under(prefix) == {
            "a.tif": b"a.tif",
            "from/a.tif.aux.xml": b"a.tif.aux.xml",
        }

    def test_a_folder_that_is_replaced_leaves_nothing(self, prefix):
        for name in ("new.zarr/c/0", "new.zarr/c/1", "old.zarr/c/1", "old.zarr/c/2"):
            write_whole(prefix / name, name)
        move(prefix / "new.zarr", prefix / "old.zarr")
        assert files_under(prefix) == {
            "old.zarr/c/0": b"new.zarr/c/0",
            "old.zarr/c/1": b"new.zarr/c/1",
        }

    def test_a_bucket_that_is_not_there_is_named(self, object_store):
        with pytest.raises(OutputError, match=r"cannot write s3://missing/a: .*does not exist"):
            write_whole(place("s3://missing/a"), "")

    def test_credentials_that_are_missing_are_a_refusal(self):
        botocore = pytest.importorskip("botocore.exceptions", reason="needs the extra [remote]")
        assert isinstance(botocore.NoCredentialsError(), refusals())
