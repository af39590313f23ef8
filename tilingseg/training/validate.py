"""How well a network does on held-out rasters, by source and class, at every threshold at once.

Probabilities are counted in 256 bins, apart for pixels that are the class and pixels that are not.
From those counts follow the IoU at every threshold, and the threshold of each class that is best
for all its sources together: the mean of their IoU, so that a large source does not decide alone.

Each source has its own row. One number over all of them would hide that a model knows one region
and not another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from tilingseg.grid import TileGrid
from tilingseg.model.normalize import normalize
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.samples import among_valid, unit_scaling, unit_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from tilingseg.model.spec import Geometry, ModelSpec
    from tilingseg.training.sources import LabelledRaster

N_BINS = 256
_TILE_PX = 1024
_BLENDED_HALO_PX = 64
_NEVER_FOUND = ", found at no threshold"
_SCORE_NOTE = re.compile(rf"IoU of .+ on held-out .+: \d\.\d{{3}}(?:{_NEVER_FOUND})?")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """Counts of one class in one source."""

    source: str
    """Name of the source."""
    class_name: str
    """The class."""
    positive: NDArray[np.int64]
    """Pixels of the class by their probability, (256,)."""
    negative: NDArray[np.int64]
    """Other known pixels by their probability, (256,)."""

    def iou(self) -> NDArray[np.float64]:
        """Return the IoU, 0…1, for a threshold at the lower edge of each bin, float64 (256,)."""
        hit = self.positive[::-1].cumsum()[::-1]
        false = self.negative[::-1].cumsum()[::-1]
        union = self.positive.sum() + false
        return np.asarray(np.where(union > 0, hit / np.maximum(union, 1), 0.0))

    def iou_at(self, threshold: float) -> float:
        """Return the IoU, 0…1, at one threshold."""
        return float(self.iou()[round(threshold * (N_BINS - 1))])


def validate(
    module: torch.nn.Module,
    geometry: Geometry,
    spec: ModelSpec,
    rasters: tuple[LabelledRaster, ...],
) -> tuple[Score, ...]:
    """Measure a network on held-out rasters.

    Args:
        module: network in evaluation mode: normalised pixels → logits.
        geometry: its lattice and halo.
        spec: its bands, classes and GSD.
        rasters: what to measure on.

    Returns:
        One score for each source and class that is labelled there.
    """
    counts: dict[tuple[str, int], NDArray[np.int64]] = {}
    for raster in rasters:
        probability, labels = _infer(module, geometry, spec, raster)
        levels = (probability * (N_BINS - 1)).round().to(torch.uint8).numpy()
        for index in range(len(spec.classes)):
            truth = labels[index].numpy()
            if (truth == UNKNOWN).all():
                continue
            found = np.stack(count_bins(levels[index], truth))
            key = (raster.source.name, index)
            counts[key] = counts.get(key, np.zeros_like(found)) + found
    return tuple(
        Score(
            source=source,
            class_name=spec.classes[index],
            positive=found[0],
            negative=found[1],
        )
        for (source, index), found in counts.items()
    )


def count_bins(
    levels: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of one class by their probability.

    Args:
        levels: uint8 (height, width), probability with 255 = 1.
        truth: uint8 (height, width): 0, 1 or `UNKNOWN`.

    Returns:
        Pixels of the class, and other known pixels, by level, (256,) each.
    """
    positive, negative = (np.bincount(levels[truth == k], minlength=N_BINS) for k in (1, 0))
    return positive.astype(np.int64), negative.astype(np.int64)


def best_thresholds(scores: tuple[Score, ...], classes: tuple[str, ...]) -> tuple[float, ...]:
    """Return the threshold of each class with the best mean IoU over its sources, 0…1.

    It is ½ for a class that no source holds, or that is found at none.
    """
    chosen = []
    for name in classes:
        curves = [
            score.iou() for score in scores if score.class_name == name and score.positive.any()
        ]
        best = best_bin(np.mean(curves, axis=0)) if curves else N_BINS // 2
        chosen.append(round(best / (N_BINS - 1), 3))
    return tuple(chosen)


def best_bin(curve: NDArray[np.float64]) -> int:
    """Return the bin whose lower edge is the best threshold.

    Where several that follow each other are equally good it is the middle one, farthest from where
    they get worse; on other ground that may be elsewhere.

    Args:
        curve: IoU for a threshold at the lower edge of each bin, (256,).
    """
    # The outermost bins are no thresholds: everything or next to nothing would be the class.
    inner = curve[1:-1]
    first, best = int(np.argmax(inner)), inner.max()
    if best == 0:
        return N_BINS // 2
    n_equal = int(np.argmin(np.append(inner[first:] == best, False)))
    return 1 + first + (n_equal - 1) // 2


def score_notes(scores: Iterable[Score], thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """Return the IoU of each source and class at its threshold, as notes for a spec."""
    return tuple(
        f"IoU of {score.class_name} on held-out {score.source}: "
        f"{score.iou_at(thresholds[score.class_name]):.3f}"
        f"{'' if score.iou()[1:-1].any() else _NEVER_FOUND}"
        for score in scores
        if score.positive.any()
    )


def other_notes(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the notes of a spec that are not those of `score_notes`."""
    return tuple(note for note in notes if not _SCORE_NOTE.fullmatch(note))


def _infer(
    module: torch.nn.Module, geometry: Geometry, spec: ModelSpec, raster: LabelledRaster
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probability float32 and labels uint8, both (classes, height, width), at the GSD."""
    factor = 1.0 if spec.gsd_m is None else raster.gsd_m / spec.gsd_m
    height, width = (max(1, round(side * factor)) for side in raster.valid.shape)
    stored = torch.from_numpy(unit_values(raster, slice(None), slice(None))).unsqueeze(0)
    pixels = F.interpolate(stored, (height, width), mode="bilinear", align_corners=False)
    if not raster.valid.all():
        share = torch.from_numpy(raster.valid[None, None].astype(np.float32))
        share = F.interpolate(share, (height, width), mode="bilinear", align_corners=False)
        pixels = among_valid(pixels, share)
    stored = torch.from_numpy(np.concatenate((raster.labels, raster.valid[None]))).unsqueeze(0)
    exact = F.interpolate(stored, (height, width), mode="nearest-exact")[0]
    valid = exact[-1:] == 1
    multiple = geometry.multiple_px
    halo = _BLENDED_HALO_PX if geometry.halo_px is None else geometry.halo_px
    halo = -(-halo // multiple) * multiple
    grid = TileGrid(
        height=height,
        width=width,
        tile_size_px=-(-max(_TILE_PX, 4 * halo) // multiple) * multiple,
        overlap_px=2 * halo,
        multiple_px=multiple,
    )
    device = next(module.parameters()).device
    probability = torch.zeros((len(spec.classes), height, width))
    for tile in grid:
        inside = tile.window.intersection(grid.scene_window)
        assert inside is not None
        rows, cols = inside.slices_in(grid.scene_window)
        x = normalize(
            pixels[:, :, rows, cols], valid[:, rows, cols], unit_scaling(len(spec.bands)), spec
        )
        with torch.inference_mode():
            logits = module(x.to(device)).float().cpu()[0]
        shown = logits.softmax(dim=0)[1:] if spec.activation == "softmax" else logits.sigmoid()
        to_rows, to_cols = tile.core.slices_in(grid.scene_window)
        of_rows, of_cols = tile.core.slices_in(inside)
        probability[:, to_rows, to_cols] = shown[:, of_rows, of_cols]
    return probability, exact[:-1]
