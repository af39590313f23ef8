from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import grids, windows_in
from tilingseg.decision import Decision
from tilingseg.grid import TileGrid, Window
from tilingseg.records import NODATA, Prediction
from tilingseg.stitch import axis_weights, stitch

KEEP_ALL = Decision(class_indexes=(0, 1), thresholds=(0.5, 0.5))


def random_scene(grid, seed=0):
    """Probabilities as large as the padded scene, float32 (2, height, width)."""
    rng = np.random.default_rng(seed)
    height = max(tile.window.row_stop for tile in grid)
    width = max(tile.window.col_stop for tile in grid)
    return rng.random((2, height, width), dtype=np.float32)


def predictions(grid, scene, rows, cols, valid=None, *, exact):
    """What an identity model gives for every tile: its core, or all of it inside the scene."""
    for row in rows:
        line = []
        for col in cols:
            tile = grid.tile(row, col)
            w = tile.core if exact else tile.window.intersection(grid.scene_window)
            part = scene[:, w.row : w.row_stop, w.col : w.col_stop].copy()
            known = np.ones((w.height, w.width), dtype=bool)
            if valid is not None:
                known[:] = valid[w.row : w.row_stop, w.col : w.col_stop]
            line.append(
                Prediction(tile=tile, window=w, probability=torch.from_numpy(part), valid=known)
            )
        yield line


def put_together(parts, grid):
    mask = np.full((grid.height, grid.width), 77, dtype=np.uint8)
    probability = np.full((2, grid.height, grid.width), 77, dtype=np.uint8)
    for rows in parts:
        rows.arrive()
        inside = rows.window.slices_in(grid.scene_window)
        assert (mask[inside] == 77).all(), "rows were written twice"
        mask[inside] = rows.mask
        probability[:, *inside] = rows.probability
    return mask, probability


def everything(grid, scene, *, exact):
    rows = predictions(grid, scene, range(grid.n_rows), range(grid.n_cols), exact=exact)
    return put_together(stitch(rows, grid, grid.scene_window, KEEP_ALL, exact=exact), grid)


class TestIdentityModel:
    @given(grids())
    def test_exact_stitching_gives_the_scene_back(self, grid):
        scene = random_scene(grid)
        mask, probability = everything(grid, scene, exact=True)
        truth = scene[:, : grid.height, : grid.width]
        assert np.array_equal(probability, np.floor(truth * np.float32(255) + np.float32(0.5)))
        assert np.array_equal(mask, KEEP_ALL.classify(torch.from_numpy(truth.copy())).numpy())

    @given(grids())
    def test_blending_gives_the_scene_back(self, grid):
        scene = random_scene(grid)
        _, probability = everything(grid, scene, exact=False)
        truth = scene[:, : grid.height, : grid.width] * 255
        # one step of uint8 is split where blending moves a value by up to 1e-6
        assert np.abs(probability - truth).max() <= 0.5 + 255e-6

    @given(grids(), st.booleans())
    def test_probabilities_come_back_within_1e_6(self, grid, exact):
        scene, finished = random_scene(grid), []

        class Watched(Decision):
            def finish(self, probability, mask, rounded):
                finished.append(probability.numpy().copy())
                Decision.finish(self, probability, mask, rounded)

        decision = Watched(class_indexes=(0, 1), thresholds=(0.5, 0.5))
        rows = predictions(grid, scene, range(grid.n_rows), range(grid.n_cols), exact=exact)
        put_together(stitch(rows, grid, grid.scene_window, decision, exact=exact), grid)
        if exact:  # tile by tile, to the bit
            cores = [tile.core.slices_in(grid.scene_window) for tile in grid]
            for found, core in zip(finished, cores, strict=True):
                assert np.array_equal(found, scene[:, *core])
            return
        truth = scene[:, : grid.height, : grid.width]
        # A hundred tiles lie over a pixel where little of each is new: more sums are rounded.
        limit = 1e-6 if 2 * grid.overlap_px <= grid.tile_size_px else 2e-6
        assert np.abs(np.concatenate(finished, axis=1) - truth).max() <= limit


class TestWeights:
    @given(grids())
    def test_add_up_to_one_at_every_pixel(self, grid):
        for axis, count in ((0, grid.n_rows), (1, grid.n_cols)):
            span_of = grid.col_span if axis else grid.row_span
            total = np.zeros(max(span_of(i).stop for i in range(count)))
            for i in range(count):
                total[span_of(i).start : span_of(i).stop] += axis_weights(grid, axis, i)
            assert np.abs(total - 1).max() < 1e-6

    def test_fade_out_at_the_tile_edge(self):
        grid = TileGrid(height=4096, width=4096, tile_size_px=512, overlap_px=128)
        inner = axis_weights(grid, 0, 3)
        assert inner[0] < 1e-4
        assert inner[-1] < 1e-4
        assert inner[256] == 1


class TestRegions:
    @given(grids(max_side_px=60), st.booleans(), st.data())
    def test_a_region_gives_the_bits_of_the_whole_scene(self, grid, exact, data):
        scene = random_scene(grid)
        whole = everything(grid, scene, exact=exact)
        part = data.draw(windows_in(grid.height, grid.width))
        if exact:  # regions of an exact plan are whole tile cores
            rows = range(part.row // grid.stride_px, grid.n_rows)
            cols = range(part.col // grid.stride_px, grid.n_cols)
            if not rows or not cols:
                return
            row, col = rows.start * grid.stride_px, cols.start * grid.stride_px
            part = Window(row=row, col=col, height=grid.height - row, width=grid.width - col)
        else:
            rows = grid.rows_touching(part.row, part.row_stop)
            cols = grid.cols_touching(part.col, part.col_stop)
        found = put_together(
            stitch(
                predictions(grid, scene, rows, cols, exact=exact), grid, part, KEEP_ALL, exact=exact
            ),
            grid,
        )
        inside = part.slices_in(grid.scene_window)
        assert np.array_equal(found[0][inside], whole[0][inside])
        assert np.array_equal(found[1][:, *inside], whole[1][:, *inside])

    def test_only_one_band_of_tile_height_is_held(self):
        grid = TileGrid(height=2000, width=64, tile_size_px=64, overlap_px=32)
        scene = random_scene(grid)
        asked = 0

        def count():
            nonlocal asked
            for row in predictions(
                grid, scene, range(grid.n_rows), range(grid.n_cols), exact=False
            ):
                asked += 1
                yield row

        for rows in stitch(count(), grid, grid.scene_window, KEEP_ALL, exact=False):
            assert rows.window.height <= 64
            assert asked * grid.stride_px - rows.window.row <= 2 * 64


class TestNodata:
    @pytest.mark.parametrize("exact", [True, False])
    def test_stays_nodata_and_hides_probabilities(self, exact):
        grid = TileGrid(height=40, width=50, tile_size_px=16, overlap_px=8)
        scene = random_scene(grid)
        valid = np.random.default_rng(1).random((40, 50)) > 0.3
        rows = predictions(grid, scene, range(grid.n_rows), range(grid.n_cols), valid, exact=exact)
        parts = list(stitch(rows, grid, grid.scene_window, KEEP_ALL, exact=exact))
        mask, probability = put_together(parts, grid)
        assert np.array_equal(mask == NODATA, ~valid)
        assert (probability[:, ~valid] == 0).all()
        assert sum(part.n_valid for part in parts) == valid.sum()

    @pytest.mark.parametrize("exact", [True, False])
    def test_skipped_tiles_leave_nodata_and_their_neighbours_alone(self, exact):
        grid = TileGrid(height=48, width=16, tile_size_px=16, overlap_px=0)
        scene = random_scene(grid)
        rows = list(predictions(grid, scene, range(3), range(1), exact=exact))
        skipped = rows[1][0]
        rows[1] = [replace(skipped, probability=None, valid=np.zeros_like(skipped.valid))]
        mask, probability = put_together(
            stitch(rows, grid, grid.scene_window, KEEP_ALL, exact=exact), grid
        )
        assert (mask[16:32] == NODATA).all()
        assert (probability[:, 16:32] == 0).all()
        expected = KEEP_ALL.classify(torch.from_numpy(scene)).numpy()
        assert np.array_equal(mask[:16], expected[:16])
        assert np.array_equal(mask[32:], expected[32:])


class TestDecision:
    def test_takes_the_most_probable_class_above_its_threshold(self):
        probability = torch.tensor([[0.6, 0.2, 0.9, 0.45], [0.7, 0.3, 0.8, 0.44]])[:, None]
        decision = Decision(class_indexes=(0, 1), thresholds=(0.5, 0.4))
        assert decision.classify(probability).tolist() == [[2, 0, 1, 2]]

    def test_leaves_out_classes_that_were_not_asked_for(self):
        probability = torch.tensor([[0.9], [0.6]])[:, None]
        decision = Decision(class_indexes=(1,), thresholds=(0.5, 0.5))
        assert decision.classify(probability).tolist() == [[2]]
