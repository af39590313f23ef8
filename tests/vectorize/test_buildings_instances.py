"""Touching buildings: what is cut, where, and what is left whole."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity
from shapely.geometry import Polygon, box

from tilingseg.records import Georef
from tilingseg.vectorize.buildings import BuildingOptions, footprints
from tilingseg.vectorize.clearance import fill
from tilingseg.vectorize.cuts import dissolve_overlaps
from tilingseg.vectorize.instances import separate
from tilingseg.vectorize.surroundings import BlockReader, Surroundings
from tilingseg.vectorize.trace import trace


class Mask:
    classes = ("building",)

    def __init__(self, mask, probability=None):
        self.mask, self.probability = np.asarray(mask, np.uint8), probability
        self.height, self.width = self.mask.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(0.5, 0.5))

    def read_mask(self, window):
        return self.mask[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probability is None:
            return None
        return self.probability[window.row : window.row_stop, window.col : window.col_stop]


def burn(*polygons, shape=(160, 160)):
    return rasterize([(p, 1) for p in polygons], out_shape=shape, dtype="uint8")


def doubtful(houses, walls, depth):
    """Return mask and probability of houses between which the network doubts the walls."""
    seen = ndimage.gaussian_filter(burn(*houses).astype(float), 1.5)
    seam = ndimage.gaussian_filter(burn(*[w.buffer(1) for w in walls]).astype(float), 1.0)
    values = np.rint(255 * np.clip(seen - depth * np.minimum(1, 1.6 * seam), 0, 1))
    values = values.astype(np.uint8)
    return values > 127, values


def fit(mask, probability=None, **options):
    reader = Mask(mask, probability)
    made = footprints(trace(reader, 1), reader, BuildingOptions(**options))
    return [feature.geometry for feature in made]


def iou(a, b):
    return a.intersection(b).area / a.union(b).area


@pytest.mark.parametrize("turn", [0, 20, 45, 71])
def test_houses_in_a_row_share_walls_without_gap_or_overlap(turn):
    houses = [box(20 + 30 * k, 50 + 3 * (k % 2), 50 + 30 * k, 100 + 3 * (k % 2)) for k in range(4)]
    walls = [a.intersection(b) for a, b in pairwise(houses)]
    houses, walls = (
        [affinity.rotate(p, turn, origin=(80, 75)) for p in parts] for parts in (houses, walls)
    )
    made = fit(*doubtful(houses, walls, 0.4))
    assert len(made) == 4
    for house in houses:
        assert max(iou(house, found) for found in made) > 0.9
    assert all(a.intersection(b).area == 0 for i, a in enumerate(made) for b in made[:i])
    row = shapely.union_all(made)
    assert isinstance(row, Polygon)
    assert not row.interiors


def test_houses_that_touch_at_a_corner_are_cut_at_the_neck():
    houses = [box(20, 20, 60, 60), box(54, 56, 100, 100)]
    made = fit(burn(*houses))
    assert len(made) == 2
    assert all(max(iou(house, found) for found in made) > 0.9 for house in houses)


@pytest.mark.parametrize("turn", [0, 31])
@pytest.mark.parametrize(
    "house",
    [
        box(30, 30, 120, 100).difference(box(75, 65, 120, 100)),
        box(30, 30, 130, 120).difference(box(65, 30, 95, 85)),
        box(30, 30, 130, 120).difference(box(60, 60, 100, 90)),
        box(20, 60, 140, 70),
        box(20, 30, 140, 60).union(box(70, 60, 95, 130)),
    ],
    ids=["L", "U", "courtyard", "narrow", "T"],
)
def test_one_building_stays_whole(house, turn):
    house = affinity.rotate(house, turn, origin=(80, 80))
    mask, probability = doubtful([house], [], 0)
    assert len(fit(mask)) == 1
    assert len(fit(mask, probability)) == 1


def test_a_shallow_valley_is_no_wall():
    houses = [box(20, 40, 70, 100), box(70, 40, 130, 100)]
    wall = houses[0].intersection(houses[1])
    assert len(fit(*doubtful(houses, [wall], 0.06))) == 1
    assert len(fit(*doubtful(houses, [wall], 0.4))) == 2


def test_a_valley_that_ends_inside_is_no_wall():
    house = box(20, 30, 140, 120)
    stub = shapely.LineString([(80, 30), (80, 60)])
    assert len(fit(*doubtful([house], [stub], 0.4))) == 1


def test_nothing_is_cut_when_not_asked_for():
    houses = [box(20, 40, 70, 100), box(70, 40, 130, 100)]
    wall = houses[0].intersection(houses[1])
    assert len(fit(*doubtful(houses, [wall], 0.4), separate=False)) == 1


def test_pieces_cover_the_traced_polygon():
    houses = [box(20, 20, 60, 60), box(54, 56, 100, 100)]
    reader = Mask(burn(*houses))
    (shape,) = trace(reader, 1)
    around = BlockReader(reader, 1).around(tuple(map(int, shape.polygon.bounds)), 12)
    pieces = separate(shape.polygon, fill(shape.polygon, around), around)
    assert pieces is not None
    assert shapely.union_all(pieces.polygons).symmetric_difference(shape.polygon).area < 1e-3
    assert sum(p.area for p in pieces.polygons) == pytest.approx(shape.polygon.area, abs=1e-3)


def test_filling_gives_the_traced_pixels_back():
    rng = np.random.default_rng(2)
    field = ndimage.gaussian_filter(rng.standard_normal((70, 90)), 2) > 0
    reader = Mask(field)
    total = np.zeros((70, 90), int)
    for shape in trace(reader, 1):
        around = BlockReader(reader, 1).around(tuple(map(int, shape.polygon.bounds)), 3)
        own = fill(shape.polygon, around)
        assert own.sum() == shape.polygon.area
        rows = slice(around.row, around.row + own.shape[0])
        cols = slice(around.col, around.col + own.shape[1])
        total[rows, cols] += own
    np.testing.assert_array_equal(total, field)


def test_blocks_put_together_equal_the_mask():
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 2, (1100, 1300)).astype(np.uint8)
    probability = rng.integers(0, 256, picture.shape).astype(np.uint8)
    reader = BlockReader(Mask(picture, probability), 1)
    for bounds in [
        (0, 0, 5, 5),
        (500, 505, 530, 1030),
        (1290, 1090, 1300, 1100),
        (3, 9, 1299, 1099),
    ]:
        around = reader.around(bounds, 7)
        assert isinstance(around, Surroundings)
        rows = slice(around.row, around.row + around.same.shape[0])
        cols = slice(around.col, around.col + around.same.shape[1])
        assert around.row == max(0, bounds[1] - 7)
        assert rows.stop == min(1100, bounds[3] + 7)
        np.testing.assert_array_equal(around.same, picture[rows, cols] == 1)
        np.testing.assert_array_equal(around.probability, probability[rows, cols])


def test_overlaps_go_to_the_first():
    first, second = box(0, 0, 10, 10), box(6.3, 2.1, 20, 8.7)
    (_, one), (_, other) = dissolve_overlaps([first, second])
    assert one.symmetric_difference(first).area < 1e-2
    assert other.symmetric_difference(second.difference(first)).area < 1e-2
    assert one.intersection(other).area == 0
    assert one.touches(other)
