"""A model's file says what it was made from, also by way of the model that it began from."""

from __future__ import annotations

import dataclasses

import pytest

from tests.makers import make_noise_job
from tilingseg.errors import TrainingError
from tilingseg.model.load import file_sha256, load_model
from tilingseg.training.loop import train
from tilingseg.training.origins import splits_of
from tilingseg.training.recipe import ClassLabel, SourceRecipe, read_recipe


def make_source(**changes):
    return SourceRecipe(
        **{
            "name": "town",
            "split": "train",
            "rasters": "*.tif",
            "classes": (ClassLabel(name="road", vectors="{}.gpkg"),),
            "licence": "CC0",
        }
        | changes
    )


@pytest.mark.parametrize(
    ("changes", "which"),
    [
        ({}, "*.tif"),
        ({"include": ("a*", "c*")}, "*.tif; only a*, c*"),
        ({"exclude": ("c*",), "rows": (0.0, 0.74)}, "*.tif; without c*; labelled rows 0% to 74%"),
        ({"split": "blocks"}, "*.tif; 20% of its blocks of 512 px held out"),
    ],
)
def test_which_rasters_is_said_as_the_recipe_does(tmp_path, changes, which):
    for name in ("a.tif", "b.tif", "c.tif"):
        (tmp_path / name).touch()
    source = make_source(**changes)
    n = {"*.tif; only a*, c*": 2, "*.tif; without c*; labelled rows 0% to 74%": 2}.get(which, 3)
    assert splits_of([source], tmp_path) == ((source.split, "town", n, which, "road"),)


def test_a_source_without_a_raster_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="source 'town': no file matches"):
        splits_of([make_source()], tmp_path)


def test_what_the_first_model_learnt_goes_on_with_the_second(tmp_path):
    recipe = read_recipe(make_noise_job(tmp_path))
    learnt, held_out = recipe.sources
    learnt = dataclasses.replace(learnt, licence="first, CC BY", name="first")
    first = dataclasses.replace(recipe, sources=(learnt, held_out), not_for=("Rescue.",))
    path = train(first, tmp_path, tmp_path / "one", threads=1)
    one = load_model(path).spec
    assert one.not_for == ("Rescue.",)
    assert one.splits == splits_of(first.sources, tmp_path)

    second = dataclasses.replace(recipe, start=str(path), notes=("Mine.",))
    two = load_model(train(second, tmp_path, tmp_path / "two", threads=1)).spec
    assert two.sources == ("first, CC BY", "CC0")
    assert "Rescue." in two.not_for
    # What was held out of the first one may be learnt now: only what it learnt goes on.
    assert two.splits == (one.splits[0], *splits_of(recipe.sources, tmp_path))
    assert two.notes[-2:] == (
        f"Learnt on from tiny, SHA-256 {file_sha256(path)}.",
        "Mine.",
    )
