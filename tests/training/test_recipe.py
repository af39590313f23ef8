"""A recipe is read whole, or refused with the key that is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tilingseg.errors import TrainingError
from tilingseg.model.deeplab import DeepLabOptions
from tilingseg.model.fcn import FcnOptions
from tilingseg.model.load import build_network, load_model
from tilingseg.model.unet import UNetOptions
from tilingseg.training.loop import train
from tilingseg.training.recipe import ClassLabel, read_recipe

ROOT = Path(__file__).parents[2]

GOOD = """
name = "tiny"
classes = ["building", "road"]
bands = ["red"]
gsd_m = 1
mean = [0.5]
std = [0.2]
seed = 3
[network]
features = [4, 8]
[schedule]
steps = 10
[loss]
kind = "focal"
[augment]
scale = [1, 1.5]
[[sources]]
name = "here"
split = "train"
rasters = "*.tif"
mask = "{}.png"
classes = [{ name = "road", values = [2, 3] }]
licence = "CC0"
"""


def write(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_becomes_records(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.network.features == (4, 8)
    assert recipe.schedule.steps == 10
    assert recipe.gsd_m == 1.0
    assert isinstance(recipe.gsd_m, float)
    assert recipe.augment.scale == (1.0, 1.5)
    assert recipe.loss.kind == "focal"
    assert recipe.sources[0].classes == (ClassLabel(name="road", values=(2, 3)),)
    assert recipe.sources[0].rows == (0.0, 1.0)
    assert hash(recipe) == hash(read_recipe(write(tmp_path, GOOD)))


def test_the_spec_of_a_recipe_builds_its_network(tmp_path):
    spec = read_recipe(write(tmp_path, GOOD)).spec()
    assert (spec.name, spec.gsd_m, spec.sources) == ("tiny", 1.0, ("CC0",))
    network = build_network(spec)
    assert network.options.features == (4, 8)
    assert network.head.out_channels == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ('kind = "unet"', UNetOptions(features=(4, 8))),
        ('kind = "fcn"\nn_scored = 2', FcnOptions(features=(4, 8), n_scored=2)),
        (
            'kind = "deeplab"\ndilations = [1, 2]',
            DeepLabOptions(features=(4, 8, 8, 8), dilations=(1, 2)),
        ),
    ],
)
def test_the_network_is_chosen_by_its_kind(tmp_path, kind, options):
    features = f"features = {list(options.features)}"
    text = GOOD.replace("features = [4, 8]", f"{kind}\n{features}")
    recipe = read_recipe(write(tmp_path, text))
    assert recipe.network == options
    assert build_network(recipe.spec()).options == options


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sede = 3", "unknown key 'sede'; known: name, classes"),
        ("steps = 10", "stepz = 10", r"schedule: unknown key 'stepz'"),
        ("[schedule]\nsteps = 10", "[schedule]", r"schedule: the key 'steps' is missing"),
        ("features = [4, 8]", 'kind = "vit"', "network: kind is 'vit', must be one of unet, fcn"),
        ("features = [4, 8]", "deep = 3", "network: unknown key 'deep'"),
        ("mean = [0.5]\n", "", "the key 'mean' is missing"),
        ("gsd_m = 1\n", 'gsd_m = "1"\n', "gsd_m is '1', must be float"),
        ("seed = 3", "seed = true", "seed is True, must be int"),
        ("seed = 3", "seed = 3.5", "seed is 3.5, must be int"),
        (
            'split = "train"',
            'split = "trial"',
            "split is 'trial', must be one of train, val",
        ),
        ("scale = [1, 1.5]", "scale = [1]", "scale needs 2 values, got 1"),
        ('classes = [{ name = "road"', 'classes = [{ name = "river"', "labels 'river'"),
        (", values = [2, 3]", "", "needs mask values or vectors"),
        ('mask = "{}.png"', "", "has mask values but no mask"),
        ('split = "train"', 'split = "train"\nrows = [0.5, 0.5]', "rows"),
        ('split = "train"', 'split = "validation"', "no source with split = 'train'"),
        ("[network]", "network = 3\n[more]", "a table of keys is needed, got 3|unknown key 'more'"),
        ('kind = "focal"', 'kind = "mse"', "kind is 'mse', must be one of bce"),
        ("[schedule]", "[schedule", "is not TOML"),
        ("seed = 3", "seed = -1", "seed is -1, must be 0 to 4294967295"),
        ('bands = ["red"]', "bands = []", "bands is empty"),
        ('name = "tiny"', 'name = "a/b"', "name is 'a/b', must be a file name"),
        (
            "steps = 10",
            "steps = 10\nn_windows = -1",
            "schedule: n_windows is -1, must be at least 0",
        ),
        (
            'split = "train"',
            'split = "train"\nweight = 0',
            "'here': weight is 0.0, must be above 0",
        ),
        (
            'rasters = "*.tif"',
            'rasters = "/data/*.tif"',
            "must be a path or pattern within the data",
        ),
        ('mask = "{}.png"', 'mask = "{}_{}.png"', "may have a {} for each of the 1 stars in"),
        ('mask = "{}.png"', 'mask = "{name}.png"', "may have a {} for each of the 1 stars in"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(TrainingError, match=message) as caught:
        read_recipe(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_softmax_needs_labels_of_every_class(tmp_path):
    whole = '{ name = "building", values = [1] }, '
    softmax = GOOD.replace("seed = 3", 'seed = 3\nactivation = "softmax"')
    both = softmax.replace("classes = [{", f"classes = [{whole}{{")
    assert read_recipe(write(tmp_path, both)).activation == "softmax"
    measured = softmax[softmax.index("[[sources]]") :].replace("train", "validation")
    assert len(read_recipe(write(tmp_path, both + measured)).sources) == 2
    with pytest.raises(TrainingError, match="'here' does not label 'building': with softmax only"):
        read_recipe(write(tmp_path, softmax))


def test_patience_needs_something_to_judge_by(tmp_path):
    patient = GOOD.replace("steps = 10", "steps = 10\npatience = 2")
    with pytest.raises(TrainingError, match="patience is 2, but nothing is held out to judge by"):
        read_recipe(write(tmp_path, patient))
    blocks = patient.replace('split = "train"', 'split = "blocks"')
    assert read_recipe(write(tmp_path, blocks)).schedule.patience == 2


def test_a_recipe_can_extend_another_one(tmp_path):
    base = read_recipe(write(tmp_path, GOOD))
    larger = tmp_path / "larger.toml"
    larger.write_text(
        'extends = "recipe.toml"\nname = "larger"\nbands = ["green"]\n[network]\nfold_px = 2\n'
        "[schedule]\nsteps = 99\n",
        encoding="utf-8",
    )
    recipe = read_recipe(larger)
    assert (recipe.name, recipe.bands) == ("larger", ("green",))
    assert recipe.network == UNetOptions(features=(4, 8), fold_px=2)
    assert recipe.schedule.steps == 99
    assert (recipe.sources, recipe.loss, recipe.seed) == (base.sources, base.loss, base.seed)


def test_a_recipe_can_add_sources_to_another_one(tmp_path):
    base = read_recipe(write(tmp_path, GOOD))
    more = GOOD[GOOD.index("[[sources]]") :].replace("[[sources]]", "[[more_sources]]")
    (tmp_path / "more.toml").write_text(f'extends = "recipe.toml"\n{more}', encoding="utf-8")
    assert read_recipe(tmp_path / "more.toml").sources == base.sources * 2


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ('extends = "b.toml"\nmore_sources = 3', GOOD, "more_sources is 3, must be"),
        ("more_sources = 3", "", "a.toml: unknown key 'more_sources'"),
        ('extends = "b.toml"', 'extends = "a.toml"', "a.toml: extends 'b.toml', which in the end"),
        ('extends = "a.toml"', "", "extends 'a.toml', which in the end extends this file"),
        ('extends = "c.toml"', "", "c.toml cannot be read: No such file"),
        ("extends = 3", "", "a.toml: extends is 3, must be str"),
        ('extends = "b.toml"\nsede = 3', GOOD, "a.toml: unknown key 'sede'"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path, first, second, message):
    for name, text in (("a", first), ("b", second)):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=message) as caught:
        read_recipe(tmp_path / "a.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "recipes").glob("*.toml")), ids=str)
def test_recipes_that_train_are_valid(path):
    text = path.read_text(encoding="utf-8")
    if "[schedule]" not in text:
        pytest.skip(f"{path.name} is no training recipe")
    recipe = read_recipe(path)
    assert build_network(recipe.spec()) is not None
    assert {source.split for source in recipe.sources} in ({"train", "validation"}, {"blocks"})


def test_the_first_recipe_goes_on_from_the_bundled_model(tmp_path):
    recipe = read_recipe(ROOT / "pipelines" / "recipes" / "first.toml")
    schedule = dataclasses.replace(recipe.schedule, steps=1, batch_size=1, validate_every=1)
    recipe = dataclasses.replace(recipe, schedule=schedule)
    path = train(recipe, ROOT / "sample_data", tmp_path)
    # One step hardly changes what the bundled model knows; fresh weights would know nothing.
    spec, bundled = load_model(path).spec, load_model("buildings-roads")
    scores = [note for note in spec.notes if note.startswith("IoU of")]
    assert len(scores) == 2
    # What the bundled model learnt is still in it.
    assert spec.sources == (*bundled.spec.sources, recipe.sources[0].licence)
    assert spec.notes[2] == f"Learnt on from buildings-roads, SHA-256 {bundled.sha256}."
    assert all(float(score.rpartition(": ")[2]) > 0.6 for score in scores)
