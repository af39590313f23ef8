import pytest
import rasterio
from click.testing import CliRunner

from pipelines.bench import Cost, main, measure, table, write_scene
from tilingseg.errors import TilingSegError


def test_one_contender_ends_in_a_row_of_the_table():
    arguments = ["--size", "192", "--tile", "64", "--overlap", "32", "--repeat", "1"]
    result = CliRunner().invoke(main, [*arguments, "--threads", "1", "--contenders", "tilingseg"])
    assert result.exit_code == 0, result.output
    row = result.output.strip().splitlines()[-1].split()
    assert row[0] == "tilingseg"
    assert float(row[2]) > 0
    assert row[3] == "1.00"
    assert float(row[5]) > 100


def test_a_contender_that_fails_is_told(tmp_path):
    with pytest.raises(TilingSegError, match="forward failed"):
        measure(["forward", tmp_path / "no.tif", tmp_path / "no", tmp_path / "o", 64, 0], 1)


def test_ratios_are_to_this_package():
    costs = {
        "tilingseg": Cost(wall_s=2.0, cpu_s=4.0, peak_bytes=10**9),
        "monai": Cost(wall_s=5.0, cpu_s=10.0, peak_bytes=2 * 10**9),
    }
    _, own, peer = table(costs, 1000).splitlines()
    assert own.split() == ["tilingseg", "2.0", "4.0", "1.00", "0.50", "1000"]
    assert peer.split() == ["monai", "5.0", "10.0", "2.50", "0.20", "2000"]


def test_the_scene_is_a_geotiff_of_blocks_with_texture(tmp_path):
    write_scene(tmp_path / "scene.tif", 700)
    with rasterio.open(tmp_path / "scene.tif") as dataset:
        pixels = dataset.read()
        assert dataset.block_shapes[0] == (512, 512)
        assert dataset.compression.value == "DEFLATE"
    assert pixels.shape == (3, 700, 700)
    assert pixels.std() > 30
