"""Which devices share a run, and in which precision they compute."""

from __future__ import annotations

import torch

from tilingseg.errors import PlanError


def choose_devices(wish: str) -> tuple[str, ...]:
    """Turn a wish into devices; a scene's regions are shared between them.

    Args:
        wish: `auto` (every CUDA device, else Apple's GPU, else the CPU), or device names of torch
            separated by commas, such as `cuda:1` or `cpu,cpu`.

    Raises:
        PlanError: a device does not exist here.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        return ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    devices = []
    for name in wish.split(","):
        try:
            device = torch.device(name.strip())
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise PlanError(
                f"device {name.strip()!r} cannot be used: {reason}; try --device cpu"
            ) from error
        devices.append(str(device))
    if len({torch.device(name).type for name in devices}) > 1:
        raise PlanError(f"devices of one kind only, got {wish}: others round differently")
    return tuple(devices)


def choose_precision(wish: str, device: str) -> str:
    """Turn `auto` into the precision that the device gains by; pass other wishes on.

    Args:
        wish: `auto`, `fp32`, `fp16` or `bf16`.
        device: name of torch.

    Raises:
        PlanError: the device cannot work in this precision.
    """
    kind = torch.device(device).type
    if wish == "auto":
        if kind != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if wish == "fp16" and kind == "cpu":
        raise PlanError("fp16 is no precision for a CPU; use --precision fp32 or bf16")
    return wish
