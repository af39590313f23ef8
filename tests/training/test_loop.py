"""The loop learns, stops, goes on and leaves whole files."""

from __future__ import annotations

import csv
import dataclasses
import itertools

import numpy as np
import pytest
import rasterio
import torch

from tilingseg.errors import TrainingError
from tilingseg.model.load import load_model
from tilingseg.model.unet import UNetOptions
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.loop import CHECKPOINT, LOG, learning_rate, train
from tilingseg.training.losses import LossOptions
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe


@pytest.fixture
def data(tmp_path):
    """Bright squares on noise: two rasters with masks."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        mask = np.zeros((72, 80), np.uint8)
        for row, col in rng.integers(0, 64, (8, 2)):
            mask[row : row + 8, col : col + 8] = 1
        pixels = rng.integers(20, 90, (3, 72, 80)) + mask * 130
        for suffix, values in (("rgb", pixels), ("mask", mask[None])):
            profile = {"count": len(values), "height": 72, "width": 80, "dtype": "uint8"}
            profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
            with rasterio.open(folder / f"{name}_{suffix}.tif", "w", **profile) as dataset:
                dataset.write(values.astype(np.uint8))
    return folder


def make_recipe(**schedule):
    source = SourceRecipe(
        name="squares",
        split="train",
        rasters="*_rgb.tif",
        include=("one*",),
        mask="{}_mask.tif",
        classes=(ClassLabel(name="building", values=(1,)),),
        licence="squares, CC0",
    )
    held_out = dataclasses.replace(source, split="validation", include=("two*",))
    settings = {"steps": 6, "batch_size": 3, "window_px": 32, "warmup_steps": 2}
    settings |= {"validate_every": 3, "learning_rate": 5e-3}
    return TrainingRecipe(
        name="squares",
        classes=("building",),
        bands=("red", "green", "blue"),
        gsd_m=1.0,
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
        sources=(source, held_out),
        schedule=Schedule(**(settings | schedule)),
        network=UNetOptions(features=(4, 8), dropout=0.2),
        loss=LossOptions(),
        augment=AugmentOptions(scale=(0.9, 1.1)),
        notes=("Finds squares.",),
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_training_learns_what_is_plain_to_see(data, tmp_path):
    recipe = make_recipe(steps=60, validate_every=60, ema_decay=0.9)
    told = []
    path = train(recipe, data, tmp_path / "out", progress=lambda *args: told.append(args))
    loaded = load_model(path)
    assert path.name == "squares.safetensors"
    assert loaded.spec.sources == ("squares, CC0",)
    assert told[-1][:2] == (60, 60)
    assert len(told) == 60
    (row,) = read_log(tmp_path / "out")
    assert float(row["iou building squares"]) > 0.7
    assert loaded.spec.thresholds == (float(row["threshold building"]),)
    assert loaded.spec.notes == (
        f"IoU of building on held-out squares: {float(row['iou building squares']):.3f}",
        "Finds squares.",
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} == {CHECKPOINT, LOG, path.name}


def read_log(out):
    return list(csv.DictReader((out / LOG).read_text(encoding="utf-8").splitlines()))


class KilledError(Exception):
    pass


def kill_at(step):
    def progress(done, total, text):
        if done == step:
            raise KilledError

    return progress


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_job_that_was_killed_ends_with_the_same_bits(data, tmp_path, precision):
    recipe = make_recipe(precision=precision)
    straight = train(recipe, data, tmp_path / "straight")
    for step in (2, 5):  # before the first checkpoint, and after it
        with pytest.raises(KilledError):
            train(recipe, data, tmp_path / "killed", resume=True, progress=kill_at(step))
    resumed = train(recipe, data, tmp_path / "killed", resume=True)
    assert resumed.read_bytes() == straight.read_bytes()
    rows = [read_log(tmp_path / name) for name in ("straight", "killed")]
    assert [r["step"] for r in rows[1]] == ["3", "6"]
    for a, b in zip(*rows, strict=True):
        assert {k: v for k, v in a.items() if k not in ("seconds", "loss")} == {
            k: v for k, v in b.items() if k not in ("seconds", "loss")
        }


def test_a_finished_job_that_is_resumed_gives_the_same_file(data, tmp_path):
    recipe = make_recipe()
    before = train(recipe, data, tmp_path / "out").read_bytes()
    assert train(recipe, data, tmp_path / "out", resume=True).read_bytes() == before


def test_a_folder_with_a_job_is_not_overwritten(data, tmp_path):
    train(make_recipe(steps=3), data, tmp_path / "out")
    with pytest.raises(TrainingError, match="holds a training job; resume it"):
        train(make_recipe(steps=3), data, tmp_path / "out")


def test_another_network_does_not_continue_a_job(data, tmp_path):
    train(make_recipe(steps=3), data, tmp_path / "out")
    other = dataclasses.replace(make_recipe(), network=UNetOptions(features=(4, 6)))
    with pytest.raises(TrainingError, match="does not continue this recipe"):
        train(other, data, tmp_path / "out", resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 broken"])
def test_a_broken_checkpoint_is_refused(data, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingError, match="does not continue this recipe"):
        train(make_recipe(), data, tmp_path / "out", resume=True)


def test_a_loss_that_explodes_stops_the_job(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tilingseg.training.loop.segmentation_loss",
        lambda logits, labels, options: logits.sum() * float("nan"),
    )
    with pytest.raises(TrainingError, match="nan at step 0; lower the learning rate"):
        train(make_recipe(), data, tmp_path / "out")


def test_the_rate_rises_and_falls():
    schedule = Schedule(steps=1000, warmup_steps=100, learning_rate=2.0)
    rates = [learning_rate(step, schedule) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[99] == rates[100] == max(rates) == 2.0
    assert rates[550] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[-1] == pytest.approx(0.02, rel=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))
