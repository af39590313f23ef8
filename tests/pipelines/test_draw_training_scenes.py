"""Synthetic training scenes: the drawn pixels with their exact mask."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner

from pipelines import draw_training_scenes
from sample_data.make_sample_data import SAMPLE_SEED, draw_scene


@pytest.mark.parametrize("dry", [False, True])
def test_scenes_are_written_with_their_truth(tmp_path, monkeypatch, dry):
    monkeypatch.setattr(draw_training_scenes, "HEIGHT_PX", 300)
    monkeypatch.setattr(draw_training_scenes, "WIDTH_PX", 320)
    arguments = [str(tmp_path / "new"), "--count", "1", "--seed", "5", *["--dry"] * dry]
    result = CliRunner().invoke(draw_training_scenes.main, arguments)
    assert result.exit_code == 0, result.output
    pixels, valid, buildings, roads = draw_scene(5, 300, 320, dry=dry)
    with rasterio.open(tmp_path / "new" / "5_rgb.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), pixels)
        assert abs(dataset.res[0] - 0.5) < 1e-9
    with rasterio.open(tmp_path / "new" / "5_mask.tif") as dataset:
        mask = dataset.read(1)
    np.testing.assert_array_equal(mask == 255, ~valid)
    for value, shapes in ((1, buildings), (2, roads)):
        area = shapely.union_all(shapes).area
        assert abs((mask == value).sum() - area) < 0.05 * area + 20


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(draw_training_scenes.main, [str(tmp_path / "file")])
    assert result.exit_code == 1
    assert (
        result.output == f"Error: the folder {tmp_path / 'file'} cannot be written: File exists\n"
    )


def test_the_shipped_scene_is_not_trained_on(tmp_path):
    arguments = [str(tmp_path / "new"), "--count", "3", "--seed", str(SAMPLE_SEED - 1)]
    result = CliRunner().invoke(draw_training_scenes.main, arguments)
    assert result.exit_code == 2
    assert "nothing trains on" in result.output
    assert not (tmp_path / "new").exists()
