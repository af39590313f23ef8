"""Which windows are shown as a model's best and worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tilingseg.evaluation.measure import ClassCounts, WindowCounts
from tilingseg.evaluation.pictures import SHOWN_PX, draw_windows
from tilingseg.grid import Window
from tilingseg.metrics.pixels import PixelCounts
from tilingseg.training.validate import Score

if TYPE_CHECKING:
    from pathlib import Path


def window(folder: Path, left: int, side: int, n_hit: int) -> WindowCounts:
    pixels = PixelCounts(n_hit=n_hit, n_clear=side * 100 - n_hit)
    place = Window(row=0, col=left, height=100, width=side)
    return WindowCounts(folder=folder, window=place, pixels=pixels, boundary=pixels)


def counts_of(region, windows):
    return ClassCounts(
        region=region,
        class_name="cell",
        windows=tuple(windows),
        bins=Score(
            source=region,
            class_name="cell",
            positive=np.zeros(256, np.int64),
            negative=np.zeros(256, np.int64),
        ),
        area_m2=1.0,
        instances=None,
        lines=None,
    )


def write_scenes(folder, picture):
    folder.mkdir(exist_ok=True)
    for name in ("scene", "agreement_cell"):
        Image.fromarray(picture).save(folder / f"{name}.png")


def n_magenta(path):
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(((sheet[..., 0] > 200) & (sheet[..., 1] < 50) & (sheet[..., 2] > 200)).sum())


def test_slivers_at_an_edge_are_not_shown(tmp_path):
    """A strip of 3 px that is all class has an IoU of 1 and shows nothing."""
    picture = np.zeros((100, 203, 3), np.uint8)
    picture[:, 200:] = 255, 0, 255
    write_scenes(tmp_path, picture)
    windows = [window(tmp_path, *of) for of in ((0, 100, 50), (100, 100, 400), (200, 3, 300))]
    assert draw_windows(tmp_path, [counts_of("drawn", windows)]) == ("windows_cell.png",)
    assert n_magenta(tmp_path / "windows_cell.png") == 0
    with Image.open(tmp_path / "windows_cell.png") as sheet:
        assert sheet.width < 2 * SHOWN_PX  # one best window, one column


def test_a_region_with_many_windows_leaves_room_for_the_others(tmp_path):
    """Twelve windows of one region are worse than the only one of the other, twelve are better."""
    write_scenes(tmp_path / "large", np.zeros((100, 2400, 3), np.uint8))
    write_scenes(tmp_path / "small", np.full((100, 100, 3), (255, 0, 255), np.uint8))
    many = [
        WindowCounts(folder=tmp_path / "large", window=at, pixels=pixels, boundary=pixels)
        for at, pixels in (
            (
                Window(row=0, col=100 * index, height=100, width=100),
                PixelCounts(n_hit=100 * index, n_missed=5000, n_clear=5000 - 100 * index),
            )
            for index in range(24)
        )
    ]
    pixels = PixelCounts(n_hit=1150, n_missed=5000, n_clear=3850)
    place = Window(row=0, col=0, height=100, width=100)
    one = WindowCounts(folder=tmp_path / "small", window=place, pixels=pixels, boundary=pixels)
    draw_windows(tmp_path, [counts_of("large", many), counts_of("small", [one])])
    assert n_magenta(tmp_path / "windows_cell.png") >= 2 * (SHOWN_PX - 2) ** 2
