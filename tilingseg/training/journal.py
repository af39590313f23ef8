"""What a training job leaves to look at: `log.csv`, `curves.png`, `samples.png`, TensorBoard.

The table has one row for each validation and is written anew with it, as are the pictures. Curves
are drawn by a few lines over Pillow: three polylines need no plotting library.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tilingseg.atomic import whole, write_whole
from tilingseg.errors import DependencyError
from tilingseg.model.normalize import normalize
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.samples import cut_window, unit_scaling

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tilingseg.model.spec import ModelSpec
    from tilingseg.training.sources import LabelledRaster

LOG = "log.csv"
CURVES = "curves.png"
SAMPLES = "samples.png"
BOARD = "tensorboard"
N_SAMPLES = 6
_SIZE = (900, 320)
_MARGIN = 44
_COLOURS = ("#e61e6e", "#2896eb", "#3cbe5a", "#be5adc", "#fa823c", "#1ec8c8", "#a06e3c", "#666666")


class Journal:
    """Writes what there is to see, validation by validation."""

    def __init__(self, out: Path, *, board: bool, step: int) -> None:
        """Begin, or go on at `step`.

        Args:
            out: folder of the job.
            board: whether TensorBoard gets everything too.
            step: updates done so far.

        Raises:
            DependencyError: TensorBoard was asked for and is not installed.
        """
        self._out = out
        self._board = _board(out / BOARD, step) if board else None

    def step(self, step: int, loss: float, rate: float) -> None:
        """Take note of one update."""
        if self._board is not None:
            self._board.add_scalar("loss", loss, step)
            self._board.add_scalar("learning rate", rate, step)

    def validation(self, rows: list[dict[str, Any]], samples: Image.Image | None) -> None:
        """Write the table, the curves and the samples of the newest validation.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        text = io.StringIO()
        # A job may be resumed with other regions: every column that any row has.
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self._out / LOG, text.getvalue())
        for name, picture in ((CURVES, draw_curves(rows)), (SAMPLES, samples)):
            if picture is not None:
                with whole(self._out / name) as part:
                    picture.save(part, "PNG")
        if self._board is not None:
            step = rows[-1]["step"]
            for name, value in rows[-1].items():
                if name.startswith(("iou ", "threshold ")):
                    self._board.add_scalar(name.replace(" ", "/", 1), value, step)
            if samples is not None:
                self._board.add_image("samples", np.asarray(samples), step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError(
            "schedule.tensorboard needs the package tensorboard: pip install 'tilingseg[train]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)


def draw_curves(rows: list[dict[str, Any]]) -> Image.Image:
    """Draw the loss on the left and every IoU on the right, over the steps."""
    picture = Image.new("RGB", _SIZE, "white")
    steps = [row["step"] for row in rows]
    names = [name for name in rows[-1] if name.startswith("iou ")]
    half = _SIZE[0] // 2
    losses = {"loss": [row.get("loss") for row in rows]}
    _panel(picture, (0, half), steps, losses, max(row.get("loss") or 0 for row in rows) or 1)
    _panel(picture, (half, _SIZE[0]), steps, {n: [row.get(n) for row in rows] for n in names}, 1)
    return picture


def _panel(
    picture: Image.Image,
    span: tuple[int, int],
    steps: list[int],
    lines: dict[str, list[float | None]],
    top: float,
) -> None:
    draw = ImageDraw.Draw(picture)
    left, right = span[0] + _MARGIN, span[1] - 10
    high, low = 10, _SIZE[1] - 30
    last = max(steps[-1], 1)
    for k in range(5):
        y = low + (high - low) * k / 4
        draw.line((left, y, right, y), fill="#dddddd")
        draw.text((span[0] + 4, y - 6), f"{top * k / 4:.3g}", fill="black")
    for k in (0, 1, 2):
        draw.text((left + (right - left - 30) * k / 2, low + 6), f"{last * k // 2}", fill="black")
    for index, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [
            (left + (right - left) * step / last, low + (high - low) * min(value / top, 1))
            for step, value in zip(steps, values, strict=True)
            if value is not None
        ]
        draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.text((right - 190, low - 14 - 12 * (len(lines) - 1 - index)), name, fill=colour)


def draw_samples(
    module: nn.Module, spec: ModelSpec, rasters: tuple[LabelledRaster, ...], pixel_m: float
) -> Image.Image | None:
    """Draw one window of each of some held-out rasters: pixels, then truth and probability a class.

    Args:
        module: the network, in evaluation mode.
        spec: its bands and classes.
        rasters: held-out rasters.
        pixel_m: length of a window's pixel, as the rasters' `gsd_m`.

    Returns:
        The picture; None without rasters.
    """
    device = next(module.parameters()).device
    step = max(1, len(rasters) // N_SAMPLES)
    lines = []
    for raster in rasters[::step][:N_SAMPLES]:
        centre = raster.anchors[0][0] if raster.anchors else np.array(raster.valid.shape) // 2
        side = spec.tile_size_px
        pixels, valid, labels = cut_window(raster, (int(centre[0]), int(centre[1])), side, pixel_m)
        x = normalize(pixels, valid, unit_scaling(len(spec.bands)), spec).to(device)
        with torch.inference_mode():
            logits = module(x).float().cpu()[0]
        found = logits.softmax(dim=0)[1:] if spec.activation == "softmax" else logits.sigmoid()
        truth = torch.where(labels[0] == UNKNOWN, 0.5, labels[0].float())
        bands = pixels[0][[0, 1, 2] if len(spec.bands) >= 3 else [0, 0, 0]]
        shown = [
            bands,
            *(item.expand(3, -1, -1) for pair in zip(truth, found, strict=True) for item in pair),
        ]
        lines.append(torch.cat([torch.nn.functional.pad(item, (2, 2, 2, 2)) for item in shown], 2))
    if not lines:
        return None
    sheet = torch.cat(lines, dim=1).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(sheet.permute(1, 2, 0).numpy())
