"""What a model is made from, in words that travel with it: its spec gets them, its card shows them.

Rasters are said by the patterns that choose them, so that anybody who has the same data can tell
what was learnt and what was held out. A model that learns on from another one holds what that one
has learnt: its licences go on with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tilingseg.model.load import file_sha256, load_trainable
from tilingseg.training.sources import match_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tilingseg.model.spec import ModelSpec, Split
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe

_LEARNT = ("train", "blocks")


def spec_with_origins(recipe: TrainingRecipe, data: Path) -> ModelSpec:
    """Return the spec of the model that a recipe trains, with all that it is made from.

    Args:
        recipe: what to train.
        data: folder that its paths are relative to.

    Raises:
        TrainingError: a source has no raster.
        ModelError: the model to start from cannot be read.
    """
    spec = replace(recipe.spec(), splits=splits_of(recipe.sources, data))
    if recipe.start is None:
        return spec
    before, _ = load_trainable(recipe.start)
    learnt = (split for split in before.splits if split[0] in _LEARNT)
    return replace(
        spec,
        sources=tuple(dict.fromkeys((*before.sources, *spec.sources))),
        splits=tuple(dict.fromkeys((*learnt, *spec.splits))),
        not_for=tuple(dict.fromkeys((*before.not_for, *spec.not_for))),
        notes=(
            f"Learnt on from {before.name}, SHA-256 {file_sha256(recipe.start)}.",
            *spec.notes,
        ),
    )


def splits_of(sources: Iterable[SourceRecipe], data: Path) -> tuple[Split, ...]:
    """Return what a spec and a card say of each source.

    Raises:
        TrainingError: a source has no raster.
    """
    return tuple(
        (
            source.split,
            source.name,
            sum(1 for _ in match_files(source, data)),
            _which(source),
            ", ".join(label.name for label in source.classes),
        )
        for source in sources
    )


def _which(source: SourceRecipe) -> str:
    """Say which rasters a source takes, and which part of each, as its recipe does."""
    parts = [source.rasters]
    if source.include != ("*",):
        parts.append(f"only {', '.join(source.include)}")
    if source.exclude:
        parts.append(f"without {', '.join(source.exclude)}")
    if source.labelled is not None:
        parts.append(f"inside {source.labelled}")
    if source.rows != (0.0, 1.0):
        parts.append(f"labelled rows {source.rows[0]:.0%} to {source.rows[1]:.0%}")
    if source.split == "blocks":
        parts.append(f"{source.held_out:.0%} of its blocks of {source.block_px} px held out")
    return "; ".join(parts)
