"""Real clusters of processes for tests: a scheduler, its workers, and the command line."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tilingseg.output_folder import WORK

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120
QUICK = {
    # how long a client looks for a scheduler that is gone
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
    "PYTHONPATH": str(ROOT),
}
FLAGS = ("--tile-size", "128", "--region-size", "200", "--device", "cpu", "-q")


def environment(**changes):
    return os.environ | QUICK | changes


def command(*arguments):
    return [sys.executable, "-m", "tilingseg", *map(str, arguments)]


def call(*arguments, **changes):
    """Run the command line to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@contextmanager
def started(*arguments, **changes):
    """Run a command line in a session of its own; whatever is left of it is killed."""
    process = subprocess.Popen(
        arguments,
        env=environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def scheduler(folder):
    """Start a scheduler on loopback: (process, address)."""
    file = folder / "scheduler.json"
    with started(
        *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
        *("--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
    ) as process:
        until(file.exists)
        import json

        yield process, json.loads(until(file.read_text))["address"]


def worker(address, folder, **changes):
    """Start a worker that is not started again when it dies."""
    return started(
        *(sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"),
        *("--no-nanny", "--no-dashboard", "--local-directory", str(folder)),
        **{"OMP_NUM_THREADS": "1"} | changes,
    )


def until(condition, *, alive=None):
    """Wait for a condition that is true at last, while a process lives; give its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        assert alive is None or alive.poll() is None, alive.communicate()
        time.sleep(0.02)
    return value


def n_done(out):
    return len(list((out / WORK / "done").glob("*.json")))


def outputs_of(folder):
    """Every file but run.json, which holds seconds, by its relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
