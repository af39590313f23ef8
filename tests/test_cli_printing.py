"""What the commands show while they work."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tilingseg.cli import printing

if TYPE_CHECKING:
    import pytest


def test_models_are_told_where_characters_are_missing():
    # what a pipe of Windows takes
    done = subprocess.run(
        [sys.executable, "-m", "tilingseg", "info", "buildings-roads"],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "building ? 0." in done.stdout.decode("cp1252")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, *, quiet: bool = False) -> str:
    """Return what a stage of three steps writes."""
    monkeypatch.setattr("sys.stderr", stderr)
    bar = printing.open_bar(quiet=quiet, total=3, desc="stage")
    for _ in range(3):
        bar.update()
    bar.close()
    return stderr.getvalue()


class TestOpenBar:
    def test_live_on_a_terminal(self, monkeypatch):
        assert "3/3" in shown(monkeypatch, Terminal())

    def test_silent_in_the_log_of_a_short_job(self, monkeypatch):
        assert shown(monkeypatch, io.StringIO()) == ""

    def test_tells_a_log_how_far_a_long_job_is(self, monkeypatch):
        monkeypatch.setattr(printing, "_LOG_SECONDS", 0.0)
        assert "1/3" in shown(monkeypatch, io.StringIO())

    def test_quiet(self, monkeypatch):
        assert shown(monkeypatch, Terminal(), quiet=True) == ""
