"""The comparison trains every candidate, goes on where it was stopped, and prints one table."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner

from pipelines import compare
from tests.makers import make_noise_job, misspell
from tilingseg.model.fcn import FcnOptions
from tilingseg.model.load import load_model
from tilingseg.model.unet import UNetOptions


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_noise_job(tmp_path)
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
    (job,) = (folder / "out").glob("fcn_5_*")
    assert load_model(job / "fcn.safetensors").spec.network == "fcn"
    # What is finished is not done again, unless it was something else.
    before = (job / "log.csv").read_bytes()
    assert run(folder).exit_code == 0
    assert (job / "log.csv").read_bytes() == before
    text = (folder / "recipe.toml").read_text("utf-8")
    (folder / "recipe.toml").write_text(text.replace("steps = 2", "steps = 3", 1), "utf-8")
    assert run(folder).exit_code == 0
    assert (job / "log.csv").read_bytes() == before
    (longer,) = set((folder / "out").glob("fcn_5_*")) - {job}
    rows = csv.DictReader((longer / "log.csv").read_text("utf-8").splitlines())
    assert [row["step"] for row in rows] == ["2", "3"]


def test_a_recipe_that_holds_nothing_out_is_refused_before_anything_is_trained(folder):
    text = (folder / "recipe.toml").read_text("utf-8")
    held_out = text.rindex("[[sources]]")
    (folder / "recipe.toml").write_text(text[:held_out], encoding="utf-8")
    result = run(folder)
    assert result.exit_code == 1
    assert "holds nothing out to compare networks by" in result.stderr
    assert not (folder / "out").exists()


def test_a_wrong_recipe_is_one_line(folder):
    misspell(folder / "recipe.toml")
    result = run(folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "unknown key 'stps'" in result.stderr
