"""Windows that show a network what it will see: int8 measures the ranges of its layers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.model.normalize import normalize
from tilingseg.training.samples import draw_batch, unit_scaling
from tilingseg.training.sources import load_sources

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tilingseg.model.spec import ModelSpec
    from tilingseg.training.recipe import TrainingRecipe


def calibration_windows(
    recipe: TrainingRecipe, data: Path, spec: ModelSpec, n_batches: int
) -> list[torch.Tensor]:
    """Draw windows from the training areas, varied as in training.

    Args:
        recipe: where they are.
        data: folder that the recipe's paths are relative to.
        spec: its normalisation.
        n_batches: how many batches of the recipe's size.

    Returns:
        float32 (n, bands, side, side), normalised.

    Raises:
        TrainingError: the areas cannot be read.
    """
    rasters = load_sources(recipe, data, "train")
    scaling = unit_scaling(len(spec.bands))
    batches = (draw_batch(rasters, recipe, step) for step in range(n_batches))
    return [normalize(batch.pixels, batch.valid, scaling, spec) for batch in batches]
