"""What is done for GPUs, on one that is none: no kernel of a real one runs here."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from torch.overrides import TorchFunctionMode

import tilingseg.job
from tests import fake_cuda
from tests.makers import SPEC, make_geotiff, make_model, smooth_noise
from tilingseg.decision import Decision
from tilingseg.errors import PlanError
from tilingseg.flow import run
from tilingseg.grid import TileGrid
from tilingseg.infer import HalvingEngine, TorchEngine, choose_devices, choose_engine, make_engine
from tilingseg.infer.devices import MAX_READERS, choose_precision, choose_readers, device_bytes
from tilingseg.infer.upload import N_BUFFERS, Upload
from tilingseg.job import DEVICE_SHARE, RunOptions, prepare
from tilingseg.model.load import load_model
from tilingseg.model.normalize import normalize
from tilingseg.output_folder import OutputOptions
from tilingseg.records import NODATA, Prediction, Scaling
from tilingseg.stitch import stitch
from tilingseg.tiling import MAX_BATCH, PASS_BYTES, TilingOptions

BYTES = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
ALL = slice(None), slice(None)
MASKS = OutputOptions(formats=("cog",))


@pytest.fixture
def gpu(monkeypatch):
    return fake_cuda.put_in(monkeypatch, (24_000_000_000, 16_000_000_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(make_model(folder / "tiny.safetensors"))


@pytest.fixture(scope="module")
def scene(folder):
    return make_geotiff(folder / "scene.tif", smooth_noise(700, 900))


def tiles(count, side=64):
    pixels = np.stack([smooth_noise(side, side, seed=seed) for seed in range(count)])
    return pixels, np.ones((count, side, side), dtype=bool), ALL


class Watching(torch.nn.Module):
    """Notes the batches and the settings that a network is run with."""

    def __init__(self, module, most=None):
        super().__init__()
        self.module, self.most = module, most
        self.seen = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, pixels):
        if self.most is not None and len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        cudnn = torch.backends.cudnn
        self.seen.append((len(pixels), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic))
        return self.module(pixels)


class TestEngine:
    @pytest.mark.parametrize(
        ("precision", "dtype"), [("fp32", None), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
    )
    def test_a_batch_is_one_pass_in_the_precision_that_was_asked_for(
        self, gpu, model, precision, dtype
    ):
        batch = tiles(3)
        expected = TorchEngine(model.module, model.spec, BYTES, "cpu", "fp32").probabilities(*batch)
        watching = Watching(model.module)
        with fake_cuda.on_processor(gpu):
            engine = TorchEngine(watching, model.spec, BYTES, "cuda:0", precision)
            found = engine.probabilities(*batch)
        assert torch.allclose(found, expected, rtol=0, atol=1e-5)
        assert found.dtype == torch.float32
        assert [size for size, *_ in watching.seen] == [3]
        assert gpu.autocasts == ([] if dtype is None else [("cuda", dtype)])
        assert gpu.n_pinned == 2  # pixels and validity

    def test_no_kernel_is_chosen_by_a_stop_watch_or_rounds_to_ten_bits(self, gpu, model):
        before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
        watching = Watching(model.module)
        with fake_cuda.on_processor(gpu):
            engine = TorchEngine(watching, model.spec, BYTES, "cuda:0", "fp32")
            engine.probabilities(*tiles(1))
        assert watching.seen == [(1, False, False, True)]
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before

    def test_short_memory_halves_the_batch_and_is_remembered(self, gpu, model):
        watching = Watching(model.module, most=2)
        with fake_cuda.on_processor(gpu):
            engine = TorchEngine(watching, model.spec, BYTES, "cuda:0", "fp32")
            halving = HalvingEngine(engine, model.geometry)
            found = halving.probabilities(*tiles(5))
            halving.probabilities(*tiles(4))
        assert [size for size, *_ in watching.seen] == [2, 2, 1, 2, 2]
        alone = TorchEngine(model.module, model.spec, BYTES, "cpu", "fp32").probabilities(*tiles(5))
        assert torch.allclose(found, alone, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("words", "is_short"),
        [
            ("CUDA error: out of memory", True),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
            ("CUDA error: device-side assert triggered", False),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
        ],
    )
    def test_errors_of_cuda_are_told_apart(self, model, words, is_short):
        errors = iter([RuntimeError(words)])

        class Failing:
            def probabilities(self, pixels, _valid, _part):
                for error in errors:
                    raise error
                return torch.zeros(len(pixels), 2, 64, 64)

        halving = HalvingEngine(Failing(), model.geometry)
        if is_short:
            assert len(halving.probabilities(*tiles(2))) == 2
        else:
            with pytest.raises(RuntimeError, match=words[:20]):
                halving.probabilities(*tiles(2))


class TestUpload:
    def test_a_buffer_is_used_again_once_its_copy_has_ended(self, gpu):
        gpu.copies_late = True
        random = np.random.default_rng(0)
        arrays = [random.integers(0, 70, (2, 3, 9, 7), dtype=np.uint8) for _ in range(11)]
        with fake_cuda.on_processor(gpu):
            upload = Upload(torch.device("cuda:0"))
            moved = [upload(array) for array in arrays]
        assert gpu.n_copied == len(arrays) - N_BUFFERS, "no wait is longer than it must be"
        assert gpu.n_waits == gpu.n_kept == len(arrays), "the copies have a stream of their own"
        gpu.finish()
        assert all(np.array_equal(*pair) for pair in zip(arrays, moved, strict=True))
        assert gpu.n_pinned == N_BUFFERS


class TestDecision:
    def test_is_there_when_its_copy_has_ended(self, gpu):
        gpu.copies_late = True
        probability = torch.from_numpy(np.random.default_rng(0).random((2, 40, 50), np.float32))
        decision = Decision(class_indexes=(0, 1), thresholds=(0.5, 0.4))
        mask = torch.full((40, 50), 9, dtype=torch.uint8)
        rounded = torch.full((2, 40, 50), 9, dtype=torch.uint8)
        with fake_cuda.on_processor(gpu):
            fill = decision.finish_later(probability, mask, rounded)
        probability.zero_()  # the next tile takes its place
        assert gpu.n_copied == 0, "nobody has waited"
        fill()
        expected = mask.clone(), rounded.clone()
        probability.copy_(
            torch.from_numpy(np.random.default_rng(0).random((2, 40, 50), np.float32))
        )
        assert decision.finish(probability, *expected) is None
        assert torch.equal(mask, expected[0])
        assert torch.equal(rounded, expected[1])
        assert len(mask.unique()) == 3

    def test_rows_are_filled_when_they_are_waited_for(self, gpu):
        class Later(Decision):
            def finish(self, probability, mask, rounded):
                return self.finish_later(probability, mask, rounded)

        gpu.copies_late = True
        grid = TileGrid(height=60, width=40, tile_size_px=20, overlap_px=0)
        known = np.ones((20, 20), bool)
        known[3, 4] = False
        rows = [
            [
                Prediction(
                    tile=grid.tile(row, col),
                    window=grid.tile(row, col).core,
                    probability=torch.full((1, 20, 20), 0.2 + 0.3 * row),
                    valid=known,
                )
                for col in range(2)
            ]
            for row in range(3)
        ]
        decision = Later(class_indexes=(0,), thresholds=(0.6,))
        with fake_cuda.on_processor(gpu):
            parts = list(stitch(rows, grid, grid.scene_window, decision, exact=True))
        assert gpu.n_copied == 0, "nobody has waited"
        for row, part in enumerate(parts):
            part.arrive()
            assert gpu.n_copied == 2 * (row + 1), "no wait is longer than it must be"
            assert (part.mask == NODATA).sum() == 2 == 800 - part.n_valid
            assert (part.mask[0] == (row == 2)).all()
            assert (part.probability[0, 0] == np.floor((0.2 + 0.3 * row) * 255 + 0.5)).all()


class _Copies(TorchFunctionMode):
    """Takes down whether copies to a device are waited for."""

    def __init__(self):
        super().__init__()
        self.waited = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to:
            self.waited.append(not (kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


def test_what_is_not_cuda_waits_for_copies_of_what_is_let_go():
    # Apple's GPU reads the source later (PyTorch 2.x, its issue 189690); `meta` stands for it.
    grid = TileGrid(height=60, width=40, tile_size_px=20, overlap_px=4)
    pixels = torch.empty((1, 3, 8, 8), device="meta")
    row = [
        Prediction(
            tile=grid.tile(0, 0),
            window=grid.tile(0, 0).window,
            probability=torch.empty((1, 20, 20), device="meta"),
            valid=np.ones((20, 20), bool),
        )
    ]
    decision = Decision(class_indexes=(0,), thresholds=(0.5,))
    with _Copies() as copies:
        normalize(pixels, torch.empty((1, 8, 8), dtype=torch.bool, device="meta"), BYTES, SPEC)
        with pytest.raises(NotImplementedError):  # there is nothing to give
            list(stitch([row], grid, grid.scene_window, decision, exact=False))
    assert copies.waited
    assert all(copies.waited)


class TestChoices:
    def test_as_many_threads_read_as_a_gpu_can_use(self, gpu, monkeypatch):
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        assert choose_readers(None, ("cuda:0",)) == MAX_READERS
        assert choose_readers(None, ("cuda:0",) * 4) == 3
        assert choose_readers(None, ("cuda:0",) * 16) == choose_readers(None, ("cpu",)) == 2
        assert choose_readers(11, ("cuda:0", "cuda:1")) == 11
        assert choose_readers(11, ("cpu",) * 4) == 4

    def test_auto_takes_all_devices_in_half_precision(self, gpu, model):
        assert choose_devices("auto") == ("cuda:0", "cuda:1")
        choice = choose_engine((model,), "cuda:0")
        assert (choice.engine, choice.precision) == ("torch", "bf16")

    def test_older_devices_get_fp16(self, gpu, monkeypatch):
        capabilities = {"cuda:0": (8, 0), "cuda:1": (7, 5)}
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        # what PyTorch says of every one of them, as it can emulate it
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        assert choose_precision("auto", "cuda:0") == "bf16"
        assert choose_precision("auto", "cuda:1") == "fp16"

    @pytest.mark.parametrize("wishes", [{"engine": "openvino"}, {"precision": "int8"}])
    def test_what_runs_on_processors_alone_is_refused(self, gpu, model, wishes):
        with pytest.raises(PlanError, match="--device cpu|--precision bf16"):
            choose_engine((model,), "cuda:0", **({"engine": "torch"} | wishes))

    def test_tiles_and_batches_fill_the_smallest_device(self, gpu, folder, model):
        assert device_bytes(("cuda:0", "cuda:1")) == 16_000_000_000
        assert device_bytes(("cpu",)) is None
        path = make_geotiff(folder / "large.tif", np.zeros((3, 3000, 9000), np.uint8))
        wide = replace(SPEC, network_options=(("features", (32, 64)),))
        wide = make_model(folder / "wide.safetensors", wide)
        options = RunOptions(model=wide, device="auto", tiling=TilingOptions(tile_size_px=576))
        on_gpu = prepare(str(path), options).plan.tiling
        on_cpu = prepare(str(path), replace(options, device="cpu")).plan.tiling
        assert on_gpu.batch_size == MAX_BATCH
        assert PASS_BYTES < on_gpu.forward_bytes <= DEVICE_SHARE * 16_000_000_000
        assert (on_cpu.batch_size, on_cpu.reasons.batch) == (1, "a processor gains nothing by more")


def test_devices_share_a_scene_and_give_the_bits_of_one(gpu, folder, scene, monkeypatch):
    used = []

    class Elsewhere:
        """An engine whose calls come from a thread of the run."""

        def __init__(self, model, scaling, device, choice, parts):
            self.device = device
            with fake_cuda.on_processor(gpu):
                self.engine = make_engine(model, scaling, device, choice, parts)

        def probabilities(self, *batch):
            used.append((self.device, len(batch[0])))
            with fake_cuda.on_processor(gpu):
                return self.engine.probabilities(*batch)

    monkeypatch.setattr(tilingseg.job, "make_engine", Elsewhere)
    options = RunOptions(
        model=folder / "tiny.safetensors",
        outputs=MASKS,
        tiling=TilingOptions(tile_size_px=128, region_px=200, batch_size=2),
    )
    masks = []
    for devices in ("cuda:0", "cuda:0,cuda:1"):
        used.clear()
        with fake_cuda.on_processor(gpu):
            run(scene, folder / devices, options=replace(options, device=devices))
        assert {name for name, _ in used} == set(devices.split(","))
        assert max(size for _, size in used) == 2
        with rasterio.open(folder / devices / "scene_mask.tif") as dataset:
            masks.append(dataset.read())
        report = json.loads((folder / devices / "run.json").read_text("utf-8"))["report"]
        assert dict(report["seconds"])["device"] > 0
    assert np.array_equal(*masks)
    assert len(np.unique(masks[0])) > 1
    assert {device for device, _ in gpu.autocasts} == {"cuda"}
