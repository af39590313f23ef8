"""The whole chain learns what it is shown: vectors in, a model, a run, the same vectors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tilingseg.evaluation import EvaluateOptions, evaluate
from tilingseg.grid import Window
from tilingseg.job import RunOptions
from tilingseg.model.normalize import normalize
from tilingseg.model.unet import UNetOptions
from tilingseg.readers import open_scene
from tilingseg.scaling import decide_scaling
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.loop import train
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe
from tilingseg.training.samples import cut_window, unit_scaling
from tilingseg.training.sources import load_sources

SAMPLE = Path(__file__).parents[2] / "sample_data"
STILL = AugmentOptions(
    scale=(1.0, 1.0), rotation_deg=0, brightness=0, contrast=0, gamma=0, colour=0, saturation=0,
    blur_share=0,
)  # fmt: skip


def make_recipe(rasters, labels, *, gsd_m=0.5, steps=300):
    source = SourceRecipe(
        name="sample",
        split="train",
        rasters=rasters,
        classes=(ClassLabel(name="building", vectors=labels),),
        licence="drawn by this project",
    )
    return TrainingRecipe(
        name="overfit",
        classes=("building",),
        bands=("red", "green", "blue"),
        gsd_m=gsd_m,
        mean=(0.42, 0.41, 0.36),
        std=(0.22, 0.20, 0.20),
        sources=(source,),
        schedule=Schedule(
            steps=steps, batch_size=4, window_px=64, learning_rate=1e-2, warmup_steps=10,
            ema_decay=0.95, validate_every=steps,
        ),
        network=UNetOptions(features=(16, 32)),
        augment=STILL,
    )  # fmt: skip


def test_a_tiny_network_learns_the_sample_by_heart(tmp_path):
    recipe = make_recipe("scene_small.tif", "truth_buildings.geojson")
    model = train(recipe, SAMPLE, tmp_path)
    options = EvaluateOptions(run=RunOptions(model=model), split="train")
    (score,) = evaluate(recipe, SAMPLE, tmp_path / "evaluation", options=options).scores
    assert score.iou >= 0.95
    assert score.instance_f1 >= 0.8


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_training_and_running_feed_the_network_the_same(tmp_path, dtype):
    rng = np.random.default_rng(0)
    high = 250 if dtype == "uint8" else 9000
    pixels = rng.integers(1, high, (3, 80, 90)).astype(dtype)
    pixels[:, :9] = 0
    profile = {"count": 3, "height": 80, "width": 90, "dtype": dtype, "nodata": 0}
    profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
    with rasterio.open(tmp_path / "s.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    with rasterio.open(tmp_path / "m.tif", "w", **(profile | {"count": 1})) as dataset:
        dataset.write(np.ones((1, 80, 90), dtype))
    recipe = make_recipe("s.tif", "l.geojson", gsd_m=None)
    (source,) = recipe.sources
    label = ClassLabel(name="building", values=(1,))
    source = SourceRecipe(
        name="s", split="train", rasters="s.tif", mask="m.tif", classes=(label,), licence="x"
    )
    recipe = TrainingRecipe(
        **{n: getattr(recipe, n) for n in recipe.__slots__ if n != "sources"}, sources=(source,)
    )
    spec = recipe.spec()
    (raster,) = load_sources(recipe, tmp_path, "train")
    unit, valid, _ = cut_window(raster, (40 - raster.place.window.row, 40), 64, recipe.pixel_m)
    trained = normalize(unit, valid, unit_scaling(3), spec)

    reader = open_scene(tmp_path / "s.tif", band_names=spec.bands, gsd_m=spec.gsd_m)
    stored, valid = reader.read(Window(row=8, col=8, height=64, width=64))
    run = normalize(
        torch.from_numpy(stored[None]),
        torch.from_numpy(valid[None]),
        decide_scaling(reader, spec),
        spec,
    )
    reader.close()
    assert (~valid).any()
    assert torch.allclose(trained, run, atol=1e-4)
