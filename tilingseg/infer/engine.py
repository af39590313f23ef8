"""The network on one device: stored pixels in, probabilities out.

Pixels travel to the device in their stored data type, which is a quarter of float32; scaling,
normalisation, forward pass and activation happen there. Only the part of a tile that will be used
is computed to the end: see `model.core`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from tilingseg.infer.activation import activate, check_shape
from tilingseg.infer.steady import STEADY_KERNELS, steady
from tilingseg.infer.tally import device_clock, upload_clock
from tilingseg.infer.upload import Upload
from tilingseg.model.core import core_logits
from tilingseg.model.normalize import normalize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scaling

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MAX_COMPILED = 4096
"""Forms of the network that may be compiled in one process: nine parts, each for every batch size
and shape of tile that scenes come in."""

Forward = Callable[[torch.nn.Module, torch.Tensor, "Part"], torch.Tensor]
Part = tuple[slice, slice]
"""(rows, columns) of a tile, counted from its first pixel."""


class Engine(Protocol):
    """Runs the network on one device. Every implementation passes `EngineContract` in the tests."""

    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch.

        Args:
            pixels: (n, bands, height, width) in the scene's stored dtype.
            valid: bool (n, height, width), True = data.
            part: what is wanted of every tile.

        Returns:
            float32 (n, classes, part height, part width) in 0…1, on the engine's device.

        Raises:
            Exception: whatever the network and its runtime raise; see `HalvingEngine` for what
                says that the batch does not fit the device.
        """


class TorchEngine:
    """The network in PyTorch, on one device, in one precision."""

    def __init__(
        self,
        module: torch.nn.Module,
        spec: ModelSpec,
        scaling: Scaling,
        device: str,
        precision: str,
        *,
        compiled: bool = False,
    ) -> None:
        """Copy the network to its device.

        Args:
            module: maps float32 (n, bands, height, width) to logits (n, outputs, height, width);
                it is not changed.
            spec: normalisation and activation.
            scaling: stored values that become 0 and 1.
            device: `cpu`, `cuda:0`, `mps`.
            precision: `fp32`, `fp16` or `bf16`.
            compiled: let PyTorch compile the network for each shape and part.
        """
        self._device = torch.device(device)
        self._spec = spec
        self._scaling = scaling
        self._dtype = PRECISIONS[precision]
        # moving a module changes it in place, and the engines of other devices share this one
        module = deepcopy(module).eval().to(self._device)
        if self._device.type == "cpu":
            steady(module)
        # channels_last is the layout that convolutions are fast in, on CPUs as on tensor cores;
        # with such weights they bring their input into it themselves
        self._module = convert_conv2d_weight_memory_format(module, torch.channels_last)
        self._upload = Upload(self._device)
        self._forward: Forward = core_logits
        if compiled:
            self._forward = _compiled()

    @torch.inference_mode()
    def probabilities(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part
    ) -> torch.Tensor:
        """Infer one batch; see `Engine.probabilities`.

        A processor gets its tiles one by one: it gains nothing by a batch, and its kernels round
        differently in another one.

        Raises:
            ModelError: the network gives something else than its spec promises.
        """
        size = 1 if self._device.type == "cpu" else len(pixels)
        found = [
            self._infer(pixels[start : start + size], valid[start : start + size], part)
            for start in range(0, len(pixels), size)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _infer(self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part) -> torch.Tensor:
        with upload_clock():
            on_device, known = self._upload(pixels), self._upload(valid)
        with device_clock(self._device):
            return self._probabilities(on_device, known, part)

    def _probabilities(self, pixels: torch.Tensor, valid: torch.Tensor, part: Part) -> torch.Tensor:
        """Infer what is on the device; nothing here waits for it."""
        with self._settings():
            # the normalised pixels get no name: they are gone as soon as the network has taken them
            logits = self._forward(
                self._module, normalize(pixels, valid, self._scaling, self._spec), part
            )
        height, width = (
            len(range(*cut.indices(n))) for cut, n in zip(part, pixels.shape[2:], strict=True)
        )
        check_shape(tuple(logits.shape), (len(pixels), self._spec.n_outputs, height, width))
        return activate(logits, self._spec.activation)

    def _settings(self) -> contextlib.ExitStack:
        """Return what the forward pass is to happen in."""
        settings = contextlib.ExitStack()
        if self._device.type == "cuda":
            settings.enter_context(STEADY_KERNELS)
        if self._dtype != torch.float32:
            settings.enter_context(torch.autocast(self._device.type, dtype=self._dtype))
        return settings


def _compiled() -> Forward:
    """Return a forward pass that PyTorch compiles for each shape and part.

    Beyond a number of these it would run what comes then uncompiled, with other bits: which parts,
    would depend on the order in which regions come.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MAX_COMPILED)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, MAX_COMPILED)
    forward: Forward = torch.compile(core_logits, dynamic=False)
    return forward
