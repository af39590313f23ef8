from pathlib import Path

import pytest

from tilingseg.cluster.recipe import ClusterRecipe, read_cluster
from tilingseg.errors import PlanError


def write(tmp_path, text):
    path = tmp_path / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_recipe_is_read_with_all_its_keys(tmp_path):
    text = 'kind = "slurm"\nworkers = 40\nqueue = "gpu"\ndirectives = ["--gres=gpu:1"]\n'
    recipe = read_cluster(write(tmp_path, text))
    assert recipe == ClusterRecipe(
        kind="slurm", workers=40, queue="gpu", directives=("--gres=gpu:1",)
    )


def test_a_kind_or_an_address_is_a_recipe_too():
    assert read_cluster("local", 3) == ClusterRecipe(kind="local", workers=3)
    assert read_cluster("tcp://host:8786").is_running


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "slurm"\nwall_time = "1:00"', "unknown key 'wall_time'; known: kind, workers"),
        ("workers = 2", "the key 'kind' is missing"),
        ('kind = "slurm"\nworkers = "2"', "workers is '2', must be a whole number"),
        ('kind = "slurm"\nworkers = true', "workers is True, must be a whole number"),
        ('kind = "slurm"\nqueue = 2', "queue is 2, must be a text"),
        ('kind = "slurm"\nprologue = "x"', "prologue is 'x', must be a list of texts"),
        ('kind = "cloud"', "cluster 'cloud' is none of local, slurm"),
        ('kind = "slurm"\nworkers = 0', "workers must be 1 or more, got 0"),
        ('kind = "slurm"\nleast_workers = 3', "least_workers must be 0 to 2, got 3"),
        ("kind = slurm", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(PlanError, match=words):
        read_cluster(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        read_cluster(str(tmp_path / "none.toml"))


RECIPES = sorted((Path(__file__).parents[1] / "pipelines" / "recipes").glob("cluster_*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_beside_the_pipelines_are_recipes(path):
    assert read_cluster(str(path)).kind == path.stem.split("_")[1]


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "local" not in path.stem], ids=lambda path: path.stem
)
def test_a_job_script_says_what_its_recipe_says(path, tmp_path):
    recipe = read_cluster(str(path))
    queued = pytest.importorskip("tilingseg.cluster.queued", reason="needs the extra [cluster]")
    jobqueue = queued.import_jobqueue()
    wishes = queued.job_wishes(recipe)
    for key in ("scheduler_options", "interface"):
        wishes.pop(key, None)
    cluster_type = getattr(jobqueue, f"{recipe.kind.upper()}Cluster")
    job = cluster_type.job_cls("tcp://127.0.0.1:8786", name="worker", **wishes)
    script = job.job_script()
    words = (recipe.queue, recipe.walltime, *recipe.prologue, *recipe.directives)
    for word in (*words, "OMP_NUM_THREADS=", "--nthreads 1"):
        assert word in script
    assert script.rstrip().splitlines()[-1].startswith(recipe.python)
