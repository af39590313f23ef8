"""The file does what the command does, errors included; the rest is tested at the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.makers import make_noise_job
from tilingseg.model.load import load_model

FILE = Path(__file__).parents[2] / "pipelines" / "train_unet.py"


def run(*arguments):
    command = [sys.executable, str(FILE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_recipe_becomes_a_model_and_is_not_overwritten(tmp_path):
    recipe = make_noise_job(tmp_path)
    done = run(recipe, "-o", tmp_path / "out", "--threads", 1, "-q")
    assert done.stdout == f"{tmp_path / 'out' / 'tiny.safetensors'}\n"
    assert load_model(tmp_path / "out" / "tiny.safetensors").spec.classes == ("building",)
    refused = run(recipe, "-o", tmp_path / "out")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {tmp_path / 'out'} holds a training job; resume it")
