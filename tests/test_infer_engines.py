"""Every engine against the one contract, and how one is chosen."""

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts import EngineContract
from tilingseg.errors import DependencyError, ModelError, PlanError
from tilingseg.grid import TileGrid
from tilingseg.infer import TorchEngine, choice, choose_engine, common_parts, make_engine, runtimes
from tilingseg.infer.graph_engine import GraphEngine, GraphOptions, make_graph
from tilingseg.infer.runtimes import RUNTIMES, is_installed
from tilingseg.model.load import LoadedModel, build_network, fold_batch_norm
from tilingseg.model.onnx_file import onnx_bytes
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
RELU = replace(SPEC, classes=SPEC.bands, thresholds=(0.5,) * 3)
"""For a network that gives a class for each band."""
BYTES = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")


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
            monkeypatch, {"torch": (0.0, 3.0), "onnx": (5e-5, 1.5), "openvino": (2e-4, 1.0)}
        )
        chosen = choose_engine((model,), "cpu")
        assert (chosen.engine, chosen.precision) == ("onnx", "fp32")
        assert "openvino differs from torch by 2.0e-04, more than 1.0e-04" in chosen.reason
        assert "onnx differs from torch by 5.0e-05 and takes 0.50 × its time" in chosen.reason

    def test_auto_stays_with_torch_where_little_is_gained(self, monkeypatch, model):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "openvino": (0.0, 1.9)})
        chosen = choose_engine((model,), "cpu")
        assert chosen.engine == "torch"
        assert chosen.reason.endswith(
            "openvino differs from torch by 0.0e+00 and takes 0.63 × its time; "
            "less than 0.6 is needed"
        )

    def test_an_engine_that_gives_no_number_does_not_agree(self, monkeypatch, model):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (float("nan"), 2.0)})
        chosen = choose_engine((model,), "cpu")
        assert chosen.engine == "torch"
        assert "onnx differs from torch by nan, more than 1.0e-04" in chosen.reason

    def test_several_models_take_an_engine_on_which_each_agrees(self, monkeypatch, model):
        second = replace(model, sha256="1")
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (5e-5, 1.5)})
        agreed = choose_engine((model, second), "cpu")
        assert agreed.engine == "onnx"
        assert "takes 0.50 × its time" in agreed.reason
        pretended = choice.probabilities_of

        def worse(one, chosen):
            found, seconds = pretended(one, chosen)
            return found + 1e-3 * (one is second and chosen.engine == "onnx"), seconds

        monkeypatch.setattr(choice, "probabilities_of", worse)
        self.remembered.clear()
        assert choose_engine((model,), "cpu").engine == "onnx"
        assert choose_engine((model, second), "cpu").engine == "torch"

    @pytest.mark.parametrize(
        "error", [type("RuntimeOfItsOwn", (Exception,), {})("no kernel\nat line 3"), ImportError()]
    )
    def test_an_engine_that_fails_in_any_way_is_said_and_left_out(self, monkeypatch, model, error):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.0, 2.0)})
        pretended = choice.probabilities_of

        def fail(one, chosen):
            if chosen.engine == "onnx":
                raise error
            return pretended(one, chosen)

        monkeypatch.setattr(choice, "probabilities_of", fail)
        chosen = choose_engine((model,), "cpu")
        assert chosen.engine == "torch"
        words = "no kernel" if str(error) else "ImportError"
        assert chosen.reason.endswith(f"onnx cannot: {words}")

    @pytest.mark.parametrize(
        "foreign",
        [
            "onnx",
            ["onnx"],
            {},
            {"engine": "onnx"},
            {"engine": ["onnx"], "reason": "x"},
            {"engine": "tensorrt", "reason": "x"},
        ],
    )
    def test_a_foreign_memory_is_measured_anew(self, monkeypatch, model, foreign):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.0, 1.5)})
        chosen = choose_engine((model,), "cpu")
        (key,) = self.remembered
        self.remembered[key] = foreign
        assert choose_engine((model,), "cpu") == chosen
        assert self.remembered[key] == {"engine": "onnx", "reason": chosen.reason}

    def test_the_choice_is_remembered(self, monkeypatch, model):
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.0, 1.5)})
        first = choose_engine((model,), "cpu")
        assert first.engine == "onnx"
        self.pretend(monkeypatch, {"torch": (0.0, 1.0), "onnx": (0.0, 2.0)})
        assert choose_engine((model,), "cpu") == first
        self.remembered.clear()
        assert choose_engine((model,), "cpu").engine == "torch"

    def test_int8_may_differ_as_much_as_the_model_states(self, monkeypatch, model):
        stated = replace(model, spec=replace(SPEC, int8_difference=0.01))
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.012, 2.0)})
        chosen = choose_engine((stated,), "cpu", precision="int8")
        assert chosen.engine == "onnx"
        assert "needed" not in chosen.reason, "torch does not compute in int8"
        self.remembered.clear()
        self.pretend(monkeypatch, {"torch": (0.0, 3.0), "onnx": (0.016, 2.0)})
        with pytest.raises(ModelError, match=r"onnx differs from torch by 1\.6e-02"):
            choose_engine((stated,), "cpu", precision="int8")

    def test_what_is_not_installed_is_named_with_its_extra(self, monkeypatch, model):
        monkeypatch.setattr(runtimes, "is_installed", lambda _name: False)
        monkeypatch.setattr(choice, "is_installed", lambda _name: False)
        with pytest.raises(DependencyError, match=r"is not installed.*'tilingseg\[openvino\]'"):
            choose_engine((model,), "cpu", "openvino")
        with pytest.raises(DependencyError, match=r"int8.*'tilingseg\[openvino\]'"):
            choose_engine((model,), "cpu", precision="int8")
        assert choose_engine((model,), "cpu").engine == "torch"

    @pytest.mark.parametrize(
        ("engine", "precision", "words"),
        [
            ("torch", "int8", "int8"),
            pytest.param("onnx", "bf16", "onnx cannot compute in bf16", marks=needs("onnx")),
        ],
    )
    def test_an_engine_without_the_precision_is_refused(
        self, monkeypatch, model, engine, precision, words
    ):
        for module in (runtimes, choice):
            monkeypatch.setattr(module, "is_installed", lambda _name: True)
        with pytest.raises((PlanError, DependencyError), match=words):
            choose_engine((model,), "cpu", engine, precision)

    @needs("onnx")
    def test_a_runtime_that_cannot_be_imported_is_named_with_the_remedy(self, monkeypatch, model):
        def broken(name):
            raise ImportError(f"lib{name}.so: cannot open shared object file")

        monkeypatch.setattr(importlib, "import_module", broken)
        with pytest.raises(
            DependencyError, match=r"onnx cannot be imported: libonnx.*'tilingseg\[onnx\]'"
        ):
            choose_engine((model,), "cpu", "onnx")

    @needs("onnx")
    def test_int8_needs_ranges(self, model):
        with pytest.raises(ModelError, match="tilingseg compress"):
            choose_engine((model,), "cpu", "onnx", "int8")

    @needs("onnx")
    def test_a_network_that_only_torch_knows_stays_with_it(self, monkeypatch, model):
        monkeypatch.setattr(choice, "is_installed", lambda name: name == "onnx")
        model.module.head = torch.nn.Sequential(model.module.head, torch.nn.Tanh())
        chosen = choose_engine((model,), "cpu")
        assert chosen.engine == "torch"
        assert "'tanh'" in chosen.reason

    def test_compiling_gives_the_same(self, monkeypatch, model):
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
        chosen = choose_engine((model,), "cpu", "torch-compile")
        found, _ = choice.probabilities_of(model, chosen)
        exact, _ = choice.probabilities_of(model, choose_engine((model,), "cpu", "torch"))
        assert torch.equal(found, exact)

    def test_every_part_of_a_tile_is_compiled_in_whatever_order_they_come(self):
        # PyTorch's compiler hooks into the interpreter: it gets one of its own.
        command = [sys.executable, "-c", COMPILE_PARTS]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        n_compiled, n_parts = map(int, done.stdout.split())
        assert n_compiled == n_parts > 8  # what PyTorch compiles unless told otherwise


COMPILE_PARTS = """
import numpy as np
import torch
from tests.test_infer_engines import BYTES, RELU
from tilingseg.infer.engine import TorchEngine

compile_, n_compiled = torch.compile, [0]

def backend(graph, _inputs):
    n_compiled[0] += 1
    return graph.forward

torch.compile = lambda function, **how: compile_(function, backend=backend, **how)
engine = TorchEngine(torch.nn.ReLU(), RELU, BYTES, "cpu", "fp32", compiled=True)
cuts = slice(0, 24), slice(8, 24), slice(8, 32)
parts = [(rows, cols) for rows in cuts for cols in cuts]
parts += [(slice(4, 32), cols) for cols in cuts]
batch = np.zeros((1, 3, 32, 32), np.uint8), np.ones((1, 32, 32), dtype=bool)
for part in parts * 2:
    engine.probabilities(*batch, part)
print(n_compiled[0], len(parts))
"""


@needs("onnx")
def test_a_runtime_of_another_distribution_has_a_version(monkeypatch):
    def missing(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return f"version of {name}"

    monkeypatch.setattr(importlib.metadata, "version", missing)
    brought = {"onnxruntime": ["onnxruntime-gpu"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: brought)
    assert runtimes.runtime_version("onnx") == "version of onnxruntime-gpu"


@needs("openvino")
def test_openvino_is_not_let_report_to_its_makers():
    code = (
        "import sys\nfrom tilingseg.infer.runtimes import _import\n_import('openvino')\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


_INTERRUPTED = """
import signal
import sys
import threading
from pathlib import Path

from tilingseg.infer.runtimes import RUNTIMES

signal.signal(signal.SIGINT, signal.default_int_handler)
data = Path(sys.argv[1]).read_bytes()
graphs = [RUNTIMES["openvino"].prepare(data, "fp32", 1) for _ in range(3)]
if sys.argv[2] == "in their order":
    while graphs:
        del graphs[0]
else:
    leaving = threading.Thread(target=graphs.clear)
    leaving.start()
    leaving.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(130)
"""


@needs("openvino")
@pytest.mark.parametrize("gone", ["in their order", "in another thread"])
def test_ctrl_c_is_heard_once_graphs_of_openvino_are_gone(model, tmp_path, gone):
    options = GraphOptions(runtime=RUNTIMES["openvino"], precision="fp32", threads=1)
    shape = 1, 3, 32, 32
    graph = make_graph(model.module, SPEC, shape, WHOLE, options)
    (tmp_path / "tiny.onnx").write_bytes(onnx_bytes(graph, shape))
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "tiny.onnx"), gone]
    assert subprocess.run(command).returncode == 130


@needs("openvino")
def test_engines_are_made_from_choices(model):
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
    for name, kind in (("torch", TorchEngine), ("openvino", GraphEngine)):
        chosen = choose_engine((model,), "cpu", name)
        assert isinstance(make_engine(model, scaling, "cpu", chosen), kind)


_SHORT_OF_MEMORY = """
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tilingseg.infer import HalvingEngine, choose_engine, make_engine
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import LoadedModel, build_network, load_model
from tilingseg.records import Scaling

torch.set_num_threads(1)
spec = replace(load_model().spec, network="unet", network_options=(("features", (16, 32)),))
module = build_network(spec).eval()
model = LoadedModel(spec=spec, module=module, geometry=network_geometry(module, 3), sha256="0")
scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
chosen = choose_engine((model,), "cpu", sys.argv[1], "fp32")
pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 1024, 1024), dtype=np.uint8)
valid, whole = np.ones((1, 1024, 1024), dtype=bool), (slice(0, 1024), slice(0, 1024))
small = slice(0, 64)
engine = HalvingEngine(make_engine(model, scaling, "cpu", chosen), model.geometry)
engine.probabilities(pixels[..., small, small], valid[:, small, small], (small, small))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200_000_000, limits[1]))
found = engine.probabilities(pixels, valid, whole)
resource.setrlimit(resource.RLIMIT_AS, limits)
expected = make_engine(model, scaling, "cpu", chosen).probabilities(pixels, valid, whole)
assert engine._most_px is not None, "there was enough memory"
assert torch.allclose(found, expected, rtol=0, atol=1e-6)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="needs limits of memory")
@pytest.mark.parametrize("engine", ["torch", pytest.param("onnx", marks=needs("onnx"))])
def test_a_tile_too_large_for_the_memory_is_inferred_in_pieces(engine):
    # Freed blocks leave the process at once. Kept ones would count as used, as the limit is one of
    # addresses, and what is free between them serves neither the next map nor code made for it.
    freed = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", _SHORT_OF_MEMORY, engine]
    subprocess.run(command, check=True, env=os.environ | freed)
