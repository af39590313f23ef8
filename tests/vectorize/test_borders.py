"""A border channel divides buildings, belongs to them, and is no layer of its own."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize
from scipy import ndimage
from shapely.geometry import box

from tilingseg.grid import Window
from tilingseg.records import Georef
from tilingseg.vectorize.borders import BorderedMask, bordered, is_border
from tilingseg.vectorize.layers import VectorOptions, vector_layers

CLASSES = ("building", "building_boundary")
SHAPE = (120, 200)
HOUSES = [box(20 + 40 * k, 30, 60 + 40 * k, 90) for k in range(4)]
WALLS = [a.intersection(b).buffer(1.2) for a, b in pairwise(HOUSES)]


class Mask:
    def __init__(self, labels, probabilities=None, classes=CLASSES):
        self.labels, self.probabilities, self.classes = labels, probabilities, classes
        self.height, self.width = labels.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(0.5, 0.5))

    def read_mask(self, window):
        return self.labels[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probabilities is None:
            return None
        values = self.probabilities[class_index]
        return values[window.row : window.row_stop, window.col : window.col_stop]


def burn(shapes):
    return rasterize([(s, 1) for s in shapes], out_shape=SHAPE, dtype="uint8", all_touched=True)


def row_of_houses():
    """Return labels and probabilities of a network with one channel for walls between houses."""
    houses, walls = burn(HOUSES), burn(WALLS)
    border = 0.9 * ndimage.gaussian_filter(walls.astype(float), 0.7)
    building = ndimage.gaussian_filter(houses.astype(float), 1.2) * (1 - border)
    labels = np.where(building >= np.maximum(border, 0.5), 1, np.where(border >= 0.5, 2, 0))
    probabilities = [np.rint(255 * p).astype(np.uint8) for p in (building, border)]
    return labels.astype(np.uint8), probabilities


def layers(mask):
    indexes = tuple(range(len(mask.classes)))
    found = vector_layers(mask, indexes, (0.5,) * len(indexes), VectorOptions(workers=1), Counter())
    return {layer.name: [feature.geometry for feature in layer.features] for layer in found}


@pytest.mark.parametrize("sure", [True, False])
def test_the_border_channel_divides_a_row_of_houses(sure):
    labels, probabilities = row_of_houses()
    found = layers(Mask(labels, probabilities if sure else None))
    assert list(found) == ["building"]
    made = found["building"]
    assert len(made) == 4
    for house in HOUSES:
        assert max(house.intersection(m).area / house.union(m).area for m in made) > 0.93
    assert shapely.union_all(made).geom_type == "Polygon"  # shared walls, no gap
    assert all(a.intersection(b).area == 0 for i, a in enumerate(made) for b in made[:i])


def test_without_the_channel_the_row_is_one_building():
    labels, _ = row_of_houses()
    assert (
        len(layers(Mask(np.minimum(labels, 1) | (labels == 2), classes=CLASSES[:1]))["building"])
        == 1
    )


def test_probabilities_of_both_belong_to_the_class():
    labels = np.array([[1, 2, 0]], np.uint8)
    values = [np.array([[255, 30, 10]], np.uint8), np.array([[0, 204, 5]], np.uint8)]
    window = Window(row=0, col=0, height=1, width=3)
    mask = bordered(Mask(labels, values), 0)
    assert isinstance(mask, BorderedMask)
    assert mask.read_mask(window).tolist() == [[1, 1, 0]]
    assert mask.read_probability(0, window).tolist() == [[255, 234, 15]]
    assert mask.read_probability(1, window).tolist() == [[0, 204, 5]]
    assert mask.read_inside(window).tolist() == [[255, round(234 * 51 / 255), 15]]


def test_masks_without_the_channel_stay_as_they_are():
    mask = Mask(np.zeros((2, 2), np.uint8), classes=("building", "road_boundary"))
    assert bordered(mask, 0) is mask
    assert not is_border("road_boundary", mask.classes)
    assert set(layers(mask)) == {"building", "road_boundary"}
