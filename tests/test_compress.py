"""Forms of a model: smaller, nearly as good, each usable by a run and elsewhere."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tilingseg.compress import CompressOptions, _Compression, compress, compression_table
from tilingseg.errors import ModelError, TrainingError
from tilingseg.infer.runtimes import is_installed
from tilingseg.model.load import load_model, load_trainable, save_model
from tilingseg.model.spec import METADATA_KEY, ModelSpec
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.progress import silent
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe

pytestmark = pytest.mark.skipif(
    not (is_installed("onnx") and is_installed("openvino")),
    reason="the extras onnx and openvino are not installed",
)
OPTIONS = UNetOptions(features=(8, 32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bright houses on dark ground, with noise."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("train", "held_out"):
        mask = np.zeros((160, 160), np.uint8)
        for row, col in random.integers(0, 140, (12, 2)):
            mask[row : row + 16, col : col + 12] = 1
        noise = random.normal(0, 20, (160, 160, 3))
        pixels = np.clip(70 + 110 * mask[:, :, None] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return folder


@pytest.fixture(scope="module")
def recipe():
    def source(name, split):
        return SourceRecipe(
            name=name,
            split=split,
            rasters=f"{name}.png",
            mask=f"{name}_mask.png",
            classes=(ClassLabel(name="house", values=(1,)),),
            licence="drawn",
        )

    return TrainingRecipe(
        name="houses",
        classes=("house",),
        bands=("red", "green", "blue"),
        mean=(0.4,) * 3,
        std=(0.2,) * 3,
        sources=(source("train", "train"), source("held_out", "validation")),
        schedule=Schedule(steps=40, batch_size=4, window_px=64, warmup_steps=4),
        network=OPTIONS,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that finds bright pixels by two of its channels; the others hold a little noise."""
    torch.manual_seed(0)
    module = UNet(3, 1, OPTIONS)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                layer.weight.mul_(0.05)
        for block, inputs in ((module.encoder[0], 3), (module.decoder[1], 1)):
            for layer, n in ((block[0], inputs), (block[3], 1)):
                layer.weight[0, :n, 1, 1] = 1.0 / n
        module.head.weight[0, 0] = 4.0
        module.head.bias.fill_(-2.0)
    spec = ModelSpec(
        name="houses",
        network="unet",
        network_options=(("features", OPTIONS.features),),
        bands=("red", "green", "blue"),
        classes=("house",),
        thresholds=(0.5,),
        gsd_m=None,
        mean=(0.4,) * 3,
        std=(0.2,) * 3,
        tile_size_px=64,
    )
    path = tmp_path_factory.mktemp("model") / "houses.safetensors"
    save_model(path, module, spec)
    return path


@pytest.fixture(scope="module")
def forms(model, recipe, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed") / "out"
    options = CompressOptions(prune=0.4, steps=16, n_batches=2)
    return compress(model, recipe, data, out, options=options), out


def test_forms_are_smaller_and_nearly_as_good(forms):
    found, out = forms
    assert [form.name for form in found] == ["fp32", "int8", "pruned fp32", "pruned int8"]
    whole, int8, _, pruned = found
    assert whole.mean_iou("house") > 0.8
    assert abs(int8.mean_iou("house") - whole.mean_iou("house")) < 0.005
    assert pruned.mean_iou("house") > whole.mean_iou("house") - 0.1
    assert int8.times_smaller >= 3
    assert pruned.times_smaller >= 1.5 * int8.times_smaller
    assert pruned.n_weights <= 0.62 * whole.n_weights
    assert json.loads((out / "compression.json").read_text())[1]["name"] == "int8"
    assert (out / "compression.md").read_text() == compression_table(found)


def test_what_int8_costs_travels_with_the_model(forms):
    _, out = forms
    wide, small = (load_model(out / f"houses{end}.safetensors").spec for end in ("", "-int8"))
    assert wide == small
    assert 0 < wide.int8_difference < 0.02
    assert len(wide.activation_ranges) == 14


@pytest.mark.parametrize("name", ["houses", "houses-int8", "houses-pruned-int8"])
def test_exports_run_elsewhere(forms, name):
    import onnxruntime

    _, out = forms
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    model = load_model(out / f"{name}.safetensors")
    with torch.inference_mode():
        expected = model.module(torch.from_numpy(pixels)).sigmoid().numpy()
    session = onnxruntime.InferenceSession(out / f"{name}.onnx")
    assert METADATA_KEY in session.get_modelmeta().custom_metadata_map
    logits = session.run(None, {"pixels": pixels})[0]
    assert np.abs(1 / (1 + np.exp(-logits)) - expected).mean() < 0.02
    assert (out / f"{name}.xml").exists()
    assert (out / f"{name}.bin").exists()


def test_forms_can_be_written_without_measuring_their_iou(model, recipe, data, tmp_path):
    options = CompressOptions(n_batches=1, measure_iou=False)
    found = compress(model, recipe, data, tmp_path / "out", options=options)
    assert [form.iou for form in found] == [(), ()]
    assert not (tmp_path / "out" / "runs").exists()
    assert load_model(tmp_path / "out" / "houses-int8.safetensors").spec.activation_ranges


def test_another_model_in_the_same_folder_is_fine_tuned_anew(model, recipe, data, tmp_path):
    options = CompressOptions(prune=0.4, steps=1)
    job = _Compression(recipe=recipe, data=data, out=tmp_path, options=options, progress=silent)
    spec, other = load_trainable(model)
    with torch.no_grad():
        other.head.weight.mul_(2)
    save_model(tmp_path / "other.safetensors", other, spec)
    heads = []
    for name in (model, tmp_path / "other.safetensors", model):
        pruned = load_trainable(job.pruned(name))[1]
        heads.append(pruned.head.weight.abs().max().item())
    assert heads[1] > 1.5 * heads[0] == 1.5 * heads[2]
    assert len(list(tmp_path.glob("fine_tuning-*"))) == 2  # the third was gone on with


def test_wishes_that_cannot_be_met_are_refused(model, recipe, data, tmp_path):
    from dataclasses import replace

    with pytest.raises(ModelError, match="0…1"):
        compress(model, recipe, data, tmp_path, options=CompressOptions(prune=1.0))
    with pytest.raises(ModelError, match="99% of the weights"):
        compress(model, recipe, data, tmp_path / "out", options=CompressOptions(prune=0.99))
    assert not (tmp_path / "out").exists()
    with pytest.raises(TrainingError, match=r"mean are \[0.1, .*'houses' has \[0.4, "):
        compress(model, replace(recipe, mean=(0.1,) * 3), data, tmp_path)
    more = replace(recipe, classes=("road", "house"))
    with pytest.raises(TrainingError, match=r"classes are \['road', 'house'\]"):
        compress(model, more, data, tmp_path, options=CompressOptions(prune=0.4))
