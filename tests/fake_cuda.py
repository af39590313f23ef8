"""A GPU that is none: PyTorch's calls for `cuda` devices end on the processor and are written down.

What a real one does beside its computations is imitated where a mistake would show: copies from
pinned memory happen when their event is waited for, not when they are asked for.
"""

import contextlib
import time
from dataclasses import dataclass, field

import torch
from torch.overrides import TorchFunctionMode


class _OnProcessor(TorchFunctionMode):
    """Turns what is asked of a `cuda` device into the same on the processor."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        kwargs = {name: _here(value) for name, value in (kwargs or {}).items()}
        self.gpu.n_pinned += kwargs.pop("pin_memory", False)
        if func is torch.Tensor.to and kwargs.get("non_blocking") and self.gpu.copies_late:
            target = torch.empty_like(args[0]).fill_(77)
            self.gpu.pending.append((args[0], target))
            return target
        return func(*map(_here, args), **kwargs)


def _here(value):
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    if is_cuda or (isinstance(value, str) and value.partition(":")[0] == "cuda"):
        return torch.device("cpu")
    return value


@dataclass
class Event:
    """The end of what was asked for before; a processor is done at once."""

    gpu: "FakeCuda" = None
    n_copies: int = 0
    recorded_s: float = 0.0

    def synchronize(self):
        if self.gpu is not None:
            self.gpu.finish(self.n_copies)

    def elapsed_time(self, later):
        return (later.recorded_s - self.recorded_s) * 1000


@dataclass
class FakeCuda:
    """What was asked of the GPUs."""

    copies_late: bool = False
    """Copies from pinned memory happen when an event after them is waited for."""
    pending: list = field(default_factory=list)
    """(from, to) of all such copies."""
    n_copied: int = 0
    """Of them, those that have happened."""
    n_pinned: int = 0
    """Pieces of pinned memory that were made."""
    n_kept: int = 0
    """Tensors of one stream whose memory another one was said to use."""
    n_waits: int = 0
    """Times that one stream was made to wait for another."""
    autocasts: list = field(default_factory=list)
    """(device, data type) of each autocast."""

    def current_stream(self, _device=None):
        return self

    def record_event(self, event=None):
        event = event or Event()
        event.gpu, event.n_copies = self, len(self.pending)
        event.recorded_s = time.perf_counter()
        return event

    def wait_event(self, _event):
        self.n_waits += 1

    def keep(self, _stream):
        self.n_kept += 1

    def finish(self, n_copies=None):
        for source, target in self.pending[self.n_copied : n_copies]:
            with torch.inference_mode():
                target.copy_(source)
            self.n_copied += 1

    def autocast(self, device, dtype):
        self.autocasts.append((device, dtype))
        return contextlib.nullcontext()


def put_in(monkeypatch, total_bytes=(24_000_000_000,)):
    """Make this process believe that it has GPUs.

    Args:
        monkeypatch: of pytest.
        total_bytes: memory of each; a tenth of it is free.
    """
    gpu = FakeCuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(total_bytes))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", gpu.current_stream)
    monkeypatch.setattr(torch.cuda, "Stream", gpu.current_stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event())
    monkeypatch.setattr(torch.Tensor, "record_stream", gpu.keep)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "autocast", gpu.autocast)
    memory = {f"cuda:{index}": (total // 10, total) for index, total in enumerate(total_bytes)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory.__getitem__)
    return gpu


def on_processor(gpu):
    """Return a context in which calls for `cuda` end on the processor, in this thread."""
    return _OnProcessor(gpu)
