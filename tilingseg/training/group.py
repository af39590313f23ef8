"""Several processes that train one network, as `torchrun` starts them; alone, nothing of it.

Every process draws windows of its own and gradients are added up, so that a step has as many
windows as all processes together, and a labelled pixel weighs the same in each of them. Only the
first one validates, writes and prints; the others wait for it at the next step.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch import nn

_PATIENCE = timedelta(hours=6)
"""The others wait for the first one while it validates; by default they give up in 10 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes of a job."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """How many there are."""
    device: torch.device
    """Where this one computes."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def joined(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are those of all processes."""
        return module if self.size == 1 else DistributedDataParallel(module)

    def agreed(self, stop: bool) -> bool:
        """Return what the first process says."""
        if self.size == 1:
            return stop
        said = torch.tensor([float(stop)], device=self.device)
        distributed.broadcast(said, src=0)
        return bool(said.item())

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes; the tensor itself may hold it."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Return the mean over all processes."""
        return self.summed(torch.tensor(value, device=self.device)).item() / self.size

    def leave(self) -> None:
        """End the connection; the group cannot be used afterwards."""
        if self.size > 1:
            distributed.destroy_process_group()


def speaks() -> bool:
    """Return whether this process is the one that shows progress and results."""
    return not distributed.is_torchelastic_launched() or os.environ["RANK"] == "0"


def join_group() -> Group:
    """Return the group that `torchrun` started this process in, or one of this process alone."""
    gpu = torch.cuda.is_available()
    if not distributed.is_torchelastic_launched():
        return Group(rank=0, size=1, device=torch.device("cuda" if gpu else "cpu"))
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=_PATIENCE)
    device = torch.device("cpu")
    if gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return Group(rank=distributed.get_rank(), size=distributed.get_world_size(), device=device)
