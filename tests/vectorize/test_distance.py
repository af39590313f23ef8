import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tilingseg.vectorize.distance import distance_inside


@given(st.integers(1, 150), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_the_bits_are_those_of_scipy(height, width, share, seed):
    inside = np.random.default_rng(seed).random((height, width)) < share
    expected = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    assert np.array_equal(distance_inside(inside), expected)


def test_it_takes_little_more_than_half_of_the_memory():
    inside = np.ones((1000, 1000), bool)
    tracemalloc.start()
    try:
        distance_inside(inside)
        own = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        ndimage.distance_transform_edt(inside)
        theirs = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert own < 0.6 * theirs
