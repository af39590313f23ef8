"""Every engine against the one contract, and how one is chosen."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.contracts import EngineContract
from tilingseg.errors import DependencyError, ModelError, PlanError
from tilingseg.grid import TileGrid
from tilingseg.infer import TorchEngine, choice, choose_engine, common_parts, make_engine, runtimes
from tilingseg.infer.graph_engine import GraphEngine, GraphOptions
from tilingseg.infer.runtimes import RUNTIMES, is_installed
from tilingseg.model.load import LoadedModel, build_network, fold_batch_norm
from tilingseg.model.ranges import observe_ranges
from tilingseg.model.spec import Geometry, ModelSpec
from tilingseg.records import Scaling

SPEC = ModelSpec(
    name="tiny",
    network="unet",
    network_options=(("features", (4, 8)),),
    bands=("a", "b", "c"),
    classes=("x",),
    thresholds=(0.5,),
    gsd_m=None,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)
WHOLE = slice(None), slice(None)


def needs(name):
    return pytest.mark.skipif(not is_installed(name), reason=f"the extra {name} is not installed")


class TestTorch(EngineContract):
    def make(self, module, spec, scaling, threads):
        before = torch.get_num_threads()

        class Limited(TorchEngine):
            def probabilities(self, *batch):
                torch.set_num_threads(threads)
                try:
                    return super().probabilities(*batch)
                finally:
                    torch.set_num_threads(before)

        return Limited(module, spec, scaling, "cpu", "fp32")


class GraphContract(EngineContract):
    runtime, precision = "", "fp32"

    def make(self, module, spec, scaling, threads):
        if self.precision == "int8":
            torch.manual_seed(1)
            ranges = observe_ranges(module, spec, [torch.rand(2, 2, 96, 64) * 4 - 2])
            stated = tuple((name, *ends) for name, ends in ranges.items())
            spec = replace(spec, activation_ranges=stated)
        options = GraphOptions(
            runtime=RUNTIMES[self.runtime], precision=self.precision, threads=threads
        )
        return GraphEngine(module, spec, scaling, options)


@needs("onnx")
class TestOnnxRuntime(GraphContract):
    runtime = "onnx"


@needs("openvino")
class TestOpenVino(GraphContract):
    runtime = "openvino"


@needs("onnx")
class TestOnnxRuntimeInt8(GraphContract):
    runtime, precision, tolerance = "onnx", "int8", 0.1


@needs("openvino")
class TestOpenVinoInt8(GraphContract):
    runtime, precision, tolerance = "openvino", "int8", 0.1


@needs("openvino")
class TestOpenVinoBf16(GraphContract):
    runtime, precision, tolerance = "openvino", "bf16", 0.1


@pytest.fixture
def model():
    torch.manual_seed(0)
    module = build_network(SPEC).eval()
    fold_batch_norm(module)
    geometry = Geometry(multiple_px=4, halo_px=12, reason=None, bytes_per_px=100.0)
    return LoadedModel(spec=SPEC, module=module, geometry=geometry, sha256="0")


class TestParts:
    def test_inner_tiles_and_edges_get_graphs_where_they_are_many(self):
        grid = TileGrid(height=1100, width=1100, tile_size_px=128, overlap_px=24, multiple_px=4)
        assert grid.n_rows == grid.n_cols == 11
        inner, whole = slice(12, 116), slice(0, 128)
        assert common_parts(grid) == ((inner, inner), (whole, inner), (inner, whole))

    def test_few_tiles_share_the_graph_of_whole_tiles(self):
        assert common_parts(TileGrid(height=200, width=200, tile_size_px=128, overlap_px=24)) == ()

    @needs("onnx")
    def test_only_the_graph_that_runs_holds_the_memory_of_a_pass(self, model):
        held = set()

        class Watched:
            def __init__(self, *given):
                self.graph = RUNTIMES["onnx"].prepare(*given)

            def __call__(self, pixels):
                held.add(self)
                return self.graph(pixels)

            def release(self):
                held.remove(self)

        engine = GraphEngine(
            model.module,
            SPEC,
            Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8"),
            GraphOptions(
                runtime=replace(RUNTIMES["onnx"], prepare=Watched), precision="fp32", threads=1
            ),
        )
        pixels = np.zeros((1, 3, 96, 96), dtype=np.uint8)
        valid = np.ones((1, 96, 96), dtype=bool)
        inner = slice(12, 84), slice(12, 84)
        for part in (WHOLE, inner, inner, WHOLE, inner):
            engine.probabilities(pixels, valid, part)
            assert len(held) == 1

    @needs("onnx")
    def test_a_part_without_a_graph_is_cut_from_a_larger_one(self, model):
        seen = []

        def prepare(data, precision, threads):
            seen.append(len(data))
            return RUNTIMES["onnx"].prepare(data, precision, threads)

        parts = ((slice(12, 84), slice(12, 84)),)
        engine, own = (
            GraphEngine(
                model.module,
                SPEC,
                Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8"),
                GraphOptions(
                    runtime=replace(RUNTIMES["onnx"], prepare=prepare),
                    precision="fp32",
                    threads=1,
                    parts=given,
                ),
            )
            for given in (parts, None)
        )
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), dtype=np.uint8)
        valid = np.ones((1, 96, 96), dtype=bool)
        wanted = [parts[0], (slice(12, 80), slice(20, 84)), (slice(0, 84), slice(12, 96)), WHOLE]
        found = [engine.probabilities(pixels, valid, part) for part in wanted]
        assert len(seen) == 2, "one for the common part, one for whole tiles"
        for part, one in zip(wanted, found, strict=True):
            assert torch.allclose(one, own.probabilities(pixels, valid, part), rtol=0, atol=1e-6)


class TestChoice:
    @pytest.fixture(autouse=True)
    def forgetful(self, monkeypatch):
        self.remembered = {}
        monkeypatch.setattr(choice, "recall", lambda _topic, key: self.remembered.get(key))
        monkeypatch.setattr(
            choice, "remember", lambda _topic, key, value: self.remembered.update({key: value})
        )

    def pretend(self, monkeypatch, results):
        """Let engines give a fixed difference and time, as (difference, seconds) by name."""
        exact = torch.full((1, 1, 8, 8), 0.5)

        def give(_model, chosen):
            difference, seconds = results[chosen.engine]
            return exact + difference, seconds

        monkeypatch.setattr(choice, "probabilities_of", give)
        monkeypatch.setattr(choice, "is_installed", lambda name: name in results)
        monkeypatch.setattr(choice, "runtime_version", lambda _name: "1")

    def test_auto_takes_the_fastest_that_agrees(self, monkeypatch, model):
        self.pretend(
            monkeypatch, {"torch": (0.0, 3.0), "onnx": (5e-5, 2.0), "openvino": (2e-4, 1.0)}
        )
        chosen = choose_engine(model, "cpu")
        assert (chosen.engine, chosen.precision) == ("onnx", "fp32")
        assert "openvino differs from torch by 2.0e-04, more than 1.0e-04" in chosen.reason
        assert "onnx differs from torch by 5.0e-05 and takes 0.67 × its time" in chosen.reason

    def test_the_choice_is_remembered(self, monkeypatch, model):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.0, 2.0)})
        first = choose_engine(model, "cpu")
        self.pretend(monkeypatch, {"torch": (0.0, 1.0), "onnx": (0.0, 2.0)})
        assert choose_engine(model, "cpu") == first
        self.remembered.clear()
        assert choose_engine(model, "cpu").engine == "torch"

    def test_int8_may_differ_as_much_as_the_model_states(self, monkeypatch, model):
        stated = replace(model, spec=replace(SPEC, int8_difference=0.01))
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.012, 2.0)})
        assert choose_engine(stated, "cpu", precision="int8").engine == "onnx"
        self.remembered.clear()
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.016, 2.0)})
        with pytest.raises(ModelError, match=r"onnx differs from torch by 1\.6e-02"):
            choose_engine(stated, "cpu", precision="int8")

    def test_what_is_not_installed_is_named_with_its_extra(self, monkeypatch, model):
        monkeypatch.setattr(runtimes, "is_installed", lambda _name: False)
        monkeypatch.setattr(choice, "is_installed", lambda _name: False)
        with pytest.raises(DependencyError, match=r"is not installed.*'tilingseg\[openvino\]'"):
            choose_engine(model, "cpu", "openvino")
        with pytest.raises(DependencyError, match=r"int8.*'tilingseg\[openvino\]'"):
            choose_engine(model, "cpu", precision="int8")
        assert choose_engine(model, "cpu").engine == "torch"

    @pytest.mark.parametrize(
        ("engine", "precision", "words"),
        [("torch", "int8", "int8"), ("onnx", "bf16", "onnx cannot compute in bf16")],
    )
    def test_an_engine_without_the_precision_is_refused(
        self, monkeypatch, model, engine, precision, words
    ):
        for module in (runtimes, choice):
            monkeypatch.setattr(module, "is_installed", lambda _name: True)
        with pytest.raises((PlanError, DependencyError), match=words):
            choose_engine(model, "cpu", engine, precision)

    @needs("onnx")
    def test_int8_needs_ranges(self, model):
        with pytest.raises(ModelError, match="tilingseg compress"):
            choose_engine(model, "cpu", "onnx", "int8")

    @needs("onnx")
    def test_a_network_that_only_torch_knows_stays_with_it(self, monkeypatch, model):
        monkeypatch.setattr(choice, "is_installed", lambda name: name == "onnx")
        model.module.head = torch.nn.Sequential(model.module.head, torch.nn.Tanh())
        chosen = choose_engine(model, "cpu")
        assert chosen.engine == "torch"
        assert "'tanh'" in chosen.reason

    def test_compiling_gives_the_same(self, monkeypatch, model):
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
        chosen = choose_engine(model, "cpu", "torch-compile")
        found, _ = choice.probabilities_of(model, chosen)
        exact, _ = choice.probabilities_of(model, choose_engine(model, "cpu", "torch"))
        assert torch.equal(found, exact)


@needs("openvino")
def test_openvino_is_not_let_report_to_its_makers():
    code = (
        "import sys\nfrom tilingseg.infer.runtimes import _openvino\n_openvino()\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs("openvino")
def test_engines_are_made_from_choices(model):
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
    for name, kind in (("torch", TorchEngine), ("openvino", GraphEngine)):
        chosen = choose_engine(model, "cpu", name)
        assert isinstance(make_engine(model, scaling, "cpu", chosen), kind)
