"""Road centrelines of a whole scene, region by region, with a result that no region shows in.

    regions of one row ──skeleton──▶ sparse pixels of the last rows ──network──▶ strip of lines
                                                                                        │
                                          features ◀──smooth── lines that have ended ◀──┘

Dense work happens in one region and its halo at a time. The graph is traced and cleaned on the
sparse pixels of a strip, with `context_px` more rows above and below than any decision looks
far; only what lies in the strip itself is kept. Lines are cut where a strip ends, in points that
both sides know, joined again there, and smoothed as a whole when both of their ends are known.
So memory holds one region, the skeleton of a few rows of regions, and the lines that cross into
the rows to come, but never the scene.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d
from shapely import LineString

from tilingseg.grid import Window
from tilingseg.records import Feature
from tilingseg.vectorize.cleaning import (
    PRUNE_ROUNDS,
    drop_short_pieces,
    merge_junctions,
    prune_spurs,
)
from tilingseg.vectorize.coarse import CoarseMask
from tilingseg.vectorize.gaps import join_gaps
from tilingseg.vectorize.junctions import lead_to_border, place_junctions, straighten_ends
from tilingseg.vectorize.lines import Line, Lines
from tilingseg.vectorize.network import path_length, trace_network
from tilingseg.vectorize.roads import ground_pixel, has_ground
from tilingseg.vectorize.skeleton import SkeletonLimits, SkeletonPixels, skeleton_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tilingseg.records import Georef, MaskReader
    from tilingseg.vectorize.network import Network
    from tilingseg.vectorize.roads import RoadOptions

SMALL_AREA = "pieces of road too small for a centreline"
SMALL_HOLE = "holes in roads closed for centrelines"
SHORT = "centrelines below the minimum length"
FINEST_M = 0.3
"""Pixel size that centrelines are sought at in finer masks, about, metres."""
MIN_REGION_PX = 64
"""Side of a region of such coarser pixels, at least, px."""
MIN_LENGTH_PX = 3
"""No shorter dead end or piece is believed, whatever the pixel size."""
AXIS_RADII = 12
"""Radii that a junction or a gap looks along its roads, both sides together."""
SMOOTH_OF_RADIUS = 0.75
"""Smoothing in shares of the road's radius: a wide road has wide bends and a rough edge."""
SMOOTH_PX = 1.5
"""Smoothing that the staircase of pixels needs in any case."""
DECIMALS = 3
"""Digits kept of pixel coordinates."""


def centerlines(
    mask: MaskReader,
    value: int,
    options: RoadOptions,
    left_out: Counter[str] | None = None,
    skeleton: Callable[[Window], SkeletonPixels] | None = None,
) -> Iterator[Feature]:
    """Yield the road network of one class as lines that meet in shared points.

    Every feature is a LineString from one junction or dead end to the next, in pixel
    coordinates, with `width_m` (None: not known), `length_m` and `joined_m` (the part of
    the length where a gap was bridged) as properties; in `_px` where there is no ground. Lines of
    masks much finer than 0.3 m are sought in larger pixels.

    Args:
        mask: class mask of the whole scene; nodata is not road.
        value: mask value of the class.
        options: what counts as a road.
        left_out: counts, by what and why, of what was dropped; filled while features are drawn.
        skeleton: gives what `skeletons` found in a core; None: it is sought here.
    """
    counts = Counter[str]() if left_out is None else left_out
    mask, scale = _coarse(mask, value, options)
    name = mask.classes[value - 1]
    if skeleton is None:
        skeleton = partial(skeleton_pixels, mask, value, limits=scale.limits)
    for line in _lines(mask, skeleton, scale, counts):
        yield _feature(line, name, scale)


def line_properties(georef: Georef) -> tuple[str, str, str]:
    """Return the names of the properties that every centreline has; all are numbers."""
    unit = "m" if has_ground(georef) else "px"
    return f"width_{unit}", f"length_{unit}", f"joined_{unit}"


def skeletons(
    mask: MaskReader, value: int, options: RoadOptions, part: Window
) -> Iterator[tuple[Window, SkeletonPixels]]:
    """Yield the skeletons of the cores that begin in a part of the scene, with their cores.

    Args:
        mask: class mask of the whole scene.
        value: mask value of the class.
        options: what counts as a road.
        part: pixels of the scene.
    """
    mask, scale = _coarse(mask, value, options)
    k, step = scale.factor, scale.region_px
    first_row, first_col = (-(-start // (k * step)) * step for start in (part.row, part.col))
    for row in range(first_row, min(-(-part.row_stop // k), mask.height), step):
        height = min(step, mask.height - row)
        for col in range(first_col, min(-(-part.col_stop // k), mask.width), step):
            width = min(step, mask.width - col)
            core = Window(row=row, col=col, height=height, width=width)
            yield core, skeleton_pixels(mask, value, core, scale.limits)


def centerline_skeleton(
    mask: MaskReader, value: int, options: RoadOptions, core: Window
) -> SkeletonPixels:
    """Return the skeleton of one core, as `skeletons` does."""
    mask, scale = _coarse(mask, value, options)
    return skeleton_pixels(mask, value, core, scale.limits)


def _coarse(mask: MaskReader, value: int, options: RoadOptions) -> tuple[MaskReader, _Scale]:
    """Look at a mask that is much finer than its roads through larger pixels."""
    factor = 1
    if has_ground(mask.georef):
        factor = max(1, int(FINEST_M / max(ground_pixel(mask.georef)) + 0.01))
    if factor > 1:
        mask = CoarseMask(mask, value, factor)
    return mask, _Scale.of(mask, options, factor)


def _lines(
    mask: MaskReader,
    skeleton: Callable[[Window], SkeletonPixels],
    scale: _Scale,
    counts: Counter[str],
) -> Iterator[Line]:
    """Yield clean lines, strip by strip; they are not smoothed yet."""
    lines, region_px = Lines(), scale.region_px
    pixels: list[SkeletonPixels] = []
    done = 0
    for row in range(0, mask.height, region_px):
        row_stop = min(row + region_px, mask.height)
        for core in _cores(row, row_stop, mask.width, region_px):
            pixels.append(skeleton(core))
            counts[SMALL_AREA] += pixels[-1].n_specks
            counts[SMALL_HOLE] += pixels[-1].n_holes
        last = row_stop == mask.height
        stop = row_stop if last else row_stop - scale.context_px
        if not last and stop - done < scale.context_px:
            continue
        pixels = [_rows_from(_together(pixels), done - scale.context_px)]
        cut_rows = (max(done - scale.context_px, 0) or -1, -1 if last else row_stop - 1)
        network = _clean_network(pixels[0], mask, scale, cut_rows)
        top_m, bottom_m = done * scale.pixel_m[1], math.inf if last else stop * scale.pixel_m[1]
        counts[SHORT] += _count_between(network.dots[:, 1], top_m, bottom_m)
        yield from lines.advance(network, top_m if done else -math.inf, bottom_m)
        done = stop
    yield from lines.rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """The options in the units of one scene."""

    pixel_m: tuple[float, float]
    step_m: float
    """Size of a pixel, mean of both sides, metres."""
    factor: int
    """Pixels of the scene along the side of one that is looked at."""
    region_px: int
    """Side of the block that is in memory at a time, px."""
    names: tuple[str, str, str]
    """Of the properties; see `line_properties`."""
    max_gap_m: float
    min_spur_m: float
    min_length_m: float
    simplify_m: float
    limits: SkeletonLimits
    context_px: int
    """Rows above and below a strip that its lines may depend on, px."""

    @classmethod
    def of(cls, mask: MaskReader, options: RoadOptions, factor: int) -> _Scale:
        pixel_m = ground_pixel(mask.georef)
        step_m, area_m2 = sum(pixel_m) / 2, pixel_m[0] * pixel_m[1]
        min_spur_m = max(options.min_spur_m, MIN_LENGTH_PX * step_m)
        min_length_m = max(options.min_length_m, MIN_LENGTH_PX * step_m)
        half_width_m = max(options.max_width_m / 2, step_m)
        # One dead end after another, then a gap with the axes on both sides, and a junction.
        reach_m = PRUNE_ROUNDS * (min_spur_m + half_width_m) + options.max_gap_m + min_length_m
        reach_m += AXIS_RADII * half_width_m + 16 * step_m
        return cls(
            pixel_m=pixel_m,
            step_m=step_m,
            factor=factor,
            region_px=(
                options.region_px
                if factor == 1
                else max(options.region_px // factor, MIN_REGION_PX)
            ),
            names=line_properties(mask.georef),
            max_gap_m=options.max_gap_m,
            min_spur_m=min_spur_m,
            min_length_m=min_length_m,
            simplify_m=step_m / 2 if options.simplify_m is None else options.simplify_m,
            limits=SkeletonLimits(
                max_width_px=max(2, math.ceil(options.max_width_m / min(pixel_m))),
                min_speck_px=math.ceil(options.min_area_m2 / area_m2),
                min_hole_px=math.ceil(options.min_area_m2 / area_m2),
                pixel_m=pixel_m,
            ),
            context_px=math.ceil(reach_m / min(pixel_m)),
        )


def _cores(row: int, row_stop: int, width: int, region_px: int) -> Iterator[Window]:
    """Yield the regions of one row of regions, from left to right."""
    for col in range(0, width, region_px):
        yield Window(row=row, col=col, height=row_stop - row, width=min(region_px, width - col))


def _together(parts: list[SkeletonPixels]) -> SkeletonPixels:
    """Put the pixels of several cores in order of row and column."""
    rows = np.concatenate([part.rows for part in parts])
    cols = np.concatenate([part.cols for part in parts])
    radii_m = np.concatenate([part.radii_m for part in parts])
    known = [part.probabilities for part in parts if part.probabilities is not None]
    order = np.lexsort((cols, rows))
    return SkeletonPixels(
        rows=rows[order],
        cols=cols[order],
        radii_m=radii_m[order],
        probabilities=np.concatenate(known)[order] if known else None,
    )


def _rows_from(pixels: SkeletonPixels, row: int) -> SkeletonPixels:
    """Drop the pixels above a row."""
    first = int(np.searchsorted(pixels.rows, row))
    return SkeletonPixels(
        rows=pixels.rows[first:],
        cols=pixels.cols[first:],
        radii_m=pixels.radii_m[first:],
        probabilities=None if pixels.probabilities is None else pixels.probabilities[first:],
    )


def _clean_network(
    pixels: SkeletonPixels,
    mask: MaskReader,
    scale: _Scale,
    cut_rows: tuple[int, ...],
) -> Network:
    """Trace a strip's graph and clean it, in the order in which one step helps the next."""
    network = trace_network(pixels, mask.width, scale.pixel_m, cut_rows)
    # The stump of a road on the far side of a gap looks like a hair until the gap is closed.
    prune_spurs(network, MIN_LENGTH_PX * scale.step_m)
    merge_junctions(network)
    straighten_ends(network, scale.step_m)
    if scale.max_gap_m > 0:
        join_gaps(network, scale.max_gap_m, scale.min_spur_m, scale.step_m)
    prune_spurs(network, scale.min_spur_m)
    merge_junctions(network)
    drop_short_pieces(network, scale.min_length_m)
    place_junctions(network, scale.step_m)
    size_m = mask.width * scale.pixel_m[0], mask.height * scale.pixel_m[1]
    lead_to_border(network, size_m, scale.step_m)
    return network


def _count_between(values: NDArray[np.float64], low: float, high: float) -> int:
    return int(np.count_nonzero((values >= low) & (values < high)))


def _feature(line: Line, name: str, scale: _Scale) -> Feature:
    """Smooth a line and describe it."""
    x_y, radii, probabilities = line.values[:, :2], line.values[:, 2], line.values[:, 3]
    known = radii[~np.isnan(radii)]
    sure = probabilities[~np.isnan(probabilities)]
    radius_m = _middle(known) if known.size else 0.0
    smooth = _smoothed(
        x_y,
        max(SMOOTH_OF_RADIUS * radius_m, SMOOTH_PX * scale.step_m),
        scale.step_m,
        ring=line.ring,
    )
    path = shapely.get_coordinates(shapely.simplify(LineString(smooth), scale.simplify_m))
    steps = np.sqrt(((x_y[1:] - x_y[:-1]) ** 2).sum(axis=1))
    bridged = np.isnan(radii[1:]) | np.isnan(radii[:-1])
    values = (
        round(2 * radius_m, 2) if known.size else None,
        round(path_length(path), 2),
        round(float(steps[bridged].sum()), 2),
    )
    return Feature(
        class_name=name,
        geometry=LineString(np.round(path / scale.pixel_m * scale.factor, DECIMALS)),
        confidence=float(sure.mean()) if sure.size else None,
        properties=tuple(zip(scale.names, values, strict=True)),
    )


def _middle(values: NDArray[np.float64]) -> float:
    """Return the mean of the middle half: of widths in whole pixels the median is one of them."""
    ordered = np.sort(values)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _smoothed(
    points: NDArray[np.float64], sigma_m: float, step_m: float, *, ring: bool
) -> NDArray[np.float64]:
    """Smooth a path with a Gaussian along its length; its ends stay where they are.

    Args:
        points: (n, 2) x and y, metres.
        sigma_m: width of the Gaussian, metres.
        step_m: distance of the points that are returned, about, metres.
        ring: whether the path is closed and has no end.

    Returns:
        (m, 2) x and y, metres.
    """
    steps = points[1:] - points[:-1]
    along = np.concatenate([[0.0], np.cumsum(np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2))])
    count = max(2, round(float(along[-1]) / step_m) + 1)
    at = np.linspace(0.0, along[-1], count)
    even = np.column_stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)])
    if count == 2:
        return even
    sigma = min(sigma_m / step_m, (count - 1) / 4)
    if ring:
        turn = gaussian_filter1d(even[:-1], sigma, axis=0, mode="wrap")
        return np.concatenate([turn, turn[:1]])
    # Continued point-symmetrically beyond its ends, a path keeps its ends and its direction there.
    reach = min(count - 1, math.ceil(4 * sigma))
    before = 2 * even[0] - even[reach:0:-1]
    after = 2 * even[-1] - even[-2 : -reach - 2 : -1]
    longer = np.concatenate([before, even, after])
    smooth: NDArray[np.float64] = gaussian_filter1d(longer, sigma, axis=0, truncate=4.0)
    smooth = smooth[reach : reach + count]
    smooth[0], smooth[-1] = even[0], even[-1]
    return smooth
