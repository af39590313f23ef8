import json
import sys
from pathlib import Path

import pytest

from tilingseg.cluster.manifest import list_scenes
from tilingseg.errors import DependencyError, SceneError


@pytest.fixture
def files(tmp_path):
    for name in ("b.tif", "a.tif", "deep/c.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(*arguments, **more):
    return [entry.name for entry in list_scenes(map(str, arguments), **more)]


def uris(*arguments, **more):
    return [entry.uri for entry in list_scenes(map(str, arguments), **more)]


def item(name, assets, **more):
    return {"type": "Feature", "id": name, "assets": assets} | more


TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


class TestPaths:
    def test_keep_their_order_and_appear_once(self, files):
        assert names(files / "b.tif", files / "a.tif", files / "b.tif") == ["b", "a"]

    def test_that_differ_in_vowel_signs_have_names_that_do(self, files):
        assert names(files / "की.tif", files / "का+1.tif") == ["की", "का+1"]

    def test_patterns_are_sorted_and_may_go_deep(self, files):
        assert names(files / "*.tif") == ["a", "b"]
        assert names(files / "**" / "*.tif") == ["a", "b", "c"]

    def test_relative_paths_become_absolute_and_urls_stay(self, files, monkeypatch):
        monkeypatch.chdir(files)
        assert uris("a.tif") == [str(files / "a.tif")]
        assert uris("https://host/x/scene.tif?key=1") == ["https://host/x/scene.tif?key=1"]
        assert names("https://host/x/scene.tif?key=1.2") == ["scene"]
        assert uris("/vsizip/a.zip/b.tif") == ["/vsizip/a.zip/b.tif"]

    def test_names_that_gdal_understands_stay_such(self, files, monkeypatch):
        monkeypatch.chdir(files)
        assert uris("GTIFF_DIR:1:a.tif") == [f"GTIFF_DIR:1:{files}/a.tif"]

    def test_a_file_is_one_scene_however_it_is_named(self, files, monkeypatch):
        monkeypatch.chdir(files / "deep")
        (files / "deep" / "l.csv").write_text("uri\n../a.tif\n")
        spellings = (files / "a.tif", "../a.tif", "../deep/../a.tif", f"file://{files}/a.tif")
        assert uris(*spellings, files / "*a.tif", "l.csv") == [str(files / "a.tif")]

    def test_the_signature_of_a_url_makes_no_other_scene(self):
        one, other = (f"https://host/x.tif?id=7&sig={text}&se=2026" for text in ("abc", "xyz"))
        assert uris(one, other, "https://host/x.tif?id=8&sig=abc") == [
            one,
            "https://host/x.tif?id=8&sig=abc",
        ]

    def test_a_zarr_folder_is_a_scene_and_another_folder_is_not(self, files):
        (files / "z.zarr").mkdir()
        (files / "z.zarr" / "zarr.json").touch()
        assert names(files / "z.zarr") == ["z"]
        with pytest.raises(SceneError, match=r"deep is a folder; name its scenes, as '.*/\*\.tif'"):
            names(files / "deep")

    def test_a_pattern_that_matches_nothing_is_refused(self, files):
        with pytest.raises(SceneError, match="no file matches"):
            names(files / "*.jp2")


class TestLists:
    def test_text_has_one_scene_a_line(self, files):
        (files / "l.txt").write_text("# mine\na.tif\n\n  deep/c.tif \ns3://bucket/d.tif\n")
        expected = [str(files / "a.tif"), str(files / "deep/c.tif"), "s3://bucket/d.tif"]
        assert uris(files / "l.txt") == expected

    @pytest.mark.parametrize("column", ["uri", "path", "Href"])
    def test_csv_has_a_column(self, files, column):
        (files / "l.csv").write_text(f"date,{column}\n1,a.tif\n2,b.tif\n", encoding="utf-8-sig")
        assert names(files / "l.csv") == ["a", "b"]

    def test_spaces_and_lines_inside_cells_of_csv_are_no_part_of_a_path(self, files, monkeypatch):
        rows = 'note,uri\n"two\nlines", a.tif \n1,\n2,  \n3,~/b.tif\n'
        (files / "l.csv").write_text(rows)
        monkeypatch.setenv("HOME", str(files))
        assert uris(files / "l.csv") == [str(files / "a.tif"), str(files / "b.tif")]

    def test_a_cell_too_long_for_csv_is_refused(self, files):
        (files / "l.csv").write_text(f"wkt,uri\n{'9' * 200_000},a.tif\n")
        with pytest.raises(SceneError, match="no readable CSV file: field larger"):
            names(files / "l.csv")

    @pytest.mark.parametrize("text", ["", "date,file\n1,a.tif\n"])
    def test_csv_without_the_column_is_refused(self, files, text):
        (files / "l.csv").write_text(text)
        with pytest.raises(SceneError, match="has no column uri, path"):
            names(files / "l.csv")

    def test_parquet_has_a_column(self, files):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"uri": ["a.tif", None, "b.tif"]}), files / "l.parquet")
        assert names(files / "l.parquet") == ["a", "b"]
        (files / "bad.parquet").write_text("no table")
        with pytest.raises(SceneError, match="no readable Parquet file"):
            names(files / "bad.parquet")

    def test_parquet_without_pyarrow_names_the_extra(self, files, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DependencyError, match=r"tilingseg\[parquet\]"):
            names(files / "l.parquet")

    def test_an_empty_or_missing_list_is_refused(self, files):
        (files / "l.txt").write_text("# nothing\n")
        with pytest.raises(SceneError, match="names no scene"):
            names(files / "l.txt")
        with pytest.raises(SceneError, match="cannot be read: No such file"):
            names(files / "missing.txt")


class TestStac:
    def test_an_item_collection_gives_one_scene_an_item(self, files):
        items = [
            item("one", {"visual": {"href": "a.tif", "type": TIFF}, "b4": {"type": TIFF}}),
            item("two", {"data": {"href": "b.tif"}}),
            item(
                "three",
                {
                    "image": {"href": "https://host/c.tif", "type": TIFF},
                    "thumb": {"href": "t.tif", "type": TIFF, "roles": ["thumbnail"]},
                },
            ),
        ]
        raw = {"type": "FeatureCollection", "features": items}
        (files / "items.json").write_text(json.dumps(raw))
        assert names(files / "items.json") == ["one", "two", "three"]
        found = uris(files / "items.json")
        assert found == [str(files / "a.tif"), str(files / "b.tif"), "https://host/c.tif"]

    def test_a_catalogue_is_followed_to_its_items(self, files):
        root = {"type": "Catalog", "links": [{"rel": "child", "href": "./deep/col.json"}]}
        links = [{"rel": "item", "href": "i.json"}, {"rel": "parent", "href": "../cat.json"}]
        (files / "cat.json").write_text(json.dumps(root))
        (files / "deep" / "col.json").write_text(json.dumps({"type": "Collection", "links": links}))
        (files / "deep" / "i.json").write_text(
            json.dumps(item("it", {"x": {"href": "./c.tif", "type": TIFF}}))
        )
        (entry,) = list_scenes([str(files / "cat.json")])
        assert entry.name == "it"
        assert Path(entry.uri).resolve() == (files / "deep" / "c.tif").resolve()

    def test_a_choice_between_assets_is_the_users(self, files):
        assets = {key: {"href": f"{key}.tif", "type": TIFF} for key in ("red", "nir")}
        (files / "i.json").write_text(json.dumps(item("it", assets)))
        with pytest.raises(SceneError, match="item 'it' has the assets red, nir; choose one with"):
            names(files / "i.json")
        assert uris(files / "i.json", asset="nir") == [str(files / "nir.tif")]

    @pytest.mark.parametrize(
        ("assets", "message"),
        [
            ({"x": None}, "item 'it' has the assets none"),
            ({"x": {"type": TIFF}}, "asset 'x' of item 'it' has no href"),
            ({"x": {"type": TIFF, "href": None, "roles": None}}, "has no href"),
            ({"x": {"type": TIFF, "href": " "}}, "has no href"),
        ],
    )
    def test_assets_that_name_no_scene_are_refused(self, files, assets, message):
        (files / "i.json").write_text(json.dumps(item("it", assets)))
        with pytest.raises(SceneError, match=message):
            names(files / "i.json")

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"type": "Topology"}',
            '{"type": "FeatureCollection", "features": [{}]}',
            '{"type": "FeatureCollection", "features": ["a"]}',
            '{"type": "FeatureCollection", "features": null}',
            '{"type": "Catalog", "links": null}',
            '{"type": "Catalog", "links": ["i.json"]}',
        ],
    )
    def test_what_is_no_stac_is_refused(self, files, text):
        (files / "i.json").write_text(text)
        with pytest.raises(SceneError, match=r"i\.json"):
            names(files / "i.json")
