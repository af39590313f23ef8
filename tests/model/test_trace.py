"""Graphs against the networks they were made from, run by the reference implementation of ONNX."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.model.test_core import OPTIONS, cuts
from tilingseg.errors import ModelError
from tilingseg.model.core import core_logits
from tilingseg.model.graph import PIXELS
from tilingseg.model.load import NETWORKS
from tilingseg.model.onnx_file import onnx_bytes
from tilingseg.model.trace import trace
from tilingseg.model.unet import UNet

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def run(graph, pixels):
    session = runtime.InferenceSession(onnx_bytes(graph, pixels.shape))
    return session.run(None, {PIXELS: pixels.numpy()})[0]


@settings(max_examples=40)
@given(st.data())
def test_a_graph_computes_what_the_network_computes(data):
    options = data.draw(OPTIONS)
    torch.manual_seed(0)
    module = UNet(2, 3, options).eval()
    shape = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    part = data.draw(cuts(shape[0])), data.draw(cuts(shape[1]))
    pixels = torch.randn(1, 2, *shape)
    graph = trace(module, pixels.shape, part)
    with torch.inference_mode():
        expected = core_logits(module, pixels, part)
    np.testing.assert_allclose(run(graph, pixels), expected.numpy(), rtol=0, atol=1e-4)


class Other(nn.Module):
    """Operators that the U-Net has not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, pixels):
        x = torch.relu(self.stem(pixels))
        x = x + self.wide(x)
        mean = nn.functional.interpolate(self.pool(x), size=x.shape[2:], mode="nearest")
        x = self.head(torch.cat([x, mean], dim=1))
        return nn.functional.interpolate(
            x, size=pixels.shape[2:], mode="bilinear", align_corners=False
        )


def test_networks_of_other_shapes_are_followed():
    torch.manual_seed(0)
    module = Other().eval()
    pixels = torch.randn(1, 2, 37, 50)
    part = slice(3, 30), slice(0, 50)
    with torch.inference_mode():
        expected = module(pixels)[:, :, *part]
    found = run(trace(module, pixels.shape, part), pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "unet"])
def test_the_other_networks_of_the_package_are_followed(network):
    torch.manual_seed(0)
    module = NETWORKS[network](2, 3, {}).eval()
    pixels = torch.randn(1, 2, 96, 160)
    part = slice(32, 64), slice(0, 160)
    with torch.inference_mode():
        expected = module(pixels)[:, :, *part]
    found = run(trace(module, pixels.shape, part), pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Tanh(), "'tanh'"),
        (nn.ConvTranspose2d(2, 2, 3, stride=2), "kernels overlap"),
        (nn.AdaptiveAvgPool2d(2), "pooling"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "bicubic"),
    ],
)
def test_an_unknown_operator_is_refused_by_name(layer, name):
    with pytest.raises(ModelError, match=name):
        trace(nn.Sequential(layer), (1, 2, 8, 8), (slice(None), slice(None)))


def test_nothing_is_computed():
    module = UNet(3, 2).eval()
    graph = trace(module, (1, 3, 8192, 8192), (slice(None), slice(None)))
    assert sum(node.operator == "Conv" for node in graph.nodes) == 23
