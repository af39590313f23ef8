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


def test_slivers_at_an_edge_are_not_shown(tmp_path):
    """A strip of 3 px that is all class has an IoU of 1 and shows nothing."""
    picture = np.zeros((100, 203, 3), np.uint8)
    picture[:, 200:] = 255, 0, 255
    for name in ("scene", "agreement_cell"):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    windows = tuple(window(tmp_path, *of) for of in ((0, 100, 50), (100, 100, 400), (200, 3, 300)))
    counts = ClassCounts(
        region="drawn",
        class_name="cell",
        windows=windows,
        bins=Score(
            source="drawn",
            class_name="cell",
            positive=np.zeros(256, np.int64),
            negative=np.zeros(256, np.int64),
        ),
        area_m2=1.0,
        instances=None,
        lines=None,
    )

    assert draw_windows(tmp_path, [counts]) == ("windows_cell.png",)

    sheet = np.asarray(Image.open(tmp_path / "windows_cell.png").convert("RGB")).astype(int)
    magenta = (sheet[..., 0] > 200) & (sheet[..., 1] < 50) & (sheet[..., 2] > 200)
    assert not magenta.any()
    assert sheet.shape[1] < 2 * SHOWN_PX  # one best window, one column
