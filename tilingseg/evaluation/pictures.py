"""Where a model does well and where it fails, as pictures: what a table cannot show.

Every raster gets its scene and, for each class, the scene with hits, false and missed pixels laid
over it, beside the outputs of its run. From these the best and the worst windows of each class are
put together on one sheet.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from tilingseg.atomic import whole
from tilingseg.metrics.pixels import IGNORE
from tilingseg.places import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.evaluation.measure import ClassCounts, WindowCounts

    _Ranked = tuple[float, str, ClassCounts, WindowCounts]

N_SHOWN = 5
LEAST_SHARE = 0.02
"""Windows with less of the class, found or true, say more about luck than about the model."""
_LEAST_KNOWN = 0.5
"""Windows at a raster's edge with less known ground than this share of a whole one show little."""
SHOWN_PX = 256
COLOURS = {"hit": (90, 200, 90), "false": (240, 140, 20), "missed": (60, 110, 255)}
"""Green, orange, blue: apart for most colour-blind eyes."""
_TINT = 0.55
_TEXT_PX = 18
_PERCENTILES = (1, 99)


def write_scene(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Write a raster as a picture, each band stretched to what it holds.

    Args:
        path: PNG file to write.
        pixels: (bands, height, width), any type; the first and, of three or more, the first three
            are shown.
        valid: bool (height, width).

    Returns:
        float32 (height, width, 3), 0…255: what was written.

    Raises:
        OutputError: the file cannot be written.
    """
    shown = pixels[[0, 1, 2] if len(pixels) >= 3 else [0, 0, 0]].astype(np.float32)
    for band in shown:
        if pixels.dtype != np.uint8 and valid.any():
            low, high = np.percentile(band[valid], _PERCENTILES)
            band[:] = (band - low) * (255 / max(float(high - low), 1e-9))
    picture = np.moveaxis(np.where(valid, shown.clip(0, 255), 128), 0, -1)
    _save(path, picture)
    return picture.astype(np.float32)


def write_agreement(
    path: Path,
    picture: NDArray[np.float32],
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
) -> None:
    """Write a scene with the hits, false and missed pixels of one class laid over it.

    Args:
        path: PNG file to write.
        picture: float32 (height, width, 3), 0…255.
        found: uint8 (height, width), 1 = the class.
        truth: uint8 (height, width): 0, 1 or `IGNORE`, which is shown pale.

    Raises:
        OutputError: the file cannot be written.
    """
    laid = picture.copy()
    laid[truth == IGNORE] = laid[truth == IGNORE] * 0.4 + 0.6 * 255
    for name, where in (
        ("hit", (found == 1) & (truth == 1)),
        ("false", (found == 1) & (truth == 0)),
        ("missed", (found != 1) & (truth == 1)),
    ):
        laid[where] = (1 - _TINT) * laid[where] + _TINT * np.array(COLOURS[name], np.float32)
    _save(path, laid)


def agreement_of(class_name: str) -> str:
    """Return the name of the picture that shows how a class agrees with its labels."""
    return f"agreement_{plain_name(class_name, 'class')}.png"


def draw_windows(out: Path, counts: Sequence[ClassCounts]) -> tuple[str, ...]:
    """Write one sheet for each class: its best windows above, its worst ones below, of all regions.

    Args:
        out: folder of the evaluation.
        counts: all rasters.

    Returns:
        Names of the files.

    Raises:
        OutputError: the folder cannot be written.
    """
    names = []
    for class_name in sorted({item.class_name for item in counts}):
        ranked = _ranked(item for item in counts if item.class_name == class_name)
        if not ranked:
            continue
        # Where there are few windows, none stands in both rows.
        half = len(ranked) // 2
        rows = (_by_turns(reversed(ranked[half:])), _by_turns(ranked[:half]))
        names.append(f"windows_{plain_name(class_name, 'class')}.png")
        with whole(out / names[-1]) as part:
            _sheet(rows).quantize(256).save(part, "PNG", optimize=True)
    return tuple(names)


def _by_turns(ranked: Iterable[_Ranked]) -> list[_Ranked]:
    """Take the first window of every region, then the second ones: a large one would fill all."""
    seen = Counter[str]()
    rounds: list[tuple[int, _Ranked]] = []
    for row in ranked:
        region = row[2].region
        rounds.append((seen[region], row))
        seen[region] += 1
    return [row for _, row in sorted(rounds, key=lambda turn: turn[0])[:N_SHOWN]]


def _ranked(counts: Iterable[ClassCounts]) -> list[_Ranked]:
    """Return the windows that hold enough ground and enough of the class, the worst first."""
    windows = [(item, window) for item in counts for window in item.windows]
    enough = _LEAST_KNOWN * max((window.pixels.n_known for _, window in windows), default=0)
    rows = []
    for item, window in windows:
        pixels = window.pixels
        if pixels.n_known >= enough and pixels.n_union >= LEAST_SHARE * pixels.n_known:
            rows.append((pixels.iou, str(window.folder), item, window))
    return sorted(rows, key=lambda row: (*row[:2], row[3].window.row, row[3].window.col))


def _sheet(rows: Sequence[list[_Ranked]]) -> Image.Image:
    cell = SHOWN_PX + 4
    height, width = 2 * (2 * cell + _TEXT_PX) + _TEXT_PX, max(map(len, rows)) * cell
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = line * (2 * cell + _TEXT_PX)
        for place, (iou, _, item, window) in enumerate(row):
            left = place * cell
            text = f"{('best', 'worst')[line]}: {item.region}, IoU {iou:.2f}"
            draw.text((left + 2, top + 3), text, fill="black")
            for below, name in enumerate(("scene.png", agreement_of(item.class_name))):
                shown = _cut(window, name)
                sheet.paste(shown, (left, top + _TEXT_PX + below * cell))
    left = 2
    for name, colour in COLOURS.items():
        draw.rectangle((left, height - _TEXT_PX + 4, left + 10, height - 4), fill=colour)
        draw.text((left + 14, height - _TEXT_PX + 3), name, fill="black")
        left += 80
    return sheet


def _cut(window: WindowCounts, name: str) -> Image.Image:
    place = window.window
    with Image.open(window.folder / name) as picture:
        part = picture.crop((place.col, place.row, place.col_stop, place.row_stop))
    scale = SHOWN_PX / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    return part.resize(size, Image.Resampling.LANCZOS)


def _save(path: Path, picture: NDArray[Any]) -> None:
    """Write a PNG; of the many pictures beside the runs nobody waits for the last byte saved."""
    with whole(path) as part:
        image = Image.fromarray(np.rint(picture).astype(np.uint8))
        image.save(part, "PNG", compress_level=1)
