"""The project's own building labels, joined with the road labels that came with the photographs."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.io import MemoryFile

from pipelines import building_labels


def png(values):
    """Return a one-band PNG of an array."""
    height, width = values.shape
    with MemoryFile() as file:
        with file.open(driver="PNG", count=1, height=height, width=width, dtype="uint8") as out:
            out.write(values, 1)
        return file.read()


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """A file of two labels: all that a building may be, over all that the set's own mask may be."""
    buildings = np.repeat([[0, 1, 255]], 3, axis=0).astype("uint8")
    path = tmp_path / "labels.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("dubai/a.png", png(buildings))
        out.writestr("massachusetts/b.png", png(buildings))
    monkeypatch.setattr(building_labels, "LABELS", path)
    return path


def put(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.repeat(np.array(rows, "uint8")[:, None], 3, axis=1)))


def test_buildings_are_joined_with_roads(tmp_path, labels):
    put(tmp_path / "dubai/masks_index/a.png", [3, 2, 255])
    put(tmp_path / "massachusetts_roads/masks/b.png", [0, 1, 255])
    result = CliRunner().invoke(building_labels.main, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in ("dubai/a.tif", "massachusetts/b.tif"):
        with rasterio.open(tmp_path / "labels" / name) as dataset:
            np.testing.assert_array_equal(
                dataset.read(1), [[0, 1, 2], [10, 11, 10], [255, 255, 255]], name
            )


def test_absent_masks_are_told_before_anything_is_written(tmp_path, labels):
    put(tmp_path / "dubai/masks_index/a.png", [3, 2, 255])
    result = CliRunner().invoke(building_labels.main, [str(tmp_path)])
    assert result.exit_code == 2
    assert "b.png is not there" in result.output
    assert not (tmp_path / "labels").exists()


def test_another_picture_is_refused(tmp_path, labels):
    put(tmp_path / "dubai/masks_index/a.png", [3, 2])
    put(tmp_path / "massachusetts_roads/masks/b.png", [0, 1, 255])
    result = CliRunner().invoke(building_labels.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "a.png has 3 × 2 px, its label of buildings 3 × 3 px" in result.output


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, labels):
    put(tmp_path / "dubai/masks_index/a.png", [3, 2, 255])
    put(tmp_path / "massachusetts_roads/masks/b.png", [0, 1, 255])
    (tmp_path / "labels").write_text("a file")
    result = CliRunner().invoke(building_labels.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert str(tmp_path / "labels") in result.output


def test_shipped_labels_hold_only_known_values():
    with zipfile.ZipFile(building_labels.LABELS) as labels:
        names = [name for name in labels.namelist() if name.endswith(".png")]
        assert {name.split("/")[0] for name in names} == set(building_labels.ROADS)
        for name in names:
            with MemoryFile(labels.read(name)) as file, file.open() as dataset:
                assert set(np.unique(dataset.read(1))) <= {0, 1, 255}, name
