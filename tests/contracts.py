"""What every implementation of a protocol must do, as test classes to inherit."""

import pickle
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.model.load import build_network, fold_batch_norm
from tilingseg.model.spec import ModelSpec
from tilingseg.records import Scaling


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneCase:
    """A scene and what it must show, made by other means than the reader's."""

    open: Any
    """Opens the reader: no arguments."""
    pixels: np.ndarray
    """Expected pixels (bands, height, width); looked at where valid."""
    valid: np.ndarray
    """Expected bool (height, width), True = data; has both values."""
    tolerance: float = 0.0
    """Largest difference from `pixels` that counts as equal."""


class SceneReaderContract:
    """Inherit this and define the fixture `case`, a `SceneCase`."""

    @pytest.fixture
    def case(self):
        raise NotImplementedError

    @pytest.fixture
    def reader(self, case):
        reader = case.open()
        yield reader
        reader.close()

    def test_the_whole_scene_equals_the_oracle(self, case, reader):
        pixels, valid = read_whole(reader)
        assert case.valid.any(), "the case must hold valid pixels"
        assert not case.valid.all(), "the case must hold invalid pixels"
        np.testing.assert_array_equal(valid, case.valid)
        assert pixels.shape == case.pixels.shape
        assert pixels.dtype == case.pixels.dtype
        difference = pixels[:, valid].astype(float) - case.pixels[:, valid].astype(float)
        assert np.abs(difference).max() <= case.tolerance

    def test_the_scene_describes_what_is_read(self, case, reader):
        scene = reader.scene
        assert (scene.height, scene.width) == case.valid.shape
        assert len(scene.bands) == len(case.pixels)
        assert np.dtype(scene.dtype) == case.pixels.dtype
        assert scene == case.open().scene
        assert isinstance(hash(scene), int)

    def test_any_window_is_cut_from_the_whole(self, reader):
        pixels, valid = read_whole(reader)
        for window in some_windows(*valid.shape):
            part, part_valid = reader.read(window)
            rows = slice(window.row, window.row_stop)
            cols = slice(window.col, window.col_stop)
            assert part.shape == (len(pixels), window.height, window.width)
            np.testing.assert_array_equal(part_valid, valid[rows, cols])
            assert_same_bits(part, pixels[:, rows, cols], part_valid)

    @pytest.mark.parametrize("side", ["top", "left", "bottom", "right"])
    def test_a_window_outside_is_refused(self, reader, side):
        height, width = reader.scene.height, reader.scene.width
        row, col = {
            "top": (-1, 0),
            "left": (0, -1),
            "bottom": (height - 1, 0),
            "right": (0, width - 1),
        }[side]
        with pytest.raises(SceneError, match="outside"):
            reader.read(Window(row=row, col=col, height=2, width=2))

    def test_a_pickled_copy_reads_the_same(self, reader):
        window = some_windows(reader.scene.height, reader.scene.width)[-1]
        pixels, valid = reader.read(window)
        copy = pickle.loads(pickle.dumps(reader))
        copy_pixels, copy_valid = copy.read(window)
        copy.close()
        assert copy.scene == reader.scene
        np.testing.assert_array_equal(copy_valid, valid)
        assert_same_bits(copy_pixels, pixels, valid)

    def test_threads_read_at_the_same_time(self, reader):
        windows = some_windows(reader.scene.height, reader.scene.width)
        alone = [reader.read(window) for window in windows]
        together: dict[tuple[int, int], Any] = {}

        def read_all(thread):
            for k, window in enumerate(windows):
                together[thread, k] = reader.read(window)

        threads = [threading.Thread(target=read_all, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(together) == 2 * len(windows)
        for (_, k), (pixels, valid) in together.items():
            np.testing.assert_array_equal(valid, alone[k][1])
            assert_same_bits(pixels, alone[k][0], valid)

    @pytest.mark.parametrize("side", [1, 7, 40, 10_000])
    def test_a_reduced_scene_fits_and_shows_the_same(self, case, reader, side):
        pixels, valid = reader.read_reduced(side)
        height, width = case.valid.shape
        assert pixels.shape[1:] == valid.shape
        assert min(valid.shape) >= 1
        assert max(valid.shape) == min(side, max(height, width))
        assert len(pixels) == len(case.pixels)
        assert pixels.dtype == case.pixels.dtype
        if min(valid.shape) > 10:
            assert valid.mean() == pytest.approx(case.valid.mean(), abs=0.08)
            seen = pixels[:, valid].astype(float).mean(axis=1)
            expected = case.pixels[:, case.valid].astype(float).mean(axis=1)
            spread = case.pixels[:, case.valid].astype(float).std()
            np.testing.assert_allclose(seen, expected, atol=0.3 * spread + 1e-6)

    def test_windows_with_data_are_never_called_empty(self, case, reader):
        height, width = case.valid.shape
        for window in some_windows(height, width, count=100):
            rows = slice(window.row, window.row_stop)
            if case.valid[rows, window.col : window.col_stop].any():
                assert reader.may_hold_data(window)

    def test_a_reduced_scene_of_no_pixels_is_refused(self, reader):
        with pytest.raises(SceneError, match="at least 1 px"):
            reader.read_reduced(0)

    def test_it_reads_on_after_being_closed(self, reader):
        window = some_windows(reader.scene.height, reader.scene.width)[-1]
        before, valid = reader.read(window)
        reader.close()
        reader.close()
        after, after_valid = reader.read(window)
        np.testing.assert_array_equal(after_valid, valid)
        assert_same_bits(after, before, valid)


def read_whole(reader):
    """Read all pixels of a scene."""
    scene = reader.scene
    return reader.read(Window(row=0, col=0, height=scene.height, width=scene.width))


def some_windows(height, width, count=25):
    """Corners, single pixels, whole rows and columns, and random windows."""
    rng = np.random.default_rng(height * 10_007 + width)
    windows = [
        Window(row=0, col=0, height=1, width=1),
        Window(row=height - 1, col=width - 1, height=1, width=1),
        Window(row=height // 2, col=0, height=1, width=width),
        Window(row=0, col=width // 2, height=height, width=1),
    ]
    for _ in range(count):
        rows = np.sort(rng.choice(height + 1, 2, replace=False))
        cols = np.sort(rng.choice(width + 1, 2, replace=False))
        windows.append(
            Window(
                row=int(rows[0]),
                col=int(cols[0]),
                height=int(rows[1] - rows[0]),
                width=int(cols[1] - cols[0]),
            )
        )
    return windows


def assert_same_bits(one, other, valid):
    """Assert that two arrays (bands, height, width) agree exactly where valid."""
    np.testing.assert_array_equal(one[:, valid], other[:, valid])


class EngineContract:
    """Inherit this and define `make`; what every engine does, against a forward pass of torch."""

    tolerance = 1e-5
    """Largest difference of a probability that counts as equal."""

    def make(self, module, spec, scaling, threads):
        raise NotImplementedError

    @pytest.fixture(params=["sigmoid", "softmax"])
    def spec(self, request):
        softmax = request.param == "softmax"
        return ModelSpec(
            name="contract",
            network="unet",
            network_options=(("features", (8, 16)), ("fold_px", 2)),
            bands=("a", "b"),
            classes=("x",) if softmax else ("x", "y"),
            thresholds=(0.5,) * (1 if softmax else 2),
            gsd_m=None,
            mean=(0.5, 0.5),
            std=(0.25, 0.25),
            activation=request.param,
        )

    @pytest.fixture
    def module(self, spec):
        torch.manual_seed(0)
        module = build_network(spec).eval()
        fold_batch_norm(module)
        torch.nn.init.normal_(module.head.bias)
        return module

    @pytest.fixture
    def batch(self):
        rng = np.random.default_rng(3)
        pixels = rng.integers(0, 256, (3, 2, 96, 64), dtype=np.uint8)
        valid = np.ones((3, 96, 64), dtype=bool)
        valid[1, 20:40, :30] = False
        return pixels, valid

    def engine(self, module, spec, threads=2):
        scaling = Scaling(low=(0.0, 0.0), high=(255.0, 255.0), source="uint8")
        return self.make(module, spec, scaling, threads)

    def expected(self, module, spec, batch):
        pixels, valid = batch
        values = (torch.from_numpy(pixels).double() / 255 - 0.5) / 0.25
        values = (values * torch.from_numpy(valid)[:, None]).float()
        with torch.inference_mode():
            logits = module(values).double()
        if spec.activation == "softmax":
            return logits.softmax(1)[:, 1:].float()
        return logits.sigmoid().float()

    def test_gives_the_probabilities_of_the_part_that_is_wanted(self, module, spec, batch):
        engine, whole = self.engine(module, spec), self.expected(module, spec, batch)
        for part in (
            (slice(None), slice(None)),
            (slice(24, 72), slice(24, 40)),
            (slice(0, 72), slice(24, 64)),
        ):
            found = engine.probabilities(*batch, part)
            assert found.dtype == torch.float32
            assert found.shape == whole[:, :, *part].shape
            assert (found - whole[:, :, *part]).abs().max() <= self.tolerance

    def test_the_bits_depend_on_neither_threads_nor_batch(self, module, spec, batch):
        part = slice(24, 72), slice(0, 40)
        together = self.engine(module, spec, threads=2).probabilities(*batch, part)
        alone = self.engine(module, spec, threads=1)
        for index in range(3):
            only = slice(index, index + 1)
            found = alone.probabilities(batch[0][only], batch[1][only], part)
            assert torch.equal(found[0], together[index])

    def test_leaves_what_it_was_given_alone(self, module, spec, batch):
        pixels, valid = batch[0].copy(), batch[1].copy()
        weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        first = self.engine(module, spec).probabilities(*batch, (slice(None), slice(None)))
        kept = first.clone()
        np.testing.assert_array_equal(batch[0], pixels)
        np.testing.assert_array_equal(batch[1], valid)
        assert all(torch.equal(module.state_dict()[name], weights[name]) for name in weights)
        # what it gave belongs to the caller
        self.engine(module, spec).probabilities(pixels[::-1].copy(), valid, (slice(None),) * 2)
        assert torch.equal(first, kept)
