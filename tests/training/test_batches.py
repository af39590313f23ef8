"""Batches drawn ahead are those of their numbers, whoever cuts them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.training.test_samples import make_raster, make_recipe, make_source
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.batches import draw_ahead, workers_for
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


def test_workers_outlive_an_interrupt_and_end_with_the_job():
    before = children()
    ahead = draw_ahead(make_rasters(), noisy_recipe(), ALONE, 0, 2)
    next(ahead)
    workers = children() - before
    assert len(workers) == 2
    for process in workers:
        os.kill(process, signal.SIGINT)
    for _ in itertools.islice(ahead, 8):
        pass
    assert children() - before == workers
    ahead.close()
    for _ in range(100):
        if not children() & workers:
            break
        time.sleep(0.05)
    assert not children() & workers


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
