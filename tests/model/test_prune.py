"""Fewer channels: those that do nothing go first, and the widths answer to the share."""

import pytest
import torch
from torch import nn

from tilingseg.errors import ModelError
from tilingseg.model.prune import narrower, prune
from tilingseg.model.unet import UNet, UNetOptions


def n_weights(features):
    return sum(p.numel() for p in UNet(3, 2, UNetOptions(features=features)).parameters())


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6])
@pytest.mark.parametrize("features", [(16, 32, 64, 128), (32, 64, 128)])
def test_at_least_the_share_is_removed_from_the_lower_levels(features, share):
    chosen = narrower(features, share)
    assert chosen[: len(features) // 2] == features[: len(features) // 2]
    assert n_weights(chosen) <= (1 - share + 0.005) * n_weights(features)
    assert n_weights(chosen) >= (1 - share - 0.2) * n_weights(features)


@pytest.mark.parametrize("features", [(8, 12, 20), (16, 36, 60), (6, 12), (20, 30)])
def test_widths_of_any_number_become_no_wider(features):
    chosen = narrower(features, 0.1)
    assert all(new <= old for new, old in zip(chosen, features, strict=True))
    assert all(new % 8 == 0 for new, old in zip(chosen, features, strict=True) if new < old)
    network = UNet(3, 1, UNetOptions(features=features))
    assert prune(network, chosen).options.features == chosen


def test_what_cannot_be_removed_is_refused():
    with pytest.raises(ModelError, match="99% of the weights"):
        narrower((16, 32), 0.99)
    with pytest.raises(ModelError, match="10% of the weights"):
        narrower((4, 4), 0.1)


@pytest.mark.parametrize("upsampling", ["transpose", "nearest"])
@pytest.mark.parametrize("fold_px", [1, 2])
def test_channels_that_do_nothing_are_the_first_to_go(upsampling, fold_px):
    """A network that was made wider by channels of zeros is pruned to what it was."""
    torch.manual_seed(0)
    options = UNetOptions(features=(8, 16), upsampling=upsampling, fold_px=fold_px)
    small = UNet(2, 1, options).eval()
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    wide = widened(small, (16, 24))
    pixels = torch.randn(1, 2, 64, 64)
    with torch.inference_mode():
        expected = small(pixels)
        assert torch.allclose(wide(pixels), expected, atol=1e-5)
        assert torch.allclose(prune(wide, (8, 16))(pixels), expected, atol=1e-5)


def widened(small, features):
    """Spread the channels of a U-Net over a wider one, whose other channels give zeros."""
    from dataclasses import replace

    wide = UNet(2, 1, replace(small.options, features=features)).eval()
    with torch.no_grad():
        for name, tensor in wide.state_dict().items():
            tensor.fill_(1.0 if name.endswith("running_var") else 0.0)
        halves = {name: tensor.shape for name, tensor in small.state_dict().items()}
        for name, tensor in small.state_dict().items():
            target = wide.state_dict()[name]
            if target.ndim == 0:
                continue
            if name.startswith("decoder") and name.endswith("0.weight") and tensor.ndim == 4:
                half, place = halves[name][1] // 2, target.shape[1] // 2
                target[: len(tensor), :half] = tensor[:, :half]
                target[: len(tensor), place : place + half] = tensor[:, half:]
            else:
                target[tuple(slice(0, n) for n in tensor.shape)] = tensor
    return wide


def test_other_networks_are_refused():
    with pytest.raises(ModelError, match="Conv2d"):
        prune(nn.Conv2d(1, 1, 1), (8,))
