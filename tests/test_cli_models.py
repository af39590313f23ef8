"""The commands about models: what they print, where they write, how they fail."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from tests.makers import make_noise_job, misspell
from tilingseg.model.load import available_models, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_noise_job(folder)
    return folder


def tilingseg(*arguments, cwd):
    command = [sys.executable, "-m", "tilingseg", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(folder):
    result = tilingseg("train", "recipe.toml", "--threads", 1, cwd=folder)
    assert result.returncode == 0, result.stderr
    path = folder / result.stdout.strip()
    assert path == folder / "tiny_training" / "tiny.safetensors"
    return path


def test_a_recipe_becomes_a_model_beside_its_data(trained):
    assert load_model(trained).spec.classes == ("building",)


def test_a_job_is_resumed_only_when_asked(folder, trained):
    refused = tilingseg("train", "recipe.toml", cwd=folder)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: tiny_training holds a training job; resume it")
    assert tilingseg("train", "recipe.toml", "--resume", "-q", cwd=folder).returncode == 0


def test_a_job_that_is_interrupted_says_how_to_go_on(folder, tmp_path):
    text = (folder / "recipe.toml").read_text("utf-8")
    (tmp_path / "recipe.toml").write_text(text.replace("steps = 2", "steps = 100000", 1), "utf-8")
    command = [sys.executable, "-m", "tilingseg", "train", "recipe.toml", "--data", str(folder)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as job:
        until = time.monotonic() + 120
        while not (tmp_path / "tiny_training" / "checkpoint.pt").exists():
            assert job.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130
    assert stderr.endswith("interrupted; go on with --resume\n")
    assert "Traceback" not in stderr


def test_a_wrong_recipe_is_one_line(folder, tmp_path):
    recipe = misspell(make_noise_job(tmp_path))
    result = tilingseg("train", recipe, "--data", folder, cwd=tmp_path)
    assert result.returncode == 1
    assert "unknown key 'stps'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "tiny_training").exists()


def test_a_model_is_measured_and_gets_its_card(folder, trained, tmp_path):
    result = tilingseg(
        "evaluate", folder / "recipe.toml", "--model", trained, "-o", tmp_path / "out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("tiny, building ≥ ")
    assert lines[1].split()[:3] == ["class", "region", "IoU"]
    assert lines[2].split()[:2] == ["building", "noise"]
    assert lines[-1] == str(tmp_path / "out" / "card.md")
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_the_models_in_the_box_are_listed(tmp_path):
    result = tilingseg("models", cwd=tmp_path)
    assert result.returncode == 0
    for name in available_models():
        assert f"model      {name}" in result.stdout
        assert load_model(name).spec.sources[0] in result.stdout
    unknown = tilingseg("models", "nothing", cwd=tmp_path)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: no model 'nothing' comes with the package; there are")


@pytest.mark.parametrize("name", available_models())
def test_a_bundled_model_is_small_and_its_card_is_about_it(call, name):
    code, card, _ = call("models", name)
    assert code == 0
    model = load_model(name)
    folder = files("tilingseg.model") / "weights"
    assert len((folder / f"{name}.safetensors").read_bytes()) <= 8e6
    assert f"`{model.sha256}`" in card
    limits = zip(model.spec.classes, model.spec.thresholds, strict=True)
    assert f"thresholds: {', '.join(f'{of} {value:g}' for of, value in limits)};" in card
    assert all(f"- {source}\n" in card for source in model.spec.sources)
    assert "## Limits\n" in card
    assert "## Not to be used\n" in card
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert len(pictures) == len(model.spec.classes)
    assert all(picture.startswith(str(folder)) and Path(picture).is_file() for picture in pictures)
    assert card.endswith(f"\nThis page, with its pictures: {folder / f'{name}.md'}\n")
