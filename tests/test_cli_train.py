"""Labels and recipes that nothing can be learnt from are one line on the command line, each."""

from __future__ import annotations

import csv

import geopandas
import numpy as np
import pytest
import torch
from shapely import box

from tests.full_disk import full_disk
from tests.makers import make_geotiff, make_noise_job
from tilingseg.training.checkpoint import CHECKPOINT

BY_MASK = '{ name = "building", values = [1] }'
BY_VECTORS = '{ name = "building", vectors = "labels.gpkg" }'


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path):
    return make_noise_job(tmp_path)


def edit(recipe, *changes):
    text = recipe.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text, "utf-8")


def make_labels(folder, x, crs):
    frame = geopandas.GeoDataFrame(geometry=[box(x, 4_999_900, x + 20, 4_999_990)], crs=crs)
    frame.to_file(folder / "labels.gpkg", layer="labels")


def make_mask(folder, value, crs="EPSG:32633"):
    values = np.full((1, 64, 64), value, np.uint8)
    make_geotiff(folder / "mask.tif", values, gsd_m=1.0, crs=crs)


def refusal(call, recipe, *further):
    """Return the only line that a job leaves."""
    out = recipe.with_name("out")
    code, printed, told = call("train", recipe, "-o", out, "--threads", 1, "-q", *further)
    assert code == 1
    assert not printed
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


@pytest.mark.parametrize(
    ("x", "crs", "message"),
    [
        (700_000, "EPSG:32633", "labels.gpkg lie at 700000,4999900,"),
        (500_000, "EPSG:3857", "do not overlap rgb at 500000,4999936,500064,5000000 (EPSG:32633)"),
        (500_000, None, "labels.gpkg have no CRS, rgb is in EPSG:32633"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_vectors_that_lie_elsewhere(call, recipe, x, crs, message):
    edit(recipe, (BY_MASK, BY_VECTORS))
    make_labels(recipe.parent, x, crs)
    assert message in refusal(call, recipe)


def test_a_mask_that_lies_elsewhere(call, recipe):
    make_mask(recipe.parent, 1, crs="EPSG:32640")
    assert "mask.tif does not overlap rgb: it covers none of its pixels" in refusal(call, recipe)


def test_vectors_of_another_crs_are_brought_to_the_scene(call, recipe):
    edit(recipe, (BY_MASK, BY_VECTORS))
    make_labels(recipe.parent, 500_010, "EPSG:32633")
    frame = geopandas.read_file(recipe.with_name("labels.gpkg"))
    frame.to_crs("EPSG:4326").to_file(recipe.with_name("labels.gpkg"), layer="labels")
    code, _, told = call("train", recipe, "-o", recipe.with_name("out"), "--threads", 1, "-q")
    assert (code, told) == (0, "")


def test_a_class_that_the_recipe_does_not_have(call, recipe):
    edit(recipe, (BY_MASK, '{ name = "road", values = [1] }'))
    told = refusal(call, recipe)
    assert "source 'noise' labels 'road', which is not among the classes building" in told
    assert not recipe.with_name("out").exists()


def test_the_folder_of_the_data_may_come_from_the_environment(call, recipe, monkeypatch):
    for command in ("train", "evaluate", "compress"):
        assert "[env var: TILINGSEG_DATA]" in " ".join(call(command, "--help")[1].split())
    monkeypatch.setenv("TILINGSEG_DATA", str(recipe.with_name("named")))
    assert f"no file matches {recipe.with_name('named')}/rgb.tif" in refusal(call, recipe)
    given = recipe.with_name("given")
    assert f"no file matches {given}/rgb.tif" in refusal(call, recipe, "--data", given)


def test_an_unknown_key(call, recipe):
    edit(recipe, ("warmup_steps", "warm_up_steps"))
    assert "schedule: unknown key 'warm_up_steps'; known: steps, " in refusal(call, recipe)


def test_no_pixel_of_a_class(call, recipe):
    make_mask(recipe.parent, 0)
    assert "no training raster holds a pixel of class 'building'" in refusal(call, recipe)


def test_labels_that_say_nothing(call, recipe):
    make_mask(recipe.parent, 255)
    assert "source 'noise': nothing in " in refusal(call, recipe)


def test_a_loss_that_is_no_number(call, recipe):
    out = recipe.with_name("out")
    assert call("train", recipe, "-o", out, "--threads", 1, "-q")[0] == 0
    (out / "tiny.safetensors").unlink()
    edit(
        recipe,
        ("warmup_steps = 2", "warmup_steps = 0\nlearning_rate = 1e12\nclip_norm = 1e30"),
        ("\nsteps = 2", "\nsteps = 40"),
        ("validate_every = 2", "validate_every = 1"),
    )
    told = refusal(call, recipe, "--resume")
    assert "; lower the learning rate (the last checkpoint is kept)" in told
    weights = torch.load(out / CHECKPOINT)["weights"].values()
    assert all(tensor.isfinite().all() for tensor in weights)
    assert not list(out.glob("*.safetensors"))


def test_a_disk_that_is_full_at_a_checkpoint(call, recipe):
    with full_disk(recipe.with_name("out"), 200) as out:
        assert call("train", recipe, "-o", out, "--threads", 1, "-q")[0] == 0
        before = (out / CHECKPOINT).read_bytes()
        (out / "other").write_bytes(bytes(120_000 - len(before) // 2))  # what is left is too little
        edit(recipe, ("\nsteps = 2", "\nsteps = 4"))
        told = refusal(call, recipe, "--resume")
        assert f"cannot write {out / CHECKPOINT}: No space left on device" in told
        assert (out / CHECKPOINT).read_bytes() == before
        assert not list(out.glob("*.part*"))


def test_a_checkpoint_of_another_network(call, recipe):
    out = recipe.with_name("out")
    assert call("train", recipe, "-o", out, "--threads", 1, "-q")[0] == 0
    before = (out / CHECKPOINT).read_bytes()
    edit(recipe, ("features = [2]", "features = [4]"))
    told = refusal(call, recipe, "--resume")
    assert "does not continue this recipe: its network.features is (2,), the recipe's (4,)" in told
    assert (out / CHECKPOINT).read_bytes() == before
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 1
