"""Optimisers whose update can be skipped by a flag on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.optim.sgd import sgd as functional_sgd

if TYPE_CHECKING:
    from pretrain.settings.values import OptimisationSettings

TRUST = 0.001  # of LARS


class Skippable(Protocol):
    """What the loop needs of an optimiser."""

    param_groups: list[dict[str, Any]]

    def update(self, refused: torch.Tensor) -> None:
        """One step, unless ``refused`` (0-dim bool on the parameters' device)."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""


class SkippableSGD(torch.optim.SGD):
    """SGD in one fused kernel, which leaves weights and momentum unchanged where a flag on the device is set.

    The host need not know the flag, so it never waits for the check of a step.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
        self._lay_out_momentum()

    @torch.no_grad()
    def update(self, refused: torch.Tensor) -> None:
        """One step, unless ``refused`` (0-dim bool on the parameters' device)."""
        found_inf = refused.float()  # torch's name for the flag: gradient scaling uses it
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            # The kernel walks through the memory of all three, so their orders have to agree. On a CPU it copies every
            # gradient that is not contiguous, which these views are.
            functional_sgd(
                [_in_memory_order(p, p) for p in trained],
                [_in_memory_order(p.grad, p).contiguous() for p in trained if p.grad is not None],
                [_in_memory_order(self.state[p]["momentum_buffer"], p) if group["momentum"] else None for p in trained],
                has_sparse_grad=False,
                fused=True,
                found_inf=found_inf,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load momentum and settings; the fused kernel stays, whichever one the file was written with."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.update(foreach=None, fused=True)
        self._lay_out_momentum()

    @torch.no_grad()
    def _lay_out_momentum(self) -> None:
        # The kernel needs momentum in the memory format of its weights (channels_last), which an official file's is
        # not. And where the first step is refused it would leave the buffer it has just allocated uninitialised, so the
        # buffers exist before that, filled with zeros: 0 * momentum + g is the g that SGD starts from.
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else []:
                buffer = torch.zeros_like(parameter)
                if (before := self.state[parameter].get("momentum_buffer")) is not None:
                    buffer.copy_(before)
                self.state[parameter]["momentum_buffer"] = buffer


def _in_memory_order(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """``tensor`` with the dimensions in which ``parameter`` lies in memory: contiguous for one in channels_last."""
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1)
    return tensor


class SkippableAdamW(torch.optim.AdamW):
    """AdamW in one fused kernel, with the flag of ``SkippableSGD``."""

    found_inf: torch.Tensor | None = None  # torch's name for the flag (gradient scaling uses it)

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, *, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            for parameter in group["params"]:  # the kernel would not create them in a first step that is refused
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def update(self, refused: torch.Tensor) -> None:
        """One step, unless ``refused`` (0-dim bool on the parameters' device)."""
        self.found_inf = refused.float()
        self.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and settings; the fused kernel stays."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.update(foreach=None, fused=True)


class SkippableLARS(torch.optim.Optimizer):
    """LARS (1708.03888) as in MoCo v3: norms and biases get neither a rate of their own nor weight decay."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["mu"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def update(self, refused: torch.Tensor) -> None:
        """One step, unless ``refused`` (0-dim bool on the parameters' device)."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                step = p.grad
                if p.ndim > 1:
                    step = step.add(p, alpha=group["weight_decay"])
                    size, length = torch.linalg.vector_norm(p), torch.linalg.vector_norm(step)
                    usable = (size > 0) & (length > 0)
                    step = step * torch.where(usable, TRUST * size / length.clamp_min(1e-38), torch.ones_like(size))
                mu = self.state[p]["mu"]
                moved = mu * group["momentum"] + step
                # torch.where, since the host does not know the flag; a refused gradient may hold NaN
                mu.copy_(torch.where(refused, mu, moved))
                p.copy_(torch.where(refused, p, p - group["lr"] * moved))


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], optimisation: OptimisationSettings
) -> SkippableSGD | SkippableAdamW | SkippableLARS:
    """The optimiser that --optimizer names."""
    lr, decay = optimisation.lr, optimisation.weight_decay
    if optimisation.optimizer == "adamw":
        return SkippableAdamW(parameters, lr, weight_decay=decay)
    kind = SkippableLARS if optimisation.optimizer == "lars" else SkippableSGD
    return kind(parameters, lr, momentum=optimisation.momentum, weight_decay=decay)
