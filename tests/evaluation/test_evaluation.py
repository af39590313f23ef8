"""A model is measured by whole runs, and the figures are those of the files that a user gets."""

from __future__ import annotations

import dataclasses
import json

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from shapely import LineString, box

from tilingseg.errors import TrainingError
from tilingseg.evaluation import EvaluateOptions, evaluate
from tilingseg.job import RunOptions
from tilingseg.model.load import load_model, save_model
from tilingseg.model.spec import ModelSpec
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe

SIDE = 96
HOUSES = ((8, 10), (40, 20), (60, 70), (20, 60))
SIZE = 14
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
    assert spec.notes == ("IoU of cell on held-out town: 0.800", "Sees what is bright.")
    assert result.scores[0].iou == pytest.approx(0.8, abs=1e-4)
    before, after = (load_model(p).module.state_dict() for p in (model, target))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_data_need_not_be_there(data, model, tmp_path):
    recipe = make_recipe()
    gone = dataclasses.replace(recipe.sources[0], rasters="gone/*.tif")
    recipe = dataclasses.replace(recipe, sources=(gone, recipe.sources[1]))
    evaluate(recipe, data, tmp_path, options=EvaluateOptions(run=RunOptions(model=model)))
    assert "| train | town | not here | cell |" in (tmp_path / "card.md").read_text("utf-8")


def test_the_card_and_the_pictures_show_what_was_measured(data, model, tmp_path):
    _, score = run(data, model, tmp_path)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert f"| cell | town | {score.iou:.3f} |" in card
    for text in ("drawn", "Sees what is bright.", "Anything that matters.", "windows_cell.png"):
        assert text in card
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
