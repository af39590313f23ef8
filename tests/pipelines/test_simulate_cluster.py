"""The forecast against what can be said without stepping through it."""

import pytest
from click.testing import CliRunner

from pipelines.simulate_cluster import Costs, main, simulate

SMALL = Costs(megapixels=1000 * 16.777216, region_s=8.0, vectors_s=0.0, publish_s=0.0)
"""A thousand regions."""


def test_workers_share_the_regions():
    alone, ten = simulate(SMALL, 1), simulate(SMALL, 10)
    assert alone.regions_s == pytest.approx(8000, rel=0.01)
    assert ten.regions_s == pytest.approx(800, rel=0.02)
    assert ten.limit == "workers"


def test_more_workers_than_the_scheduler_feeds_gain_nothing():
    quick = Costs(megapixels=SMALL.megapixels, region_s=1.0, scheduler_ms=10.0, region_mb=0.0)
    assert simulate(quick, 10_000).limit == "scheduler"
    assert simulate(quick, 10_000).regions_s == pytest.approx(1000 * 0.01 + 1.0, rel=0.01)


def test_storage_gives_each_region_its_turn():
    thick = Costs(megapixels=SMALL.megapixels, region_s=1.0, region_mb=100.0, storage_mb_s=1000.0)
    assert simulate(thick, 1000).limit == "storage"
    assert simulate(thick, 1000).regions_s == pytest.approx(1000 * 0.1 + 1.0, rel=0.02)


def test_one_scene_is_published_by_one_worker_and_many_by_many():
    one = Costs(megapixels=SMALL.megapixels, publish_s=2.0)
    many = Costs(megapixels=SMALL.megapixels, publish_s=2.0, scenes=100)
    assert simulate(one, 100).publish_s == pytest.approx(2000, rel=0.01)
    assert simulate(many, 100).publish_s == pytest.approx(20, rel=0.1)


def test_prints_a_row_for_each_number_of_workers():
    arguments = ["--workers", "5", "--workers", "50", "--set", "megapixels=100000"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert [row.split()[0] for row in result.output.splitlines()[1:]] == ["5", "50"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("speed=3", "'speed=3' sets no figure; known: megapixels, "),
        ("__class__=3", "'__class__=3' sets no figure"),
        ("scenes=1.5", "'scenes=1.5' sets no figure: invalid literal"),
        ("scenes=0", "scenes is 0, must be above 0"),
        ("region_px=0", "region_px is 0, must be above 0"),
        ("storage_mb_s=0", "storage_mb_s is 0.0, must be above 0"),
        ("join_s=-1", "join_s is -1.0, must be 0 or more"),
        ("megapixels=nan", "megapixels is nan, must be above 0"),
        ("region_px=1", "a job of 1,000,000,000,000 regions and 1 scenes is too large"),
        ("megapixels=1e308", "cannot convert float infinity"),
    ],
)
def test_figures_of_no_job_are_refused(change, words):
    refused = CliRunner().invoke(main, ["--set", change])
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: {words}")


def test_figures_are_taken_together_and_some_may_be_nothing():
    changes = ("megapixels=1e9", "region_px=100000", "scheduler_ms=0", "region_mb=0")
    arguments = [part for change in changes for part in ("--set", change)]
    result = CliRunner().invoke(main, [*arguments, "--workers", "10"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(main, ["--workers", "0"]).exit_code == 2
