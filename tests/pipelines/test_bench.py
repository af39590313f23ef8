import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from pipelines import bench_contenders
from pipelines.bench import (
    CONTENDERS,
    FURTHER,
    Cost,
    _is_there,
    main,
    measure,
    table,
    write_model,
    write_scene,
)


def test_one_contender_ends_in_a_row_of_the_table():
    arguments = ["--size", "192", "--tile", "64", "--overlap", "32", "--repeat", "1"]
    result = CliRunner().invoke(main, [*arguments, "--threads", "1", "--contenders", "exact"])
    assert result.exit_code == 0, result.output
    row = result.output.strip().splitlines()[-1].split()
    assert row[0] == "exact"
    assert float(row[2]) > float(row[4]) > 0
    assert row[3] == row[5] == "1.00"
    assert float(row[8]) > 100


def test_contenders_are_known_by_name():
    assert {*CONTENDERS, *FURTHER} == set(bench_contenders.CONTENDERS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--contenders", "exact,identiy"], 2, "there is no contender 'identiy'; there are: bare,"),
        (["--model", "/nowhere"], 2, "'/nowhere' does not exist"),
        (["--model", __file__], 1, "Error: "),
        (["--repeat", "0"], 2, "0 is not in the range"),
    ],
)
def test_what_cannot_be_measured_is_told_at_once(arguments, code, words):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert words in result.stderr


def test_a_contender_that_fails_is_told(capfd):
    arguments = ["--size", "64", "--tile", "64", "--overlap", "64", "--contenders", "forward"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr == "Error: contender forward failed with exit code 1\n"
    told = capfd.readouterr().err
    assert told.startswith("forward: ")
    assert told.count("\n") == 1


def test_ratios_are_to_this_package():
    own = Cost(wall_s=2.0, cpu_s=4.0, peak_bytes=10**9, work_cpu_s=2.0, work_wall_s=1.0)
    peer = Cost(wall_s=5.0, cpu_s=10.0, peak_bytes=2 * 10**9, work_cpu_s=8.0, work_wall_s=4.0)
    _, first, second = table({"exact": own, "monai": peer}, 1000).splitlines()
    assert first.split() == ["exact", "2.0", "4.0", "1.00", "2.0", "1.00", "1.00", "0.50", "1000"]
    assert second.split() == ["monai", "5.0", "10.0", "2.50", "8.0", "4.00", "0.25", "0.12", "2000"]


@pytest.mark.parametrize("name", ["monai", "tiler", "toolbelt", "patchly"])
def test_peers_give_nearly_the_same_mask(name, tmp_path):
    if not _is_there(name):
        pytest.skip(f"{name} is not installed; it is in the extra `bench`")
    write_scene(tmp_path / "scene.tif", 256)
    write_model(tmp_path / "model.safetensors")
    files = tmp_path / "scene.tif", tmp_path / "model.safetensors"
    masks = []
    for contender in ("tilingseg", name):
        measure([contender, *files, tmp_path / contender, 128, 64], 1)
        found = next((tmp_path / contender).rglob("*mask.tif"))
        with rasterio.open(found) as dataset:
            masks.append(dataset.read(1))
    assert np.mean(masks[0] != masks[1]) < 0.02


def test_the_scene_is_a_geotiff_of_blocks_with_texture(tmp_path):
    write_scene(tmp_path / "scene.tif", 700)
    with rasterio.open(tmp_path / "scene.tif") as dataset:
        pixels = dataset.read()
        assert dataset.block_shapes[0] == (512, 512)
        assert dataset.compression.value == "DEFLATE"
    assert pixels.shape == (3, 700, 700)
    assert pixels.std() > 30
