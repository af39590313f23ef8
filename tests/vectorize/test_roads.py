"""Road areas as smooth polygons."""

from collections import Counter

import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes
from scipy import ndimage
from shapely.geometry import shape

from tests.drawn_roads import ArrayMask, draw_mask, draw_network
from tilingseg.errors import VectorizeError
from tilingseg.records import Shape
from tilingseg.vectorize.roads import RoadOptions, road_polygons, smooth_polygon


def traced(mask, value=1):
    found = shapes(mask, mask=mask == value, connectivity=8)
    return [Shape(value=value, polygon=shape(area), confidence=0.5) for area, _ in found]


@pytest.mark.parametrize("rough_m", [0.0, 0.7])
def test_smoothing_comes_closer_to_the_truth_and_keeps_the_area(rough_m):
    network = draw_network(3, 400.0)
    mask = draw_mask(network, 400.0, seed=3, rough_m=rough_m)
    truth = shapely.union_all([line.buffer(width / 2) for line, width in network])
    truth = truth.intersection(shapely.box(0, 0, 400, 400))
    before = traced(mask)
    after = list(road_polygons(before, ArrayMask(mask), RoadOptions(min_area_m2=0)))
    assert len(after) == len(before)
    areas = [
        sum(area.area for area in areas)
        for areas in ([piece.polygon for piece in before], [piece.geometry for piece in after])
    ]
    assert areas[1] == pytest.approx(areas[0], rel=0.001)
    overlap = [
        union.intersection(truth).area / union.union(truth).area
        for union in (
            shapely.union_all([piece.polygon for piece in before]),
            shapely.union_all([piece.geometry for piece in after]),
        )
    ]
    assert overlap[1] > overlap[0] + 0.01
    assert sum(shapely.get_num_coordinates([piece.geometry for piece in after])) < 0.4 * sum(
        shapely.get_num_coordinates([piece.polygon for piece in before])
    )


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.4, 3.0))
def test_any_traced_piece_gives_a_valid_polygon_with_its_holes(seed, sigma):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 50)), sigma)
    for piece in traced((noise > np.median(noise)).astype(np.uint8)):
        smooth = smooth_polygon(piece.polygon, 0.5)
        assert smooth.is_valid
        assert len(smooth.interiors) == len(piece.polygon.interiors)
        assert smooth.area == pytest.approx(piece.polygon.area, abs=0.3 * piece.polygon.length)


def test_outlines_do_not_depend_on_where_the_scene_begins():
    pieces = [one.polygon for one in traced(draw_mask(draw_network(0, 400.0), 400.0, rough_m=0.7))]
    for piece in pieces:
        corners = np.add(piece.exterior.coords[:-1], (60_101, 10_013))
        holes = shapely.affinity.translate(piece, 60_101, 10_013).interiors
        farther = shapely.Polygon(np.roll(corners, len(corners) // 3, axis=0), holes)
        moved = shapely.affinity.translate(smooth_polygon(farther, 0.5), -60_101, -10_013)
        here = smooth_polygon(piece, 0.5)
        assert shapely.get_num_coordinates(moved) == shapely.get_num_coordinates(here)
        assert np.abs(shapely.get_coordinates(moved) - shapely.get_coordinates(here)).max() < 1e-6


def test_small_pieces_and_holes_are_dropped_and_counted():
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[5:25, 5:55] = 1
    mask[10:12, 10:12] = 0
    mask[10:20, 30:40] = 0
    mask[40:43, 40:43] = 1
    left_out = Counter()
    options = RoadOptions(min_area_m2=20)
    (road,) = road_polygons(traced(mask), ArrayMask(mask), options, left_out)
    assert len(road.geometry.interiors) == 1
    assert road.class_name == "road"
    assert road.confidence == 0.5
    assert sorted(left_out.values()) == [1, 1]


def test_the_minimum_area_is_one_on_the_ground():
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[10:20, 10:20] = 1
    fine = ArrayMask(mask, pixel_m=(0.2, 0.2))
    coarse = ArrayMask(mask, pixel_m=(2.0, 2.0))
    options = RoadOptions(min_area_m2=20)
    assert len(list(road_polygons(traced(mask), fine, options))) == 0
    assert len(list(road_polygons(traced(mask), coarse, options))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_gap_m", -1.0),
        ("min_spur_m", float("nan")),
        ("min_length_m", -0.1),
        ("min_area_m2", -5.0),
        ("max_width_m", 0.0),
        ("simplify_m", -1.0),
        ("region_px", 8),
    ],
)
def test_impossible_options_are_refused_by_name(name, value):
    with pytest.raises(VectorizeError, match=name):
        RoadOptions(**{name: value})
