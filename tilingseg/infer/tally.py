"""What a region has done so far, and where its seconds went.

    read     reader threads, all of them together: runs beside everything else
    idle     the worker waited for a tile or for the disk
    upload   pixels on their way to a device with memory of its own
    forward  normalisation, network, activation
    stitch   blending, classes, quantisation, and on a GPU waiting for it
    write    one thread that writes beside the worker

Upload happens deep inside an engine, which knows nothing of regions: it tells whoever listens in
its thread.
"""

from __future__ import annotations

import contextlib
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BESIDE = ("read", "write", "device")
"""Stages of other threads than the worker's, and of a GPU."""


@dataclass(slots=True)
class Tally:
    """What one region has done so far."""

    n_tiles: int = 0
    n_tiles_nodata: int = 0
    n_tiles_outside: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    """Where forward passes on a GPU begin and end."""

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextlib.contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def settle(self) -> None:
        """Add what forward passes took on a GPU; all of them have ended."""
        for begun, ended in self.passes:
            ended.synchronize()
            self.add("device", begun.elapsed_time(ended) / 1000)
        self.passes.clear()

    @property
    def worker_s(self) -> float:
        """Seconds of the worker's own stages so far."""
        return sum(spent for stage, spent in self.seconds.items() if stage not in BESIDE)


_listening: ContextVar[Tally | None] = ContextVar("listening", default=None)


@contextlib.contextmanager
def uploads_to(tally: Tally) -> Iterator[None]:
    """Let `upload_clock` tell this tally while inside, in this thread."""
    token = _listening.set(tally)
    try:
        yield
    finally:
        _listening.reset(token)


@contextlib.contextmanager
def device_clock(device: torch.device) -> Iterator[None]:
    """Take down when a GPU begins and ends what it is asked for inside; nothing for others."""
    tally = _listening.get()
    if tally is None or device.type != "cuda":
        yield
        return
    begun, ended = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
        for _ in range(2)
    )
    stream = torch.cuda.current_stream(device)
    stream.record_event(begun)
    yield
    stream.record_event(ended)
    tally.passes.append((begun, ended))


@contextlib.contextmanager
def upload_clock() -> Iterator[None]:
    """Take the time spent inside for uploading, and not for the forward pass around it."""
    tally, start = _listening.get(), time.perf_counter()
    try:
        yield
    finally:
        if tally is not None:
            spent = time.perf_counter() - start
            tally.add("upload", spent)
            tally.add("forward", -spent)
