from dataclasses import replace

import numpy as np
import pytest

from tests.fakes import ArrayReader
from tests.test_infer import SPEC
from tilingseg.errors import SceneError
from tilingseg.scaling import decide_scaling


def test_bytes_are_scaled_by_their_range_whatever_they_hold():
    pixels = np.full((2, 4, 4), 7, dtype=np.uint8)
    scaling = decide_scaling(ArrayReader(pixels), SPEC)
    assert (scaling.low, scaling.high) == ((0.0, 0.0), (255.0, 255.0))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_values_are_stretched_between_percentiles_of_the_valid_pixels(dtype):
    rng = np.random.default_rng(0)
    pixels = rng.normal([[[900]], [[300]]], 50, (2, 200, 300)).astype(dtype)
    valid = rng.random((200, 300)) > 0.2
    pixels[:, ~valid] = 30_000
    scaling = decide_scaling(ArrayReader(pixels, valid), SPEC)
    expected = np.percentile(pixels[:, valid], (1, 99), axis=1)
    assert scaling.low == pytest.approx(tuple(expected[0]))
    assert scaling.high == pytest.approx(tuple(expected[1]))
    assert "percentiles 1 and 99" in scaling.source


def test_the_model_may_fix_the_range():
    pixels = np.zeros((2, 4, 4), dtype=np.uint16)
    scaling = decide_scaling(ArrayReader(pixels), replace(SPEC, value_range=(0.0, 10_000.0)))
    assert scaling.high == (10_000.0, 10_000.0)


def test_values_that_are_no_numbers_give_no_range():
    pixels = np.full((2, 4, 4), 9, dtype=np.float32)
    pixels[1, 2, 2] = np.inf
    with pytest.raises(SceneError, match="band 2 .* no finite numbers"):
        decide_scaling(ArrayReader(pixels), SPEC)


def test_a_constant_band_still_has_a_range():
    scaling = decide_scaling(ArrayReader(np.full((2, 4, 4), 9, dtype=np.uint16)), SPEC)
    assert scaling.low == (9.0, 9.0)
    assert scaling.high == (10.0, 10.0)


def test_a_scene_without_data_has_a_range_and_says_so():
    reader = ArrayReader(np.ones((2, 4, 4), dtype=np.uint16), np.zeros((4, 4), dtype=bool))
    scaling = decide_scaling(reader, SPEC)
    assert (scaling.low, scaling.high) == ((0.0, 0.0), (1.0, 1.0))
    assert "no valid pixel" in scaling.source
