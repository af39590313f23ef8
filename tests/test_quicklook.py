import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ArrayReader
from tilingseg.grid import Window
from tilingseg.quicklook import Lattice, RegionView, put_together, shown_bands


def window(row, row_stop, col, col_stop):
    return Window(row=row, col=col, height=row_stop - row, width=col_stop - col)


def look(reader, lattice, regions, tiles):
    """Show tiles to regions, each tile to all that it reaches, and the mask in rows."""
    parts = []
    for core in regions:
        view = RegionView(lattice, core, reader.scene)
        for tile in tiles:
            if tile.intersection(core) is not None:
                view.add(tile, *reader.read(tile))
        for row in range(core.row, core.row_stop, 7):
            rows = window(row, min(row + 7, core.row_stop), core.col, core.col_stop)
            view.show(rows, mask_of(rows))
        parts.append((core, view.finish()))
    return put_together(lattice, reader.scene, parts)


def mask_of(part):
    """A mask whose values tell their row and column, and never nodata."""
    rows = np.arange(part.row, part.row_stop) % 15 * 16
    return (rows[:, None] + np.arange(part.col, part.col_stop) % 16).astype(np.uint8)


def cut(length, at):
    stops = sorted({*(a for a in at if 0 < a < length), length})
    return list(zip([0, *stops[:-1]], stops, strict=True))


def grid_of(shape, rows, cols):
    return [window(*r, *c) for r in cut(shape[0], rows) for c in cut(shape[1], cols)]


def pixels_of(shape, n_bands=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 250, (n_bands, *shape)).astype(dtype)


def test_a_small_scene_is_shown_as_it_is():
    reader = ArrayReader(pixels_of((40, 60)))
    extent = window(10, 30, 20, 60)
    found = look(reader, Lattice(extent=extent), grid_of((40, 60), [16], [32]), [extent])
    np.testing.assert_array_equal(found.pixels, reader.pixels[:, 10:30, 20:60])
    assert found.valid.all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_pixels_are_means_of_what_holds_data(dtype):
    valid = np.random.default_rng(1).random((60, 80)) < 0.4
    valid[:10, :10] = False
    reader = ArrayReader(pixels_of((60, 80), dtype=dtype), valid=valid)
    if dtype == np.float32:
        reader.pixels[:, ~valid] = np.nan
    whole = window(0, 60, 0, 80)
    found = look(reader, Lattice(extent=whole, side_px=16), [whole], [whole])
    assert found.pixels.dtype == dtype
    assert found.pixels.shape == (3, 12, 16)
    for row, col in np.ndindex(12, 16):
        inside = slice(5 * row, 5 * row + 5), slice(5 * col, 5 * col + 5)
        known = valid[inside]
        assert found.valid[row, col] == known.any()
        if known.any():
            mean = reader.pixels[:, *inside][:, known].mean(axis=1)
            bound = 0.5 if np.dtype(dtype).kind in "ui" else 1e-3
            np.testing.assert_allclose(found.pixels[:, row, col], mean, atol=bound)


@settings(max_examples=40)
@given(
    rows=st.lists(st.integers(1, 98), max_size=4),
    cols=st.lists(st.integers(1, 140), max_size=4),
    side=st.integers(1, 200),
    n_rows=st.integers(0, 2),
)
def test_every_pixel_is_written_once_however_the_scene_is_cut(rows, cols, side, n_rows):
    # each value tells its place, so that a pixel shows where it was taken from
    place = np.stack(np.broadcast_arrays(np.arange(99)[:, None], np.arange(141), 0))
    reader = ArrayReader(place.astype(np.uint16))
    extent = window(7, 95, 11, 140)
    lattice = Lattice(extent=extent, side_px=side)
    tiles = grid_of((99, 141), rows, cols)
    found = look(reader, lattice, grid_of((99, 141), rows[:n_rows], []), tiles)
    assert found.valid.all()
    for axis, edges in enumerate(lattice.edges()):
        shown = found.pixels[axis] if axis else found.pixels[axis].T
        assert (shown >= edges[:-1]).all()
        assert (shown < edges[1:]).all()
    rows, cols = lattice.edges()
    for row, col in list(np.ndindex(*lattice.shape))[::97]:
        covered = window(rows[row], rows[row + 1], cols[col], cols[col + 1])
        assert found.mask[row, col] in mask_of(covered)


def test_the_mask_is_that_of_the_middle():
    whole = window(0, 60, 0, 80)
    reader = ArrayReader(pixels_of((60, 80)))
    found = look(reader, Lattice(extent=whole, side_px=16), [whole], [whole])
    np.testing.assert_array_equal(found.mask, mask_of(whole)[2::5, 2::5])


def test_what_does_not_count_stays_empty():
    reader = ArrayReader(pixels_of((64, 64)))
    whole, tile = window(0, 64, 0, 64), window(0, 64, 0, 32)
    view = RegionView(Lattice(extent=whole), whole, reader.scene)
    view.add(tile, reader.pixels[:, :, :32], np.zeros((64, 32), bool))
    assert not view.finish().valid.any()
    assert not view.finish().pixels.any()


def test_bands_stand_for_colours():
    names = ("nir", "blue", "green", "red")
    scene = ArrayReader(pixels_of((8, 8), n_bands=4)).scene
    assert shown_bands(scene) == (0, 1, 2)
    for band, name in zip(scene.bands, names, strict=True):
        object.__setattr__(band, "name", name)
    assert shown_bands(scene) == (3, 2, 1)
    assert shown_bands(ArrayReader(pixels_of((8, 8), n_bands=2)).scene) == (0,)
