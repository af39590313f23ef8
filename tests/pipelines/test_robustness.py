"""A model is measured under other pixel sizes and colours, and the changes are what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.robustness import changes, main
from tests.makers import SPEC, make_model, make_noise_job
from tilingseg.training.recipe import read_recipe
from tilingseg.training.samples import unit_values
from tilingseg.training.sources import load_sources


@pytest.fixture
def raster(tmp_path):
    recipe = read_recipe(make_noise_job(tmp_path))
    (raster,) = load_sources(recipe, tmp_path, "validation")
    return raster


def values(raster):
    return unit_values(raster, slice(None), slice(None))


def test_every_change_has_a_row(tmp_path):
    recipe = make_noise_job(tmp_path)
    spec = dataclasses.replace(SPEC, classes=("building",), thresholds=(0.5,), gsd_m=1.0)
    model = make_model(tmp_path / "tiny.safetensors", spec)
    arguments = [str(model), str(recipe), "--data", str(tmp_path), "--rasters", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == ["imagery", *changes(3)]
    found = {row[0].strip("| "): float(row[1].strip("| ")) for row in rows[1:]}
    # pixels of 1 m are those of a sensor of 0.7 and of 1 m
    assert found["as it is"] == found["from a sensor of 0.7 m"] == found["from a sensor of 1 m"]
    assert len(set(found.values())) > 3


def test_other_classes_are_refused(tmp_path):
    recipe, model = make_noise_job(tmp_path), make_model(tmp_path / "tiny.safetensors")
    result = CliRunner().invoke(main, [str(model), str(recipe), "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "the recipe's classes are building, the model's building, road" in result.stderr


def test_looks_are_what_they_say(raster):
    before, rows = values(raster), changes(3)
    assert np.allclose(values(rows["gamma 1.4"](raster)), before**1.4)
    assert np.allclose(values(rows["darker, 0.7 ×"](raster)), before * 0.7)
    grey = values(rows["without colour"](raster))
    assert np.allclose(grey, before.mean(axis=0))
    assert np.allclose(values(rows["last bands stronger"](raster))[0], before[0] * 0.9)


def test_a_coarser_sensor_sees_means(raster):
    fine = dataclasses.replace(raster, gsd_m=0.5)
    before, seen = values(fine), values(changes(3)["from a sensor of 1 m"](fine))
    assert seen.shape == before.shape
    assert seen.std() < 0.6 * before.std()
    assert seen.mean() == pytest.approx(before.mean(), abs=0.01)


def test_what_is_magnified_is_the_same_picture(raster):
    larger = changes(3)["everything 1.4 × larger"](raster)
    assert larger.gsd_m == pytest.approx(1.4 * raster.gsd_m)
    assert np.array_equal(values(larger), values(raster))
