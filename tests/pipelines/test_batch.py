"""A batch from a recipe: the flags of the command, refused where they are none."""

import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.batch import arguments_of, main
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg.cli.cluster_commands import batch


def write(folder, text):
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_becomes_flags(tmp_path):
    text = """
    scenes = ["scenes/*.tif", "s3://bucket/a.tif"]
    out = "out"
    cluster = "local"
    cluster-workers = 3
    formats = ["cog", "gpkg"]
    threshold = ["road=0.4", "building=0.6"]
    no-resume = true
    quiet = false
    """
    flags, scenes = arguments_of(write(tmp_path, text))
    assert flags == [
        *("--out", str(tmp_path / "out"), "--cluster", "local", "--cluster-workers", "3"),
        *("--formats", "cog,gpkg", "--threshold", "road=0.4", "--threshold", "building=0.6"),
        "--no-resume",
    ]
    assert scenes == [str(tmp_path / "scenes/*.tif"), "s3://bucket/a.tif"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scenes = ['a.tif']\nworker = 2", "unknown key 'worker'; known: scenes, aoi"),
        ("out = 'b'", "scenes must be a list"),
        ("scenes = ['a.tif']\nquiet = 1", "quiet is 1, must be true or false"),
        ("scenes = ['a.tif']\nlimit = true", "limit is True, must be a text"),
        ("scenes = ['a.tif']\nmodel = [['m']]", "must be a text, a number or a list"),
        ("scenes = ['a.tif']\nout = ['b']", r"out is \['b'\], must be one text"),
        ("scenes = [", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(click.ClickException, match=words):
        arguments_of(write(tmp_path, text))


def parsed(recipe, *flags):
    """Return what `tilingseg batch` understands by a recipe and flags."""
    own, scenes = arguments_of(recipe, flags)
    return batch.make_context("batch", [*own, *flags, "--", *scenes]).params


def test_flags_take_the_place_of_what_the_recipe_says(tmp_path):
    text = """
    scenes = ["a.tif"]
    out = "out"
    model = "buildings-roads"
    select = ["t=0"]
    threshold = ["road=0.4", "building=0.6"]
    no-resume = true
    """
    recipe = write(tmp_path, text)
    flags = ("--model", "other.safetensors", "--select", "t=1", "--resume", "-o", "elsewhere")
    understood = parsed(recipe, *flags)
    assert understood["models"] == ("other.safetensors",)
    assert understood["selectors"] == (("t", 1),)
    assert understood["resume"]
    assert str(understood["out"]) == "elsewhere"
    assert understood["thresholds"] == (("road", 0.4), ("building", 0.6))
    assert parsed(recipe)["models"] == ("buildings-roads",)
    assert arguments_of(recipe, ("--no-such", "--limit"))[0] == arguments_of(recipe)[0]


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("resume = false", "--no-resume"),
        ("resume = true", "--resume"),
        ("no-resume = true", "--no-resume"),
        ("no-resume = false", "--resume"),
    ],
)
def test_what_is_on_by_default_can_be_put_off(tmp_path, line, flag):
    assert arguments_of(write(tmp_path, f"scenes = ['a.tif']\n{line}"))[0] == [flag]


def test_model_files_lie_beside_the_recipe(tmp_path):
    text = "scenes = ['a.tif']\nmodel = ['m.safetensors', 'buildings-roads', 'sub/script.pt']"
    understood = parsed(write(tmp_path, text))
    assert understood["models"] == (
        str(tmp_path / "m.safetensors"), "buildings-roads", str(tmp_path / "sub/script.pt"),
    )  # fmt: skip


def test_the_recipe_beside_the_pipelines_is_one():
    recipe = Path(__file__).parents[2] / "pipelines" / "recipes" / "batch.toml"
    flags, scenes = arguments_of(recipe)
    assert flags[flags.index("--cluster") + 1] == str(recipe.with_name("cluster_slurm.toml"))
    assert scenes == ["/shared/scenes/*.tif"]


def test_runs_the_batch_and_gives_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["batch.py"])
    make_geotiff(tmp_path / "a.tif", smooth_noise(64, 64))
    (tmp_path / "b.tif").write_bytes(b"no raster")
    make_model(tmp_path / "tiny.safetensors")
    text = "scenes = ['*.tif']\nout = 'out'\nmodel = 'tiny.safetensors'\nformats = ['cog']\n"
    recipe = write(tmp_path, text + "device = 'cpu'\n")
    planned = CliRunner().invoke(main, [str(recipe), "--dry-run"])
    assert planned.exit_code == 0
    assert len(planned.stdout.splitlines()) == 2
    done = CliRunner().invoke(main, [str(recipe), "--limit", "2"])
    assert done.exit_code == 1
    assert "1 of 2 scenes failed" in done.stderr
    assert (tmp_path / "out" / "a" / "a_mask.tif").exists()
    assert "| b " in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
