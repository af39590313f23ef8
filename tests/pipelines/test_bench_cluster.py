"""The benchmark of clusters, its commands on the least that shows that they work.

`bits` starts five clusters, which is too much for a test; what it compares is compared, with fewer
workers, in the tests of clusters.
"""

import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from tests.makers import make_geotiff, make_model, smooth_noise

pytest.importorskip("distributed", reason="needs the extra [cluster]")

from pipelines.bench_cluster import _cuts, _pin, main


def test_empty_regions_are_timed():
    result = CliRunner().invoke(main, ["overhead", "50", "--workers", "1"])
    assert result.exit_code == 0, result.output
    row = result.output.splitlines()[-1]
    assert re.match(r" +50 +[\d.]+ s +[\d.]+ ms cpu +[\d.]+ ms, peak +[\d,]+ MB", row), row


@pytest.mark.parametrize(("shape", "count"), [((120, 200), 15), ((117, 203), 7), ((64, 64), 11)])
def test_small_scenes_cover_the_large_one(tmp_path, shape, count):
    path = make_geotiff(tmp_path / "scene.tif", smooth_noise(*shape))
    windows = [window for _, window in _cuts(path, count)]
    assert len(windows) == count
    covered = np.zeros(shape, int)
    for window in windows:
        covered[window.toslices()] += 1
    np.testing.assert_array_equal(covered, 1)


def test_small_scenes_are_timed_beside_the_large_one(tmp_path):
    path = make_geotiff(tmp_path / "scene.tif", smooth_noise(65, 97))
    flags = f"--model {make_model(tmp_path / 'tiny.safetensors')} --engine torch --formats cog"
    result = CliRunner().invoke(main, ["small", str(path), "--count", "2", "--flags", flags])
    assert result.exit_code == 0, result.output
    assert re.search(r"^one scene +[\d.]+ s, cpu +[\d.]+ s$", result.output, re.MULTILINE)
    assert re.search(r"^throughput of the batch: [\d.]+ of that", result.output, re.MULTILINE)
    refused = CliRunner().invoke(main, ["small", str(path), "--count", "100000"])
    assert refused.exit_code == 1
    assert "has too few pixels for 100,000 scenes" in refused.output


def test_each_worker_is_given_a_processor_that_it_may_use(monkeypatch):
    given = set()
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {5, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _thread, only: given.update(only))
    for name, processor in (("0", 3), ("1", 5), ("3", 5)):
        given.clear()
        _pin(SimpleNamespace(name=name))
        assert given == {processor}


def test_two_workers_on_one_processor_are_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3})
    result = CliRunner().invoke(main, ["scaling", "scene.tif"])
    assert result.exit_code == 1
    assert "two workers need two processors, and 1 may be used here" in result.output
