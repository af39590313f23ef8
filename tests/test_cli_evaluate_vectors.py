"""`tilingseg evaluate-vectors` against figures worked out by hand."""

import json

import geopandas
import pytest
from click.testing import CliRunner
from shapely import affinity
from shapely.geometry import LineString, box

from tilingseg.cli.evaluate_vectors import evaluate_vectors
from tilingseg.errors import EvaluationError
from tilingseg.features import SUFFIXES, Layer, write_features
from tilingseg.records import Georef

CRS = "EPSG:32633"
X, Y = 500_000, 5_000_000
SCENE = Georef(crs=CRS, transform=(1, 0, X, 0, -1, Y), pixel_m=(1, 1))


def write(path, geometries, to=CRS, **columns):
    placed = [affinity.translate(geometry, X, Y) for geometry in geometries]
    geopandas.GeoDataFrame(columns, geometry=placed, crs=CRS).to_crs(to).to_file(path)
    return path


def call(*arguments):
    done = CliRunner().invoke(evaluate_vectors, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def houses(tmp_path):
    """Three true houses, one of them moved by a metre, one missed, one in two halves."""
    true = [box(0, 0, 10, 10), box(30, 0, 40, 10), box(60, 0, 70, 10)]
    halves = [box(60, 0, 66, 10), box(66, 0, 70, 10)]
    truth = write(tmp_path / "truth.gpkg", true)
    found = write(
        tmp_path / "found.geojson",
        [box(1, 0, 11, 10), *halves],
        to="EPSG:4326",
        confidence=[3, 2, 1],
    )
    return truth, found


def test_footprints_as_json(houses):
    values = json.loads(call(*houses, "--json"))
    assert values["kind"] == "polygons"
    assert values["unit"] == "m"
    assert values["truth"]["n"] == values["found"]["n"] == 3
    assert (values["truth"]["crs"], values["found"]["crs"]) == (CRS, "EPSG:4326")
    scores = values["scores"]
    assert scores["n_matched"] == 2
    assert scores["precision"] == scores["recall"] == scores["f1"] == pytest.approx(2 / 3)
    assert scores["iou"] == pytest.approx((9 / 11 + 0.6) / 2, abs=1e-4)
    assert scores["polis_m"] == pytest.approx((0.5 + 1.0) / 2, abs=1e-2)
    assert scores["hausdorff_m"] == pytest.approx((1 + 4) / 2, abs=1e-2)
    assert scores["rotation_deg"] == pytest.approx(0, abs=1e-2)
    assert scores["vertex_ratio"] == 1
    assert (scores["n_split"], scores["n_merged"]) == (1, 0)
    # the two best of three are right: 67 of 101 recalls at a precision of 1
    assert scores["ap50"] == pytest.approx(67 / 101)


def test_footprints_as_a_table(houses):
    lines = call(*houses).splitlines()
    assert lines[0].startswith("truth ")
    assert lines[0].endswith("truth.gpkg: 3 polygons, EPSG:32633")
    assert lines[1].endswith("found.geojson: 3 polygons, EPSG:4326")
    table = {line[:16].strip(): line[16:].strip() for line in lines}
    assert table["F1"] == "0.6667"
    assert table["split"] == "1"
    assert table["Hausdorff, m"].startswith("2.50")


def test_roads(tmp_path):
    cross = [
        *(LineString([(0, 0), (100, 0)]), LineString([(100, 0), (200, 0)])),
        LineString([(100, 0), (100, 100)]),
    ]
    truth = write(tmp_path / "truth.gpkg", cross)
    found = write(
        tmp_path / "found.fgb",
        [LineString([(0, 1), (100, 1), (200, 1)]), LineString([(150, 20), (150, 70)])],
    )
    scores = json.loads(call(truth, found, "--json"))["scores"]
    assert scores["truth_m"] == pytest.approx(300.1, abs=0.1)
    assert scores["completeness"] == pytest.approx(203.8 / 300, abs=0.01)
    assert scores["correctness"] == pytest.approx(200 / 250, abs=0.001)
    assert 0 < scores["apls"] < 0.9
    narrow = json.loads(call(truth, found, "--json", "--buffer", "0.5"))["scores"]
    assert narrow["correctness"] < 0.01
    table = {line[:16].strip(): line[16:].strip() for line in call(truth, found).splitlines()}
    assert table["correctness"] == "0.8000"
    assert table["buffer, m"] == "3.0000"
    assert "APLS" in table


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_found_is_a_result(tmp_path, houses, suffix):
    empty = tmp_path / f"empty{suffix}"
    write_features([], empty, Layer(name="empty", georef=SCENE))
    scores = json.loads(call(houses[0], empty, "--json"))["scores"]
    assert (scores["recall"], scores["f1"], scores["precision"]) == (0, 0, None)
    assert scores["ap"] == 0
    assert "precision        –" in call(houses[0], empty)


def test_bad_input_is_one_line(tmp_path, houses):
    with pytest.raises(EvaluationError, match="cannot read vectors") as caught:
        call(houses[0], tmp_path / "none.geojson")
    assert "\n" not in str(caught.value)
