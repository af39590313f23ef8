"""The file does what the command does, errors included; the rest is tested at the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "pipelines" / "evaluate.py"


def test_the_file_is_the_command(tmp_path):
    command = [sys.executable, str(FILE), str(tmp_path / "absent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "absent.toml" in done.stderr
