"""Batches drawn ahead are those of their numbers, whoever cuts them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.makers import make_noise_job
from tests.training.test_samples import make_raster, make_recipe, make_source
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.batches import draw_ahead, lost_workers_told, workers_for
from tilingseg.training.group import Group
from tilingseg.training.samples import draw_batch

# Python 3.12 warns of forks of processes with threads; workers use none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

ALONE = Group(rank=0, size=1, device=torch.device("cpu"))


def make_rasters():
    return make_raster(make_source("a")), make_raster(make_source("b", 3.0), seed=1, shape=(40, 50))


def noisy_recipe(**schedule):
    augment = AugmentOptions(noise=0.1, cutouts=2, cutout_px=(2, 4))
    return dataclasses.replace(make_recipe(**schedule), augment=augment)


def assert_same(drawn, expected):
    for name in ("pixels", "valid", "labels"):
        assert torch.equal(getattr(drawn, name), getattr(expected, name))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_follow_their_numbers(workers):
    rasters, recipe = make_rasters(), noisy_recipe(accumulate=2)
    ahead = draw_ahead(rasters, recipe, ALONE, 5, workers)
    for number, batch in zip(range(10, 17), ahead, strict=False):
        assert_same(batch, draw_batch(rasters, recipe, number))
    ahead.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_of_a_group_draw_different_batches(workers):
    rasters, recipe = make_rasters(), noisy_recipe()
    second = Group(rank=1, size=3, device=torch.device("cpu"))
    ahead = draw_ahead(rasters, recipe, second, 2, workers)
    for number, batch in zip((7, 10, 13), ahead, strict=False):
        assert_same(batch, draw_batch(rasters, recipe, number))
    ahead.close()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_workers_outlive_an_interrupt_and_end_with_the_job(number, monkeypatch):
    # called as a worker begins; libraries leave threads behind in forked processes, too
    monkeypatch.setattr(torch, "set_num_threads", lambda _: start_a_thread())
    before = children()
    ahead = draw_ahead(make_rasters(), noisy_recipe(), ALONE, 0, 2)
    for _ in itertools.islice(ahead, 2):
        pass  # each worker has begun
    workers = children() - before
    assert len(workers) == 2
    for process in [*workers] * 20:  # as a batch system does it, which is not their parent
        subprocess.run(["kill", "-s", number[3:], str(process)], check=True)
    for _ in itertools.islice(ahead, 8):
        pass
    assert children() - before == workers
    ahead.close()
    wait_for_the_end_of(workers)


def test_workers_end_when_their_parent_says_so():
    before = children()
    ahead = draw_ahead(make_rasters(), noisy_recipe(), ALONE, 0, 2)
    for _ in itertools.islice(ahead, 2):
        pass  # each worker has begun
    workers = children() - before
    for process in workers:
        os.kill(process, signal.SIGTERM)
    wait_for_the_end_of(workers)
    ahead.close()


def test_a_job_without_its_workers_ends_in_one_line(tmp_path):
    recipe = make_noise_job(tmp_path)
    lines = """
import os, pathlib, signal, time
import tilingseg.training.loop as loop
from tilingseg.cli import main
loop.workers_for = lambda *_: 2
update = loop._update
def kill_and_update(*args):
    own = os.getpid()
    for number in pathlib.Path(f"/proc/{own}/task/{own}/children").read_text().split():
        os.kill(int(number), signal.SIGKILL)
        time.sleep(1)
    return update(*args)
loop._update = kill_and_update
main()
"""
    command = [sys.executable, "-c", lines, "train", str(recipe), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "error: a process that cuts windows is gone (DataLoader worker" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_of_a_training_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), lost_workers_told():
        raise RuntimeError("shapes differ")


def start_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def wait_for_the_end_of(workers):
    for _ in range(100):
        if all(has_ended(number) for number in workers):
            return
        time.sleep(0.05)
    pytest.fail(f"{workers} live on")


def has_ended(number):
    stat = Path(f"/proc/{number}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def children():
    """Return the numbers of the processes that this one started."""
    own = os.getpid()
    return {int(number) for number in Path(f"/proc/{own}/task/{own}/children").read_text().split()}


def test_gpus_get_worker_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert workers_for(ALONE, 8) == 0
    gpu = Group(rank=0, size=2, device=torch.device("cuda"))
    assert workers_for(gpu, 4) == 3
    assert workers_for(gpu, 1) == 1
    assert workers_for(gpu, 64) == 8
    assert workers_for(gpu, None) == 7
