import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ArrayReader, IdentityEngine
from tests.strategies import grids
from tilingseg.area import area_mask
from tilingseg.errors import ModelError, PlanError, TileError
from tilingseg.grid import TileGrid
from tilingseg.infer import (
    D4,
    FrugalEngine,
    HalvingEngine,
    MeanEngine,
    ReadAhead,
    Reading,
    Tally,
    TileSource,
    TorchEngine,
    choose_devices,
    choose_precision,
    freed_memory_kept,
    n_threads,
    predict,
    resident_bytes,
    threads_divided,
)
from tilingseg.infer.halving import LAST_TRIES
from tilingseg.infer.tally import upload_clock, uploads_to
from tilingseg.infer.upload import N_BUFFERS, Upload
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import build_network
from tilingseg.model.spec import Geometry, ModelSpec
from tilingseg.records import Scaling

SPEC = ModelSpec(
    name="test",
    network="unet",
    network_options=(),
    bands=("a", "b"),
    classes=("x", "y"),
    thresholds=(0.5, 0.5),
    gsd_m=None,
    mean=(0.0, 0.0),
    std=(1.0, 1.0),
)
ALL = slice(None), slice(None)
PIXELS = Geometry(multiple_px=1, halo_px=0, reason=None, bytes_per_px=8.0)
"""Of a network that looks at single pixels."""
BYTES = Scaling(low=(0.0, 0.0), high=(255.0, 255.0), source="uint8")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def random_pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width), dtype=np.uint8)


def rows_of(grid):
    return [[grid.tile(r, c) for c in range(grid.n_cols)] for r in range(grid.n_rows)]


def source_of(reader, pool, *, whole_tile=False, area=None):
    return TileSource(
        reader=reader,
        area_mask=lambda window: area_mask(area, window),
        whole_tile=whole_tile,
        pool=pool,
        read_ahead=ReadAhead(n_tiles=3),
        seen=lambda *_: None,
    )


def reading_of(grid, reader, pool):
    return Reading(rows_of(grid), source_of(reader, pool))


class TestPredict:
    @settings(max_examples=30)
    @given(grids(max_side_px=40), st.integers(1, 5))
    def test_gives_every_tile_its_own_pixels_in_order(self, pool, grid, batch_size):
        pixels = random_pixels(grid.height, grid.width)
        tally = Tally()
        rows = list(
            predict(
                Reading(rows_of(grid), source_of(ArrayReader(pixels), pool)),
                IdentityEngine(),
                batch_size,
                tally,
            )
        )
        assert [p.tile.index for row in rows for p in row] == list(range(len(grid)))
        assert tally.n_tiles == len(grid)
        for prediction in (p for row in rows for p in row):
            w = prediction.window
            assert w == prediction.tile.core
            expected = pixels[:, w.row : w.row_stop, w.col : w.col_stop] / np.float32(255)
            assert np.array_equal(prediction.probability, expected)
            assert prediction.valid.shape == (w.height, w.width)
            assert prediction.valid.all()

    @settings(max_examples=20)
    @given(grids(max_side_px=40))
    def test_blended_tiles_give_all_of_themselves_inside_the_scene(self, pool, grid):
        pixels = random_pixels(grid.height, grid.width)
        source = source_of(ArrayReader(pixels), pool, whole_tile=True)
        groups = predict(Reading(rows_of(grid), source), IdentityEngine(), 3, Tally())
        for prediction in (p for group in groups for p in group):
            w = prediction.window
            assert w == prediction.tile.window.intersection(grid.scene_window)
            expected = pixels[:, w.row : w.row_stop, w.col : w.col_stop] / np.float32(255)
            assert np.array_equal(prediction.probability, expected)

    def test_the_first_tile_is_read_before_it_is_asked_for_and_the_next_region_after_the_last(
        self, pool
    ):
        grid = TileGrid(height=20, width=30, tile_size_px=10, overlap_px=0)
        pixels, order = random_pixels(20, 30), []
        source = replace(
            source_of(ArrayReader(pixels), pool), seen=lambda window, *_: order.append(window)
        )
        reading = Reading(rows_of(grid), source, lambda: order.append("next"))
        reading.begin(1)
        while not order:
            time.sleep(0.001)
        assert order == [grid.tile(0, 0).core]
        rows = list(predict(reading, IdentityEngine(), 1, Tally()))
        assert [p.tile.index for row in rows for p in row] == list(range(6))
        assert order.count("next") == 1
        assert len(order) == 7
        assert "next" in order[1:]

    def test_batches_end_with_the_tile_row(self, pool):
        grid = TileGrid(height=20, width=30, tile_size_px=10, overlap_px=0)
        engine = IdentityEngine()
        reader = ArrayReader(random_pixels(20, 30))
        list(predict(reading_of(grid, reader, pool), engine, 2, Tally()))
        assert engine.batches == [2, 1, 2, 1]

    def test_batches_hold_tiles_that_use_the_same_part(self, pool):
        grid = TileGrid(height=14, width=54, tile_size_px=14, overlap_px=4)
        engine = IdentityEngine()
        reader = ArrayReader(random_pixels(14, 54))
        list(predict(reading_of(grid, reader, pool), engine, 8, Tally()))
        # the first tile has no halo on its left, the last one is anchored inward
        assert engine.batches == [1, 4, 1]

    def test_tiles_without_data_under_their_core_are_not_inferred(self, pool):
        grid = TileGrid(height=30, width=10, tile_size_px=14, overlap_px=4)
        valid = np.ones((30, 10), dtype=bool)
        valid[10:20] = False
        tally, reader = Tally(), ArrayReader(random_pixels(30, 10), valid)
        rows = list(predict(reading_of(grid, reader, pool), IdentityEngine(), 4, tally))
        assert [row[0].probability is None for row in rows] == [False, True, False]
        assert (tally.n_tiles, tally.n_tiles_nodata, tally.n_tiles_outside) == (2, 1, 0)

    def test_tiles_that_an_overview_shows_to_be_empty_are_not_read(self, pool):
        grid = TileGrid(height=60, width=10, tile_size_px=14, overlap_px=4)
        valid = np.zeros((60, 10), dtype=bool)
        valid[:10] = True
        tally = Tally()
        reader = ArrayReader(random_pixels(60, 10), valid, has_overview=True)
        rows = list(predict(reading_of(grid, reader, pool), IdentityEngine(), 4, tally))
        # the second tile reads data in its halo and none to write
        assert [window.row for window in reader.windows] == [0, 8]
        assert [row[0].probability is None for row in rows] == [False] + [True] * 5
        assert (tally.n_tiles, tally.n_tiles_nodata) == (1, 5)

    def test_blended_tiles_are_inferred_where_any_pixel_is_valid(self, pool):
        grid = TileGrid(height=30, width=10, tile_size_px=14, overlap_px=4)
        valid = np.ones((30, 10), dtype=bool)
        valid[10:20] = False
        tally, reader = Tally(), ArrayReader(random_pixels(30, 10), valid)
        source = source_of(reader, pool, whole_tile=True)
        list(predict(Reading(rows_of(grid), source), IdentityEngine(), 4, tally))
        assert tally.n_tiles == 3

    def test_tiles_outside_the_area_are_not_read(self, pool):
        from shapely import box

        grid = TileGrid(height=40, width=40, tile_size_px=10, overlap_px=0)
        tally, reader = Tally(), ArrayReader(random_pixels(40, 40))
        source = source_of(reader, pool, area=box(12, 12, 18, 28))
        rows = list(predict(Reading(rows_of(grid), source), IdentityEngine(), 4, tally))
        assert len(reader.windows) == tally.n_tiles == 2
        assert tally.n_tiles_outside == 14
        written = sum(int(p.valid.sum()) for row in rows for p in row)
        assert written == 6 * 16

    def test_a_reader_that_fails_names_the_tile(self, pool):
        grid = TileGrid(height=40, width=40, tile_size_px=10, overlap_px=0)
        reader = ArrayReader(random_pixels(40, 40), fail_at=6)
        with pytest.raises(TileError, match=r"tile \d+ at row \d+ px.*block 7 is damaged"):
            list(predict(reading_of(grid, reader, pool), IdentityEngine(), 4, Tally()))

    @pytest.mark.parametrize("kind", [ValueError, EOFError, AssertionError, ImportError])
    @pytest.mark.parametrize("fails_in", ["read", "may_hold_data", "network"])
    def test_foreign_failures_end_the_run_with_the_tile_named(self, pool, fails_in, kind):
        grid = TileGrid(height=40, width=40, tile_size_px=10, overlap_px=0)
        reader, engine = ArrayReader(random_pixels(40, 40)), IdentityEngine()

        def fail(*_args):
            raise kind("no such layer\nfurther lines")

        if fails_in == "network":
            engine.probabilities = fail
        else:
            setattr(reader, fails_in, fail)
        words = "the network failed: " * (fails_in == "network")
        with pytest.raises(
            TileError, match=f"tile 0 at row 0 px, column 0 px: {words}no such layer$"
        ):
            list(predict(reading_of(grid, reader, pool), engine, 4, Tally()))

    def test_out_of_memory_halves_the_batch_and_gives_the_same_numbers(self, pool):
        grid = TileGrid(height=10, width=70, tile_size_px=10, overlap_px=0)
        reader = ArrayReader(random_pixels(10, 70))
        small = IdentityEngine(limit=2)
        rows = [
            list(predict(reading_of(grid, reader, pool), engine, 7, Tally()))
            for engine in (IdentityEngine(), HalvingEngine(small, PIXELS))
        ]
        assert small.batches == [1] * 7
        assert small.n_refused == 2, "the size that fitted is remembered"
        for a, b in zip(rows[0][0], rows[1][0], strict=True):
            assert torch.equal(a.probability, b.probability)

    def test_memory_that_runs_out_at_random_changes_no_number(self, pool):
        grid = TileGrid(height=30, width=120, tile_size_px=10, overlap_px=0)
        reader = ArrayReader(random_pixels(30, 120))
        dice = np.random.default_rng(5)

        class Moody(IdentityEngine):
            def probabilities(self, pixels, valid, part):
                self.limit = int(dice.integers(1, 7))
                return super().probabilities(pixels, valid, part)

        engine = Moody()
        found, expected = (
            [p for group in predict(reading_of(grid, reader, pool), e, 6, Tally()) for p in group]
            for e in (HalvingEngine(engine, PIXELS), IdentityEngine())
        )
        assert engine.n_refused > 0
        assert [p.tile for p in found] == [p.tile for p in expected]
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.probability, b.probability)

    def test_a_single_tile_that_does_not_fit_is_told_with_the_remedy(self, pool):
        grid = TileGrid(height=10, width=10, tile_size_px=10, overlap_px=0)
        reader = ArrayReader(random_pixels(10, 10))
        with pytest.raises(TileError, match="tile 0 .* smaller --tile-size"):
            list(predict(reading_of(grid, reader, pool), IdentityEngine(0), 1, Tally()))


class TestTorchEngine:
    def make(self, module, spec=SPEC):
        return TorchEngine(module, spec, BYTES, "cpu", "fp32")

    def test_gives_sigmoid_probabilities_of_the_normalised_pixels(self):
        pixels = random_pixels(8, 8)[None]
        valid = np.ones((1, 8, 8), dtype=bool)
        found = self.make(torch.nn.Identity()).probabilities(pixels, valid, ALL)
        expected = torch.sigmoid(torch.from_numpy(pixels).float() / 255)
        assert torch.allclose(found, expected)

    def test_softmax_leaves_the_background_out(self):
        spec = replace(SPEC, activation="softmax", classes=("x",), thresholds=(0.5,))
        pixels = random_pixels(8, 8)[None]
        found = self.make(torch.nn.Identity(), spec).probabilities(
            pixels, np.ones((1, 8, 8), dtype=bool), ALL
        )
        logits = torch.from_numpy(pixels).float() / 255
        assert torch.allclose(found, logits.softmax(1)[:, 1:])

    def test_invalid_pixels_reach_the_network_as_zero(self):
        pixels = random_pixels(8, 8)[None]
        valid = np.random.default_rng(2).random((1, 8, 8)) > 0.5
        found = self.make(torch.nn.Identity()).probabilities(pixels, valid, ALL)
        assert (found[:, :, ~valid[0]] == 0.5).all()

    def test_a_network_with_other_outputs_than_its_spec_is_refused(self):
        module = torch.nn.Conv2d(2, 5, 1)
        with pytest.raises(ModelError, match=r"\(1, 5, 8, 8\).*\(1, 2, 8, 8\)"):
            self.make(module).probabilities(
                random_pixels(8, 8)[None], np.ones((1, 8, 8), dtype=bool), ALL
            )

    def test_batches_and_single_tiles_give_the_same_bits(self):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(2, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 2, 1)
        )
        engine = self.make(module)
        pixels = np.stack([random_pixels(64, 64, seed) for seed in range(4)])
        valid = np.ones((4, 64, 64), dtype=bool)
        together = engine.probabilities(pixels, valid, ALL)
        alone = [engine.probabilities(pixels[i : i + 1], valid[:1], ALL)[0] for i in range(4)]
        assert torch.allclose(together, torch.stack(alone), atol=1e-6)

    @pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
    def test_the_bits_do_not_depend_on_the_number_of_threads(self, activation):
        spec = replace(
            SPEC,
            activation=activation,
            classes=("x",) if activation == "softmax" else SPEC.classes,
            thresholds=(0.5,) * (1 if activation == "softmax" else 2),
            network_options=(("features", (4, 8)),),
        )
        torch.manual_seed(0)
        engine = self.make(build_network(spec), spec)
        before, found = torch.get_num_threads(), []
        pixels = np.stack([random_pixels(160, 160, seed) for seed in range(3)])
        try:
            for threads in (1, 2, 3, 5):
                torch.set_num_threads(threads)
                found.append(engine.probabilities(pixels, np.ones((3, 160, 160), dtype=bool), ALL))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(other, found[0]) for other in found)

    @pytest.mark.parametrize("n_out", [3, 24, 40])
    def test_nor_do_those_of_convolutions_of_one_pixel(self, n_out):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(2, 8, 1), torch.nn.Conv2d(8, n_out, 1), torch.nn.Conv2d(n_out, 2, 1)
        )
        engine, before, found = self.make(module), torch.get_num_threads(), []
        batch = random_pixels(96, 96)[None], np.ones((1, 96, 96), dtype=bool), ALL
        try:
            for threads in (1, 2, 3, 4):
                torch.set_num_threads(threads)
                found.append(engine.probabilities(*batch))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(other, found[0]) for other in found)
        expected = torch.sigmoid(module(torch.from_numpy(batch[0]).float() / 255))
        assert torch.allclose(found[0], expected, atol=1e-5)

    def test_leaves_the_network_that_it_was_given_alone(self):
        module = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1))
        self.make(module)
        assert type(module[0]) is torch.nn.Conv2d


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep their own ways")
def test_freed_memory_is_kept_and_given_back():
    size = 2 * 10**8
    before = resident_bytes()
    with freed_memory_kept():
        block = np.ones(size, dtype=np.uint8)
        del block
        assert resident_bytes() - before > 0.9 * size
    assert resident_bytes() - before < 0.1 * size


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep their own ways")
def test_large_blocks_are_given_back_at_once_where_the_engine_keeps_its_own():
    size = 2 * 10**8
    with freed_memory_kept(passes=False):
        before = resident_bytes()
        block = np.ones(size, dtype=np.uint8)
        del block
        assert resident_bytes() - before < 0.1 * size
        blocks = [np.ones(10**6, dtype=np.uint8) for _ in range(200)]
        del blocks
        assert resident_bytes() - before > 0.9 * size


class LitteringEngine:
    """Needs more memory for every batch than for the one before; notes what it begins with."""

    def __init__(self):
        self.begun_with = []

    def probabilities(self, pixels, valid, part):
        self.begun_with.append(resident_bytes())
        block = np.ones(len(self.begun_with) * 10**8, dtype=np.uint8)
        return torch.full((1, 1, 1, 1), float(block[-1]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep their own ways")
def test_memory_that_piles_up_is_given_back_between_batches():
    littering = LitteringEngine()
    engine = FrugalEngine(littering)
    with freed_memory_kept():
        for _ in range(4):
            assert engine.probabilities(None, None, ALL).item() == 1
    first, second, third, fourth = np.array(littering.begun_with) - littering.begun_with[0]
    assert first < second < third  # kept: two batches tell what is usual, the third goes beyond
    assert fourth < 0.5e8


class TestEdgesOfTheNetwork:
    def test_only_the_part_that_is_used_is_given(self):
        torch.manual_seed(0)
        spec = replace(SPEC, network_options=(("features", (4, 8)),))
        engine = TorchEngine(build_network(spec), spec, BYTES, "cpu", "fp32")
        pixels, valid = random_pixels(96, 64)[None], np.ones((1, 96, 64), dtype=bool)
        part = slice(24, 72), slice(0, 40)
        whole = engine.probabilities(pixels, valid, ALL)
        assert torch.allclose(
            engine.probabilities(pixels, valid, part), whole[:, :, *part], rtol=0, atol=1e-6
        )


class CrampedEngine(IdentityEngine):
    """Takes no more than `most_px` at once."""

    def __init__(self, engine, most_px):
        super().__init__()
        self.engine = engine
        self.most_px = most_px
        self.areas = []

    def probabilities(self, pixels, valid, part):
        self.areas.append(len(pixels) * pixels.shape[2] * pixels.shape[3])
        if self.areas[-1] > self.most_px:
            raise torch.OutOfMemoryError("pretended")
        return self.engine.probabilities(pixels, valid, part)


class TestShortMemory:
    @pytest.mark.parametrize("part", [ALL, (slice(24, 72), slice(0, 100))])
    def test_a_tile_that_does_not_fit_is_inferred_in_pieces(self, part):
        torch.manual_seed(0)
        spec = replace(SPEC, network_options=(("features", (4, 8)),))
        module = build_network(spec).eval()
        geometry = network_geometry(module, 2)
        engine = TorchEngine(module, spec, BYTES, "cpu", "fp32")
        cramped = CrampedEngine(engine, 64 * 96)
        pixels, valid = random_pixels(96, 128)[None], np.ones((1, 96, 128), dtype=bool)
        halving = HalvingEngine(cramped, geometry)
        found = halving.probabilities(pixels, valid, part)
        whole = engine.probabilities(pixels, valid, part)
        assert torch.allclose(found, whole, rtol=0, atol=1e-6)
        refused = sum(area > 64 * 96 for area in cramped.areas)
        halving.probabilities(pixels, valid, part)
        assert sum(area > 64 * 96 for area in cramped.areas) == refused, "what fits is remembered"

    def test_memory_that_comes_back_changes_nothing(self):
        engine = IdentityEngine()
        first = iter([True])

        class Once(IdentityEngine):
            def probabilities(self, pixels, valid, part):
                if next(first, False):
                    raise torch.OutOfMemoryError("pretended")
                return engine.probabilities(pixels, valid, part)

        pixels, valid = random_pixels(10, 10)[None], np.ones((1, 10, 10), dtype=bool)
        found = HalvingEngine(Once(), PIXELS).probabilities(pixels, valid, ALL)
        assert torch.equal(found, engine.probabilities(pixels, valid, ALL))
        assert engine.batches == [1, 1]

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            RuntimeError("could not create a primitive"),
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            RuntimeError("Exception from plugin.cpp:54:\ncan't alloc\n"),
            type("OfOnnxRuntime", (Exception,), {})("Status Message: std::bad_alloc"),
        ],
    )
    def test_short_memory_is_recognised_whoever_says_it(self, error):
        first = iter([error])

        class Once(IdentityEngine):
            def probabilities(self, pixels, valid, part):
                for it in first:
                    raise it
                return super().probabilities(pixels, valid, part)

        pixels, valid = random_pixels(10, 10)[None], np.ones((1, 10, 10), dtype=bool)
        found = HalvingEngine(Once(), PIXELS).probabilities(pixels, valid, ALL)
        assert torch.equal(found, IdentityEngine().probabilities(pixels, valid, ALL))

    def test_a_tile_is_not_cut_for_ever(self):
        geometry = replace(PIXELS, multiple_px=8, halo_px=32)
        cramped = HalvingEngine(CrampedEngine(IdentityEngine(), 100), geometry)
        with pytest.raises(torch.OutOfMemoryError):
            cramped.probabilities(
                random_pixels(96, 96)[None], np.ones((1, 96, 96), dtype=bool), ALL
            )

    def test_a_network_without_a_halo_is_not_cut(self):
        geometry = replace(PIXELS, halo_px=None, reason="it has InstanceNorm")
        cramped = CrampedEngine(IdentityEngine(), 100)
        with pytest.raises(torch.OutOfMemoryError):
            HalvingEngine(cramped, geometry).probabilities(
                random_pixels(96, 96)[None], np.ones((1, 96, 96), dtype=bool), ALL
            )
        assert cramped.areas == [96 * 96] * LAST_TRIES


class TestUpload:
    def test_arrays_survive_the_ring_and_their_own_change(self):
        upload = Upload(torch.device("cpu"), pinned=True)
        random = np.random.default_rng(0)
        arrays = [
            random.integers(0, 99, (2, 3, 5 + k, 7)).astype(dtype)
            for k, dtype in enumerate(["uint8", "uint16", "float32", "int16", "bool", "uint8"] * 2)
        ]
        moved = []
        for array in arrays:
            sent = array.copy()
            moved.append(upload(sent))
            sent[:] = 0
        for array, tensor in zip(arrays, moved, strict=True):
            assert np.array_equal(tensor.numpy(), array)

    def test_buffers_are_used_again(self):
        upload = Upload(torch.device("cpu"), pinned=True)
        for _ in range(3):
            for _ in range(N_BUFFERS):
                upload(np.ones(1000, np.uint8))
        places = {buffer.data_ptr() for buffer in upload._buffers}
        upload(np.zeros(10, np.float32))
        assert {buffer.data_ptr() for buffer in upload._buffers} == places

    def test_uploading_is_no_part_of_the_forward_pass(self):
        tally = Tally()
        with tally.clock("forward"), uploads_to(tally), upload_clock():
            time.sleep(0.02)
        assert tally.seconds["upload"] >= 0.02
        assert 0 <= tally.seconds["forward"] < 0.02
        with upload_clock():
            pass  # nobody listens


class TestMean:
    def test_views_are_turned_back(self):
        pixels, valid = random_pixels(24, 40)[None], np.ones((1, 24, 40), dtype=bool)
        part = slice(3, 20), slice(10, 38)
        found = MeanEngine((IdentityEngine(),), D4).probabilities(pixels, valid, part)
        expected = IdentityEngine().probabilities(pixels, valid, part)
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)

    def test_the_mean_does_not_depend_on_the_orientation_of_the_scene(self):
        torch.manual_seed(0)
        spec = replace(SPEC, network_options=(("features", (4, 8)),))
        engine = TorchEngine(build_network(spec).eval(), spec, BYTES, "cpu", "fp32")
        mean = MeanEngine((engine,), D4)
        pixels, valid = random_pixels(64, 64)[None], np.ones((1, 64, 64), dtype=bool)
        found = mean.probabilities(pixels, valid, ALL)
        turned = mean.probabilities(np.rot90(pixels, 1, (2, 3)).copy(), valid, ALL)
        assert torch.allclose(turned.rot90(-1, (2, 3)), found, rtol=0, atol=1e-5)
        assert not torch.allclose(engine.probabilities(pixels, valid, ALL), found, atol=1e-3)

    def test_networks_count_alike(self):
        class Constant(IdentityEngine):
            def __init__(self, value):
                super().__init__()
                self.value = value

            def probabilities(self, pixels, valid, part):
                return torch.full_like(super().probabilities(pixels, valid, part), self.value)

        pixels, valid = random_pixels(8, 8)[None], np.ones((1, 8, 8), dtype=bool)
        mean = MeanEngine((Constant(0.2), Constant(0.6)))
        assert torch.allclose(mean.probabilities(pixels, valid, ALL), torch.tensor(0.4))


class TestChoices:
    def test_a_device_that_does_not_exist_is_refused(self):
        with pytest.raises(PlanError, match="'warp9' cannot be used.*--device cpu"):
            choose_devices("warp9")

    def test_cpu_may_be_named_twice(self):
        assert choose_devices("cpu,cpu") == ("cpu", "cpu")

    @pytest.mark.parametrize(
        ("devices", "share"),
        [(("cpu",), 6), (("cpu", "cpu"), 3), (("cpu",) * 9, 1), (("cuda:0", "cuda:1"), 6)],
    )
    def test_workers_of_one_processor_divide_its_threads(self, devices, share):
        before = torch.get_num_threads()
        torch.set_num_threads(6)
        try:
            with threads_divided(devices), ThreadPoolExecutor(1) as worker:
                assert worker.submit(n_threads).result() == share
            assert torch.get_num_threads() == 6
        finally:
            torch.set_num_threads(before)

    def test_a_cpu_computes_in_fp32_unless_told_otherwise(self):
        assert choose_precision("auto", "cpu") == "fp32"
        assert choose_precision("bf16", "cpu") == "bf16"
        with pytest.raises(PlanError, match="fp16"):
            choose_precision("fp16", "cpu")
