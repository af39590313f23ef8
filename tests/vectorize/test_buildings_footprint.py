"""One polygon, one footprint: truth is drawn, burnt into pixels and fitted back."""

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize, shapes
from scipy import ndimage
from shapely import affinity
from shapely.geometry import Point, Polygon, box

from tests.bench.building_scenes import KINDS, one
from tilingseg.vectorize.footprint import Part, begun_at_the_top, fit_footprints
from tilingseg.vectorize.outlines import (
    Moments,
    Outlines,
    Probability,
    boundary_points,
    cross_threshold,
    roughness,
    turning_points,
)
from tilingseg.vectorize.partition import Breaks, partition
from tilingseg.vectorize.walls import main_directions


def fit_footprint(polygon, probability=None, cuts=None):
    return fit_footprints([Part(polygon=polygon, probability=probability, cuts=cuts)])[0]


def traced(mask):
    found = [shapely.geometry.shape(g) for g, v in shapes(mask, connectivity=4) if v]
    return max(found, key=lambda p: p.area)


def burn(polygon, shape=(160, 160)):
    return rasterize([(polygon, 1)], out_shape=shape, dtype="uint8")


def iou(a, b):
    return a.intersection(b).area / a.union(b).area


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_exact_masks_give_the_building_back(kind, seed):
    rng = np.random.default_rng(seed)
    truth = affinity.rotate(one(kind, rng), rng.uniform(0, 90), origin=(0, 0))
    truth = affinity.translate(affinity.scale(truth, 3, 3, origin=(0, 0)), 80.3, 79.6)
    pixels = traced(burn(truth))
    made = fit_footprint(pixels)
    assert made.is_valid
    assert iou(made, truth) >= iou(pixels, truth) - 0.002
    assert iou(made, truth) > 0.95


@pytest.mark.parametrize("angle", [0, 1, 13, 30, 44.5, 45, 60, 89])
def test_a_rectangle_has_four_corners_and_its_direction(angle):
    truth = affinity.rotate(box(40, 55, 120, 100), angle)
    made = fit_footprint(traced(burn(truth)))
    assert len(made.exterior.coords) == 5
    assert iou(made, truth) > 0.985
    assert made.hausdorff_distance(truth) < 0.8


def test_a_courtyard_shares_the_direction_of_the_house():
    truth = affinity.rotate(box(30, 30, 130, 120).difference(box(60, 60, 100, 95)), 33)
    made = fit_footprint(traced(burn(truth)))
    angles = []
    for ring in (made.exterior, *made.interiors):
        edges = np.diff(shapely.get_coordinates(ring), axis=0)
        angles.append(np.degrees(np.arctan2(edges[:, 1], edges[:, 0])) % 90)
    assert [len(a) for a in angles] == [4, 4]
    assert np.ptp(np.concatenate(angles)) < 1e-6


@pytest.mark.parametrize("radius", [8, 15, 40])
def test_a_tank_is_round_and_keeps_its_area(radius):
    truth = Point(80.2, 79.7).buffer(radius, quad_segs=64)
    made = fit_footprint(traced(burn(truth)))
    edges = np.diff(shapely.get_coordinates(made), axis=0)
    lengths = np.hypot(*edges.T)
    assert len(lengths) >= 12
    assert np.ptp(lengths) < 1e-6
    assert made.area == pytest.approx(truth.area, rel=0.03)
    assert iou(made, truth) > 0.96


def test_a_hexagon_is_not_round():
    t = np.arange(6) * np.pi / 3 + 0.2
    truth = Polygon(80 + 40 * np.stack([np.cos(t), np.sin(t)], axis=1))
    made = fit_footprint(traced(burn(truth)))
    assert len(made.exterior.coords) == 7
    assert iou(made, truth) > 0.98


@pytest.mark.parametrize("seed", range(6))
def test_wobble_is_not_copied(seed):
    truth = affinity.rotate(box(40, 50, 120, 105), 15 * seed + 4)
    rng = np.random.default_rng(seed)
    wobble = ndimage.gaussian_filter(rng.standard_normal((160, 160)), 2.5)
    seen = ndimage.gaussian_filter(burn(truth).astype(float), 2) + 0.12 * wobble / wobble.std()
    pixels = traced((seen > 0.5).astype(np.uint8))
    made = fit_footprint(pixels)
    assert iou(made, truth) > iou(pixels, truth)
    assert len(made.exterior.coords) <= 6


def test_probability_makes_walls_more_exact():
    errors = {"mask": [], "probability": []}
    for seed in range(8):
        truth = affinity.rotate(box(40.3, 50.6, 70.1, 75.4), 11 * seed)
        fine = rasterize(
            [(affinity.scale(truth, 8, 8, origin=(0, 0)), 1)], out_shape=(1280, 1280), dtype="uint8"
        )
        share = ndimage.gaussian_filter(fine.reshape(160, 8, 160, 8).mean((1, 3)), 1.0)
        values = np.rint(share * 255).astype(np.uint8)
        pixels = traced((values > 127).astype(np.uint8))
        known = Probability(values=values, row=0, col=0, threshold=0.5)
        errors["mask"].append(1 - iou(fit_footprint(pixels), truth))
        errors["probability"].append(1 - iou(fit_footprint(pixels, probability=known), truth))
    assert np.mean(errors["probability"]) < 0.7 * np.mean(errors["mask"])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_shapes_are_kept(size):
    pixels = box(5, 5, 5 + size, 5 + size)
    assert iou(fit_footprint(pixels), pixels) > 0.6


def test_curves_and_noise_keep_their_traced_outline():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.standard_normal((160, 160)), 4)
    pixels = traced((field > 0).astype(np.uint8))
    made = fit_footprint(pixels)
    assert made.is_valid
    assert iou(made, pixels) > 0.8


def test_cuts_are_kept_to_the_last_digit():
    pixels = box(20, 20, 80, 60)
    cut = np.array([[[50.25, 20.0], [50.25, 60.0]]])
    left, right = box(20, 20, 50.25, 60), box(50.25, 20, 80, 60)
    made = [fit_footprint(part, cuts=cut) for part in (left, right)]
    assert made[0].bounds[2] == pytest.approx(50.25, abs=1e-9)
    assert made[1].bounds[0] == pytest.approx(50.25, abs=1e-9)
    assert made[0].area + made[1].area == pytest.approx(pixels.area, rel=1e-6)


def test_boundary_points_are_the_midpoints_of_unit_edges():
    ring = shapely.LinearRing([(0, 0), (3, 0), (3, 2), (0, 2), (0, 0)])
    far = shapely.LinearRing([(70, 0), (70, 1), (71, 1), (71, 0), (70, 0)])
    outlines, along = boundary_points(np.array([ring, far]))
    expected = [(0.5, 0), (1.5, 0), (2.5, 0), (3, 0.5), (3, 1.5), (2.5, 2), (1.5, 2), (0.5, 2),
                (0, 1.5), (0, 0.5)]  # fmt: skip
    np.testing.assert_allclose(outlines.take(np.array([0])).points.T, expected)
    np.testing.assert_allclose(along[:, [0, 3, 5, 8]].T, [(1, 0), (0, 1), (-1, 0), (0, -1)])
    assert outlines.n_points.tolist() == [10, 4]
    assert outlines.points[:, -1].tolist() == [70.5, 0]


def test_crossings_lie_where_the_probability_is_interpolated_to_the_threshold():
    values = np.array([[255, 204, 51, 0]], np.uint8)
    known = Probability(values=values, row=7, col=3, threshold=0.5)
    # The edge between the second and third pixel, upwards: the inside is on its left.
    edge = np.array([[5.0], [7.5]])
    moved = cross_threshold(edge, np.array([[0.0], [1.0]]), known)
    inside_left = cross_threshold(edge, np.array([[0.0], [-1.0]]), known)
    crossing = 4.5 + (204 - 127.5) / (204 - 51)
    assert sorted([moved[0, 0], inside_left[0, 0]]) == pytest.approx(sorted([5.0, crossing]))


def test_crossings_stay_put_without_both_pixels():
    known = Probability(values=np.full((2, 2), 200, np.uint8), row=0, col=0, threshold=0.5)
    points = np.array([[1.0, 2.0, 90.0], [0.5, 0.5, 90.0]])
    along = np.array([[0.0] * 3, [1.0] * 3])
    np.testing.assert_array_equal(cross_threshold(points, along, known), points)


def test_roughness_tells_wobble_from_staircases_and_corners():
    def rough(mask):
        outlines, _ = boundary_points(np.array([traced(mask).exterior]))
        near = outlines.points - outlines.points[:, :1]
        return roughness(Moments.of(Outlines(points=near, offsets=outlines.offsets)))[0]

    house = affinity.rotate(box(30, 40, 130, 110), 27)
    rng = np.random.default_rng(1)
    wobble = ndimage.gaussian_filter(rng.standard_normal((160, 160)), 2.5)
    seen = ndimage.gaussian_filter(burn(house).astype(float), 2) + 0.12 * wobble / wobble.std()
    assert rough(burn(house)) < 0.08 < rough((seen > 0.5).astype(np.uint8))


@pytest.mark.parametrize("angle", range(0, 90, 7))
def test_the_main_direction_is_that_of_most_walls(angle):
    house = box(0, 0, 50, 30).union(affinity.rotate(box(40, 0, 75, 12), 35, origin=(40, 6)))
    corners = shapely.get_coordinates(affinity.rotate(house, angle).exterior)[:-1].T
    found = np.degrees(main_directions(corners, np.array([corners.shape[1]]))[0])
    assert (found - angle + 45) % 90 - 45 == pytest.approx(0, abs=1e-6)


def test_partitions_cost_no_more_than_any_other():
    """Dynamic programming against all partitions of a small outline into axis-parallel walls."""
    rng = np.random.default_rng(5)
    ring = np.array([(0, 0), (12, 0), (12, 7), (5, 7), (5, 12), (0, 12), (0, 0)], float)
    exact, _ = boundary_points(np.array([shapely.LinearRing(ring)]))
    points = np.roll(exact.points.T + rng.normal(0, 0.3, exact.points.T.shape), -6, axis=0)
    outlines = Outlines(points=np.ascontiguousarray(points.T), offsets=exact.offsets)
    breaks = turning_points(outlines, 1.0)[0]
    breaks = breaks[breaks > 0]
    kinds = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0], bool)
    places = Breaks(places=breaks, counts=np.array([len(breaks)]))
    walls = partition(outlines, Moments.of(outlines), places, kinds, np.array([3.0]))
    knots = [0, *breaks.tolist(), len(points)]

    def wall_cost(i, j, kind):
        inside = points[knots[i] : knots[j]]
        chord = points[knots[j] % len(points)] - points[knots[i]]
        direction = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])[kind]
        if chord @ direction <= 0.6 * np.hypot(*chord):
            return np.inf
        return inside[:, 1 - kind % 2].var() * len(inside)

    def best(i, kind):
        """Cheapest way from knot i, where a wall of the kind begins, to the closing wall."""
        options = []
        for j in range(i + 1, len(knots)):
            cost = wall_cost(i, j, kind)
            if not np.isfinite(cost):
                continue
            if j == len(knots) - 1:
                if kind == 0:
                    options.append(cost)
            else:
                turns = [best(j, turn) for turn in range(4) if (turn - kind) % 2]
                options.append(cost + 3.0 + min(turns))
        return min(options, default=np.inf)

    assert walls.cost[0] == pytest.approx(best(0, 0))
    assert walls.counts.tolist() == [6]


def test_a_footprint_does_not_depend_on_its_company_to_the_last_bit():
    rng = np.random.default_rng(9)
    parts = []
    for kind in KINDS * 3:
        truth = affinity.rotate(one(kind, rng), rng.uniform(0, 90), origin=(0, 0))
        truth = affinity.translate(affinity.scale(truth, 2, 2, origin=(0, 0)), 80.3, 79.6)
        wobble = ndimage.gaussian_filter(rng.standard_normal((160, 160)), 2.5)
        seen = ndimage.gaussian_filter(burn(truth).astype(float), 2) + 0.12 * wobble / wobble.std()
        values = np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8)
        known = Probability(values=values, row=0, col=0, threshold=0.5)
        pixels = traced((values > 127).astype(np.uint8))
        parts += [Part(polygon=pixels, probability=known), Part(polygon=pixels)]
    together = [made.wkb for made in fit_footprints(parts)]
    order = rng.permutation(len(parts))
    shuffled = dict(zip(order, fit_footprints([parts[k] for k in order]), strict=True))
    alone = [fit_footprints([part])[0].wkb for part in parts]
    assert together == alone
    assert together == [shuffled[k].wkb for k in range(len(parts))]


def test_no_parts_give_no_footprints():
    assert fit_footprints([]) == []


def test_rings_begin_at_their_first_corner_in_row_major_order():
    house = (
        box(0, 0, 9, 6).difference(box(2, 2, 4, 4)).difference(affinity.rotate(box(5, 2, 7, 4), 9))
    )
    tower = affinity.rotate(box(20, 0, 30, 10), 30)
    made = begun_at_the_top(np.array([house, tower]))
    for before, now in zip((house, tower), made, strict=True):
        assert now.equals(before)
        for old, ring in zip(shapely.get_rings(before), shapely.get_rings(now), strict=True):
            assert shapely.is_ccw(old) == shapely.is_ccw(ring)
            corners = shapely.get_coordinates(ring)
            assert len(corners) == len(old.coords)
            assert tuple(corners[0]) == min(map(tuple, corners), key=lambda xy: xy[::-1])
