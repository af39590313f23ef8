"""Which devices share a run, what they have, how they compute, and who reads for them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from tilingseg.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator


N_READERS = 2
"""Threads that read for a processor."""
MAX_READERS = 8
"""The same for a GPU, at most: each decodes some 60 Mpx/s of a compressed scene."""
_BF16_SINCE = 8
"""First major number of a GPU's compute capability with bfloat16 of its own: Ampere."""


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
        # Older ones emulate bfloat16, which PyTorch calls supported, far slower than float16.
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= _BF16_SINCE else "fp16"
    if wish == "fp16" and kind == "cpu":
        raise PlanError("fp16 is no precision for a CPU; use --precision fp32 or bf16")
    return wish


def device_bytes(devices: tuple[str, ...]) -> int | None:
    """Return the memory of the smallest of several GPUs, bytes; None: it is not known.

    All of it and not what is free at the moment: a run that goes on later, or on another worker,
    must come to the same tiles. Where other programs hold too much, `HalvingEngine` helps.
    """
    if torch.device(devices[0]).type != "cuda":
        return None
    return min(torch.cuda.mem_get_info(name)[1] for name in devices)


def choose_readers(wish: int | None, devices: tuple[str, ...]) -> int:
    """Return the reader threads of each device.

    Args:
        wish: what the user asks for; None: what a device needs. A processor that infers has no
            more of itself to give than its share.
        devices: names of torch, all of one kind.
    """
    share = max(1, (os.cpu_count() or 1) // len(devices))
    if torch.device(devices[0]).type == "cpu":
        return min(N_READERS if wish is None else wish, share)
    # One processor is left for the thread that keeps the GPU at work.
    return min(MAX_READERS, max(N_READERS, share - 1)) if wish is None else wish


def n_threads() -> int:
    """Return the processor threads that an engine made in this thread takes."""
    return torch.get_num_threads()


@contextmanager
def threads_divided(devices: tuple[str, ...]) -> Iterator[None]:
    """Give each of several workers on one processor its share of the threads.

    Args:
        devices: one for each worker, whose threads begin inside.
    """
    before = n_threads()
    n_workers = sum(torch.device(name).type == "cpu" for name in devices)
    torch.set_num_threads(max(1, before // max(1, n_workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
