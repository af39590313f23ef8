"""The benchmark of clusters, each command on the least that shows that it works."""

import re

import pytest
from click.testing import CliRunner

from tests.makers import make_geotiff, smooth_noise

pytest.importorskip("distributed", reason="needs the extra [cluster]")

from pipelines.bench_cluster import _cuts, main


def test_empty_regions_are_timed():
    result = CliRunner().invoke(main, ["overhead", "50", "--workers", "1"])
    assert result.exit_code == 0, result.output
    row = result.output.splitlines()[-1]
    assert re.match(r" +50 +[\d.]+ s +[\d.]+ ms cpu +[\d.]+ ms, peak +[\d,]+ MB", row), row


def test_small_scenes_cover_the_large_one(tmp_path):
    path = make_geotiff(tmp_path / "scene.tif", smooth_noise(120, 200))
    windows = [window for _, window in _cuts(path, 15)]
    assert len(windows) == 15
    assert sum(window.width * window.height for window in windows) == 120 * 200
