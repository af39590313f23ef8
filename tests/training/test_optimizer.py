"""Muon for kernels and AdamW for the rest agree with PyTorch's own rules on plain matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from tests.makers import make_noise_job
from tilingseg.errors import TrainingError
from tilingseg.training.optimizer import MuonWithAdamW, make_optimizer
from tilingseg.training.recipe import Schedule, read_recipe

RATE, DECAY = 0.01, 0.1


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 2, 1),
    )


def make_steps(network, optimizer, n=5):
    for step in range(n):
        torch.manual_seed(step)
        optimizer.zero_grad()
        network(torch.randn(2, 3, 9, 9)).square().mean().backward()
        yield {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
        optimizer.step()


@pytest.fixture
def pair():
    """A network with its optimizer."""
    network = convert_conv2d_weight_memory_format(make_network(), torch.channels_last)
    schedule = Schedule(steps=1, optimizer="muon", learning_rate=RATE, weight_decay=DECAY)
    return network, make_optimizer(network, schedule)


def test_every_parameter_moves_as_by_the_rule_of_its_kind(pair):
    network, optimizer = pair
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    kernels = {
        name: nn.Parameter(p.permute(0, 2, 3, 1).reshape(len(p), -1).clone())
        for name, p in expected.items()
        if p.ndim == 4
    }
    others = {name: nn.Parameter(p.clone()) for name, p in expected.items() if p.ndim == 1}
    rules = (
        torch.optim.Muon(
            kernels.values(), lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others.values(), lr=RATE, weight_decay=0.0),
    )
    for gradients in make_steps(network, optimizer):
        for name, gradient in gradients.items():
            if name in others:
                others[name].grad = gradient
            else:
                kernels[name].grad = gradient.permute(0, 2, 3, 1).reshape(len(gradient), -1)
        for rule in rules:
            rule.step()
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, expected[name]), name
        moved = parameter if name in others else parameter.permute(0, 2, 3, 1).flatten(1)
        assert torch.equal(moved, (others | kernels)[name]), name


def test_a_kernel_moves_by_the_same_length_in_all_directions(pair):
    network, optimizer = pair
    kernel = network[0].weight
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = kernel.detach().clone()
    gradients = next(iter(make_steps(network, optimizer, 1)))["0.weight"]
    optimizer.step()
    of_gradient, of_step = (
        torch.linalg.svdvals(values.flatten(1)) for values in (gradients, kernel - before)
    )
    assert of_gradient[0] / of_gradient[-1] > 4
    # Five iterations of Newton and Schulz in bfloat16 bring singular values near 1, not to it.
    assert of_step[0] / of_step[-1] < 2


def test_the_rate_of_a_group_is_what_its_step_takes(pair):
    network, optimizer = pair
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    list(make_steps(network, optimizer, 2))
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_parameter_without_a_gradient_stays(pair):
    network, optimizer = pair
    network[4].weight.requires_grad_(False)
    before = network[4].weight.detach().clone()
    network(torch.randn(2, 3, 9, 9)).square().mean().backward()
    optimizer.step()
    assert torch.equal(network[4].weight, before)
    assert isinstance(optimizer, MuonWithAdamW)


def test_adamw_is_pytorchs_own():
    network = make_network()
    optimizer = make_optimizer(network, Schedule(steps=1, optimizer="adamw"))
    assert type(optimizer) is torch.optim.AdamW
    decays = [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert decays == [(1e-2, 4), (0.0, 6)]


def test_an_unknown_rule_is_refused(tmp_path):
    recipe = make_noise_job(tmp_path)
    recipe.write_text(recipe.read_text().replace("[schedule]", "[schedule]\noptimizer = 'sgd'"))
    with pytest.raises(TrainingError, match="optimizer is 'sgd', must be one of muon, adamw"):
        read_recipe(recipe)
