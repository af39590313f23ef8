"""The bench of building footprints runs, and its figures hold in the small."""

import importlib.util

import pytest

from tests.bench import bench_buildings
from tests.bench.building_scenes import draw, lay_out, observe


@pytest.fixture(scope="module")
def table():
    truth = draw(0, 10)
    return bench_buildings.kinds_table(truth, observe(truth, 0), others=False)


def test_no_kind_falls_below_its_traced_outline(table):
    for row in table:
        assert row["exact: footprint"] >= row["exact: traced"] - 0.002, row
        assert row["footprint"] >= row["traced"] - 0.002, row
        assert row["footprint, probability"] >= row["traced"] - 0.002, row


def test_footprints_beat_traced_outlines_in_the_mean(table):
    traced = sum(row["traced"] for row in table)
    assert sum(row["footprint"] for row in table) > traced + 0.015 * len(table)


def test_rows_of_touching_houses_are_told_apart():
    row = bench_buildings.rows_of_houses(3, 8)
    assert row["F1"] >= 0.9
    assert row["invalid"] == row["overlaps"] == 0


def test_tables_are_printed(table, capsys):
    bench_buildings.print_table(table)
    assert capsys.readouterr().out.startswith("| kind | n | traced |")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--real", "FOLDER"], "there is no GeoJSON file in it"),
        (["--others"], "--others needs: pip install buildingregulariser"),
    ],
)
def test_what_is_missing_for_a_table_is_told_at_once(capsys, monkeypatch, tmp_path, flags, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as leaving:
        bench_buildings.main([flag.replace("FOLDER", str(tmp_path)) for flag in flags])
    assert leaving.value.code == 2
    assert words in capsys.readouterr().err


def test_layouts_leave_out_what_overlaps():
    polygons = draw(4, 1).polygons
    truth = lay_out([*polygons, polygons[0]])
    assert len(truth.polygons) == len(polygons)
    assert min(p.bounds[0] for p in truth.polygons) == pytest.approx(20)
