"""The network: sizes, variants, first weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tilingseg.errors import ModelError
from tilingseg.model.unet import UNet, UNetOptions

VARIANTS = st.builds(
    UNetOptions,
    features=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    upsampling=st.sampled_from(["transpose", "nearest", "bilinear"]),
    convolution=st.sampled_from(["padded", "valid"]),
    fold_px=st.sampled_from([1, 2, 3, 4]),
    dropout=st.sampled_from([0.0, 0.5]),
)


@settings(max_examples=40)
@given(options=VARIANTS, height=st.integers(1, 40), width=st.integers(1, 40))
def test_output_has_the_size_of_any_input(options, height, width):
    module = UNet(2, 3, options).eval()
    assert module(torch.randn(2, 2, height, width)).shape == (2, 3, height, width)


def test_default_is_the_papers_size():
    module = UNet(1, 2)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23  # as the paper counts them
    assert module.bottom[0].out_channels == 1024
    assert module.multiple_px == 16


def test_valid_convolutions_lose_the_papers_margin():
    # 572 px in, 388 px out
    assert UNet(1, 2, UNetOptions(convolution="valid")).margin_px == (572 - 388) // 2


def test_output_lies_on_the_pixels_of_the_input():
    """A bright pixel moves the output around itself, not beside itself."""
    torch.manual_seed(1)
    for convolution in ("padded", "valid"):
        for fold_px in (1, 2):
            options = UNetOptions(features=(4, 4), convolution=convolution, fold_px=fold_px)
            module = UNet(1, 1, options).eval()
            pixels = torch.randn(1, 1, 64, 64)
            changed = pixels.clone()
            changed[0, 0, 30, 34] += 3
            apart = (module(pixels) - module(changed)).detach().abs()[0, 0]
            rows = (apart.sum(1) * torch.arange(64)).sum() / apart.sum()
            cols = (apart.sum(0) * torch.arange(64)).sum() / apart.sum()
            assert abs(float(rows) - 30) < 3
            assert abs(float(cols) - 34) < 3


def test_the_size_of_the_batch_does_not_matter():
    torch.manual_seed(0)
    module = UNet(3, 2, UNetOptions(features=(4, 8))).eval()
    pixels = torch.randn(3, 3, 24, 24)
    alone = torch.cat([module(pixels[i : i + 1]) for i in range(3)])
    assert torch.allclose(module(pixels), alone, atol=1e-5)


def test_first_probabilities_are_those_of_rare_classes():
    torch.manual_seed(0)
    module = UNet(3, 2, UNetOptions(features=(8, 16))).eval()
    logits = module(torch.randn(1, 3, 64, 64))
    assert -3 < logits.mean().item() < -1
    assert torch.all(module.head.bias == -2)


def test_activations_keep_their_scale_through_the_layers():
    torch.manual_seed(0)
    module = UNet(3, 2, UNetOptions(features=(16, 32, 64))).eval()
    assert 0.1 < module(torch.randn(1, 3, 64, 64)).std().item() < 10


def test_checkpointing_changes_memory_and_not_gradients():
    pixels = torch.randn(1, 3, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = UNet(3, 1, UNetOptions(features=(4, 8), checkpointing=checkpointing)).train()
        module(pixels).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    module = UNet(3, 1, UNetOptions(features=(4, 8), dropout=0.5))
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(module.eval()(pixels), module(pixels))
    module.train()
    assert not torch.equal(module(pixels), module(pixels))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"features": ()}, "features"),
        ({"features": (8, 0)}, "features"),
        ({"fold_px": 0}, "fold_px"),
        ({"fold_px": True}, "fold_px"),
        ({"upsampling": "cubic"}, "cubic"),
        ({"convolution": "same"}, "same"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_options_are_refused(options, word):
    with pytest.raises(ModelError, match=word):
        UNetOptions(**options)


def test_a_network_without_bands_is_refused():
    with pytest.raises(ModelError, match="0 bands"):
        UNet(0, 1)
