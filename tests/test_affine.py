"""Moved shapes are those of shapely's own function, alone and in arrays."""

import numpy as np
import pytest
import shapely
from affine import Affine
from shapely.affinity import affine_transform

from tilingseg.affine import moved

HOUSE = shapely.Polygon([(0, 0), (6, 0), (6, 4), (0, 4)], [[(1, 1), (2, 1), (2, 2)]])


@pytest.mark.parametrize("transform", [(0.5, 0.1, 500_000.0, 0.2, -0.5, 5e6), Affine.rotation(30)])
def test_moves_every_corner(transform):
    a, b, c, d, e, f = transform[:6]
    expected = affine_transform(HOUSE, (a, b, d, e, c, f))
    assert moved(HOUSE, transform).equals_exact(expected, 1e-9)
    lines = np.array([HOUSE, HOUSE.exterior, shapely.Point(3, 2)], object)
    for one, shape in zip(moved(lines, transform), lines, strict=True):
        assert one.equals_exact(affine_transform(shape, (a, b, d, e, c, f)), 1e-9)
