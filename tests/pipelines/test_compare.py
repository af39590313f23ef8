"""The comparison trains every candidate, goes on where it was stopped, and prints one table."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from pipelines import compare
from tilingseg.model.fcn import FcnOptions
from tilingseg.model.load import load_model
from tilingseg.model.unet import UNetOptions

RECIPE = """
name = "tiny"
classes = ["building"]
bands = ["red", "green", "blue"]
gsd_m = 1.0
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
[schedule]
steps = 2
batch_size = 2
window_px = 16
validate_every = 2
[augment]
scale = [1.0, 1.0]
rotation_deg = 0.0
[[sources]]
name = "noise"
split = "train"
rasters = "rgb.tif"
mask = "mask.tif"
rows = [0.0, 0.5]
classes = [{ name = "building", values = [1] }]
licence = "CC0"
[[sources]]
name = "noise"
split = "validation"
rasters = "rgb.tif"
mask = "mask.tif"
rows = [0.7, 1.0]
classes = [{ name = "building", values = [1] }]
licence = "CC0"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, count in (("rgb", 3), ("mask", 1)):
        profile = {"count": count, "height": 64, "width": 64, "dtype": "uint8"}
        profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
        values = rng.integers(0, 2 if count == 1 else 255, (count, 64, 64)).astype("u1")
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(values)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    small = {
        "U-Net": UNetOptions(features=(2,)),
        "U-Net, resized": UNetOptions(features=(2,), upsampling="bilinear"),
        "FCN": FcnOptions(features=(2, 2), n_scored=1),
    }
    monkeypatch.setattr(compare, "CANDIDATES", small)
    return tmp_path


def run(folder):
    arguments = [str(folder / "recipe.toml"), "--data", str(folder), "--out", str(folder / "out")]
    return CliRunner().invoke(compare.main, [*arguments, "--windows", "3,5", "--threads", "1"])


def test_all_candidates_are_in_one_table(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == [
        "network", "IoU, 3 windows", "IoU, 5 windows",
    ]  # fmt: skip
    cells = {line.split("|")[1].strip(): line.split("|") for line in lines[2:]}
    assert set(cells) == {"U-Net", "U-Net, resized", "FCN"}
    assert cells["U-Net, resized"][-2].strip() == "0.0%"
    assert (folder / "out" / "compare.md").read_text("utf-8") in result.stdout
    assert load_model(folder / "out" / "fcn_5" / "fcn.safetensors").spec.network == "fcn"
    # What is finished is not done again.
    before = (folder / "out" / "fcn_5" / "log.csv").read_bytes()
    assert run(folder).exit_code == 0
    assert (folder / "out" / "fcn_5" / "log.csv").read_bytes() == before


def test_a_wrong_recipe_is_one_line(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("steps", "stps"), encoding="utf-8")
    result = run(folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "unknown key 'stps'" in result.stderr
