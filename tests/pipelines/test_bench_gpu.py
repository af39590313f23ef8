"""The benchmark of a GPU, on a processor: what it prints and what it writes."""

import json

import pytest
import rasterio
from click.testing import CliRunner

from pipelines import bench_gpu
from pipelines.bench_gpu import main, write_scene


def test_rows_say_what_a_run_has_of_the_bare_network(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "LEAST_S", 0.0)
    monkeypatch.setattr(bench_gpu, "N_READERS", (1, 2))
    sizes = ["--small-px", "512", "--large-px", "64", "--fp32-px", "48", "--deflate-px", "64"]
    more = ["--device", "cpu", "--precisions", "fp32", "--repeat", "1"]
    result = CliRunner().invoke(main, [*sizes, *more, "--json", tmp_path / "rows.json"])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    names = [row["row"] for row in rows]
    assert names[:2] == ["bundled fp32", "31 M U-Net fp32"]
    assert names[2:] == ["DEFLATE, 1 readers", "DEFLATE, 2 readers"]
    lines = result.output.splitlines()[2:]
    assert all(line.startswith(name) for line, name in zip(lines, names, strict=True))
    for row in rows:
        assert row["mpx_s"] > 0
        assert row["km2_h"] == pytest.approx(row["mpx_s"] * 900, rel=0.01)  # at 0.5 m
        assert row["share_scene"] == row["mpx_s"] / row["whole_mpx_s"]
        assert row["idle"] is None, "there is no GPU"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "cuda:64"], 1, "Error: device 'cuda:64' cannot be used: "),
        (["--device", "cpu", "--precisions", "fp32,fp8"], 2, "'fp8' is none of fp32, fp16, bf16"),
        (["--device", "cpu", "--repeat", "0"], 2, "0 is not in the range"),
        (["--device", "cpu", "--json", f"{__file__}/rows.json"], 1, "cannot be written: "),
    ],
)
def test_what_cannot_be_measured_is_told_at_once(arguments, code, words):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert not result.stdout


def test_scenes_are_written_once(tmp_path):
    path = write_scene(tmp_path / "scene.tif", 700, compress="deflate")
    with rasterio.open(path) as dataset:
        assert dataset.shape == (700, 700)
        assert dataset.compression.value == "DEFLATE"
        assert dataset.read().std() > 30
    before = path.stat().st_mtime_ns
    assert write_scene(path, 700).stat().st_mtime_ns == before
