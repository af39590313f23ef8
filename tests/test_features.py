import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from tests.full_disk import files_up_to
from tests.rfc7946 import problems
from tilingseg.errors import DependencyError, OutputError, SceneError
from tilingseg.features import SUFFIXES, Layer, write_features, write_style
from tilingseg.features.measure import BATCH
from tilingseg.records import Feature, Georef

UTM = Georef(crs="EPSG:32633", transform=(0.5, 0, 500_000, 0, -0.5, 5_000_000), pixel_m=(0.5, 0.5))
PIXELS = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
TABLES = (".gpkg", ".fgb", ".parquet")


def layer(georef=UTM, **members):
    return Layer(name="scene_building", georef=georef, **members)


def feature(polygon, confidence=0.75, **properties):
    return Feature(
        class_name="building",
        geometry=polygon,
        confidence=confidence,
        properties=tuple(properties.items()),
    )


def boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 10_000, (count, 2))
    sizes = rng.integers(1, 60, (count, 2))
    return [
        feature(shapely.box(x, y, x + w, y + h), confidence=float(value))
        for (x, y), (w, h), value in zip(corners, sizes, rng.random(count), strict=True)
    ]


def read(path):
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return geopandas.read_file(path)


def indexed(path):
    """Count the features in the spatial index of a GeoPackage."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute('SELECT count(*) FROM "rtree_scene_building_geom"').fetchone()[0]


class TestEveryFormat:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_features_come_back_in_place(self, tmp_path, suffix):
        features = boxes(50)
        path = tmp_path / f"scene{suffix}"
        assert write_features(iter(features), path, layer()).n_features == 50
        frame = read(path).sort_values("id")
        assert frame.crs == ("EPSG:4326" if "json" in suffix else "EPSG:32633")
        assert frame["id"].tolist() == list(range(1, 51))
        assert set(frame["class"]) == {"building"}
        expected = [
            shapely.affinity.affine_transform(one.geometry, (0.5, 0, 0, -0.5, 500_000, 5_000_000))
            for one in features
        ]
        found = frame.to_crs("EPSG:32633").geometry
        assert shapely.hausdorff_distance(found.to_numpy(), np.array(expected)).max() < 0.02
        assert np.allclose(frame["confidence"], [one.confidence for one in features], atol=5e-5)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_an_object_keeps_its_uid_whatever_else_is_found(self, tmp_path, suffix):
        path, few, features = tmp_path / f"all{suffix}", tmp_path / f"few{suffix}", boxes(50)
        write_features(features, path, layer())
        write_features(features[10:], few, layer())
        all_of_them, some = (read(one).sort_values("id") for one in (path, few))
        assert all_of_them["uid"].nunique() == 50
        assert some["uid"].tolist() == all_of_them["uid"].tolist()[10:]
        assert set(map(len, some["uid"])) == {16}

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_more_features_than_a_batch(self, tmp_path, suffix):
        path = tmp_path / f"scene{suffix}"
        count = 2 * BATCH + 7
        assert write_features(boxes(count), path, layer()).n_features == count
        assert sorted(read(path)["id"]) == list(range(1, count + 1))

    @pytest.mark.parametrize("georef", [UTM, PIXELS])
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_the_same_features_give_the_same_bytes(self, tmp_path, suffix, georef):
        texts = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            path = tmp_path / name / f"scene{suffix}"
            write_features(boxes(20), path, layer(georef))
            texts.append(path.read_bytes())
        assert texts[0] == texts[1]

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("georef", [UTM, PIXELS])
    def test_an_empty_layer_is_a_file_that_can_be_read(self, tmp_path, suffix, georef):
        path = tmp_path / f"scene{suffix}"
        assert write_features([], path, layer(georef)).n_features == 0
        frame = read(path)
        assert len(frame) == 0
        if suffix in TABLES:
            measures = ["area_m2", "perimeter_m"] if georef is UTM else ["area_px", "perimeter_px"]
            columns = ["id", "class", "uid", *measures, "confidence", "geometry"]
            assert frame.columns.tolist() == columns
            assert frame.crs == georef.crs

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_further_attributes_keep_their_types(self, tmp_path, suffix):
        features = [
            feature(shapely.box(0, 0, 9, 9), confidence=None, width_m=2.5, n_lanes=2, kind="a"),
            feature(shapely.box(20, 0, 29, 9), width_m=None, n_lanes=3, kind=None),
        ]
        path = tmp_path / f"scene{suffix}"
        write_features(features, path, layer())
        frame = read(path).sort_values("id")
        assert frame["n_lanes"].tolist() == [2, 3]
        assert pd.api.types.is_integer_dtype(frame["n_lanes"])
        assert frame["width_m"].isna().tolist() == [False, True]
        assert frame["confidence"].isna().tolist() == [True, False]
        assert frame["kind"].iloc[0] == "a"
        assert pd.isna(frame["kind"].iloc[1])

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_lines_have_a_length(self, tmp_path, suffix):
        road = feature(shapely.LineString([(0, 0), (30, 40)]), width_m=4.0)
        path = tmp_path / f"scene{suffix}"
        write_features([road], path, layer(geometry_type="LineString"))
        row = read(path).iloc[0]
        assert row.geometry.geom_type == "LineString"
        assert row["length_m"] == pytest.approx(25, rel=1e-3)
        assert "area_m2" not in row
        assert row["width_m"] == 4


class TestAtomicWriting:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_an_error_while_features_are_made_leaves_the_old_file_alone(self, tmp_path, suffix):
        def failing():
            yield from boxes(BATCH + 1)
            raise SceneError("block 7 is damaged")

        path = tmp_path / f"scene{suffix}"
        path.write_bytes(b"old")
        with pytest.raises(SceneError, match="block 7"):
            write_features(failing(), path, layer())
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_an_old_file_is_replaced_and_nothing_else_is_left(self, tmp_path, suffix):
        path = tmp_path / f"scene{suffix}"
        path.write_bytes(b"old")
        write_features(boxes(3), path, layer())
        assert len(read(path)) == 3
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_folder_that_is_not_there_is_said(self, tmp_path, suffix):
        with pytest.raises(OutputError, match="cannot write"):
            write_features(boxes(1), tmp_path / "no" / f"scene{suffix}", layer())

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("limit", [0, 60_000, 110_000, 160_000, 250_000, 400_000])
    def test_a_full_disk_is_said_or_the_file_is_whole(self, tmp_path, suffix, limit):
        path = tmp_path / f"scene{suffix}"
        try:
            with files_up_to(limit):
                write_features(boxes(1500), path, layer())
        except OutputError:
            assert list(tmp_path.iterdir()) == []
        else:
            assert len(read(path)) == 1500
            assert path.suffix != ".gpkg" or indexed(path) == 1500

    def test_an_unknown_suffix_is_refused_with_the_known_ones(self, tmp_path):
        with pytest.raises(OutputError, match=r"\.shp.*none of \.geojson"):
            write_features([], tmp_path / "scene.shp", layer())

    def test_parquet_without_pyarrow_names_the_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DependencyError, match=r"tilingseg\[parquet\]"):
            write_features(boxes(1), tmp_path / "scene.parquet", layer())
        assert list(tmp_path.iterdir()) == []


class TestGeoPackage:
    def test_it_has_a_spatial_index_and_the_name_of_the_layer(self, tmp_path):
        path = tmp_path / "scene.gpkg"
        write_features(boxes(5), path, layer())
        assert pyogrio.list_layers(path).tolist() == [["scene_building", "Polygon"]]
        assert indexed(path) == 5

    @pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="needs ogrinfo of gdal-bin")
    @pytest.mark.parametrize("suffix", [".geojson", ".geojsonl", ".gpkg", ".fgb"])
    def test_gdal_reads_it_without_a_word(self, tmp_path, suffix):
        path = tmp_path / f"scene{suffix}"
        write_features(boxes(5), path, layer())
        command = ["ogrinfo", "-ro", "-al", "-so", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Feature Count: 5" in result.stdout
        assert "Geometry: Polygon" in result.stdout
        assert result.stderr == ""

    @pytest.mark.parametrize("name", ["gpkg_lake", "GPKG_lake", "sqlite_lake"])
    def test_names_that_are_reserved_inside_it(self, tmp_path, name):
        path = tmp_path / f"{name}.gpkg"
        write_features(boxes(5), path, Layer(name=name, georef=UTM))
        assert pyogrio.list_layers(path).tolist() == [[f"layer_{name}", "Polygon"]]
        assert len(read(path)) == 5


class TestFlatGeobuf:
    def test_a_layer_too_large_for_memory_gives_the_same_file(self, tmp_path, monkeypatch):
        paths = [tmp_path / f"{name}.fgb" for name in ("at_once", "in_parts")]
        write_features(boxes(BATCH + 200), paths[0], layer())
        monkeypatch.setattr("tilingseg.features.tables._HELD_CORNERS", 100)
        write_features(boxes(BATCH + 200), paths[1], layer())
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("n_missing", [1, 100, 5000])
    def test_a_disk_that_is_full_at_the_very_end_is_said(self, tmp_path, n_missing):
        path = tmp_path / "scene.fgb"
        write_features(boxes(1500), path, layer())
        with (
            pytest.raises(OutputError, match="cannot write"),
            files_up_to(path.stat().st_size - n_missing),
        ):
            write_features(boxes(1500), path, layer())


class TestGeoParquet:
    def test_the_metadata_follow_version_1_1(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "scene.parquet"
        write_features(boxes(30), path, layer())
        geo = json.loads(parquet.read_metadata(path).metadata[b"geo"])
        column = geo["columns"]["geometry"]
        assert geo["version"] == "1.1.0"
        assert column["encoding"] == "WKB"
        assert column["geometry_types"] == ["Polygon"]
        assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
        assert np.allclose(column["bbox"], geopandas.read_parquet(path).total_bounds)

    @pytest.mark.parametrize(
        ("name", "geometry"),
        [
            ("LineString", shapely.LineString([(0, 0), (9, 9)])),
            ("MultiPolygon", shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])),
        ],
    )
    def test_types_are_spelt_as_the_format_has_them(self, tmp_path, name, geometry):
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "scene.parquet"
        write_features([feature(geometry)], path, layer(geometry_type=name))
        geo = json.loads(parquet.read_metadata(path).metadata[b"geo"])
        assert geo["columns"]["geometry"]["geometry_types"] == [name]

    def test_the_bounding_boxes_select_rows(self, tmp_path):
        path = tmp_path / "scene.parquet"
        write_features(boxes(300), path, layer())
        whole = geopandas.read_parquet(path)
        window = (500_000, 4_999_000, 501_000, 5_000_000)
        part = geopandas.read_parquet(path, bbox=window)
        assert sorted(part["id"]) == sorted(whole[whole.intersects(shapely.box(*window))]["id"])


class TestGeoJson:
    def test_the_text_follows_rfc_7946(self, tmp_path):
        path = tmp_path / "scene.geojson"
        ring = shapely.box(10, 10, 60, 60) - shapely.box(20, 20, 30, 30)
        write_features([feature(ring), *boxes(100)], path, layer())
        assert problems(path.read_text()) == []

    def test_a_sequence_holds_the_same_features(self, tmp_path):
        write_features(boxes(20), tmp_path / "scene.geojson", layer())
        write_features(boxes(20), tmp_path / "scene.geojsonl", layer())
        lines = (tmp_path / "scene.geojsonl").read_text().splitlines()
        whole = json.loads((tmp_path / "scene.geojson").read_text())
        assert [json.loads(line) for line in lines] == whole["features"]

    def test_ids_and_attributes_are_stable(self, tmp_path):
        path = tmp_path / "scene.geojson"
        write_features([feature(shapely.box(0, 0, 20, 10), 0.5)], path, layer())
        (found,) = json.loads(path.read_text())["features"]
        assert found["id"] == found["properties"]["id"] == 1
        assert list(found["properties"]) == [
            *("id", "class", "uid", "area_m2", "perimeter_m", "confidence")
        ]

    def test_letters_of_all_scripts_stay_readable(self, tmp_path):
        path = tmp_path / "scene.geojson"
        write_features([feature(shapely.box(0, 0, 2, 1), name="Straße 道")], path, layer())
        assert "Straße 道" in path.read_text(encoding="utf-8")


class TestQuPath:
    def written(self, tmp_path, features, georef=PIXELS):
        path = tmp_path / "slide.geojson"
        write_features(features, path, layer(georef, color=(1, 2, 3)))
        return json.loads(path.read_text())["features"]

    def test_objects_have_the_members_that_qupath_reads(self, tmp_path):
        (found,) = self.written(tmp_path, [feature(shapely.box(3, 4, 13, 9), 0.5, kind="a")])
        assert found["geometry"]["coordinates"][0][0] in ([3, 4], [3, 9], [13, 4], [13, 9])
        assert found["properties"] == {
            "objectType": "detection",
            "classification": {"name": "building", "color": [1, 2, 3]},
            "measurements": {"area_px": 50, "perimeter_px": 30, "confidence": 0.5},
            "kind": "a",
        }

    def test_ids_are_uuids_of_the_content(self, tmp_path):
        both = self.written(tmp_path, boxes(2))
        (second,) = self.written(tmp_path, boxes(2)[1:])
        assert [len(one["id"]) for one in both] == [36, 36]
        assert both[0]["id"] != both[1]["id"] == second["id"]

    def test_coordinates_are_full_resolution_pixels(self, tmp_path):
        grid = (4, 0, 0, 0, 4, 0)
        resampled = Georef(crs=None, transform=grid, pixel_m=(1e-6, 1e-6), in_file=grid)
        (found,) = self.written(tmp_path, [feature(shapely.box(1, 2, 3, 5))], resampled)
        assert shapely.geometry.shape(found["geometry"]).bounds == (4, 8, 12, 20)
        assert found["properties"]["measurements"] == {
            "area_px": 96,
            "perimeter_px": 40,
            "area_um2": 6,
            "perimeter_um": 10,
            "confidence": 0.75,
        }

    def test_metres_are_given_where_a_pixel_is_no_micrometre(self, tmp_path):
        photo = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(0.5, 0.25))
        (found,) = self.written(tmp_path, [feature(shapely.box(0, 0, 4, 8))], photo)
        assert found["properties"]["measurements"]["area_m2"] == 4
        assert found["properties"]["measurements"]["perimeter_m"] == 8

    def test_a_world_file_without_a_crs_leaves_pixels(self, tmp_path):
        georef = Georef(crs=None, transform=(0.5, 0, 1000, 0, -0.5, 2000), pixel_m=None)
        (found,) = self.written(tmp_path, [feature(shapely.box(1, 2, 3, 5))], georef)
        assert shapely.geometry.shape(found["geometry"]).bounds == (1, 2, 3, 5)

    def test_unknown_numbers_are_left_out(self, tmp_path):
        (found,) = self.written(tmp_path, [feature(shapely.box(0, 0, 1, 1), None)])
        assert "confidence" not in found["properties"]["measurements"]


class TestStyle:
    @pytest.mark.parametrize(
        ("geometry_type", "symbol"), [("Polygon", "SimpleFill"), ("LineString", "SimpleLine")]
    )
    def test_it_is_xml_with_the_colour_of_the_class(self, tmp_path, geometry_type, symbol):
        path = tmp_path / "scene.qml"
        write_style(path, layer(geometry_type=geometry_type, color=(12, 34, 56)))
        root = ElementTree.fromstring(path.read_text())
        (drawn,) = root.iter("layer")
        assert drawn.get("class") == symbol
        assert any("12,34,56," in option.get("value", "") for option in root.iter("Option"))
        assert [entry.name for entry in tmp_path.iterdir()] == ["scene.qml"]
