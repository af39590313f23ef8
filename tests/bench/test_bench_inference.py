"""Inference in parts: once as tests, timed by `pytest tests/bench --benchmark-enable`.

The forward pass with and without the halo's share of the decoder, what normalisation, activation
and stitching add to it, and all that is around a network: reading, stitching, storing.
Whole processes beside peers are measured by `pipelines/bench.py`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.bench import SPEC, write_scene
from tilingseg.decision import Decision
from tilingseg.flow import open_store, run_region
from tilingseg.grid import TileGrid
from tilingseg.infer import TorchEngine
from tilingseg.infer.activation import activate
from tilingseg.job import RunOptions, prepare
from tilingseg.model import load
from tilingseg.model.load import load_model, save_model
from tilingseg.model.normalize import normalize
from tilingseg.output_folder import OutputFolder
from tilingseg.progress import Watch
from tilingseg.records import Prediction, Scaling
from tilingseg.stitch import stitch

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


def test_normalisation(benchmark, model):
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (1, 3, 512, 512), dtype=np.uint8))
    valid = torch.ones((1, 512, 512), dtype=torch.bool)
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="")
    assert benchmark(normalize, pixels, valid, scaling, model.spec).shape == pixels.shape


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activation(benchmark, activation):
    logits = torch.randn(1, 3, 512, 512)
    found = benchmark(activate, logits, activation)
    assert 0 <= found.min() <= found.max() <= 1


def test_a_region_around_a_network_that_does_nothing(benchmark, tmp_path, monkeypatch):
    scene, model = tmp_path / "scene.tif", tmp_path / "identity.safetensors"
    write_scene(scene, 1024)
    identity = {"identity": lambda *_: torch.nn.Identity()}
    monkeypatch.setattr(load, "NETWORKS", load.NETWORKS | identity)
    spec = replace(
        SPEC, network="identity", network_options=(), classes=("a", "b", "c"), thresholds=(0.6,) * 3
    )
    save_model(model, torch.nn.Identity(), spec)
    options = RunOptions(model=model, engine="torch", resume=False)
    job = prepare(str(scene), options)
    folder = OutputFolder.of(job.plan.scene.name, tmp_path / "out")
    store = open_store(job, folder, options)
    engine = job.engine("cpu", store.scaling)
    with ThreadPoolExecutor(2) as pool:
        report = benchmark(run_region, job, store, job.plan.region(0), engine, pool, Watch())
    job.reader.close()
    assert report.n_pixels_valid == 1024**2
