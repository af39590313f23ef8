"""Weights of a model to begin from, for the network of a recipe.

What the network sees has to mean the same to both: bands, mean, std and the layers. Outputs go by
the names of their classes: those that the model has are taken from it wherever they stand, others
begin afresh. The pixel size may be another: learning on at another one is what many want.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tilingseg.errors import TrainingError
from tilingseg.model.load import build_network, load_trainable
from tilingseg.records import to_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tilingseg.model.spec import ModelSpec


def starting_weights(start: str, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the weights that a network begins with.

    Args:
        start: name of a bundled model, or path of a model file.
        spec: of the network.

    Returns:
        All tensors of the network of `spec`, by name.

    Raises:
        TrainingError: the model sees something else, or has another network.
        ModelError: there is no such model, or it cannot be read.
    """
    own, module = load_trainable(start)
    for key in ("network", "bands", "mean", "std", "activation"):
        _refuse_other(start, key, getattr(own, key), getattr(spec, key))
    made, weights = build_network(spec), module.state_dict()
    if not hasattr(made, "head"):  # the scores of several layers are added
        _refuse_other(start, "classes", own.classes, spec.classes)
    alike = build_network(replace(own, classes=spec.classes, thresholds=spec.thresholds))
    if _shapes(alike) != _shapes(made):
        options = (dict(one.network_options) for one in (own, spec))
        _refuse_other(start, "network options", *options)
    if own.classes != spec.classes:
        for name in ("head.weight", "head.bias"):
            weights[name] = _by_class(weights[name], own, made.state_dict()[name], spec)
    return weights


def _refuse_other(start: str, key: str, own: object, wanted: object) -> None:
    if own != wanted:
        raise TrainingError(
            f"training cannot start from {start}: its {key} = {to_json(own)}, the recipe's "
            f"{to_json(wanted)}; write the model's into the recipe, or leave start out"
        )


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _by_class(tensor: Tensor, own: ModelSpec, fresh: Tensor, spec: ModelSpec) -> Tensor:
    """Return the rows of a fresh head, with a model's own for the classes that it has."""
    # a folded network has several rows for each output, one after the other
    rows, made = (
        one.view(of.n_outputs, -1, *one.shape[1:]) for one, of in ((tensor, own), (fresh, spec))
    )
    background = ("",) if spec.activation == "softmax" else ()
    before = (*background, *own.classes)
    for row, name in zip(made, (*background, *spec.classes), strict=True):
        if name in before:
            row.copy_(rows[before.index(name)])
    return fresh
