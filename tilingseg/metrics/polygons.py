"""How well footprints agree with true ones: which are found, and how exact their walls are.

- Which: one-to-one matches at an IoU of 0.5 (precision, recall, F1), average precision over IoU
  0.5, 0.55 … 0.95 as COCO defines it (101 recalls, interpolated), buildings that were split or
  merged.
- How exact, over the matches: IoU; PoLiS, the mean distance between the corners of each and the
  outline of the other (Avbelj, Müller and Bamler 2015, "A metric for polygon comparison and
  building extraction evaluation", IEEE GRSL 12); Hausdorff distance; rotation; number of corners.

Polygons are given in any plane with equal units along both axes: metres of a projected CRS, or
pixels. What is called a metre below is that unit. Reading and projecting is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.errors import TilingSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from shapely import Polygon

_MATCH_IOU = 0.5
_AP_IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintAgreement:
    """How a set of footprints agrees with the true ones; distances are means over the matches."""

    n_found: int
    """Footprints found."""
    n_true: int
    """True footprints."""
    n_matched: int
    """One-to-one matches with an IoU of at least 0.5."""
    average_precision: float
    """Mean over IoU thresholds 0.5 to 0.95, 0…1; NaN without true footprints."""
    average_precision_50: float
    """The same at an IoU of 0.5 alone."""
    iou: float
    """Mean IoU of the matches, 0…1; NaN without matches, as all below."""
    iou_p5: float
    """The IoU that 95 % of the matches reach, 0…1."""
    polis_m: float
    """PoLiS distance, metres."""
    hausdorff_m: float
    """Hausdorff distance between the outlines, metres."""
    rotation_deg: float
    """Angle between the main directions of the walls, 0…45 degrees."""
    vertex_ratio: float
    """Corners found for each true corner."""
    area_bias: float
    """Area found over true area, minus 1."""
    n_split: int
    """True footprints in which most of each of two or more found ones lies."""
    n_merged: int
    """Footprints found in which most of each of two or more true ones lies."""

    @property
    def precision(self) -> float:
        """Share of the found footprints that match, 0…1; NaN where none is found."""
        return self.n_matched / self.n_found if self.n_found else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true footprints that are matched, 0…1; NaN where there is none."""
        return self.n_matched / self.n_true if self.n_true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0…1; NaN where there is neither."""
        both = self.n_found + self.n_true
        return 2 * self.n_matched / both if both else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """All pairs of a found and a true polygon that share ground."""

    found: NDArray[np.intp]
    true: NDArray[np.intp]
    iou: NDArray[np.float64]
    share_of_found: NDArray[np.float64]
    share_of_true: NDArray[np.float64]


def compare_footprints(
    found: Sequence[Polygon],
    truth: Sequence[Polygon],
    confidence: Sequence[float] | None = None,
) -> FootprintAgreement:
    """Compare footprints with the true ones.

    Args:
        found: valid polygons, metres.
        truth: valid polygons, metres.
        confidence: of every found polygon, any scale; ranks them for average precision. None: all
            alike, in their order.

    Raises:
        TilingSegError: `confidence` has another length than `found`.
    """
    if confidence is not None and len(confidence) != len(found):
        raise TilingSegError(f"{len(found)} footprints but {len(confidence)} confidences")
    found_array, true_array = np.array(found, object), np.array(truth, object)
    pairs = _pairs(found_array, true_array)
    rank = np.arange(len(found))
    if confidence is not None:
        rank = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    order = np.empty_like(rank)
    order[rank] = np.arange(len(rank))
    matched = _match(pairs, order, _MATCH_IOU)
    a, b = found_array[pairs.found[matched]], true_array[pairs.true[matched]]
    iou = pairs.iou[matched]
    many = len(matched) > 0
    precisions = _average_precisions(pairs, order, len(truth))
    corners_found, corners_true = _n_corners(a), _n_corners(b)
    return FootprintAgreement(
        n_found=len(found),
        n_true=len(truth),
        n_matched=len(matched),
        average_precision=_mean(precisions),
        average_precision_50=float(precisions[0]),
        iou=_mean(iou),
        iou_p5=float(np.percentile(iou, 5)) if many else float("nan"),
        polis_m=_mean((_corners_to_outline(a, b) + _corners_to_outline(b, a)) / 2),
        hausdorff_m=_mean(shapely.hausdorff_distance(shapely.boundary(a), shapely.boundary(b))),
        rotation_deg=_mean(np.array([rotation_error(p, q) for p, q in zip(a, b, strict=True)])),
        vertex_ratio=float(corners_found.sum() / corners_true.sum()) if many else float("nan"),
        area_bias=float(shapely.area(a).sum() / shapely.area(b).sum() - 1)
        if many
        else float("nan"),
        n_split=_n_holders(pairs.true[pairs.share_of_found > 0.5]),
        n_merged=_n_holders(pairs.found[pairs.share_of_true > 0.5]),
    )


def polis(first: Polygon, second: Polygon) -> float:
    """Return the PoLiS distance of two polygons, metres: corners to outlines, both ways."""
    a, b = np.array([first], object), np.array([second], object)
    return float((_corners_to_outline(a, b) + _corners_to_outline(b, a))[0] / 2)


def main_direction_deg(polygon: Polygon) -> float:
    """Return the direction of the walls, weighted by length, −45…45 degrees (modulo 90)."""
    total = 0j
    for ring in shapely.get_rings(polygon):
        edges = np.diff(shapely.get_coordinates(ring), axis=0)
        length = np.hypot(edges[:, 0], edges[:, 1])
        total += complex((length * np.exp(4j * np.arctan2(edges[:, 1], edges[:, 0]))).sum())
    return float(np.degrees(np.angle(total)) / 4)


def rotation_error(first: Polygon, second: Polygon) -> float:
    """Return the angle between the main directions of two polygons, 0…45 degrees."""
    difference = main_direction_deg(first) - main_direction_deg(second)
    return abs((difference + 45) % 90 - 45)


def _pairs(found: NDArray[np.object_], truth: NDArray[np.object_]) -> _Pairs:
    if not len(found) or not len(truth):
        none, nothing = np.zeros(0, np.intp), np.zeros(0)
        return _Pairs(
            found=none, true=none, iou=nothing, share_of_found=nothing, share_of_true=nothing
        )
    true, hit = shapely.STRtree(found).query(truth, predicate="intersects")
    common = shapely.area(shapely.intersection(found[hit], truth[true]))
    area_found, area_true = shapely.area(found[hit]), shapely.area(truth[true])
    return _Pairs(
        found=hit,
        true=true,
        iou=common / (area_found + area_true - common),
        share_of_found=common / area_found,
        share_of_true=common / area_true,
    )


def _match(pairs: _Pairs, order: NDArray[np.intp], threshold: float) -> NDArray[np.intp]:
    """Match one to one: found polygons in their order, each with the best true one still free."""
    good = np.flatnonzero(pairs.iou >= threshold)
    good = good[np.lexsort((-pairs.iou[good], order[pairs.found[good]]))]
    used_found: set[int] = set()
    used_true: set[int] = set()
    matched = []
    for pair in good.tolist():
        one, other = int(pairs.found[pair]), int(pairs.true[pair])
        if one not in used_found and other not in used_true:
            used_found.add(one)
            used_true.add(other)
            matched.append(pair)
    return np.array(matched, np.intp)


def _average_precisions(pairs: _Pairs, order: NDArray[np.intp], n_true: int) -> NDArray[np.float64]:
    """Return the average precision at each of `_AP_IOUS`."""
    values = np.full(len(_AP_IOUS), np.nan)
    if not n_true:
        return values
    for index, threshold in enumerate(_AP_IOUS):
        hit = np.zeros(len(order))
        hit[order[pairs.found[_match(pairs, order, threshold)]]] = 1
        n_hit = np.cumsum(hit)
        recall = n_hit / n_true
        precision = n_hit / np.arange(1, len(order) + 1)
        # Interpolated: the best precision at this recall or any higher one.
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        values[index] = best[np.searchsorted(recall, _RECALLS)].mean()
    return values


def _n_corners(polygons: NDArray[np.object_]) -> NDArray[np.intp]:
    n_rings = 1 + shapely.get_num_interior_rings(polygons)
    return np.asarray(shapely.get_num_coordinates(polygons) - n_rings, np.intp)


def _corners_to_outline(
    polygons: NDArray[np.object_], others: NDArray[np.object_]
) -> NDArray[np.float64]:
    """Return the mean distance of the corners of one to the outline of the other, per pair."""
    if not len(polygons):
        return np.zeros(0)
    rings, owner = shapely.get_rings(polygons, return_index=True)
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    counts = np.append(ring[1:] == ring[:-1], False)  # the last point of a ring is its first
    owner = owner[ring[counts]]
    distance = shapely.distance(shapely.points(corners[counts]), shapely.boundary(others)[owner])
    return np.bincount(owner, distance) / np.bincount(owner)


def _n_holders(index: NDArray[np.intp]) -> int:
    """Count the values that occur more than once."""
    return int((np.unique(index, return_counts=True)[1] > 1).sum())


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
