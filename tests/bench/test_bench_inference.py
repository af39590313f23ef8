"""Inference without files: `pytest tests/bench/bench_inference.py --benchmark-only`.

The forward pass with and without the halo's share of the decoder, and what stitching adds to it.
Whole processes beside peers are measured by `pipelines/bench.py`.
"""

import numpy as np
import pytest
import torch

from tilingseg.grid import TileGrid
from tilingseg.infer import TorchEngine
from tilingseg.model.load import load_model
from tilingseg.records import Prediction, Scaling
from tilingseg.stitch import Decision, stitch

CORE_PX = 384


@pytest.fixture(scope="module")
def model():
    return load_model("buildings-roads")


@pytest.mark.parametrize("used", ["core", "tile"])
def test_forward(benchmark, model, used):
    halo = model.geometry.halo_px
    side = CORE_PX + 2 * halo
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="")
    engine = TorchEngine(model.module, model.spec, scaling, "cpu", "fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    valid = np.ones((1, side, side), dtype=bool)
    cut = slice(halo, side - halo) if used == "core" else slice(0, side)
    found = benchmark(engine.probabilities, pixels, valid, (cut, cut))
    n_used = CORE_PX if used == "core" else side
    assert found.shape == (1, 2, n_used, n_used)


@pytest.mark.parametrize("exact", [True, False])
def test_stitching(benchmark, exact):
    grid = TileGrid(height=1024, width=4096, tile_size_px=512, overlap_px=128)
    probability = torch.rand(2, 512, 512)
    rows = []
    for row in range(grid.n_rows):
        tiles = [grid.tile(row, col) for col in range(grid.n_cols)]
        rows.append([predicted(tile, grid, probability, exact=exact) for tile in tiles])
    decision = Decision(class_indexes=(0, 1), thresholds=(0.5, 0.5))

    def run():
        return sum(
            part.n_valid for part in stitch(rows, grid, grid.scene_window, decision, exact=exact)
        )

    assert benchmark(run) == grid.height * grid.width


def predicted(tile, grid, probability, *, exact):
    window = tile.core if exact else tile.window.intersection(grid.scene_window)
    return Prediction(
        tile=tile,
        window=window,
        probability=probability[:, : window.height, : window.width],
        valid=np.ones((window.height, window.width), dtype=bool),
    )
