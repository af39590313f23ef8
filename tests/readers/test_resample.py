import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.warp import reproject

from tilingseg.readers.resample import Axis, resample


@st.composite
def axes(draw, max_px=60):
    """Draw an axis whose outputs cover its source, and how many they are."""
    n_source = draw(st.integers(1, max_px))
    scale = draw(
        st.one_of(
            st.floats(0.26, 9.0, allow_nan=False),
            st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 2.2663, 64.0]),
        )
    )
    offset = draw(st.one_of(st.just(0.0), st.floats(-0.5, 0.5, allow_nan=False)))
    n_target = max(1, int(np.ceil(n_source / scale - 1e-6)))
    return Axis(n_source=n_source, scale=scale, offset=offset), n_target


def dense(axis, start, stop):
    """Weights over the whole source: float64 (stop - start, n_source)."""
    first, last, matrix = axis.weights(start, stop)
    out = np.zeros((stop - start, axis.n_source))
    out[:, first:last] = matrix.toarray()
    return out


def area_mean(axis, n_target):
    """The mean over the area that each output pixel covers, computed by slicing it finely."""
    fine = 4096
    out = np.zeros((n_target, axis.n_source))
    for i in range(n_target):
        steps = axis.offset + (i + (np.arange(fine) + 0.5) / fine) * axis.scale
        steps = steps[(steps >= 0) & (steps < axis.n_source)]
        np.add.at(out[i], steps.astype(int), 1 / max(1, len(steps)))
    return out


@given(axes())
def test_weights_of_a_pixel_add_up_to_one(drawn):
    axis, n_target = drawn
    weights = dense(axis, 0, n_target)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@given(axes(), st.data())
def test_weights_do_not_depend_on_the_window(drawn, data):
    axis, n_target = drawn
    start = data.draw(st.integers(0, n_target - 1))
    stop = data.draw(st.integers(start + 1, n_target))
    whole = dense(axis, 0, n_target)
    np.testing.assert_array_equal(dense(axis, start, stop), whole[start:stop])


@pytest.mark.parametrize("scale", [1.0, 1.25, 2.0, 2.2663, 3.9, 7.5])
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_shrinking_takes_the_mean_of_the_area(scale, offset):
    axis = Axis(n_source=40, scale=scale, offset=offset)
    n_target = int((40 - offset) / scale)
    np.testing.assert_allclose(dense(axis, 0, n_target), area_mean(axis, n_target), atol=2e-3)


def test_enlarging_interpolates_between_pixel_centres():
    axis = Axis(n_source=4, scale=0.5)
    ramp = np.array([0.0, 10.0, 20.0, 30.0])
    values = dense(axis, 0, 8) @ ramp
    np.testing.assert_allclose(values, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30], atol=1e-5)


def test_an_output_pixel_past_the_edge_takes_the_part_inside():
    axis = Axis(n_source=5, scale=2.0)
    np.testing.assert_array_equal(dense(axis, 0, 3)[2], [0, 0, 0, 0, 1])


@given(axes(), axes(), st.sampled_from(["uint8", "uint16", "int16", "float32"]), st.data())
def test_windows_equal_the_whole_bit_for_bit(rows, cols, dtype, data):
    (rows, height), (cols, width) = rows, cols
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    limits = (0, 1) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = rng.uniform(*limits, (2, rows.n_source, cols.n_source)).astype(dtype)
    share = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
    valid = rng.random((rows.n_source, cols.n_source)) >= share
    if dtype == "float32":
        pixels[:, ~valid] = np.nan
    whole, whole_valid = run(pixels, valid, (rows, 0, height), (cols, 0, width))
    top = data.draw(st.integers(0, height - 1))
    bottom = data.draw(st.integers(top + 1, height))
    left = data.draw(st.integers(0, width - 1))
    right = data.draw(st.integers(left + 1, width))
    part, part_valid = run(pixels, valid, (rows, top, bottom), (cols, left, right))
    np.testing.assert_array_equal(part_valid, whole_valid[top:bottom, left:right])
    expected = whole[:, top:bottom, left:right]
    np.testing.assert_array_equal(part[:, part_valid], expected[:, part_valid])
    assert np.isfinite(part[:, part_valid]).all()


def run(pixels, valid, rows, cols):
    """Read what two spans (axis, start, stop) need and resample it."""
    top, bottom, by_row = rows[0].weights(*rows[1:])
    left, right, by_col = cols[0].weights(*cols[1:])
    return resample(
        pixels[:, top:bottom, left:right], valid[top:bottom, left:right], by_row, by_col
    )


@given(axes(), axes(), st.integers(0, 255), st.integers(0, 2**32))
def test_a_constant_stays_whatever_is_invalid_around_it(rows, cols, value, seed):
    (rows, height), (cols, width) = rows, cols
    rng = np.random.default_rng(seed)
    valid = rng.random((rows.n_source, cols.n_source)) > 0.4
    pixels = np.where(valid, value, 255 - value).astype(np.uint8)[None]
    out, out_valid = run(pixels, valid, (rows, 0, height), (cols, 0, width))
    assert (out[0][out_valid] == value).all()


def test_a_pixel_is_valid_where_half_of_its_area_is():
    valid = np.random.default_rng(2).random((80, 60)) > 0.5
    pixels = np.zeros((1, 80, 60), np.uint8)
    rows, cols = Axis(n_source=80, scale=4.0), Axis(n_source=60, scale=3.0)
    _, out = run(pixels, valid, (rows, 0, 20), (cols, 0, 20))
    np.testing.assert_array_equal(out, valid.reshape(20, 4, 20, 3).sum(axis=(1, 3)) >= 6)


@pytest.mark.parametrize("scale", [2.0, 3.0, 0.5, 0.4])
def test_the_edge_of_the_data_moves_by_half_a_pixel_at_most(scale):
    valid = np.zeros((60, 60), bool)
    valid[13:47, 21:52] = True
    axis, n = Axis(n_source=60, scale=scale), int(np.ceil(60 / scale))
    pixels = np.full((1, 60, 60), 9, np.uint8)
    _, out = run(pixels, valid, (axis, 0, n), (axis, 0, n))
    rows, cols = np.nonzero(out)
    slack = max(scale, 1) / 2 + scale / 2
    assert abs(rows.min() * scale - 13) <= slack
    assert abs((rows.max() + 1) * scale - 47) <= slack
    assert abs(cols.min() * scale - 21) <= slack
    assert abs((cols.max() + 1) * scale - 52) <= slack


def test_shrinking_agrees_with_gdal_where_all_is_valid():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 4000, (1, 120, 90)).astype(np.uint16)
    out = np.zeros((1, 40, 30), np.uint16)
    with rasterio.Env():
        reproject(
            pixels,
            out,
            src_transform=Affine(1, 0, 5e5, 0, -1, 5e6),
            dst_transform=Affine(3, 0, 5e5, 0, -3, 5e6),
            src_crs="EPSG:32633",
            dst_crs="EPSG:32633",
            resampling=Resampling.average,
        )
    axis = Axis(n_source=120, scale=3.0), Axis(n_source=90, scale=3.0)
    valid = np.ones((120, 90), bool)
    ours, _ = run(pixels, valid, (axis[0], 0, 40), (axis[1], 0, 30))
    assert np.abs(ours.astype(int) - out.astype(int)).max() <= 1
