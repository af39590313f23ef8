"""Road metrics against cases that can be worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import LineString
from shapely.affinity import translate

from tilingseg.metrics.roads import n_bare_crossings, path_agreement, road_agreement

CROSS = [
    LineString([(0, 0), (100, 0)]),
    LineString([(100, 0), (200, 0)]),
    LineString([(100, -80), (100, 0)]),
    LineString([(100, 0), (100, 60)]),
]


def test_a_network_agrees_wholly_with_itself():
    agreement = road_agreement(CROSS, CROSS, buffer_m=1)
    assert agreement.completeness == agreement.correctness == agreement.quality == 1
    assert agreement.truth_m == agreement.found_m == 340
    assert path_agreement(CROSS, CROSS).apls == 1


def test_lengths_within_the_buffer():
    truth = [LineString([(0, 0), (100, 0)])]
    found = [LineString([(20, 2), (80, 2)]), LineString([(0, 50), (40, 50)])]
    agreement = road_agreement(truth, found, buffer_m=2.5)
    reach = math.sqrt(2.5**2 - 2**2)  # the round ends of the buffer
    assert agreement.truth_matched_m == pytest.approx(60 + 2 * reach, abs=0.05)
    assert agreement.found_matched_m == pytest.approx(60)
    assert agreement.completeness == pytest.approx(0.63, abs=1e-3)
    assert agreement.correctness == pytest.approx(0.6)
    assert agreement.quality == pytest.approx(60 / (100 + 37), abs=1e-3)


def test_a_line_that_was_found_twice_counts_once_for_the_truth():
    truth = [LineString([(0, 0), (100, 0)])]
    found = [LineString([(0, 1), (100, 1)]), LineString([(0, -1), (100, -1)])]
    agreement = road_agreement(truth, found, buffer_m=2)
    assert agreement.truth_matched_m == pytest.approx(100)
    assert agreement.found_m == 200


@pytest.mark.parametrize(("truth", "found"), [([], CROSS), (CROSS, []), ([], [])])
def test_nothing_to_compare_has_no_share(truth, found):
    agreement = road_agreement(truth, found)
    assert agreement.completeness == (0 if truth else None)
    assert agreement.correctness == (0 if found else None)
    assert agreement.quality == (0 if truth or found else None)
    assert path_agreement(truth, found).apls == (0 if truth or found else None)


def test_a_detour_counts_by_its_share_of_the_way():
    # One way of 40 m; the other network takes 50 m between the same two places.
    truth = [LineString([(0, 0), (40, 0)])]
    found = [LineString([(0, 0), (20, 15), (40, 0)])]
    agreement = path_agreement(truth, found, spacing_m=100)
    assert agreement.truth_in_found == pytest.approx(1 - 10 / 40)
    assert agreement.found_in_truth == pytest.approx(1 - 10 / 50)
    assert agreement.apls == pytest.approx(2 / (1 / 0.75 + 1 / 0.8))


def test_a_gap_costs_every_way_across_it():
    # Places at 0, 50, 100, 150, 200: 10 ways, 6 of which cross the gap at 100…150.
    truth = [LineString([(0, 0), (200, 0)])]
    found = [LineString([(0, 0), (101, 0)]), LineString([(149, 0), (200, 0)])]
    agreement = path_agreement(truth, found, snap_m=0.5, spacing_m=50)
    assert agreement.truth_in_found == pytest.approx(4 / 10)


def test_a_place_too_far_from_any_road_loses_its_ways():
    truth = [LineString([(0, 0), (40, 0)]), LineString([(40, 0), (40, 30)])]
    found = [LineString([(0, 0), (40, 0)])]
    # Places: both ends and the middle of each line. Two of the four are 15 and 30 m off the road.
    agreement = path_agreement(truth, found, snap_m=4, spacing_m=20)
    assert agreement.truth_in_found == pytest.approx(1 / 6)
    agreement = path_agreement(truth, found, snap_m=14, spacing_m=20)
    assert agreement.truth_in_found == pytest.approx(1 / 6)
    # Moved to (40, 0), the nearer one keeps ways of 40 and 20 m that were 55 and 35 m long.
    agreement = path_agreement(truth, found, snap_m=16, spacing_m=20)
    assert agreement.truth_in_found == pytest.approx((1 + 40 / 55 + 20 / 35) / 6)


def test_lines_are_connected_by_shared_vertices_not_by_crossings():
    bridge = [LineString([(0, 0), (100, 0)]), LineString([(50, -50), (50, 50)])]
    junction = [LineString([(0, 0), (50, 0), (100, 0)]), LineString([(50, -50), (50, 0), (50, 50)])]
    assert path_agreement(bridge, junction, spacing_m=200).truth_in_found == 1
    # Of the 10 ways between the 4 ends and the junction, the bridge keeps 2 and breaks 4 between
    # ends; the junction itself snaps to one of the two roads.
    kept = path_agreement(junction, bridge, spacing_m=200).truth_in_found
    assert kept == pytest.approx(4 / 10)
    ending = [bridge[0], LineString([(20, 0), (20, 30)])]  # with a vertex of its own alone
    counts = [n_bare_crossings(lines) for lines in (bridge, junction, ending, bridge[:1], [])]
    assert counts == [1, 0, 1, 0, 0]


@given(st.floats(0.1, 3.5), st.floats(0, 2 * math.pi))
def test_a_small_shift_is_no_difference(far, angle):
    shifted = [translate(line, far * math.cos(angle), far * math.sin(angle)) for line in CROSS]
    assert path_agreement(CROSS, shifted).apls > 0.94
    agreement = road_agreement(CROSS, shifted, buffer_m=3.6)
    assert agreement.completeness == pytest.approx(1)
    assert agreement.correctness == pytest.approx(1)


@given(st.integers(0, 1000))
def test_agreement_is_symmetrical(seed):
    rng = np.random.default_rng(seed)
    first, second = (
        [LineString(rng.uniform(0, 60, (3, 2)).round()) for _ in range(4)] for _ in range(2)
    )
    forth, back = road_agreement(first, second), road_agreement(second, first)
    assert forth.completeness == back.correctness
    assert path_agreement(first, second).apls == path_agreement(second, first).apls


def test_many_places_are_sampled_the_same_way_each_time():
    grid = [LineString([(x, y), (x + 10, y)]) for x in range(0, 300, 10) for y in range(0, 300, 10)]
    grid += [
        LineString([(x, y), (x, y + 10)]) for x in range(0, 300, 10) for y in range(0, 300, 10)
    ]
    assert path_agreement(grid, grid).apls == 1
    assert path_agreement(grid, grid[::2]) == path_agreement(grid, grid[::2])
