"""Other runtimes than PyTorch: ONNX Runtime and OpenVINO, each an extra of the package.

Both take the bytes of an ONNX file and give a function. They run on the CPU here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from tilingseg.errors import DependencyError
from tilingseg.model.graph import PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class Compiled(Protocol):
    """A graph that is ready to run."""

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Infer one tile.

        Args:
            pixels: float32 (1, bands, height, width), normalised.

        Returns:
            Logits, float32 (1, outputs, …); may be overwritten by the next call.
        """

    def release(self) -> None:
        """Give back the memory of a pass; the next one takes it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Runs graphs on the CPU."""

    package: str
    """What is imported."""
    precisions: tuple[str, ...]
    """What it computes in."""
    restate: bool
    """See `quantize_graph`."""
    keeps_memory: bool
    """It keeps the memory of a pass for the next one by itself."""
    prepare: Callable[[bytes, str, int], Compiled]
    """(content of an ONNX file, precision, processor threads) → the compiled graph."""


class _OnnxGraph:
    """A session of ONNX Runtime; it keeps nothing between passes."""

    def __init__(self, data: bytes, _precision: str, threads: int) -> None:
        onnxruntime = _import("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors come as exceptions, too
        # Threads that wait in a loop take the processor from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Each part of a tile has a session; an arena would keep the memory of a whole pass.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {PIXELS: pixels})[0]
        return logits

    def release(self) -> None:
        pass


class _OpenvinoGraph:
    """A compiled model of OpenVINO, which keeps the memory of a pass until it is told not to."""

    def __init__(self, data: bytes, precision: str, threads: int) -> None:
        core = _openvino_core()
        self._model = core.compile_model(
            core.read_model(data),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                "NUM_STREAMS": 1,
                # Several processes of one machine would all choose the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._request = self._model.create_infer_request()

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        found = self._request.infer([pixels], share_inputs=True, share_outputs=True)
        logits: NDArray[np.float32] = found[0]
        return logits

    def release(self) -> None:
        self._model.release_memory()


def _openvino_core() -> Any:
    """Return a core with its plugin for the CPU, which this thread can outlive.

    The plugin puts memory of its own under the signal handlers of the thread that loads it, and
    unmaps that when it goes. If it goes in another thread, or before one that was loaded later,
    the handlers are left without a stack: Ctrl-C would be a segmentation fault. A thread that does
    nothing else has no handlers to lose.
    """
    core = _import("openvino").Core()
    with ThreadPoolExecutor(max_workers=1) as loading:
        loading.submit(core.get_versions, "CPU").result()
    return core


def save_openvino(data: bytes, target: Path) -> None:
    """Write a graph as OpenVINO's own pair of files.

    Args:
        data: content of an ONNX file.
        target: path of the `.xml`; the `.bin` with the weights stands beside it.
    """
    openvino = _import("openvino")
    openvino.save_model(openvino.Core().read_model(data), target, compress_to_fp16=False)


def _import(package: str) -> Any:
    """Import without the package by which OpenVINO reports to its makers that it was."""
    unwanted = "openvino_telemetry"
    if unwanted in sys.modules:
        return importlib.import_module(package)
    sys.modules[unwanted] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(package)
    finally:
        sys.modules.pop(unwanted, None)  # another thread may have been here


RUNTIMES: MappingProxyType[str, Runtime] = MappingProxyType(
    {
        "onnx": Runtime(
            package="onnxruntime",
            precisions=("fp32", "int8"),
            restate=True,
            keeps_memory=False,
            prepare=_OnnxGraph,
        ),
        "openvino": Runtime(
            package="openvino",
            precisions=("fp32", "bf16", "int8"),
            restate=False,
            keeps_memory=True,
            prepare=_OpenvinoGraph,
        ),
    }
)
"""By the names of their extras."""


def is_installed(name: str) -> bool:
    """Return whether a runtime and the package that writes its graphs are installed."""
    return all(importlib.util.find_spec(part) for part in (RUNTIMES[name].package, "onnx"))


def keeps_memory(engine: str) -> bool:
    """Return whether an engine keeps the memory of a pass for the next one by itself."""
    return engine in RUNTIMES and RUNTIMES[engine].keeps_memory


def runtime_version(name: str) -> str:
    """Return the version of a runtime: another one may round differently."""
    package = RUNTIMES[name].package
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # onnxruntime-gpu brings onnxruntime
        names = importlib.metadata.packages_distributions().get(package, ())
        return importlib.metadata.version(names[0]) if names else "unknown"


def require_runtime(name: str) -> Runtime:
    """Return a runtime that can be used.

    Raises:
        DependencyError: it is not installed, or cannot be imported; names the extra.
    """
    runtime = RUNTIMES[name]
    if not is_installed(name):
        raise DependencyError(
            f"engine {name} is not installed: pip install 'tilingseg[{name}]', "
            "or use --engine torch"
        )
    try:
        _import(runtime.package)
        _import("onnx")
    except Exception as error:  # a library of the system is missing, or NumPy is another
        raise DependencyError(
            f"engine {name} cannot be imported: {error}; install it anew: "
            f"pip install --force-reinstall 'tilingseg[{name}]', or use --engine torch"
        ) from error
    return runtime
