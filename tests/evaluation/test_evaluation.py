"""A model is measured by whole runs, and the figures are those of the files that a user gets."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.resources import files
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from shapely import LineString, box

from tests.makers import make_geotiff
from tilingseg.errors import TilingSegError, TrainingError
from tilingseg.evaluation import EvaluateOptions, evaluate
from tilingseg.evaluation.card import _of_file, _split_table
from tilingseg.job import RunOptions
from tilingseg.model.load import load_model, rewrite_spec, save_model
from tilingseg.model.spec import ModelSpec
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.origins import _which
from tilingseg.training.recipe import (
    ClassLabel,
    Schedule,
    SourceRecipe,
    TrainingRecipe,
    read_recipe,
)
from tilingseg.training.sources import load_sources

SIDE = 96
HOUSES = ((8, 10), (40, 20), (60, 70), (20, 60))
SIZE = 14
HEAD = "| use | source | rasters | which | classes labelled |\n| --- | --- | --- | --- | --- |\n"
CRS, ORIGIN = "EPSG:32633", (500_000.0, 5_000_000.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bright houses on a dark ground; the labels know one house that nobody sees."""
    folder = tmp_path_factory.mktemp("data")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for row, col in HOUSES:
        mask[row : row + SIZE, col : col + SIZE] = 1
    pixels = np.stack([60 + 140 * mask] * 3).astype(np.uint8)
    hidden = mask.copy()
    hidden[76:90, 10:24] = 1
    transform = rasterio.Affine(1, 0, ORIGIN[0], 0, -1, ORIGIN[1])
    for name, values in (("rgb", pixels), ("mask", hidden[None])):
        profile = {"count": len(values), "height": SIDE, "width": SIDE, "dtype": "uint8"}
        with rasterio.open(
            folder / f"a_{name}.tif", "w", crs=CRS, transform=transform, **profile
        ) as dataset:
            dataset.write(values)
    houses = [(*house, SIZE, SIZE) for house in HOUSES]
    shapes = [
        box(ORIGIN[0] + c, ORIGIN[1] - r - h, ORIGIN[0] + c + w, ORIGIN[1] - r)
        for r, c, h, w in houses
    ]
    geopandas.GeoDataFrame(geometry=shapes, crs=CRS).to_crs(4326).to_file(folder / "a.geojson")
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(folder / "plain.png")
    Image.fromarray(hidden).save(folder / "plain_mask.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network whose logit is bright minus dark: it finds exactly the bright pixels."""
    module = UNet(3, 1, UNetOptions(features=(1,)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for block in (module.encoder[0], module.decoder[0]):
            for layer in (block[0], block[3]):
                layer.weight[0, 0, 1, 1] = 1.0
            for norm in (block[1], block[4]):
                norm.weight.fill_(1.0)
        module.encoder[0][0].weight[0, 1:, 1, 1] = 0.0
        module.head.weight.fill_(10.0)
        module.head.bias.fill_(-5.0)
    spec = ModelSpec(
        name="bright",
        network="unet",
        network_options=(("features", (1,)),),
        bands=("red", "green", "blue"),
        classes=("cell",),
        thresholds=(0.3,),
        gsd_m=None,
        mean=(0.24,) * 3,
        std=(0.5,) * 3,
        sources=("Lamps, CC0",),
        splits=(("train", "lamps", 7, "lamps/*.tif; without | and *", "cell"),),
        notes=("IoU of cell on held-out lamps: 0.912", "Misses what is dark."),
        not_for=("Seeing at night.",),
    )
    path = tmp_path_factory.mktemp("model") / "bright.safetensors"
    save_model(path, module, spec)
    return path


def make_recipe(**changes):
    source = SourceRecipe(
        name="town",
        split="validation",
        rasters="*_rgb.tif",
        mask="{}_mask.tif",
        classes=(ClassLabel(name="cell", values=(1,)),),
        licence="drawn",
    )
    source = dataclasses.replace(source, **changes)
    training = dataclasses.replace(source, split="train")
    return TrainingRecipe(
        name="t",
        classes=("cell",),
        bands=("red", "green", "blue"),
        mean=(0.24,) * 3,
        std=(0.5,) * 3,
        sources=(training, source),
        schedule=Schedule(steps=1),
        notes=("Sees what is bright.",),
        not_for=("Anything that matters.",),
    )


def run(data, model, out, **changes):
    options = EvaluateOptions(run=RunOptions(model=model), window_px=32)
    result = evaluate(make_recipe(**changes), data, out, options=options)
    (score,) = result.scores
    return result, score


def test_the_scores_are_those_of_the_outputs(data, model, tmp_path):
    result, score = run(data, model, tmp_path)
    n_seen, n_hidden = len(HOUSES) * SIZE**2, 14 * 14
    assert score.iou == pytest.approx(n_seen / (n_seen + n_hidden), abs=1e-4)
    assert score.precision == 1.0
    assert score.recall == pytest.approx(0.8, abs=1e-4)
    assert score.pixel_error == pytest.approx(n_hidden / SIDE**2, abs=1e-4)
    assert score.instance_f1 == pytest.approx(2 * 4 / (4 + 5), abs=1e-4)
    assert score.iou_low < score.iou < score.iou_high
    assert (score.n_rasters, score.n_windows, score.area_m2) == (1, 9, pytest.approx(SIDE**2, 0.01))
    with rasterio.open(tmp_path / "runs" / "town" / "a_rgb" / "a_rgb_mask.tif") as dataset:
        assert dataset.read(1).sum() == n_seen
    saved = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert saved["scores"][0]["iou"] == score.iou
    assert saved["sha256"] == load_model(model).sha256 == result.sha256


def test_true_polygons_come_from_vectors_where_there_are_such(data, model, tmp_path):
    classes = (ClassLabel(name="cell", vectors="{}.geojson"),)
    _, score = run(data, model, tmp_path, classes=classes, mask=None)
    assert (score.iou, score.instance_f1) == (1.0, 1.0)


def test_lines_are_measured_at_the_width_that_the_recipe_gives(data, model, tmp_path):
    # With their round ends they are houses without some of their corners.
    middles = [(ORIGIN[0] + c + SIZE / 2, ORIGIN[1] - r - SIZE / 2) for r, c in HOUSES]
    lines = [LineString([(x - 1, y), (x + 1, y)]) for x, y in middles]
    geopandas.GeoDataFrame(geometry=lines, crs=CRS).to_file(data / "lines.gpkg")
    classes = (ClassLabel(name="cell", vectors="lines.gpkg", width_m=float(SIZE)),)
    _, score = run(data, model, tmp_path, classes=classes, mask=None)
    assert score.instance_f1 == 1.0
    assert 0.8 < score.iou < 1


def test_only_the_labelled_area_is_measured(data, model, tmp_path):
    area = box(ORIGIN[0], ORIGIN[1] - 72, ORIGIN[0] + SIDE, ORIGIN[1])
    geopandas.GeoDataFrame(geometry=[area], crs=CRS).to_file(data / "area.gpkg")
    _, score = run(data, model, tmp_path, labelled="area.gpkg")
    assert score.area_m2 == pytest.approx(72 * SIDE, rel=0.01)
    assert (score.precision, score.recall) == (1.0, 1.0)


def test_a_part_is_measured_where_a_part_is_labelled(data, model, tmp_path):
    _, score = run(data, model, tmp_path, rows=(0.0, 0.75))
    assert score.area_m2 == pytest.approx(72 * SIDE, rel=0.01)
    assert score.recall == 1.0
    with rasterio.open(tmp_path / "runs" / "town" / "a_rgb" / "a_rgb_mask.tif") as dataset:
        assert dataset.shape == (72, SIDE)


def test_blocks_that_are_measured_are_those_that_were_held_out(model, tmp_path):
    """93 px of 0.6 m are 3.49 blocks of 16 m, but 3.5 on the model's grid: 3 rows, or 4."""
    mask = np.zeros((1, 93, 60), np.uint8)
    mask[:, ::2] = 1
    make_geotiff(tmp_path / "a_rgb.tif", np.full((3, 93, 60), 60, np.uint8), gsd_m=0.6)
    make_geotiff(tmp_path / "a_mask.tif", mask, gsd_m=0.6)
    recipe = make_recipe()
    source = dataclasses.replace(recipe.sources[1], split="blocks", block_px=32)
    recipe = dataclasses.replace(recipe, sources=(source,), gsd_m=0.5)
    (held_out,) = load_sources(recipe, tmp_path, "validation")
    known = (held_out.labels[0] != UNKNOWN).mean()
    assert known == pytest.approx(1 / 6, abs=0.02)
    own = tmp_path / "own.safetensors"
    rewrite_spec(model, own, dataclasses.replace(load_model(model).spec, gsd_m=0.5))
    options = EvaluateOptions(run=RunOptions(model=own))
    (score,) = evaluate(recipe, tmp_path, tmp_path / "out", options=options).scores
    assert score.area_m2 == pytest.approx(known * 93 * 60 * 0.6**2, rel=0.1)


def test_pictures_without_a_place_are_measured_too(data, model, tmp_path):
    _, score = run(data, model, tmp_path, rasters="plain.png", mask="plain_mask.png")
    assert score.iou == pytest.approx(0.8, abs=1e-4)
    assert score.instance_f1 == pytest.approx(8 / 9, abs=1e-4)


def test_thresholds_are_chosen_and_stored_with_the_model(data, model, tmp_path):
    target = tmp_path / "chosen.safetensors"
    options = EvaluateOptions(run=RunOptions(model=model), store_thresholds=target)
    result = evaluate(make_recipe(), data, tmp_path / "out", options=options)
    spec = load_model(target).spec
    assert result.thresholds == (("cell", spec.thresholds[0]),)
    assert 0 < spec.thresholds[0] < 1
    # What the file said beside its scores stays: the recipe is not what it was trained by.
    assert spec.notes == ("IoU of cell on held-out town: 0.800", "Misses what is dark.")
    same = {"thresholds", "notes"}
    old = load_model(model).spec
    assert all(getattr(spec, name) == getattr(old, name) for name in set(spec.__slots__) - same)
    assert result.scores[0].iou == pytest.approx(0.8, abs=1e-4)
    before, after = (load_model(p).module.state_dict() for p in (model, target))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_data_need_not_be_there(data, model, tmp_path):
    recipe = make_recipe()
    gone = dataclasses.replace(recipe.sources[0], rasters="gone/*.tif")
    recipe = dataclasses.replace(recipe, sources=(gone, recipe.sources[1]))
    evaluate(recipe, data, tmp_path, options=EvaluateOptions(run=RunOptions(model=model)))
    assert "| validation | town | 1 | `*_rgb.tif` |" in (tmp_path / "card.md").read_text("utf-8")


def test_the_card_says_of_the_model_what_its_file_says(data, model, tmp_path):
    run(data, model, tmp_path, rows=(0.25, 1.0), exclude=("b*",))
    measured, made = (tmp_path / "card.md").read_text("utf-8").split("## Made from\n")
    which = "`*_rgb.tif; without b*; labelled rows 25% to 100%`"
    assert f"Measured on:\n\n{HEAD}| validation | town | 1 | {which} | cell |\n" in measured
    assert made == (
        f"\n{HEAD}| train | lamps | 7 | `lamps/*.tif; without \\| and *` | cell |\n"
        "\nOrigins and licences:\n\n- Lamps, CC0\n"
        "\n## Limits\n\n- Misses what is dark.\n"
        "\n## Not to be used\n\n- Seeing at night.\n"
    )
    saved = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert saved["measured_on"] == [["validation", "town", 1, which.strip("`"), "cell"]]


def test_the_card_of_a_model_whose_file_names_no_rasters_says_so(data, model, tmp_path):
    silent = tmp_path / "silent.safetensors"
    rewrite_spec(model, silent, dataclasses.replace(load_model(model).spec, splits=()))
    run(data, silent, tmp_path)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "## Made from\n\nThe model's file names no rasters.\n\nOrigins and" in card


def test_the_card_in_the_box_is_that_of_its_file_and_its_recipe():
    spec = load_model("buildings-roads").spec
    card = (files("tilingseg.model") / "weights" / "buildings-roads.md").read_text("utf-8")
    assert card.endswith("\n".join(_of_file(spec)).rstrip() + "\n")
    recipe = read_recipe(Path(__file__).parents[2] / "pipelines/recipes/buildings_roads.toml")
    assert [split[3] for split in spec.splits] == [_which(source) for source in recipe.sources]
    assert spec.not_for == recipe.not_for
    measured = [split for split in spec.splits if split[0] == "validation"]
    assert f"Measured on:\n\n{_split_table(measured)}" in card


def test_what_an_interrupted_evaluation_of_another_model_left_is_no_hindrance(
    data, model, tmp_path
):
    work = tmp_path / "runs" / "town" / "a_rgb" / ".tilingseg-work"
    work.mkdir(parents=True)
    (work / "plan.json").write_text('{"plan": {"model": {"name": "other"}}, "scaling": {}}')
    _, score = run(data, model, tmp_path)
    assert score.precision == 1.0


def test_rasters_of_one_name_have_folders_of_their_own(data, model, tmp_path):
    """Two towns under one file name, and the two halves of a third one."""
    for town, (house, shift) in {"a": (HOUSES[0], 0), "b": (HOUSES[2], 5000)}.items():
        (tmp_path / town).mkdir()
        pixels, mask = np.full((3, SIDE, SIDE), 60, np.uint8), np.zeros((1, SIDE, SIDE), np.uint8)
        for values, value in ((pixels, 200), (mask, 1)):
            values[:, house[0] : house[0] + SIZE, house[1] : house[1] + SIZE] = value
        for name, values in (("img", pixels), ("mask", mask)):
            transform = rasterio.Affine(1, 0, ORIGIN[0] + shift, 0, -1, ORIGIN[1])
            make_geotiff(tmp_path / town / f"{name}.tif", values, transform=transform)
    recipe = make_recipe(rasters="*/img.tif", mask="{}/mask.tif")
    halves = [
        dataclasses.replace(recipe.sources[1], name="half", include=("img.tif",), rows=rows)
        for rows in ((0.0, 0.5), (0.5, 1.0))
    ]
    halves = [dataclasses.replace(half, rasters="a/*.tif", mask="a/mask.tif") for half in halves]
    recipe = dataclasses.replace(recipe, sources=(*recipe.sources, *halves))
    options = EvaluateOptions(run=RunOptions(model=model))
    evaluate(recipe, tmp_path, tmp_path / "out", options=options)
    folders = [tmp_path / "out" / "runs" / name for name in ("town/a", "town/b")]
    for folder, (row, col) in zip(folders, (HOUSES[0], HOUSES[2]), strict=True):
        laid = np.asarray(Image.open(folder / "img" / "agreement_cell.png")).astype(int)
        assert laid[row + 4, col + 4, 1] > laid[row + 4, col + 4, 0] + 10
    half = tmp_path / "out" / "runs" / "half" / "a"
    shapes = [np.asarray(Image.open(half / name / "scene.png")).shape for name in ("img", "img-2")]
    assert shapes == [(SIDE // 2, SIDE, 3)] * 2


def test_rasters_beside_the_data_do_not_lead_out_of_the_results(data, model, tmp_path):
    (tmp_path / "recipes").mkdir()
    shutil.copytree(data, tmp_path / "imagery")
    recipe = make_recipe(rasters="../imagery/*_rgb.tif", mask="../imagery/{}_mask.tif")
    options = EvaluateOptions(run=RunOptions(model=model))
    evaluate(recipe, tmp_path / "recipes", tmp_path / "out", options=options)
    assert (tmp_path / "out" / "runs" / "town" / "imagery" / "a_rgb" / "run.json").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tuned", "must end in .safetensors, got .*tuned"),
        ("folder.safetensors", "cannot write .*folder.safetensors: it is a folder"),
        ("file/tuned.safetensors", "the folder .*file cannot be written: "),
    ],
)
def test_a_file_that_cannot_take_the_thresholds_is_refused_before_a_raster_runs(
    data, model, tmp_path, target, message
):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("here")
    options = EvaluateOptions(run=RunOptions(model=model), store_thresholds=tmp_path / target)

    def show(*_):
        raise AssertionError("a raster was begun")

    with pytest.raises(TilingSegError, match=message):
        evaluate(make_recipe(), data, tmp_path / "out", options=options, progress=show)


def test_thresholds_are_given_or_chosen(model, tmp_path):
    run = RunOptions(model=model, thresholds=((None, 0.5),))
    with pytest.raises(TrainingError, match=r"given \(all 0.5\) and to be chosen .*: leave one"):
        EvaluateOptions(run=run, store_thresholds=tmp_path / "tuned.safetensors")


def test_the_card_and_the_pictures_show_what_was_measured(data, model, tmp_path):
    _, score = run(data, model, tmp_path)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert f"| cell | town | {score.iou:.3f} |" in card
    assert "(windows_cell.png)" in card
    sheet = np.asarray(Image.open(tmp_path / "windows_cell.png").convert("RGB"))
    for colour in ((90, 200, 90), (60, 110, 255)):
        assert (np.abs(sheet.astype(int) - colour).sum(axis=2) < 150).any()
    laid = np.asarray(Image.open(tmp_path / "runs/town/a_rgb/agreement_cell.png")).astype(int)
    assert laid[82, 15, 2] > laid[82, 15, 0] + 50  # the hidden house is blue: missed
    assert laid[12, 14, 1] > laid[12, 14, 0] + 10  # a house that was found is green


def test_eight_orientations_can_be_averaged_and_the_card_says_so(data, model, tmp_path):
    options = EvaluateOptions(run=RunOptions(model=model, tta=True), window_px=32)
    (score,) = evaluate(make_recipe(), data, tmp_path, options=options).scores
    assert score.iou == pytest.approx(0.8, abs=1e-4)
    assert "whole runs averaged over eight orientations" in (tmp_path / "card.md").read_text(
        "utf-8"
    )
    report = json.loads((tmp_path / "runs" / "town" / "a_rgb" / "run.json").read_text("utf-8"))
    assert "tta" in json.dumps(report)


def test_what_cannot_be_measured_is_one_line(data, model, tmp_path):
    options = EvaluateOptions(run=RunOptions(model=model), split="test")
    with pytest.raises(TrainingError, match="no source with split = 'test'"):
        evaluate(make_recipe(), data, tmp_path, options=options)
    classes = (ClassLabel(name="river", values=(1,)),)
    other = TrainingRecipe(
        **{
            name: getattr(make_recipe(), name)
            for name in TrainingRecipe.__slots__
            if name not in ("classes", "sources")
        },
        classes=("river",),
        sources=tuple(
            dataclasses.replace(source, classes=classes) for source in make_recipe().sources
        ),
    )
    with pytest.raises(TrainingError, match="labels river, but model 'bright' finds cell"):
        evaluate(other, data, tmp_path, options=EvaluateOptions(run=RunOptions(model=model)))
