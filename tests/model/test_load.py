"""Model files: what goes in comes out, and nothing else is taken for a model."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilingseg.errors import ModelError, OutputError
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import (
    DEFAULT_MODEL,
    available_models,
    build_network,
    load_model,
    rewrite_spec,
    save_model,
)
from tilingseg.model.spec import METADATA_KEY, ModelSpec

SPEC = ModelSpec(
    name="tiny",
    network="unet",
    network_options=(("features", (4, 8)), ("upsampling", "bilinear")),
    bands=("red", "green", "blue"),
    classes=("building", "road"),
    thresholds=(0.4, 0.6),
    gsd_m=0.5,
    mean=(0.4, 0.4, 0.4),
    std=(0.2, 0.2, 0.2),
)


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build_network(SPEC).eval()


@pytest.fixture
def network_with_statistics(network):
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return network


@pytest.fixture
def model_file(tmp_path, network):
    path = tmp_path / "tiny.safetensors"
    save_model(path, network, SPEC)
    return path


def test_a_saved_model_comes_back_the_same(model_file, network):
    loaded = load_model(model_file)
    pixels = torch.randn(1, 3, 20, 30)
    assert loaded.spec == SPEC
    assert torch.allclose(loaded.module(pixels), network(pixels).detach(), atol=1e-5)
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert (loaded.geometry.multiple_px, loaded.geometry.halo_px) == (4, 28)


def test_normalisations_are_folded_into_convolutions(tmp_path, network_with_statistics):
    path = tmp_path / "m.safetensors"
    save_model(path, network_with_statistics, SPEC)
    loaded = load_model(path).module
    pixels = torch.randn(2, 3, 20, 30)
    expected = network_with_statistics(pixels).detach()
    assert torch.allclose(loaded(pixels), expected, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_weights_take_half_the_space_and_compute_in_float32(tmp_path, model_file, network):
    path = tmp_path / "half.safetensors"
    save_model(path, network, SPEC, weights="float16")
    loaded = load_model(path)
    pixels = torch.randn(1, 3, 16, 16)
    assert path.stat().st_size < 0.65 * model_file.stat().st_size
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert torch.allclose(loaded.module(pixels), network(pixels).detach(), atol=0.02)


def test_a_variance_beyond_float16_stays_what_it_is(tmp_path, network):
    network.encoder[0][1].running_var.fill_(1e5)
    network.encoder[0][0].weight.data.mul_(300)
    path = tmp_path / "half.safetensors"
    save_model(path, network, SPEC, weights="float16")
    pixels = torch.randn(1, 3, 16, 16)
    expected = network(pixels).detach()
    assert torch.allclose(load_model(path).module(pixels), expected, atol=0.02)
    kinds = {tensor.dtype for tensor in load_file(path).values() if tensor.ndim > 1}
    assert kinds == {torch.float16}


@pytest.mark.parametrize(
    ("value", "weights", "message"),
    [
        (float("nan"), "float32", "is not written: tensor 'head.weight' has values"),
        (float("nan"), "int8", "is not written: tensor 'head.weight' has values"),
        (1e6, "float16", "float16, which ends at 65504: tensor 'head.weight' has values"),
    ],
)
def test_weights_that_are_not_finite_are_not_written(tmp_path, network, value, weights, message):
    network.head.weight.data[0, 0] = value
    with pytest.raises(ModelError, match=message):
        save_model(tmp_path / "m.safetensors", network, SPEC, weights=weights)
    assert not list(tmp_path.iterdir())


def test_another_spec_leaves_every_stored_byte_of_the_weights(tmp_path, model_file):
    def mix(tensors):
        tensors["head.weight"] = tensors["head.weight"].half()
        tensors["encoder.0.1.running_var"].fill_(1e5)

    _rewrite(model_file, mix)
    renamed = dataclasses.replace(SPEC, name="second")
    rewrite_spec(model_file, tmp_path / "second.safetensors", renamed)
    assert load_model(tmp_path / "second.safetensors").spec == renamed
    before, after = load_file(model_file), load_file(tmp_path / "second.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name], tensor), name
    with pytest.raises(ModelError, match=r"must end in \.safetensors"):
        rewrite_spec(model_file, tmp_path / "m.pt", renamed)


def test_softmax_models_have_a_background_output(tmp_path):
    spec = dataclasses.replace(SPEC, activation="softmax")
    path = tmp_path / "softmax.safetensors"
    save_model(path, build_network(spec), spec)
    assert load_model(path).module(torch.randn(1, 3, 8, 8)).shape[1] == 3


def test_an_existing_file_is_replaced_and_no_part_remains(model_file, network):
    renamed = dataclasses.replace(SPEC, name="second")
    save_model(model_file, network, renamed)
    assert load_model(model_file).spec.name == "second"
    assert [path.name for path in model_file.parent.iterdir()] == [model_file.name]


def test_a_model_that_cannot_be_written_leaves_nothing(tmp_path, network):
    with pytest.raises(OutputError, match="cannot write"):
        save_model(tmp_path / "absent" / "m.safetensors", network, SPEC)
    with pytest.raises(ModelError, match="must end in .safetensors"):
        save_model(tmp_path / "m.pt", network, SPEC)
    assert not list(tmp_path.iterdir())


def test_the_bundled_model_loads_by_name():
    assert DEFAULT_MODEL in available_models()
    loaded = load_model()
    assert loaded.spec.name == DEFAULT_MODEL
    assert loaded.spec.classes == ("building", "road")
    assert loaded.geometry.halo_px is not None
    licences = ("ODbL", "CC0", "Zanzibar Mapping Initiative", "Apache-2.0")
    assert all(any(name in text for name in licences) for text in loaded.spec.sources)
    assert torch.isfinite(loaded.module(torch.randn(1, 3, 64, 64))).all()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match=f"'forest'.*{DEFAULT_MODEL}"):
        load_model("forest")


def test_a_wrong_hash_is_refused(model_file):
    right = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert load_model(model_file, sha256=right.upper()).sha256 == right
    with pytest.raises(ModelError, match=f"{right}, expected 00"):
        load_model(model_file, sha256="00")


def _rewrite(path, change, metadata=None):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata or {METADATA_KEY: SPEC.to_json()})


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: None, {"other": "x"}, "no 'tilingseg' entry"),
        (lambda t: None, {METADATA_KEY: "{"}, "not JSON"),
        (lambda t: None, {METADATA_KEY: "{}"}, "lacks"),
        (lambda t: t.pop("head.weight"), None, "lacks the tensor 'head.weight'"),
        (lambda t: t.update(more=torch.zeros(1)), None, "tensor 'more' that 'unet' has not"),
        (
            lambda t: t.update({"head.bias": torch.zeros(5)}),
            None,
            r"'head.bias' has the shape \(5,\), its spec needs \(2,\)",
        ),
        (lambda t: t["head.bias"].fill_(torch.nan), None, "'head.bias' has values that are not"),
    ],
)
def test_a_file_that_contradicts_its_spec_is_refused(model_file, change, metadata, message):
    _rewrite(model_file, change, metadata)
    with pytest.raises(ModelError, match=message):
        load_model(model_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet"}, "network 'resnet' is not known; known: unet"),
        ({"network_options": (("depth", 4),)}, "options of network 'unet' do not fit"),
        ({"network_options": (("features", (4.5,)),)}, "features"),
        ({"network_options": (("features", "wide"),)}, "features"),
    ],
)
def test_a_spec_that_builds_no_network_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        build_network(dataclasses.replace(SPEC, **changes))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 64, b"\x08" + b"\0" * 40])
def test_a_file_of_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no safetensors file"):
        load_model(path)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


def test_pickles_are_never_run(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match="pickled checkpoints are never read"):
        load_model(path)
    with pytest.raises(ModelError, match="no TorchScript file"):
        load_model(path, allow_torchscript=True)


def _script(path, network, extra):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(network, torch.randn(1, 3, 16, 16), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files=extra)


def test_torchscript_is_loaded_when_allowed_and_measured(tmp_path, network):
    path = tmp_path / "m.pt"
    _script(path, network, {METADATA_KEY: SPEC.to_json()})
    with pytest.raises(ModelError, match="must be allowed explicitly"):
        load_model(path)
    loaded = load_model(path, allow_torchscript=True)
    pixels = torch.randn(1, 3, 16, 16)
    assert loaded.spec == SPEC
    assert loaded.geometry.measured
    assert loaded.geometry.halo_px == network_geometry(network, 3).halo_px
    assert torch.allclose(loaded.module(pixels), network(pixels), atol=1e-5)


def test_torchscript_without_a_spec_is_refused(tmp_path, network):
    path = tmp_path / "m.pt"
    _script(path, network, {})
    with pytest.raises(ModelError, match="no extra file 'tilingseg'"):
        load_model(path, allow_torchscript=True)


def test_torchscript_with_weights_that_are_not_finite_is_refused(tmp_path, network):
    network.head.bias.data[0] = torch.inf
    path = tmp_path / "m.pt"
    _script(path, network, {METADATA_KEY: SPEC.to_json()})
    with pytest.raises(ModelError, match="'head.bias' has values that are not finite"):
        load_model(path, allow_torchscript=True)
