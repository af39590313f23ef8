"""Rounding to 8 bits, in weights, files and graphs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tilingseg.errors import ModelError
from tilingseg.model.load import fold_batch_norm, load_model, load_trainable, save_model
from tilingseg.model.packing import packed, unpacked
from tilingseg.model.quantize import quantize_graph, quantize_weight
from tilingseg.model.ranges import best_range, observe_ranges
from tilingseg.model.spec import ModelSpec
from tilingseg.model.trace import trace
from tilingseg.model.unet import UNet, UNetOptions

SPEC = ModelSpec(
    name="tiny",
    network="unet",
    network_options=(("features", (4, 8)),),
    bands=("a", "b"),
    classes=("x",),
    thresholds=(0.5,),
    gsd_m=None,
    mean=(0.5, 0.5),
    std=(0.25, 0.25),
)


def network():
    torch.manual_seed(0)
    module = UNet(2, 1, UNetOptions(features=(4, 8))).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(-2, 2)
            layer.running_var.uniform_(0.5, 2)
            layer.running_mean.normal_()
    return module


@given(st.integers(0, 2**32 - 1))
def test_a_weight_is_within_half_a_step_and_rounds_to_itself(seed):
    kernel = np.random.default_rng(seed).normal(size=(5, 3, 3, 3)).astype(np.float32)
    kernel[2] = 0
    steps, scale = quantize_weight(kernel)
    restored = steps * scale[:, None, None, None]
    assert (np.abs(restored - kernel) <= 0.5001 * scale[:, None, None, None]).all()
    assert np.abs(steps).reshape(5, -1).max(axis=1).tolist() == [127, 127, 0, 127, 127]
    again, _ = quantize_weight(restored)
    np.testing.assert_array_equal(again, steps)


def test_a_file_with_int8_weights_is_a_quarter_and_computes_with_its_own_steps(tmp_path):
    module = network()
    save_model(tmp_path / "wide.safetensors", module, SPEC)
    save_model(tmp_path / "int8.safetensors", module, SPEC, weights="int8")
    kernels = sum(p.numel() for p in module.parameters() if p.ndim == 4)
    saved = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("wide", "int8")]
    assert saved[0] - saved[1] > 2.5 * kernels
    folded = load_model(tmp_path / "int8.safetensors")
    graph = trace(folded.module, (1, 2, 32, 32), (slice(None), slice(None)))
    stored = packed(module)
    name = "encoder.1.3.weight"
    steps, _ = quantize_weight(graph.constants[f"{name}"])
    np.testing.assert_array_equal(np.abs(steps), np.abs(stored[name].numpy()))


def test_packing_there_and_back_changes_half_a_step_at_most():
    module = network()
    restored = unpacked(packed(module))
    for name, tensor in module.state_dict().items():
        error = (restored[name] - tensor).abs().max()
        assert error <= (0.51 / 127 * tensor.abs().max() if tensor.ndim == 4 else 0), name


def test_a_model_with_int8_weights_can_be_trained_on(tmp_path):
    save_model(tmp_path / "int8.safetensors", network(), SPEC, weights="int8")
    _, module = load_trainable(tmp_path / "int8.safetensors")
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_the_best_range_leaves_outliers_out():
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    low, high = best_range(np.append(values, np.float32(12)))
    assert 4 < high < 9
    assert -6 < low < -4
    assert best_range(np.zeros(10, np.float32)) == (0.0, 0.0)


def test_every_layer_but_the_last_works_on_whole_numbers():
    module = network()
    fold_batch_norm(module)
    ranges = observe_ranges(module, SPEC, [torch.rand(1, 2, 64, 64) * 4 - 2])
    graph = trace(module, (1, 2, 64, 64), (slice(16, 48), slice(16, 48)))
    made = quantize_graph(graph, ranges, restate=True)
    rounded = {node.output for node in made.nodes if node.operator == "DequantizeLinear"}
    layers = [node for node in made.nodes if node.operator == "Conv"]
    assert len(layers) == 13
    assert all(set(node.inputs) <= rounded for node in layers)


def test_the_bias_of_a_channel_that_training_has_silenced_stays():
    module = network()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[0], layer.bias.data[0] = 1e-7, 1.5
    fold_batch_norm(module)
    ranges = observe_ranges(module, SPEC, [torch.rand(1, 2, 64, 64) * 4 - 2])
    graph = trace(module, (1, 2, 64, 64), (slice(None), slice(None)))
    made = quantize_graph(graph, ranges, restate=True)
    names = [name for name in graph.constants if f"{name}.steps" in made.constants]
    biases = [name for name in names if graph.constants[name].ndim == 1]
    assert len(biases) > 5
    for name in biases:
        restored = made.constants[f"{name}.steps"] * made.constants[f"{name}.scale"]
        np.testing.assert_allclose(restored, graph.constants[name], atol=2e-3)


@pytest.mark.parametrize("missing", ["pixels", "bottom.0.weight"])
def test_a_missing_range_is_named(missing):
    module = network()
    fold_batch_norm(module)
    ranges = observe_ranges(module, SPEC, [torch.rand(1, 2, 64, 64)])
    del ranges[missing]
    graph = trace(module, (1, 2, 64, 64), (slice(None), slice(None)))
    with pytest.raises(ModelError, match=missing):
        quantize_graph(graph, ranges, restate=False)
