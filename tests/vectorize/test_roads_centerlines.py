"""Centrelines: exact on shapes one can draw by hand, good on towns, the same in any regions."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.features import rasterize
from scipy import ndimage
from scipy.spatial import cKDTree
from shapely import LineString, Point
from skimage.morphology import skeletonize

from tests.drawn_roads import ArrayMask, cut_gaps, draw_mask, draw_network
from tilingseg.metrics.roads import path_agreement, road_agreement
from tilingseg.vectorize import centerlines as module
from tilingseg.vectorize.centerlines import centerlines
from tilingseg.vectorize.roads import RoadOptions

DATA = Path(os.environ.get("TILINGSEG_DATA", Path(__file__).parents[3] / "shared/data"))
SMALL = {
    "max_gap_m": 4.0,
    "min_spur_m": 3.0,
    "max_width_m": 8.0,
    "min_length_m": 6.0,
    "min_area_m2": 6.0,
}


def painted(lines, size=200, width=7.0, cap="round"):
    areas = [LineString(line).buffer(width / 2, cap_style=cap) for line in lines]
    return rasterize(areas, out_shape=(size, size), dtype="uint8")


def found(mask, **options):
    mask = mask if isinstance(mask, ArrayMask) else ArrayMask(mask)
    return list(centerlines(mask, 1, RoadOptions(**options)))


def properties(feature):
    return dict(feature.properties)


def ends(features):
    """Count how many lines meet in each end."""
    return Counter(
        point for f in features for point in (f.geometry.coords[0], f.geometry.coords[-1])
    )


def junctions(features):
    return {point: n for point, n in ends(features).items() if n > 2}


def comparable(features):
    return sorted((f.geometry.wkt, str(f.properties), str(f.confidence)) for f in features)


@pytest.mark.parametrize("width", [5, 6, 7, 11])
@pytest.mark.parametrize("angle", [0, 17, 45, 90])
def test_a_straight_road_is_one_straight_line_of_its_width(width, angle):
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * 70
    truth = LineString([100.3 - along, 100.3 + along])
    (line,) = found(painted([truth], width=width, cap="flat"))
    assert line.geometry.hausdorff_distance(truth) < (width / 2 if angle % 90 else 0) + 1.25
    assert max(truth.distance(Point(point)) for point in line.geometry.coords) < 0.8
    diagonal = 0.65 if angle == 45 else 0.25  # all pixel centres lie on lines 0.7 px apart
    assert properties(line)["width_m"] == pytest.approx(width, abs=diagonal)
    assert properties(line)["joined_m"] == 0
    assert len(line.geometry.coords) <= 4


@pytest.mark.parametrize("width", [5, 12])
@pytest.mark.parametrize("angle", [0, 17, 45, 77, 90])
def test_a_road_drawn_with_round_ends_comes_back_in_its_length(width, angle):
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * 70
    truth = LineString([100.3 - along, 100.3 + along])
    (line,) = found(painted([truth], width=width))
    assert line.geometry.hausdorff_distance(truth) < (3.5 if angle == 45 else 1.5)


@pytest.mark.parametrize("rough_m", [0, 0.5, 1])
@pytest.mark.parametrize("width", [4, 7.5, 16])
def test_widths_are_right_in_the_mean(width, rough_m):
    rng, widths = np.random.default_rng(3), []
    for angle in rng.uniform(0, np.pi, 6):
        along = np.array([np.cos(angle), np.sin(angle)]) * 250
        middle = rng.uniform(124.5, 125.5, 2)
        road = (LineString([middle - along, middle + along]), width)
        mask = draw_mask([road], 250.0, seed=int(100 * angle), rough_m=rough_m)
        widths += [properties(line)["width_m"] for line in found(mask)]
    assert np.mean(widths) == pytest.approx(width, abs=0.3)


@pytest.mark.parametrize("angle", [25, 35, 50, 70, 90])
def test_a_crossing_is_one_junction_of_four_roads(angle):
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * 80
    centre = np.array([100.4, 99.7])
    lines = found(painted([[(20, 99.7), (180, 99.7)], [centre - along, centre + along]]))
    assert len(lines) == 4
    ((place, n),) = junctions(lines).items()
    assert n == 4
    assert Point(place).distance(Point(centre)) < 1.5


def test_side_roads_farther_apart_than_the_road_is_wide_stay_two_junctions():
    mask = painted([[(20, 100), (180, 100)], [(90, 20), (90, 100)], [(110, 100), (110, 180)]])
    places = sorted(junctions(found(mask)))
    assert np.array(places) == pytest.approx(np.array([(90, 100), (110, 100)]), abs=1.2)


def test_a_side_road_does_not_bend_the_road():
    lines = found(painted([[(20, 100.5), (180, 100.5)], [(100.5, 100), (100.5, 30)]]))
    ((place, _),) = junctions(lines).items()
    assert abs(place[1] - 100.5) < 0.5


def test_hairs_are_cut_and_side_roads_kept_by_their_length_in_metres():
    mask = painted([[(20, 100), (180, 100)]])
    mask[100:108, 60:64] = 1  # a porch
    mask[100:125, 120:125] = 1  # a drive of 21 px
    assert len(found(mask)) == 3
    assert len(found(ArrayMask(mask, pixel_m=(0.4, 0.4)))) == 1
    assert len(found(mask, min_spur_m=25)) == 1


@pytest.mark.parametrize("gap", [2, 5, 8])
def test_a_gap_is_closed_along_the_road(gap):
    mask = painted([[(20, 60), (180, 120)]])
    mask[:, 100 - gap // 2 : 100 + (gap + 1) // 2] = 0
    (line,) = found(mask)
    truth = LineString([(20, 60), (180, 120)])
    assert max(truth.distance(Point(point)) for point in line.geometry.coords) < 1.5
    assert properties(line)["joined_m"] > gap
    assert len(found(mask, max_gap_m=0)) == 2


def test_a_gap_before_a_junction_is_closed_although_only_a_stump_is_left_there():
    mask = painted([[(100, 20), (100, 180)], [(100, 100), (20, 100)]])
    mask[:, 80:88] = 0
    lines = found(mask)
    assert len(lines) == 3
    assert list(junctions(lines).values()) == [3]


def test_a_side_road_cut_off_from_its_road_is_led_to_it():
    mask = painted([[(100, 20), (100, 180)], [(100, 100), (20, 100)]])
    mask[:, 90:96] = 0
    ((place, n),) = junctions(found(mask)).items()
    assert n == 3
    assert Point(place).distance(Point(100, 100)) < 1.5


def test_parallel_roads_are_not_joined_across_their_ends():
    mask = painted([[(20, 80), (100, 80)], [(100, 92), (180, 92)]], width=5)
    assert len(found(mask)) == 2


def test_roads_reach_the_edge_of_the_scene():
    lines = found(painted([[(-10, 60), (210, 130)]]))
    x = sorted(point[0] for point in ends(lines))
    assert x == [0, 200]


def test_a_ring_without_junctions_is_closed():
    mask = np.zeros((200, 200), dtype=np.uint8)
    area = Point(100, 100).buffer(60).difference(Point(100, 100).buffer(53))
    mask = rasterize([area], out_shape=mask.shape, dtype="uint8")
    (line,) = found(mask)
    assert line.geometry.is_ring
    assert line.geometry.length == pytest.approx(2 * np.pi * 56.5, rel=0.01)


def test_nodata_and_other_classes_are_no_road():
    mask = painted([[(20, 100), (180, 100)]])
    reference = found(mask)
    noise = np.random.default_rng(0).choice([0, 2, 255], mask.shape).astype(np.uint8)
    assert comparable(found(ArrayMask(np.where(mask == 1, 1, noise)))) == comparable(reference)


def test_confidence_is_the_mean_probability_along_the_line():
    mask = painted([[(20, 100), (180, 100)]])
    probability = np.full(mask.shape, 7, dtype=np.uint8)
    probability[mask == 1] = 204
    (line,) = found(ArrayMask(mask, probability))
    assert line.confidence == pytest.approx(0.8)
    assert found(mask)[0].confidence is None


def test_specks_are_dropped_and_counted_and_an_empty_scene_is_empty():
    mask = painted([[(20, 100), (180, 100)]])
    mask[20:23, 20:23] = 1
    mask[50:57, 50:62] = 1
    left_out = Counter()
    lines = list(centerlines(ArrayMask(mask), 1, RoadOptions(), left_out))
    assert len(lines) == 1
    assert left_out[module.SMALL_AREA] == 1
    assert left_out[module.SHORT] == 1
    assert found(np.zeros((50, 50))) == []
    assert found(np.full((50, 50), 255)) == []


def test_pixels_that_are_not_square_give_the_same_ground():
    lines = found(painted([[(20, 100), (180, 100)], [(100, 20), (100, 180)]], size=200))
    squeezed = np.ascontiguousarray(
        painted([[(20, 100), (180, 100)], [(100, 20), (100, 180)]], size=200)[:, ::2]
    )
    narrow = found(ArrayMask(squeezed, pixel_m=(2.0, 1.0)))
    assert len(narrow) == len(lines) == 4
    lengths = [sorted(properties(f)["length_m"] for f in group) for group in (lines, narrow)]
    assert lengths[0] == pytest.approx(lengths[1], abs=4)


def test_without_a_pixel_size_the_pixel_is_the_unit_and_the_names_say_so():
    (line,) = found(ArrayMask(painted([[(20, 100), (180, 100)]]), pixel_m=None))
    assert {name for name, _ in line.properties} == {"width_px", "length_px", "joined_px"}


def test_a_mask_much_finer_than_needed_gives_the_same_roads():
    network = draw_network(1, 400.0)
    truth = [line for line, _ in network]
    mask = draw_mask(network, 400.0, 0.15, rough_m=0.2)
    fine = found(ArrayMask(mask, pixel_m=(0.15, 0.15)))
    metres = [shapely.transform(f.geometry, lambda points: points * 0.15) for f in fine]
    agreement = road_agreement(truth, metres, buffer_m=1.5)
    assert agreement.completeness > 0.95
    assert agreement.correctness > 0.95


@pytest.mark.parametrize(("gap_m", "rough_m"), [(0, 0), (0, 0.7), (8, 0), (8, 0.7)])
def test_a_drawn_town_is_found(gap_m, rough_m):
    network = draw_network(2)
    mask = draw_mask(network, seed=2, rough_m=rough_m)
    mask = cut_gaps(mask, network, 2, gap_m) if gap_m else mask
    truth, lines = [line for line, _ in network], [f.geometry for f in found(mask)]
    agreement = road_agreement(truth, lines, buffer_m=3)
    assert agreement.completeness > 0.97
    assert agreement.correctness > 0.97
    assert path_agreement(truth, lines).apls > 0.94


def test_lines_meet_only_in_their_ends():
    lines = [f.geometry for f in found(draw_mask(draw_network(4)))]
    assert all(line.is_valid and line.is_simple for line in lines)
    tree = shapely.STRtree(lines)
    n_crossings = 0
    for a, b in tree.query(lines, predicate="crosses").T:
        meeting = shapely.intersection(lines[a], lines[b])
        shared = {lines[a].coords[0], lines[a].coords[-1]}
        shared &= {lines[b].coords[0], lines[b].coords[-1]}
        for point in shapely.get_coordinates(meeting):
            n_crossings += all(Point(point).distance(Point(end)) > 1e-6 for end in shared)
    assert n_crossings == 0


@settings(max_examples=10)
@given(st.integers(0, 100_000), st.integers(16, 150), st.booleans())
def test_regions_do_not_show_even_in_noise(seed, region_px, with_nodata):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(
        rng.random((350, int(rng.integers(40, 120)))), rng.uniform(1, 4)
    )
    mask = (noise > np.quantile(noise, rng.uniform(0.3, 0.9))).astype(np.uint8)
    if with_nodata:
        mask[rng.random(mask.shape) < 0.02] = 255
    whole, parts = Counter(), Counter()
    one = list(centerlines(ArrayMask(mask), 1, RoadOptions(region_px=4096, **SMALL), whole))
    many = list(centerlines(ArrayMask(mask), 1, RoadOptions(region_px=region_px, **SMALL), parts))
    assert comparable(one) == comparable(many)
    assert whole == parts


@pytest.mark.parametrize("region_px", [97, 256, 640])
def test_regions_do_not_show_in_a_town_with_gaps(region_px):
    network = draw_network(6)
    mask = cut_gaps(draw_mask(network, rough_m=0.7), network, 6, 8.0)
    mask = np.concatenate([mask, mask[::-1], mask])  # high enough for several strips
    assert comparable(found(mask, region_px=region_px)) == comparable(found(mask, region_px=4096))


def test_what_is_read_at_a_time_depends_on_the_region_not_on_the_scene():
    largest = []
    for repeats in (1, 2):
        mask = ArrayMask(np.tile(draw_mask(draw_network(6)), (repeats, repeats)))
        found(mask, region_px=256)
        largest.append(mask.largest_px)
    assert largest[0] == largest[1] < 700**2


def test_real_masks_are_followed():
    paths = sorted((DATA / "massachusetts_roads/masks").glob("*.png"))[:40]
    if not paths:
        pytest.skip(f"no Massachusetts road masks in {DATA}")
    totals = np.zeros(4)
    for path in paths:
        mask = (np.array(Image.open(path)) == 1).astype(np.uint8)
        raw = np.argwhere(skeletonize(mask.astype(bool)))[:, ::-1] + 0.5
        lines = [f.geometry for f in found(mask)]
        if len(raw) < 100 or not lines:
            continue
        ours = np.concatenate(
            [
                shapely.get_coordinates(line.interpolate(np.arange(0, line.length, 1.0)))
                for line in lines
            ]
        )
        near = shapely.dwithin(shapely.points(raw), shapely.union_all(lines), 3)
        right = cKDTree(raw).query(ours)[0] <= 3
        totals += (near.sum(), len(raw), right.sum(), len(ours))
    assert totals[0] / totals[1] > 0.97
    assert totals[2] / totals[3] > 0.97
