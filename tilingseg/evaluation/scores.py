"""From counts to scores: sums by region and class, with the interval that chance allows.

Every region has its own row. One number over all of them would hide that a model knows one place
and not another; the mean over regions counts each once, however large it is. A region without a
pixel of the class has no IoU and is in no mean: its first false pixel would make a whole 0 of it.
What is falsely found there counts in its precision and its pixel error.

Intervals are percentiles of bootstrap resamples (Efron 1979) of whole windows: pixels of one
building are no independent observations, windows nearly are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.metrics.pixels import PixelCounts
from tilingseg.training.validate import N_BINS, Score, best_bin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from tilingseg.evaluation.measure import ClassCounts

N_RESAMPLES = 2000
N_CALIBRATION_BINS = 15
"""Ranges of probability in which confidence is compared with what is true, as Guo et al. 2017."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionScore:
    """One class in one region; shares are 0…1, None where they are undefined."""

    region: str
    """Name of the source in the recipe."""
    class_name: str
    """The class."""
    n_rasters: int
    """Rasters that were run."""
    n_windows: int
    """Windows that the interval is drawn from."""
    area_m2: float
    """Labelled ground, m²; pixels where their size is not known."""
    iou: float | None
    """Intersection over union."""
    iou_low: float | None
    """Lower end of its 95 % interval."""
    iou_high: float | None
    """Upper end of its 95 % interval."""
    f1: float | None
    """Harmonic mean of precision and recall of pixels."""
    precision: float | None
    """Share of the found pixels that are true."""
    recall: float | None
    """Share of the true pixels that are found."""
    pixel_error: float | None
    """Share of the known pixels that are wrong."""
    boundary_iou: float | None
    """IoU of the rims of the objects."""
    calibration_error: float | None
    """Mean difference between probability and the share that is true, weighted by pixels."""
    instance_f1: float | None
    """F1 of polygons matched one to one at an IoU of 0.5; of objects alone."""
    completeness: float | None
    """Share of the true centrelines that was found; of lines alone."""
    correctness: float | None
    """Share of the found centrelines that is true; of lines alone."""
    threshold_best: float
    """The threshold that would have been best here."""
    iou_best: float | None
    """The IoU at it, were every class alone in its pixels."""


def region_scores(counts: Iterable[ClassCounts]) -> tuple[RegionScore, ...]:
    """Add up the counts of all rasters of each region and class."""
    groups: dict[tuple[str, str], list[ClassCounts]] = {}
    for item in counts:
        groups.setdefault((item.class_name, item.region), []).append(item)
    return tuple(_score(group) for _, group in sorted(groups.items()))


def joined_bins(counts: Iterable[ClassCounts]) -> tuple[Score, ...]:
    """Return the pixels by probability of each region and class, for choosing thresholds."""
    joined: dict[tuple[str, str], Score] = {}
    for item in counts:
        key = (item.region, item.class_name)
        other = joined.get(key)
        joined[key] = item.bins if other is None else _added(other, item.bins)
    return tuple(joined.values())


def mean_iou(scores: Iterable[RegionScore], class_name: str) -> float | None:
    """Return the mean IoU of a class over its regions; None where it has none."""
    values = [s.iou for s in scores if s.class_name == class_name and s.iou is not None]
    return sum(values) / len(values) if values else None


def calibration_error(positive: NDArray[np.int64], negative: NDArray[np.int64]) -> float:
    """Return how far probabilities are from the share that is true, 0…1; NaN without pixels.

    Args:
        positive: pixels of the class by their probability, (256,).
        negative: other pixels by their probability, (256,).
    """
    level = np.arange(N_BINS)
    group = level * N_CALIBRATION_BINS // N_BINS
    total = np.bincount(group, positive + negative)
    true = np.bincount(group, positive)
    claimed = np.bincount(group, (positive + negative) * level / (N_BINS - 1))
    n = total.sum()
    return float(np.abs(true - claimed).sum() / n) if n else math.nan


def iou_interval(
    counts: Sequence[PixelCounts], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the IoU, by drawing windows again and again.

    Args:
        counts: one for each window.
        n_resamples: how often.
        seed: decides the draws.

    Returns:
        Lower and upper end, 0…1; NaN where fewer than two windows hold the class.
    """
    table = np.array([(c.n_hit, c.n_union) for c in counts], np.float64)
    if np.count_nonzero(table[:, 1]) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=n_resamples)
    hit, union = (times @ table).T
    low, high = np.percentile(hit[union > 0] / union[union > 0], (2.5, 97.5))
    return float(low), float(high)


def _score(group: list[ClassCounts]) -> RegionScore:
    windows = [window for item in group for window in item.windows]
    pixels = sum((window.pixels for window in windows), PixelCounts())
    boundary = sum((window.boundary for window in windows), PixelCounts())
    (bins,) = joined_bins(group)
    low, high = iou_interval([window.pixels for window in windows])
    curve = bins.iou()
    best = best_bin(curve)
    has_class = pixels.n_hit + pixels.n_missed > 0
    n_found, n_true, n_matched = _summed([item.instances for item in group], 3)
    true, true_near, found, found_near = _summed([item.lines for item in group], 4)
    return RegionScore(
        region=group[0].region,
        class_name=group[0].class_name,
        n_rasters=len(group),
        n_windows=len(windows),
        area_m2=sum(item.area_m2 for item in group),
        iou=_number(pixels.iou) if has_class else None,
        iou_low=_number(low) if has_class else None,
        iou_high=_number(high) if has_class else None,
        f1=_number(pixels.f1) if has_class else None,
        precision=_number(pixels.precision),
        recall=_number(pixels.recall),
        pixel_error=_share(pixels.n_false + pixels.n_missed, pixels.n_known),
        boundary_iou=_number(boundary.iou) if has_class else None,
        calibration_error=_number(calibration_error(bins.positive, bins.negative)),
        instance_f1=_share(2 * n_matched, n_found + n_true),
        completeness=_share(true_near, true),
        correctness=_share(found_near, found),
        threshold_best=round(best / (N_BINS - 1), 3),
        iou_best=_number(float(curve[best])) if bins.positive.any() else None,
    )


def _summed(items: list[tuple[int, ...] | None], n: int) -> list[int]:
    rows = [item for item in items if item is not None]
    return [sum(row[k] for row in rows) for k in range(n)]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _added(a: Score, b: Score) -> Score:
    return Score(
        source=a.source,
        class_name=a.class_name,
        positive=a.positive + b.positive,
        negative=a.negative + b.negative,
    )
