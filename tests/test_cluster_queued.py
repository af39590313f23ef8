"""Batch systems that refuse jobs, and jobs that end early: told in one line, never waited for.

The commands of Slurm are scripts of a few lines here, because a real one cannot be made to refuse;
`test_cluster_slurm.py` has a real one.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg.cluster import foreman

queued = pytest.importorskip("tilingseg.cluster.queued", reason="needs the extra [cluster]")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None, reason="needs the extra [cluster]"
)

# The script is read before the command ends, as sbatch does: its file is gone afterwards.
SUBMIT = 'job=$(cat "$1"); bash -c "$job" >/dev/null 2>&1 & echo "Submitted batch job $!"'
LOOK = 'kill -0 "$3" 2>/dev/null && echo R'
CANCEL = 'kill "$1"'
RECIPE = """
kind = "slurm"
workers = 1
memory = "1GiB"
interface = "lo"
python = "{python}"
prologue = ["{prologue}"]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, call):
    """Run `tilingseg run --cluster` with these commands of Slurm: (exit code, stderr)."""
    monkeypatch.setattr(queued, "MAX_PAUSE_S", 0.05)
    monkeypatch.setattr(queued, "LOOK_S", 0.5)
    monkeypatch.setattr(foreman, "LOOK_S", 0.2)
    make_geotiff(tmp_path / "scene.tif", smooth_noise(64, 64))
    make_model(tmp_path / "tiny.safetensors")

    def run_with(prologue="true", **commands):
        monkeypatch.setenv("PATH", make_tools(tmp_path / "tools", commands))
        code, _, err = call(*arguments(tmp_path, prologue))
        return code, err

    return run_with


def make_tools(folder, commands):
    """Write commands of Slurm: the search path that finds them."""
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def arguments(folder, prologue="true"):
    recipe = folder / "slurm.toml"
    recipe.write_text(RECIPE.format(python=sys.executable, prologue=prologue))
    flags = ("--model", folder / "tiny.safetensors", "--device", "cpu", "--formats", "cog")
    return "run", *flags, folder / "scene.tif", "-o", folder / "out", "-q", "--cluster", recipe


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="Slurm is installed here")
def test_a_machine_that_submits_no_jobs_is_told(run):
    code, err = run()
    assert code == 1
    assert err.count("\n") == 1
    assert "sbatch is not on this machine" in err


def test_a_batch_system_that_refuses_every_job_ends_the_command(run):
    code, err = run(sbatch='echo "Invalid partition name specified" >&2; exit 1')
    assert code == 1
    assert err.count("\n") == 1
    assert "slurm refuses the jobs: Invalid partition name specified" in err


def test_a_job_that_is_refused_once_is_asked_for_again(run, tmp_path):
    refuse = f'mkdir {tmp_path}/asked 2>/dev/null && {{ echo "Socket timed out" >&2; exit 1; }}'
    code, err = run(sbatch=f"{refuse}\n{SUBMIT}", squeue=LOOK, scancel=CANCEL)
    assert (code, err) == (0, "")
    assert (tmp_path / "out" / "scene_mask.tif").exists()


def test_jobs_that_end_before_their_worker_comes_end_the_command(run):
    code, err = run("exit 1", sbatch=SUBMIT, squeue=LOOK, scancel=CANCEL)
    assert code == 1
    assert err.count("\n") == 1
    assert "the jobs of slurm ended before their workers came" in err


@pytest.mark.usefixtures("run")
def test_ctrl_c_while_jobs_are_waited_for_says_how_to_go_on(tmp_path):
    asked = tmp_path / "asked"
    submit = f'touch {asked}; echo "Submitted batch job 1"'
    path = make_tools(tmp_path / "tools", {"sbatch": submit, "squeue": "echo PD", "scancel": ""})
    command = [sys.executable, "-m", "tilingseg", *map(str, arguments(tmp_path))]
    env = os.environ | {"PATH": path}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not asked.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted; repeat the command to go on"
