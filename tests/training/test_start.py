"""Learning on from another model: the same bands and layers, outputs by the names of classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.makers import SPEC, make_model
from tilingseg.errors import TrainingError
from tilingseg.model.load import build_network, load_trainable
from tilingseg.training.start import starting_weights


def with_classes(*classes, spec=SPEC, **changes):
    return dataclasses.replace(spec, classes=classes, thresholds=(0.5,) * len(classes), **changes)


def logits(spec, weights):
    module = build_network(spec).eval()
    module.load_state_dict(weights)
    with torch.inference_mode():
        return module(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("fold_px", [1, 2])
@pytest.mark.parametrize(
    ("classes", "found"),
    [(("road",), (1,)), (("road", "building"), (1, 0)), (("water", "building"), (None, 0))],
)
def test_outputs_go_by_the_names_of_their_classes(tmp_path, activation, fold_px, classes, found):
    options = (("features", (4, 8)), ("fold_px", fold_px))
    own = dataclasses.replace(SPEC, network_options=options, activation=activation)
    path = make_model(tmp_path / "m.safetensors", own)
    spec = with_classes(*classes, spec=own)
    expected = logits(own, load_trainable(path)[1].state_dict())
    made = logits(spec, starting_weights(str(path), spec))
    skipped = activation == "softmax"
    assert torch.equal(made[:, :skipped], expected[:, :skipped])
    for index, source in enumerate(found):
        if source is not None:
            assert torch.equal(made[:, skipped + index], expected[:, skipped + source])


def test_the_same_classes_at_another_pixel_size_begin_with_the_same_weights(tmp_path):
    path = make_model(tmp_path / "m.safetensors")
    weights = starting_weights(str(path), dataclasses.replace(SPEC, gsd_m=3.0))
    for name, tensor in load_trainable(path)[1].state_dict().items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bands": ("blue", "green", "red")},
            r"its bands = \['red', 'green', 'blue'\], the recipe's \['blue', 'green', 'red'\]",
        ),
        ({"bands": ("grey",), "mean": (0.5,), "std": (0.2,)}, r"bands .* the recipe's \['grey'\]"),
        ({"mean": (0.1, 0.5, 0.5)}, r"its mean = \[0.5, 0.5, 0.5\], the recipe's \[0.1, "),
        ({"std": (0.1, 0.2, 0.2)}, "its std = "),
        ({"activation": "softmax"}, "its activation = sigmoid, the recipe's softmax"),
        (
            {"network_options": (("features", (4, 16)),)},
            r"options = .'features': \(4, 8\)., the recipe's .'features': \(4, 16\)",
        ),
        ({"network": "fcn"}, "its network = unet, the recipe's fcn"),
    ],
)
def test_what_sees_something_else_is_no_start(tmp_path, changes, message):
    path = make_model(tmp_path / "m.safetensors")
    with pytest.raises(TrainingError, match=rf"{message}.*; write the model's into the recipe"):
        starting_weights(str(path), dataclasses.replace(SPEC, **changes))


def test_a_network_whose_classes_lie_in_several_layers_keeps_them(tmp_path):
    fcn = dataclasses.replace(
        SPEC, network="fcn", network_options=(("features", (4, 8)), ("n_scored", 2))
    )
    path = make_model(tmp_path / "m.safetensors", fcn)
    assert starting_weights(str(path), fcn).keys() == build_network(fcn).state_dict().keys()
    with pytest.raises(TrainingError, match=r"classes = \['building', 'road'\], .*\['road'\]"):
        starting_weights(str(path), with_classes("road", spec=fcn))
