"""The loop learns, stops, goes on and leaves whole files."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import signal
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from tests.full_disk import files_up_to
from tests.makers import make_noise_job
from tilingseg.errors import DependencyError, OutputError, TrainingError
from tilingseg.model.load import build_network, load_model
from tilingseg.model.normalize import normalize
from tilingseg.model.unet import UNetOptions
from tilingseg.training.augment import AugmentOptions
from tilingseg.training.loop import CHECKPOINT, LOG, _average, learning_rate, train
from tilingseg.training.losses import LossOptions, known_weights, segmentation_loss
from tilingseg.training.recipe import (
    ClassLabel,
    Schedule,
    SourceRecipe,
    TrainingRecipe,
    read_recipe,
)
from tilingseg.training.samples import draw_batch, unit_scaling
from tilingseg.training.sources import load_sources


@pytest.fixture
def data(tmp_path):
    """Bright squares on noise: two rasters with masks."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, x in (("one", 5e5), ("two", 6e5)):
        mask = np.zeros((72, 80), np.uint8)
        for row, col in rng.integers(0, 64, (8, 2)):
            mask[row : row + 8, col : col + 8] = 1
        pixels = rng.integers(20, 90, (3, 72, 80)) + mask * 130
        for suffix, values in (("rgb", pixels), ("mask", mask[None])):
            profile = {"count": len(values), "height": 72, "width": 80, "dtype": "uint8"}
            profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, x, 0, -1, 5e6)}
            with rasterio.open(folder / f"{name}_{suffix}.tif", "w", **profile) as dataset:
                dataset.write(values.astype(np.uint8))
    return folder


def make_recipe(**schedule):
    source = SourceRecipe(
        name="squares",
        split="train",
        rasters="*_rgb.tif",
        include=("one*",),
        mask="{}_mask.tif",
        classes=(ClassLabel(name="building", values=(1,)),),
        licence="squares, CC0",
    )
    held_out = dataclasses.replace(source, split="validation", include=("two*",))
    settings = {"steps": 6, "batch_size": 3, "window_px": 32, "warmup_steps": 2}
    settings |= {"validate_every": 3, "learning_rate": 5e-3}
    return TrainingRecipe(
        name="squares",
        classes=("building",),
        bands=("red", "green", "blue"),
        gsd_m=1.0,
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
        sources=(source, held_out),
        schedule=Schedule(**(settings | schedule)),
        network=UNetOptions(features=(4, 8), dropout=0.2),
        loss=LossOptions(),
        augment=AugmentOptions(scale=(0.9, 1.1)),
        notes=("Finds squares.",),
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_training_learns_what_is_plain_to_see(data, tmp_path):
    recipe = make_recipe(steps=60, validate_every=60, ema_decay=0.9, learning_rate=2e-2)
    told = []
    path = train(recipe, data, tmp_path / "out", progress=lambda *args: told.append(args))
    loaded = load_model(path)
    assert path.name == "squares.safetensors"
    assert loaded.spec.sources == ("squares, CC0",)
    assert told[-1][:2] == (60, 60)
    assert len(told) == 60
    (row,) = read_log(tmp_path / "out")
    assert float(row["iou building squares"]) > 0.7
    assert loaded.spec.thresholds == (float(row["threshold building"]),)
    assert loaded.spec.notes == (
        f"IoU of building on held-out squares: {float(row['iou building squares']):.3f}",
        "Finds squares.",
    )
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {CHECKPOINT, LOG, "curves.png", "samples.png", path.name}


def read_log(out):
    return list(csv.DictReader((out / LOG).read_text(encoding="utf-8").splitlines()))


class KilledError(Exception):
    pass


def kill_at(step):
    def progress(done, total, text):
        if done == step:
            raise KilledError

    return progress


@pytest.mark.parametrize(
    "schedule",
    [
        {"precision": "float32"},
        {"precision": "bfloat16"},
        {"precision": "float16", "accumulate": 2},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "precision": "float16", "accumulate": 2},
    ],
)
def test_a_job_that_was_killed_ends_with_the_same_bits(data, tmp_path, schedule):
    recipe = make_recipe(**schedule)
    straight = train(recipe, data, tmp_path / "straight")
    for step in (2, 5):  # before the first checkpoint, and after it
        with pytest.raises(KilledError):
            train(recipe, data, tmp_path / "killed", resume=True, progress=kill_at(step))
    resumed = train(recipe, data, tmp_path / "killed", resume=True)
    assert resumed.read_bytes() == straight.read_bytes()
    assert log_but_seconds(tmp_path / "killed") == log_but_seconds(tmp_path / "straight")


def test_seconds_go_on_with_a_resumed_job(data, tmp_path):
    recipe = make_recipe()
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "out", progress=kill_at(5))
    state = torch.load(tmp_path / "out" / CHECKPOINT)
    state["rows"][-1]["seconds"] = 1000.0
    torch.save(state, tmp_path / "out" / CHECKPOINT)
    train(recipe, data, tmp_path / "out", resume=True)
    assert [float(row["seconds"]) >= 1000 for row in read_log(tmp_path / "out")] == [True, True]


def log_but_seconds(out):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(out)]


def raise_at(number, step):
    """Send a signal to this process when a step is done."""

    def show(done, total, text):
        if done == step:
            signal.raise_signal(number)

    return show


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_interrupted_after_any_step_goes_on_with_the_next_one(data, tmp_path, number):
    recipe = make_recipe(steps=7)
    straight = train(recipe, data, tmp_path / "straight")
    before, out = signal.getsignal(number), tmp_path / "stopped"
    for step in range(1, 8):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data, out, resume=True, progress=raise_at(number, step))
        assert torch.load(out / CHECKPOINT)["step"] == step
        assert signal.getsignal(number) is before
    resumed = train(recipe, data, out, resume=True)
    assert resumed.read_bytes() == straight.read_bytes()
    assert log_but_seconds(out) == log_but_seconds(tmp_path / "straight")


def test_the_second_interrupt_does_not_wait_for_the_step(data, tmp_path, monkeypatch):
    def interrupted_twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one was not heard")

    monkeypatch.setattr("tilingseg.training.loop._update", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(), data, tmp_path / "out")
    assert not (tmp_path / "out" / CHECKPOINT).exists()  # the step is not whole


def test_what_is_ignored_stays_ignored(data, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        recipe = make_recipe(steps=2)
        assert train(recipe, data, tmp_path, progress=raise_at(signal.SIGINT, 1)).exists()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_is_written_every_few_minutes(data, tmp_path, monkeypatch):
    recipe = make_recipe(validate_every=100)
    straight = train(recipe, data, tmp_path / "straight").read_bytes()
    monkeypatch.setattr("tilingseg.training.loop._SAVE_EVERY_S", 0.0)
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "killed", progress=kill_at(5))
    assert torch.load(tmp_path / "killed" / CHECKPOINT)["step"] == 4
    assert train(recipe, data, tmp_path / "killed", resume=True).read_bytes() == straight


def test_a_finished_job_that_is_resumed_gives_the_same_file(data, tmp_path):
    recipe = make_recipe()
    before = train(recipe, data, tmp_path / "out").read_bytes()
    assert train(recipe, data, tmp_path / "out", resume=True).read_bytes() == before


def test_a_folder_with_a_job_is_not_overwritten(data, tmp_path):
    train(make_recipe(steps=3), data, tmp_path / "out")
    with pytest.raises(TrainingError, match="holds a training job; resume it"):
        train(make_recipe(steps=3), data, tmp_path / "out")


def test_a_job_beyond_its_recipe_is_not_passed_off_as_it(data, tmp_path):
    train(make_recipe(steps=3), data, tmp_path / "out")
    with pytest.raises(TrainingError, match="is at step 3, the recipe ends at 2: give it more"):
        train(make_recipe(steps=2), data, tmp_path / "out", resume=True)


def test_a_folder_that_cannot_be_made_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("here")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"the folder {out} cannot be written: "):
            train(make_recipe(), data, out)


def test_another_network_does_not_continue_a_job(data, tmp_path):
    train(make_recipe(steps=3), data, tmp_path / "out")
    other = dataclasses.replace(make_recipe(), network=UNetOptions(features=(4, 6)))
    with pytest.raises(TrainingError, match="does not continue this recipe"):
        train(other, data, tmp_path / "out", resume=True)


def test_another_optimizer_does_not_continue_a_job(data, tmp_path):
    for old, new in (("adamw", "muon"), ("muon", "adamw")):
        train(make_recipe(steps=3, optimizer=old), data, tmp_path / old)
        with pytest.raises(TrainingError, match="does not continue this recipe"):
            train(make_recipe(optimizer=new), data, tmp_path / old, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5, 0.4, 0.4)}, r"its mean is \(0.4, 0.4, 0.4\), the recipe's \(0.5"),
        (
            {"network": UNetOptions(features=(4, 8), dropout=0.2, fold_px=1, upsampling="nearest")},
            "its network.upsampling is bilinear, the recipe's nearest",
        ),
    ],
)
def test_weights_of_the_same_shape_that_mean_something_else_do_not_go_on(
    data, tmp_path, changes, message
):
    network = UNetOptions(features=(4, 8), dropout=0.2, upsampling="bilinear")
    recipe = dataclasses.replace(make_recipe(steps=3), network=network)
    train(recipe, data, tmp_path / "out")
    with pytest.raises(TrainingError, match=f"does not continue this recipe: {message}"):
        train(dataclasses.replace(recipe, **changes), data, tmp_path / "out", resume=True)
    frugal = dataclasses.replace(recipe, network=dataclasses.replace(network, checkpointing=True))
    train(frugal, data, tmp_path / "out", resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 broken"])
def test_a_broken_checkpoint_is_refused(data, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingError, match="is damaged or no checkpoint: begin anew"):
        train(make_recipe(), data, tmp_path / "out", resume=True)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"weights": 3, "step": 1}])
def test_what_holds_something_else_is_no_checkpoint(data, tmp_path, content):
    (tmp_path / "out").mkdir()
    torch.save(content, tmp_path / "out" / CHECKPOINT)
    with pytest.raises(TrainingError, match="does not continue this recipe: "):
        train(make_recipe(), data, tmp_path / "out", resume=True)


def test_a_loss_that_explodes_stops_the_job(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tilingseg.training.loop.segmentation_loss",
        lambda logits, *_: logits.sum() * float("nan"),
    )
    with pytest.raises(TrainingError, match="nan at step 0; lower the learning rate"):
        train(make_recipe(), data, tmp_path / "out")


def test_a_loss_that_explodes_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    recipe = make_recipe()
    straight = train(recipe, data, tmp_path / "straight").read_bytes()
    calls = itertools.count()

    def explode(logits, labels, options, *_):
        loss = segmentation_loss(logits, labels, options)
        return loss * float("inf") if next(calls) == 4 else loss

    monkeypatch.setattr("tilingseg.training.loop.segmentation_loss", explode)
    with pytest.raises(TrainingError, match="at step 4; lower the learning rate .the last check"):
        train(recipe, data, tmp_path / "out")
    monkeypatch.undo()
    assert torch.load(tmp_path / "out" / CHECKPOINT)["step"] == 3
    assert train(recipe, data, tmp_path / "out", resume=True).read_bytes() == straight


def test_a_gradient_that_explodes_spoils_no_checkpoint(data, tmp_path, monkeypatch):
    calls = itertools.count()

    def explode(logits, labels, options, *_):
        loss = segmentation_loss(logits, labels, options)
        # The root has no slope at 0: the loss is right, its gradient is not.
        return loss + (logits.sum() * 0).sqrt() if next(calls) == 2 else loss

    monkeypatch.setattr("tilingseg.training.loop.segmentation_loss", explode)
    with pytest.raises(TrainingError, match="the gradient is nan at step 2; lower"):
        train(make_recipe(), data, tmp_path / "out")
    assert not (tmp_path / "out" / CHECKPOINT).exists()  # it was due after this very step


def test_a_full_disk_keeps_the_last_checkpoint(data, tmp_path):
    recipe = make_recipe()
    straight = train(recipe, data, tmp_path / "straight").read_bytes()
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "out", progress=kill_at(4))
    size = (tmp_path / "out" / CHECKPOINT).stat().st_size
    with (
        files_up_to(size // 2),
        pytest.raises(OutputError, match=f"cannot write .*{CHECKPOINT}: File too large"),
    ):
        train(recipe, data, tmp_path / "out", resume=True)
    assert not list((tmp_path / "out").glob("*.part*"))
    assert torch.load(tmp_path / "out" / CHECKPOINT)["step"] == 3
    assert train(recipe, data, tmp_path / "out", resume=True).read_bytes() == straight


def test_a_job_that_gets_no_better_stops_and_gives_its_best_weights(data, tmp_path):
    recipe = make_recipe(steps=60, validate_every=3, patience=2, ema_decay=0.1, learning_rate=5.0)
    path = train(recipe, data, tmp_path / "out")
    rows = read_log(tmp_path / "out")
    scores = [float(row["iou building squares"]) for row in rows]
    assert len(rows) < 20
    best = scores.index(max(scores))
    assert len(rows) == best + 1 + 2
    assert load_model(path).spec.notes[0].endswith(f"{scores[best]:.3f}")
    assert train(recipe, data, tmp_path / "out", resume=True).read_bytes() == path.read_bytes()


def test_a_job_that_goes_on_without_patience_gives_its_last_weights(data, tmp_path):
    settings = {"validate_every": 1, "ema_decay": 0.1, "learning_rate": 5.0}
    train(make_recipe(steps=30, patience=1, **settings), data, tmp_path / "out")
    stopped = torch.load(tmp_path / "out" / CHECKPOINT)
    assert stopped["best"]["step"] < stopped["step"] < 30
    recipe = make_recipe(steps=stopped["step"] + 1, **settings)
    path = train(recipe, data, tmp_path / "out", resume=True)
    last = torch.load(tmp_path / "out" / CHECKPOINT)["averaged"]["head.weight"]
    assert torch.equal(load_model(path).module.head.weight, last.half().float())


def silence_part(path):
    """Leave two thirds of a mask unlabelled, so that windows hold very different amounts."""
    with rasterio.open(path, "r+") as dataset:
        mask = dataset.read(1)
        mask[:, mask.shape[1] // 3 : -8] = 255
        dataset.write(mask, 1)


def test_added_gradients_are_those_of_all_labels_together(data, tmp_path):
    silence_part(data / "one_mask.tif")
    # One step without momentum moves along the gradient, which clipping leaves alone here.
    recipe = make_recipe(steps=1, accumulate=2, clip_norm=1e9, validate_every=1, optimizer="adamw")
    recipe = dataclasses.replace(recipe, network=UNetOptions(features=(4, 8)))
    train(recipe, data, tmp_path / "two")
    optimizer = torch.load(tmp_path / "two" / CHECKPOINT)["optimizer"]["state"]
    spec = recipe.spec()
    torch.manual_seed(recipe.seed)
    module = build_network(spec)
    rasters = load_sources(recipe, data, "train")
    batches = [draw_batch(rasters, recipe, number) for number in (0, 1)]
    said = [known_weights(batch.labels, recipe.loss) for batch in batches]
    assert (said[0] / said[1])[0] < 0.8  # they would not weigh the same alone
    for batch, mine in zip(batches, said, strict=True):
        pixels = normalize(batch.pixels, batch.valid, unit_scaling(3), spec)
        shares = mine / sum(said)
        segmentation_loss(module(pixels), batch.labels, recipe.loss, shares=shares).backward()
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    for index, parameter in enumerate((*kernels, *others)):
        # AdamW's first moment after one step is a tenth of the gradient.
        expected = parameter.grad / 10
        assert torch.allclose(optimizer[index]["exp_avg"], expected, rtol=1e-3, atol=1e-7)


def test_two_processes_learn_what_one_does_with_twice_the_batches(tmp_path):
    job = make_noise_job(tmp_path)
    silence_part(tmp_path / "mask.tif")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tilingseg", "train", str(job), "--threads", "1", "-q"]
    command += ["--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two' / 'tiny.safetensors'}\n"
    recipe = read_recipe(job)
    recipe = dataclasses.replace(
        recipe, schedule=dataclasses.replace(recipe.schedule, accumulate=2)
    )
    train(recipe, tmp_path, tmp_path / "one")
    one, two = (torch.load(tmp_path / name / CHECKPOINT)["weights"] for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "num_batches" not in name:  # each process keeps its own
            assert torch.allclose(tensor, two[name], atol=2e-4), name
    assert (tmp_path / "two" / "tiny.safetensors").exists()


def test_tensorboard_gets_the_curves(data, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra train")
    train(make_recipe(steps=3, tensorboard=True), data, tmp_path / "out")
    (file,) = (tmp_path / "out" / "tensorboard").iterdir()
    content = file.read_bytes()
    for name in (b"loss", b"iou/building squares", b"samples"):
        assert name in content


def test_a_missing_tensorboard_names_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"pip install 'tilingseg\[train\]'"):
        train(make_recipe(tensorboard=True), data, tmp_path / "out")


def test_curves_and_samples_are_pictures_of_the_job(data, tmp_path):
    train(make_recipe(), data, tmp_path / "out")
    samples = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    assert samples.shape == (36, 3 * 36, 3)  # pixels, truth, probability; one raster
    assert {0, 255} <= set(np.unique(samples[2:34, 38:70])) <= {0, 128, 255}  # 128: unknown
    curves = np.asarray(Image.open(tmp_path / "out" / "curves.png")).astype(int)
    for half in (curves[:, :450], curves[:, 450:]):
        assert (np.abs(half - (0xE6, 0x1E, 0x6E)).sum(axis=2) == 0).any()


@pytest.mark.parametrize("key", ["steps", "batch_size", "accumulate", "validate_every"])
def test_a_schedule_of_nothing_is_refused(key):
    with pytest.raises(TrainingError, match=f"{key} is 0, must be above 0"):
        make_recipe(**{key: 0})


def test_averaged_weights_follow_their_formula():
    torch.manual_seed(0)
    module = torch.nn.BatchNorm2d(3)
    averaged = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    expected = averaged["weight"].double()
    for step in range(40):
        module.weight.data.normal_()
        module.num_batches_tracked += 1
        _average(averaged, module, step, 0.7)
        kept = min(0.7, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * module.weight.data.double()
    assert torch.allclose(averaged["weight"].double(), expected, atol=1e-6)
    assert averaged["num_batches_tracked"] == 40  # a count has no mean


def test_the_rate_rises_and_falls():
    schedule = Schedule(steps=1000, warmup_steps=100, learning_rate=2.0)
    rates = [learning_rate(step, schedule) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[99] == rates[100] == max(rates) == 2.0
    assert rates[550] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[-1] == pytest.approx(0.02, rel=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))
