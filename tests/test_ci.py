"""The script that every change must pass: whatever fails ends it, and nothing of before is used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
TOOLS = ("pip", "pytest", "ruff", "mypy")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def write_command(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def run(folder, failing):
    """Run the script in a folder, with tools that only note their names: (exit code, names)."""
    commands, log = folder / "commands", folder / "log"
    commands.mkdir()
    # `python3 -m venv …` as it is, but without pip, which takes seconds
    write_command(
        commands / "python3", f'shift 2; exec "{sys.executable}" -m venv --without-pip "$@"'
    )
    for name in TOOLS:
        write_command(commands / name, f'echo {name} >> "{log}"; exit {int(name == failing)}')
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci" / "run")
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", folder / ".ci" / "run"], env=environment, check=False)
    return done.returncode, log.read_text("utf-8").split()


@pytest.mark.parametrize("failing", TOOLS)
def test_whatever_fails_ends_it(tmp_path, failing):
    code, called = run(tmp_path, failing)
    assert code == 1
    assert called[-1] == failing


def test_the_environment_is_fresh(tmp_path):
    old = tmp_path / ".venv-ci" / "lib" / "old.py"
    old.parent.mkdir(parents=True)
    old.touch()
    assert run(tmp_path, None) == (0, ["pip", "pytest", "ruff", "ruff", "mypy"])
    assert not old.exists()
