"""The training command: parses, trains, prints the path; errors are one line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pipelines.train_unet import main
from tests.makers import make_noise_job, misspell
from tilingseg.model.load import load_model


@pytest.fixture
def folder(tmp_path):
    make_noise_job(tmp_path)
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
    misspell(folder / "recipe.toml")
    result = run(folder)
    assert result.exit_code == 1
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "unknown key 'stps'" in message
    assert "Traceback" not in result.output
    assert not (folder / "out").exists()
