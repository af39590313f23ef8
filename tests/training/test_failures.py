"""What a step fails of is one line with the sizes to change, whoever says it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.makers import make_noise_job
from tilingseg.errors import TrainingError
from tilingseg.model.deeplab import DeepLabOptions
from tilingseg.model.unet import UNetOptions
from tilingseg.training.checkpoint import CHECKPOINT
from tilingseg.training.failures import failures_told
from tilingseg.training.loop import train
from tilingseg.training.recipe import read_recipe


def sized(folder, network=None, **schedule):
    recipe = read_recipe(make_noise_job(folder))
    schedule = dataclasses.replace(recipe.schedule, **schedule)
    return dataclasses.replace(recipe, schedule=schedule, network=network or recipe.network)


def too_much_of_numpy():
    np.empty(2**60, np.uint8)


def too_much_of_torch():
    torch.empty(2**60, dtype=torch.uint8)


def too_much_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")


def too_much_in_a_worker():
    raise RuntimeError(
        "Caught _ArrayMemoryError in DataLoader worker process 0.\nOriginal Traceback\n"
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 596. GiB for an array"
    )


@pytest.mark.parametrize(
    "fail", [too_much_of_numpy, too_much_of_torch, too_much_of_a_gpu, too_much_in_a_worker]
)
def test_want_of_memory_names_the_sizes(tmp_path, fail):
    recipe = sized(tmp_path, batch_size=7, window_px=48)
    with pytest.raises(TrainingError) as caught, failures_told(12, recipe):
        fail()
    assert str(caught.value) == (
        "memory is short at step 12 with batch_size 7 × window_px 48: make one of them smaller, "
        "with accumulate for as many windows in a step, or checkpointing = true under [network], "
        "and go on with --resume (the last checkpoint is kept)"
    )


@pytest.mark.parametrize("network", [DeepLabOptions(), UNetOptions(checkpointing=True)])
def test_checkpointing_is_offered_where_it_helps(tmp_path, network):
    with pytest.raises(TrainingError) as caught, failures_told(0, sized(tmp_path, network)):
        raise MemoryError
    assert "checkpointing" not in str(caught.value)


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (
        RuntimeError("a shape is wrong"),
        ValueError("memory"),
        KeyError("out of memory"),
    ):
        with pytest.raises(type(error)) as caught, failures_told(0, sized(tmp_path)):
            raise error
        assert caught.value is error


def test_windows_beyond_all_memory_end_a_job_and_keep_its_checkpoint(tmp_path):
    train(sized(tmp_path), tmp_path, tmp_path / "out")
    before = (tmp_path / "out" / CHECKPOINT).read_bytes()
    larger = sized(tmp_path, steps=4, window_px=2**26)
    with pytest.raises(TrainingError, match="memory is short at step 2 with batch_size 2 × window"):
        train(larger, tmp_path, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("network", [UNetOptions(features=(2,) * 4), DeepLabOptions()])
def test_a_map_of_one_pixel_cannot_be_normalised(tmp_path, network):
    with pytest.raises(
        TrainingError, match="batch_size 1 × window_px 16 leaves one pixel"
    ) as caught:
        train(sized(tmp_path, network, batch_size=1), tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
