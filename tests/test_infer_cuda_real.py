"""What is done on GPUs, on a real one; `test_infer_cuda` has what can be tested without."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from pipelines.bench_gpu import bare_passes
from tests.makers import SPEC, make_geotiff, make_model, make_noise_job, smooth_noise
from tilingseg.flow import run
from tilingseg.infer import HalvingEngine, TorchEngine, choose_devices, choose_engine
from tilingseg.infer.steady import STEADY_KERNELS
from tilingseg.job import RunOptions, prepare
from tilingseg.model.core import core_logits
from tilingseg.model.load import load_model
from tilingseg.output_folder import OutputOptions
from tilingseg.records import Scaling
from tilingseg.tiling import TilingOptions
from tilingseg.training.loop import CHECKPOINT, train
from tilingseg.training.recipe import read_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BYTES = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
WIDE = replace(SPEC, name="wide", network_options=(("features", (32, 64, 128)),))
BUNDLED = "buildings-roads"
SAMPLE = Path(__file__).parents[1] / "sample_data" / "scene.tif"
RASTERS = OutputOptions(formats=("cog",), probability=True)
ALL = slice(None), slice(None)
CORE = slice(64, 192), slice(32, 224)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def wide_file(folder):
    return make_model(folder / "wide.safetensors", WIDE)


@pytest.fixture(scope="module")
def wide(wide_file):
    return load_model(wide_file)


@pytest.fixture(scope="module")
def scene(folder):
    pixels = smooth_noise(900, 1300)
    pixels[:, 300:420, 500:700] = 0
    return make_geotiff(folder / "scene.tif", pixels, nodata=0)


@pytest.fixture
def whole_memory():
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def tiles(count, side=256):
    pixels = np.stack([smooth_noise(side, side, seed=seed) for seed in range(count)])
    valid = np.ones((count, side, side), dtype=bool)
    valid[:, :40, 100:150] = False
    return pixels, valid


def engine_of(model, precision="fp32", device="cuda", **more):
    return TorchEngine(model.module, model.spec, BYTES, device, precision, **more)


def rasters_of(out):
    read = []
    for kind in ("mask", "probability"):
        with rasterio.open(next(out.glob(f"*_{kind}.tif"))) as dataset:
            read.append(dataset.read())
    return read


class TestEngine:
    @pytest.mark.parametrize("part", [ALL, CORE])
    @pytest.mark.parametrize(
        ("precision", "most", "mean"),
        [("fp32", 1e-4, 1e-5), ("bf16", 0.1, 0.01), ("fp16", 0.02, 0.001)],
    )
    @pytest.mark.parametrize("name", ["wide", BUNDLED])
    def test_gives_what_a_processor_gives(self, wide, name, precision, most, mean, part):
        model = wide if name == "wide" else load_model(name)
        batch = tiles(3)
        expected = engine_of(model, device="cpu").probabilities(*batch, part)
        found = engine_of(model, precision).probabilities(*batch, part)
        assert found.is_cuda
        assert found.dtype == torch.float32
        difference = (found.cpu() - expected).abs()
        assert difference.max() < most
        assert difference.mean() < mean

    @pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
    def test_takes_what_scenes_are_stored_as(self, wide, dtype):
        pixels, valid = tiles(2)
        pixels = (pixels * 4.0).astype(dtype)
        if dtype == "float32":
            pixels[:, 0, 5, 120] = np.nan  # where nothing is valid
        scaling = Scaling(low=(10.0,) * 3, high=(990.0,) * 3, source="")
        found, expected = (
            TorchEngine(wide.module, wide.spec, scaling, device, "fp32")
            .probabilities(pixels, valid, CORE)
            .cpu()
            for device in ("cuda", "cpu")
        )
        assert (found - expected).abs().max() < 1e-4

    def test_gives_the_same_bits_each_time(self, wide):
        batch = tiles(4)
        first, second = (engine_of(wide, "bf16").probabilities(*batch, CORE) for _ in range(2))
        assert torch.equal(first, second)

    def test_uploads_do_not_overtake_what_needs_the_memory(self, wide):
        engine, batches = engine_of(wide, "fp16"), [tiles(2 + n % 3) for n in range(24)]
        for number, (pixels, _) in enumerate(batches):
            pixels[:] = (pixels.astype(int) + 9 * number) % 256
        found = [engine.probabilities(*batch, ALL) for batch in batches]  # nobody waits
        for batch, ahead in zip(batches, found, strict=True):
            assert torch.equal(engine.probabilities(*batch, ALL), ahead)

    def test_a_cuda_graph_gives_the_same_bits(self, wide):
        module = engine_of(wide, "bf16")._module
        pixels, graph = torch.randn(2, 3, 256, 256, device="cuda"), torch.cuda.CUDAGraph()
        with torch.inference_mode(), STEADY_KERNELS, torch.autocast("cuda", dtype=torch.bfloat16):
            expected = core_logits(module, pixels, CORE)
            with torch.cuda.graph(graph):
                found = core_logits(module, pixels, CORE)
            found.zero_()
        graph.replay()
        assert torch.equal(found, expected)

    def test_the_network_alone_is_measured(self, folder, wide_file):
        scene = make_geotiff(folder / "black.tif", np.zeros((3, 600, 600), np.uint8))
        options = RunOptions(model=wide_file, device="cuda", precision="bf16")
        bare = bare_passes(prepare(str(scene), options))
        assert 0 < bare.core_s < 1
        assert 0 < bare.graph < 5

    def test_short_memory_halves_batches_then_tiles(self, wide, whole_memory):
        batch = tiles(8, side=1024)
        expected = engine_of(wide).probabilities(*batch, ALL).cpu()
        total = torch.cuda.mem_get_info()[1]
        # Four tiles took 3.6 GB on an H200, one 0.7 GB; in plenty of memory kernels take 38 GB.
        for limit, pieces in ((3e9, False), (0.5e9, True)):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(limit / total)
            engine = HalvingEngine(engine_of(wide), wide.geometry)
            found = torch.cat(
                [
                    engine.probabilities(*(array[start : start + 4] for array in batch), ALL).cpu()
                    for start in (0, 4)
                ]
            )
            assert engine._most_tiles is not None, "it fitted: nothing was tested"
            assert (engine._most_px is not None) == pieces
            # in smaller batches kernels may add up in another order
            assert (found - expected).abs().max() < 1e-4
            torch.cuda.set_per_process_memory_fraction(1.0)

    @pytest.mark.slow
    def test_compiled_is_nearly_the_same(self, wide):
        batch = tiles(2)
        expected = engine_of(wide).probabilities(*batch, CORE)
        found = engine_of(wide, compiled=True).probabilities(*batch, CORE)
        assert (found - expected).abs().max() < 1e-4


class TestRuns:
    @pytest.mark.parametrize("blend", ["exact", "hann"])
    def test_fp32_gives_the_mask_of_a_processor(self, folder, scene, wide_file, blend):
        tiling = TilingOptions(tile_size_px=320, blend=blend, region_px=400)
        options = RunOptions(model=wide_file, tiling=tiling, outputs=RASTERS)
        options = replace(options, engine="torch", precision="fp32")
        results = []
        for device in ("cpu", "cuda"):
            run(scene, folder / f"{blend}_{device}", options=replace(options, device=device))
            results.append(rasters_of(folder / f"{blend}_{device}"))
        (mask, probability), (found_mask, found) = results
        assert np.mean(mask != found_mask) < 1e-4
        assert np.abs(probability.astype(int) - found).max() <= 1
        assert (found_mask == 255).sum() == (mask == 255).sum() > 0
        assert len(np.unique(mask)) > 2
        report = json.loads((folder / f"{blend}_cuda" / "run.json").read_text("utf-8"))
        assert dict(report["report"]["seconds"])["device"] > 0

    def test_workers_that_share_a_scene_give_the_bits_of_one(self, folder, scene, wide_file):
        tiling = TilingOptions(tile_size_px=256, region_px=300, batch_size=3)
        options = RunOptions(model=wide_file, tiling=tiling, outputs=RASTERS, precision="bf16")
        results = []
        for name, devices in (("one", "cuda:0"), ("two", "cuda:0,cuda:0"), ("again", "cuda:0")):
            run(scene, folder / name, options=replace(options, device=devices))
            results.append(rasters_of(folder / name))
        for other in results[1:]:
            assert all(np.array_equal(*pair) for pair in zip(results[0], other, strict=True))

    def test_short_memory_ends_with_nearly_the_same_mask(
        self, folder, scene, wide_file, whole_memory
    ):
        tiling = TilingOptions(tile_size_px=576, batch_size=2)
        options = RunOptions(model=wide_file, tiling=tiling, outputs=RASTERS)
        options = replace(options, device="cuda", precision="fp32")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(scene, folder / "plenty", options=options)
        peak, total = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
        run(scene, folder / "short", options=options)
        masks = rasters_of(folder / "plenty")[0], rasters_of(folder / "short")[0]
        assert np.mean(masks[0] != masks[1]) < 1e-4

    def test_the_command_line_takes_the_gpu_by_itself(self, tmp_path):
        assert choose_devices("auto")[0] == "cuda:0"
        choice = choose_engine((load_model(),), "cuda:0")
        assert (choice.engine, choice.precision) == ("torch", "bf16")
        masks = []
        for number, flags in enumerate((["--device", "cuda"], [], ["--device", "cpu"])):
            out = tmp_path / str(number)
            words = [sys.executable, "-m", "tilingseg", "run", SAMPLE, "-o", out, *flags]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            report = json.loads((out / "run.json").read_text("utf-8"))
            kind = "cpu" if "cpu" in flags else "cuda"
            assert report["plan"]["model"]["device_type"] == kind
            assert len(list(out.glob("*.geojson"))) >= 2
            with rasterio.open(out / "scene_mask.tif") as dataset:
                masks.append(dataset.read())
        assert np.array_equal(masks[0], masks[1])
        assert np.mean(masks[0] != masks[2]) < 0.01  # bf16 beside fp32


class TestTraining:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_a_job_learns_on_the_gpu_and_goes_on(self, tmp_path, precision):
        recipe = read_recipe(make_noise_job(tmp_path))
        schedule = replace(recipe.schedule, precision=precision, steps=4)
        recipe = replace(recipe, schedule=schedule)
        assert schedule.optimizer == "muon"
        short = replace(recipe, schedule=replace(schedule, steps=2))
        train(short, tmp_path, tmp_path / "out")
        content = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
        assert content["step"] == 2
        assert all(tensor.is_cuda for tensor in content["weights"].values())
        path = train(recipe, tmp_path, tmp_path / "out", resume=True)
        content = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
        assert content["step"] == 4
        assert load_model(path).spec.classes == recipe.classes
