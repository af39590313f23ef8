import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import grids, windows_in
from tilingseg.errors import PlanError
from tilingseg.grid import TileGrid, Window


def window(row, col, height, width):
    return Window(row=row, col=col, height=height, width=width)


class TestWindow:
    def test_refuses_emptiness(self):
        with pytest.raises(PlanError, match="at least one pixel, got 0 × 3"):
            window(0, 0, 0, 3)

    def test_intersection_is_none_where_windows_only_touch(self):
        assert window(0, 0, 2, 2).intersection(window(0, 2, 2, 2)) is None

    @given(st.data())
    def test_slices_cut_the_window_out_of_the_outer_one(self, data):
        height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
        scene = np.arange(height * width).reshape(height, width)
        outer = data.draw(windows_in(height, width))
        inner = data.draw(windows_in(outer.height, outer.width))
        inner = window(inner.row + outer.row, inner.col + outer.col, inner.height, inner.width)
        everything = window(0, 0, height, width)
        shown = scene[outer.slices_in(everything)]
        assert np.array_equal(shown[inner.slices_in(outer)], scene[inner.slices_in(everything)])

    def test_slices_of_a_window_that_sticks_out_are_refused(self):
        with pytest.raises(PlanError, match="is not inside"):
            window(0, 0, 3, 3).slices_in(window(0, 0, 2, 9))


class TestTileGrid:
    @given(grids())
    def test_cores_cover_every_pixel_once(self, grid):
        seen = np.zeros((grid.height, grid.width), dtype=int)
        for tile in grid:
            seen[tile.core.slices_in(grid.scene_window)] += 1
        assert (seen == 1).all()

    @given(grids())
    def test_tiles_lie_on_the_lattice_and_have_one_shape(self, grid):
        padded = [-(-n // grid.multiple_px) * grid.multiple_px for n in (grid.height, grid.width)]
        for tile in grid:
            w = tile.window
            assert (w.height, w.width) == grid.tile_shape
            assert not any(v % grid.multiple_px for v in (w.row, w.col, w.height, w.width))
            assert w.row >= 0
            assert w.col >= 0
            assert w.row_stop <= padded[0]
            assert w.col_stop <= padded[1]

    @given(grids())
    def test_cores_keep_the_halo_from_every_edge_that_is_no_scene_edge(self, grid):
        padded = [-(-n // grid.multiple_px) * grid.multiple_px for n in (grid.height, grid.width)]
        for tile in grid:
            core, w = tile.core, tile.window
            assert w.contains(core)
            assert w.row == 0 or core.row - w.row >= grid.halo_px
            assert w.col == 0 or core.col - w.col >= grid.halo_px
            assert w.row_stop == padded[0] or w.row_stop - core.row_stop >= grid.halo_px
            assert w.col_stop == padded[1] or w.col_stop - core.col_stop >= grid.halo_px

    @given(grids())
    def test_cores_start_at_multiples_of_the_stride(self, grid):
        for tile in grid:
            assert tile.core.row == tile.row * grid.stride_px
            assert tile.core.col == tile.col * grid.stride_px

    @given(grids(), st.data())
    def test_touching_finds_the_same_rows_as_looking_at_each(self, grid, data):
        part = data.draw(windows_in(grid.height, grid.width))
        rows = [
            r
            for r in range(grid.n_rows)
            if grid.row_span(r).start < part.row_stop and grid.row_span(r).stop > part.row
        ]
        cols = [
            c
            for c in range(grid.n_cols)
            if grid.col_span(c).start < part.col_stop and grid.col_span(c).stop > part.col
        ]
        assert list(grid.rows_touching(part.row, part.row_stop)) == rows
        assert list(grid.cols_touching(part.col, part.col_stop)) == cols

    @given(grids())
    def test_iteration_is_row_major(self, grid):
        tiles = list(grid)
        assert len(tiles) == len(grid)
        assert [t.index for t in tiles] == list(range(len(grid)))
        assert [(t.row, t.col) for t in tiles] == sorted((t.row, t.col) for t in tiles)

    def test_counts_without_listing_a_huge_scene(self):
        grid = TileGrid(
            height=10**6, width=10**6, tile_size_px=1024, overlap_px=192, multiple_px=16
        )
        assert len(grid) == 1202**2
        assert list(grid.rows_touching(999_999, 10**6)) == [1201]

    @pytest.mark.parametrize(
        ("kwargs", "words"),
        [
            ({"height": 0}, "cannot be tiled"),
            ({"overlap_px": 32}, "below the tile"),
            ({"overlap_px": -2}, "at least 0"),
            ({"tile_size_px": 30}, "use 28"),
            ({"tile_size_px": 2, "overlap_px": 0}, "use 4"),
            ({"overlap_px": 4}, "use 8"),
        ],
    )
    def test_refuses_impossible_arrangements(self, kwargs, words):
        good = {"height": 9, "width": 9, "tile_size_px": 32, "overlap_px": 8, "multiple_px": 4}
        with pytest.raises(PlanError, match=words):
            TileGrid(**(good | kwargs))

    def test_refuses_positions_outside(self):
        grid = TileGrid(height=9, width=9, tile_size_px=4, overlap_px=0)
        with pytest.raises(PlanError, match="outside 0…2"):
            grid.tile(3, 0)
