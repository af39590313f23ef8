"""The stream of footprints: validity, order, neighbours, options, independence of cuts."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity
from shapely.geometry import Point, Polygon, box

from tests.bench.building_scenes import draw, observe
from tilingseg.errors import VectorizeError
from tilingseg.records import Georef, Shape
from tilingseg.vectorize import buildings
from tilingseg.vectorize.buildings import BuildingOptions, footprints
from tilingseg.vectorize.trace import trace


class Mask:
    """A mask in memory, which notes what is read of it."""

    classes = ("road", "building")

    def __init__(self, mask, probability=None, pixel_m=(0.5, 0.5)):
        self.mask, self.probability = np.asarray(mask, np.uint8) * 2, probability
        self.height, self.width = self.mask.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=pixel_m)
        self.largest_read = 0

    def read_mask(self, window):
        self.largest_read = max(self.largest_read, window.area)
        return self.mask[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        assert class_index == 1
        if self.probability is None:
            return None
        return self.probability[window.row : window.row_stop, window.col : window.col_stop]


def burn(*polygons, shape=(120, 120)):
    return rasterize([(p, 1) for p in polygons], out_shape=shape, dtype="uint8")


def fit(mask, options=None):
    return list(footprints(trace(mask, 2), mask, options))


def n_overlaps(polygons):
    array = np.array(polygons, object)
    i, j = shapely.STRtree(array).query(array, predicate="overlaps")
    return int((i < j).sum())


def iou(a, b):
    return a.intersection(b).area / a.union(b).area


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["auto", "strict", "off"]))
def test_footprints_of_random_blobs_are_valid_and_never_overlap(seed, sure, regularize):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((90, 110)), rng.uniform(1, 4))
    field /= field.std()
    probability = np.clip(127.5 + 60 * field, 0, 255).astype(np.uint8)
    mask = Mask(probability > 127, probability if sure else None)
    options = BuildingOptions(regularize=regularize, min_area_m2=0)
    made = [feature.geometry for feature in fit(mask, options)]
    assert all(isinstance(p, Polygon) and p.is_valid and p.area > 0 for p in made)
    assert n_overlaps(made) == 0
    for i, a in enumerate(made):
        assert sum(a.intersection(b).area for b in made[:i]) < 1e-9


def test_scenes_of_all_kinds_are_valid_without_overlap():
    truth = draw(1, 4)
    seen = observe(truth, 1)
    for probability in (None, seen.probability):
        made = [f.geometry for f in fit(Mask(seen.noisy, probability))]
        assert all(p.is_valid for p in made)
        assert n_overlaps(made) == 0


def test_features_carry_class_confidence_and_the_order_of_their_shapes():
    mask = Mask(burn(box(60, 5, 80, 30), box(5, 50, 40, 70)))
    shapes = [
        Shape(value=2, polygon=shape.polygon, confidence=0.5 + 0.25 * k)
        for k, shape in enumerate(trace(mask, 2))
    ]
    made = list(footprints(shapes, mask))
    assert [f.class_name for f in made] == ["building", "building"]
    assert [f.confidence for f in made] == [0.5, 0.75]
    for feature, shape in zip(made, shapes, strict=True):
        assert iou(feature.geometry, shape.polygon) == pytest.approx(1)


def test_small_shapes_are_left_out_and_counted():
    mask = Mask(burn(box(10, 10, 40, 40), box(60, 60, 63, 63)))
    left_out = Counter()
    made = list(footprints(trace(mask, 2), mask, BuildingOptions(min_area_m2=5), left_out))
    assert len(made) == 1
    assert left_out == {"building smaller than 5 m²": 1}


def test_areas_are_pixels_where_the_pixel_size_is_not_known():
    picture = burn(box(10, 10, 40, 40), box(60, 60, 63, 63))
    assert len(fit(Mask(picture, pixel_m=None), BuildingOptions(min_area_m2=8))) == 2
    mask, left_out = Mask(picture, pixel_m=None), Counter()
    list(footprints(trace(mask, 2), mask, BuildingOptions(min_area_m2=10), left_out))
    assert left_out == {"building smaller than 10 px²": 1}
    assert len(fit(Mask(picture, pixel_m=None), BuildingOptions(min_area_m2=10))) == 1


def test_small_courtyards_are_filled():
    house = box(10, 10, 60, 60).difference(box(20, 20, 23, 23)).difference(box(35, 35, 50, 50))
    (made,) = fit(Mask(burn(house)), BuildingOptions(min_hole_m2=4))
    assert len(made.geometry.interiors) == 1
    assert iou(made.geometry, box(10, 10, 60, 60).difference(box(35, 35, 50, 50))) > 0.999


@pytest.mark.parametrize("turn", [0, 17, 45, 80])
@pytest.mark.parametrize("gap_px", [1, 2, 3])
def test_close_neighbours_keep_their_distance(turn, gap_px):
    left, right = box(20, 30, 55, 90), box(55 + gap_px, 40, 95, 80)
    houses = [affinity.rotate(p, turn, origin=(60, 60)) for p in (left, right)]
    noise = ndimage.gaussian_filter(np.random.default_rng(turn).standard_normal((120, 120)), 2)
    grown = ndimage.gaussian_filter(burn(*houses).astype(float), 0.7) + 0.15 * noise / noise.std()
    made = [f.geometry for f in fit(Mask(grown > 0.5), BuildingOptions(separate=False))]
    assert n_overlaps(made) == 0
    assert all(a.intersection(b).area == 0 for i, a in enumerate(made) for b in made[:i])


def test_a_house_in_the_courtyard_of_another_stays_inside():
    outer = box(10, 10, 110, 110).difference(box(30, 30, 90, 90))
    inner = affinity.rotate(box(32, 38, 86, 84), 6)
    made = [f.geometry for f in fit(Mask(burn(outer, inner)), BuildingOptions(separate=False))]
    assert n_overlaps(made) == 0
    assert sum(p.area for p in made) == pytest.approx(outer.area + inner.area, rel=0.03)


def test_a_footprint_does_not_depend_on_where_in_the_scene_it_lies():
    house = affinity.rotate(box(30, 30, 80, 60).difference(box(60, 45, 90, 60)), 23)
    near = Mask(burn(house))
    far_picture = np.zeros((700, 1400), np.uint8)
    far_picture[503 : 503 + 120, 1111 : 1111 + 120] = near.mask // 2
    (one,), (other,) = fit(near), fit(Mask(far_picture))
    moved = shapely.get_coordinates(other.geometry) - (1111, 503)
    np.testing.assert_allclose(shapely.get_coordinates(one.geometry), moved, atol=1e-9)


def test_a_footprint_does_not_depend_on_its_company():
    truth = draw(6, 2)
    seen = observe(truth, 6)
    mask = Mask(seen.noisy, seen.probability)
    shapes = [s for s in trace(mask, 2) if s.polygon.area > 30]
    together = [f.geometry.wkb for f in footprints(shapes, mask)]
    alone = [f.geometry.wkb for s in reversed(shapes) for f in footprints([s], mask)]
    assert sorted(together) == sorted(alone)


def test_workers_change_nothing(monkeypatch):
    monkeypatch.setattr(buildings, "_BATCH", 64)
    monkeypatch.setattr(buildings, "_FEW_BATCHES", 1)
    truth = draw(7, 2)
    seen = observe(truth, 7)
    mask = Mask(seen.noisy, seen.probability)
    shapes = list(trace(mask, 2)) * 9
    alone = [f.geometry.wkb for f in footprints(shapes, mask)]
    pooled = [f.geometry.wkb for f in footprints(shapes, mask, BuildingOptions(workers=2))]
    assert alone == pooled


def test_shapes_are_taken_as_a_stream():
    mask = Mask(burn(box(10, 10, 40, 40)))
    shape = next(iter(trace(mask, 2)))
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield shape

    stream = footprints(endless(), mask)
    for _ in range(5):
        next(stream)
    assert taken < 2000


def test_the_mask_is_read_in_blocks():
    picture = np.zeros((2000, 1500), np.uint8)
    picture[480:560, 500:540] = 1
    mask = Mask(picture)
    shape = Shape(value=2, polygon=box(500, 480, 540, 560), confidence=None)
    (made,) = footprints([shape], mask)
    assert iou(made.geometry, shape.polygon) == pytest.approx(1)
    assert mask.largest_read <= 512 * 512


def test_strict_footprints_have_right_angles_alone():
    skewed = affinity.skew(box(30, 30, 90, 75).difference(box(65, 55, 90, 75)), 5)
    mask = Mask(burn(affinity.rotate(skewed, 12)))
    (made,) = fit(mask, BuildingOptions(regularize="strict"))
    edges = np.diff(shapely.get_coordinates(made.geometry), axis=0)
    turn = np.degrees(np.arctan2(edges[:, 1], edges[:, 0])) % 90
    assert len(edges) == 6
    assert np.ptp((turn - turn[0] + 45) % 90) < 1e-6


def test_an_oval_and_an_octagon_are_recognised():
    oval = affinity.rotate(affinity.scale(Point(60, 60).buffer(1, quad_segs=64), 45, 22), 30)
    t = np.arange(8) * np.pi / 4 + 0.2
    octagon = Polygon(60 + 35 * np.stack([np.cos(t), np.sin(t)], axis=1))
    for shape, corners in ((oval, 40), (octagon, 8)):
        (made,) = fit(Mask(burn(shape)))
        assert iou(made.geometry, shape) > 0.985
        assert len(made.geometry.exterior.coords) - 1 <= corners


def test_speckle_takes_memory_in_proportion_to_its_size():
    speckle = np.random.default_rng(0).random((2, 120, 120)) < 0.6
    peaks = []
    for mask in (speckle[0, :60], speckle.reshape(240, 120)):
        tracemalloc.start()
        fit(Mask(mask))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]


def test_the_confidence_of_a_part_is_its_own():
    sure, doubtful = box(20, 20, 60, 60), box(60, 20, 100, 60)
    probability = 250 * burn(sure) + 150 * burn(doubtful)
    probability[20:60, 59:61] = 80
    mask = Mask(probability > 70, probability)
    made = fit(mask, BuildingOptions(threshold=0.3))
    found = sorted((round(f.geometry.centroid.x), f.confidence) for f in made)
    assert [x for x, _ in found] == [40, 80]
    assert [c for _, c in found] == pytest.approx([0.96, 0.58], abs=0.02)


def test_strict_keeps_the_outline_of_what_has_no_right_angles():
    t = np.arange(6) * np.pi / 3 + 0.2
    hexagon = Polygon(60 + 35 * np.stack([np.cos(t), np.sin(t)], axis=1))
    mask = Mask(burn(hexagon))
    (made,) = fit(mask, BuildingOptions(regularize="strict"))
    assert iou(made.geometry, hexagon) > 0.95


def test_outlines_lose_nothing_but_their_steps_where_nothing_is_to_be_regularised():
    house = affinity.rotate(box(30, 30, 90, 80).difference(box(50, 50, 70, 60)), 20)
    mask = Mask(burn(house))
    (made,) = fit(mask, BuildingOptions(regularize="off"))
    traced = next(iter(trace(mask, 2))).polygon
    assert traced.boundary.hausdorff_distance(made.geometry.boundary) < 1
    assert iou(made.geometry, house) > iou(traced, house)
    assert len(made.geometry.interiors) == 1
    assert len(made.geometry.exterior.coords) < len(traced.exterior.coords) / 3


def test_right_angles_are_right_on_the_ground():
    """Pixels of a geographic CRS are narrower than high; a square house is no square of pixels."""
    pixel_m = (0.3, 0.5)
    house_m = affinity.rotate(box(10, 15, 30, 45), 25)
    house = affinity.scale(house_m, 1 / 0.3, 1 / 0.5, origin=(0, 0))
    (made,) = fit(Mask(burn(house, shape=(140, 160)), pixel_m=pixel_m))
    corners = shapely.get_coordinates(made.geometry) * pixel_m
    edges = np.diff(corners, axis=0)
    turn = np.degrees(np.arctan2(edges[:, 1], edges[:, 0])) % 90
    assert len(edges) == 4
    assert np.ptp((turn - 25 + 45) % 90) < 1e-6
    assert iou(made.geometry, house) > 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularize": "maybe"}, "'maybe' is not one of off, auto, strict"),
        ({"threshold": 1.0}, "threshold must lie between 0 and 1, got 1.0"),
        ({"min_area_m2": -1.0}, "areas must be 0 or more, got -1.0"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
    ],
)
def test_meaningless_options_are_refused(options, message):
    with pytest.raises(VectorizeError, match=message):
        BuildingOptions(**options)
