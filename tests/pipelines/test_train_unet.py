"""The training command: parses, trains, prints the path; errors are one line."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from pipelines.train_unet import main
from tilingseg.model.load import load_model

RECIPE = """
name = "tiny"
classes = ["building"]
bands = ["red", "green", "blue"]
gsd_m = 1.0
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
[network]
features = [2]
[schedule]
steps = 2
batch_size = 2
window_px = 16
[[sources]]
name = "noise"
split = "train"
rasters = "rgb.tif"
mask = "mask.tif"
classes = [{ name = "building", values = [1] }]
licence = "CC0"
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("rgb", 3), ("mask", 1)):
        profile = {"count": count, "height": 32, "width": 32, "dtype": "uint8"}
        profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(rng.integers(0, 2 if count == 1 else 255, (count, 32, 32)).astype("u1"))
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def run(folder, *more):
    arguments = [str(folder / "recipe.toml"), "--data", str(folder), "--out", str(folder / "out")]
    return CliRunner().invoke(main, [*arguments, *more])


def test_a_recipe_becomes_a_model(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    path = folder / "out" / "tiny.safetensors"
    assert result.stdout.strip() == str(path)
    assert load_model(path).spec.classes == ("building",)


def test_a_job_is_resumed_only_when_asked(folder):
    run(folder)
    refused = run(folder)
    assert refused.exit_code == 1
    assert "resume it" in refused.stderr
    assert run(folder, "--resume").exit_code == 0


def test_a_wrong_recipe_is_one_line(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("steps", "stps"), encoding="utf-8")
    result = run(folder)
    assert result.exit_code == 1
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "unknown key 'stps'" in message
    assert "Traceback" not in result.output
    assert not (folder / "out").exists()
