"""Pixels on their way to a device, through a ring of pinned buffers.

A GPU copies by itself, beside its computations, from memory that cannot be paged out; a stream of
their own lets copies overtake the forward pass before them. Getting such memory is slow, so a few
buffers are kept and used in turn; one is used again when the copy from it has ended. Processors
read the pixels where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

N_BUFFERS = 4
"""Two for a batch, pixels and validity, while the batch before it is still on its way."""


class Upload:
    """Moves arrays to one device."""

    def __init__(self, device: torch.device, *, pinned: bool | None = None) -> None:
        """Prepare for a device; buffers are made when they are first needed.

        Args:
            device: where the pixels go.
            pinned: use pinned buffers; None: where the device is a GPU of NVIDIA.
        """
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._pinned = self._on_cuda if pinned is None else pinned
        self._buffers: list[torch.Tensor | None] = [None] * N_BUFFERS
        self._copied: list[Any] = [None] * N_BUFFERS
        self._next = 0
        self._stream: torch.cuda.Stream | None = None
        if self._on_cuda:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

    def __call__(self, array: NDArray[np.generic]) -> torch.Tensor:
        """Return an array as a tensor on the device; the array may change afterwards."""
        source = torch.from_numpy(array)
        if not self._pinned:
            return source.to(self._device)
        slot, self._next = self._next, (self._next + 1) % N_BUFFERS
        if self._copied[slot] is not None:
            self._copied[slot].synchronize()
        buffer = self._buffer(slot, source.nbytes)[: source.nbytes].view(source.dtype)
        buffer = buffer.view(source.shape)
        buffer.copy_(source)
        with torch.cuda.stream(self._stream):  # nothing where there is none
            moved = buffer.to(self._device, non_blocking=True, copy=True)
        if self._stream is not None:
            self._copied[slot] = self._stream.record_event()
            using = torch.cuda.current_stream(self._device)
            using.wait_event(self._copied[slot])
            moved.record_stream(using)  # its memory is not given away before that has used it
        return moved

    def _buffer(self, slot: int, n_bytes: int) -> torch.Tensor:
        buffer = self._buffers[slot]
        if buffer is None or len(buffer) < n_bytes:
            # Only a process with a GPU can pin memory.
            buffer = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=self._on_cuda)
            self._buffers[slot] = buffer
        return buffer
