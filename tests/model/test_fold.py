"""Batch normalisation folded into convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tilingseg.model.fold import folded
from tilingseg.model.unet import UNet, UNetOptions


def trained(module):
    """Give every normalisation statistics as training leaves them."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    return module.eval()


@pytest.mark.parametrize("upsampling", ["transpose", "bilinear"])
def test_gives_the_same_numbers(upsampling):
    module = trained(UNet(3, 2, UNetOptions(features=(8, 16, 32), upsampling=upsampling)))
    pixels = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        apart = folded(module)(pixels).sigmoid() - module(pixels).sigmoid()
    assert apart.abs().max() <= 1e-5


def test_leaves_no_normalisation_and_the_network_as_it_was():
    module = trained(UNet(1, 1, UNetOptions(features=(4,))))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(module).modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_statistics_of_the_tile_cannot_be_folded():
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    assert isinstance(folded(chain)[1], nn.BatchNorm2d)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_stay():
    scripted = torch.jit.script(nn.Conv2d(1, 1, 1))
    assert folded(scripted) is scripted
