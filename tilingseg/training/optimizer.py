"""The rule that turns gradients into steps: Muon for kernels, AdamW for everything else.

Muon (Jordan et al. 2024) makes the singular values of a kernel's update equal, so that directions
with small gradients are learnt as fast as those with large ones: the same loss in a third of
AdamW's steps on what the bundled model learns from. `torch.optim.Muon` takes matrices alone; here
each kernel is handed to it as the matrix of its filters, a view of the same memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tilingseg.training.recipe import Schedule

__all__ = ["MuonWithAdamW", "make_optimizer"]


def make_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Return the optimizer that a schedule asks for.

    Args:
        module: with its kernels channels_last, as `convert_conv2d_weight_memory_format` leaves
            them.
        schedule: names the rule, its rate and the decay.
    """
    # Decay on biases and on normalisation would pull them towards 0 for no reason.
    kernels = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    rule = MuonWithAdamW if schedule.optimizer == "muon" else torch.optim.AdamW
    return rule(groups, lr=schedule.learning_rate)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for parameters of four dimensions, AdamW for the others, at one learning rate."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        """Make the two rules.

        Args:
            groups: `params` and their `weight_decay`, as optimizers of PyTorch take them.
            lr: learning rate. Muon's steps are scaled to the size of AdamW's.
        """
        super().__init__(groups, {"lr": lr})
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        for_muon, for_adamw = list[dict[str, Any]](), list[dict[str, Any]]()
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.ndim == 4]
            views = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in kernels]
            self._matrices += zip(kernels, views, strict=True)
            rest = [parameter for parameter in group["params"] if parameter.ndim != 4]
            for_muon.append({"params": views, "weight_decay": group["weight_decay"]})
            for_adamw.append({"params": rest, "weight_decay": group["weight_decay"]})
        self._muon = torch.optim.Muon(for_muon, lr=lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(for_adamw, lr=lr)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter by its rule."""
        loss = None if closure is None else closure()
        for rule in (self._muon, self._adamw):
            for own, group in zip(self.param_groups, rule.param_groups, strict=True):
                group["lr"] = own["lr"]
        for kernel, view in self._matrices:
            view.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        self._muon.step()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both rules."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the states of both rules.

        Raises:
            KeyError: the state is another optimizer's.
        """
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])


def _as_matrix(kernel: Tensor) -> Tensor:
    """Return (n_out, n_in, rows, cols), channels_last in memory, as (n_out, rows * cols * n_in)."""
    n_out = kernel.shape[0]
    return kernel.permute(0, 2, 3, 1).view(n_out, -1)
