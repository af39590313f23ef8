"""A source says each thing once, and nothing without effect."""

from __future__ import annotations

import pytest

from tilingseg.errors import TrainingError
from tilingseg.training.source_recipe import ClassLabel, SourceRecipe


def make_source(*classes, **changes):
    settings = {"name": "here", "split": "train", "rasters": "*_rgb.tif", "licence": "CC0"}
    return SourceRecipe(**(settings | {"classes": classes} | changes))


def house(**settings):
    return ClassLabel(name="house", **settings)


@pytest.mark.parametrize(
    ("classes", "changes", "message"),
    [
        (
            (house(values=(1, 255)),),
            {"mask": "m.png"},
            "class 'house' has the value 255, which is unlabelled in this source unless it says "
            "otherwise: write unlabelled = [] beside its mask",
        ),
        (
            (house(values=(3,)),),
            {"mask": "m.png", "unlabelled": (0, 3)},
            "class 'house' has the value 3, which is unlabelled in this source: "
            "write unlabelled = [0] beside its mask",
        ),
        (
            (house(values=(3,), unlabelled=(3,)),),
            {"mask": "m.png"},
            "class 'house': 3 is among its values and its unlabelled ones",
        ),
        (
            (house(values=(1,)), house(values=(2,))),
            {"mask": "m.png"},
            "class 'house' is listed twice",
        ),
        ((house(vectors="v.gpkg"),), {"unlabelled": (0,)}, "unlabelled names values of a mask"),
        ((house(vectors="v.gpkg", unlabelled=(0,)),), {}, "labelled = 'area.geojson' says which"),
        ((house(values=(1,), width_m=3.0),), {"mask": "m.png"}, "width_m is for lines, and it"),
        ((house(vectors="v.gpkg", width_m=0.0),), {}, "class 'house': width_m is 0.0, must be abo"),
        ((house(vectors="v.gpkg"),), {"labelled": "{}_{}.gpkg"}, "may have a {} for each of the 1"),
        (
            (house(values=(1,), vectors="v.gpkg"),),
            {"mask": "m"},
            "needs mask values or vectors, an",
        ),
        ((house(values=(1,)),), {}, "source 'here' has mask values but no mask"),
    ],
)
def test_contradictions_are_one_line(classes, changes, message):
    with pytest.raises(TrainingError) as caught:
        make_source(*classes, **changes)
    assert str(caught.value).startswith("source 'here'")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_unlabelled_is_255_unless_the_recipe_says_otherwise():
    assert make_source(house(values=(1,)), mask="m.png").silent_values == (255,)
    assert make_source(house(values=(255,)), mask="m.png", unlabelled=()).silent_values == ()
