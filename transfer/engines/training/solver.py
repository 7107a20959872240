"""Optimiser, learning-rate schedule and gradient clipping with Detectron2's semantics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from runtime.errors import UserError
from transfer.engines.training.layer_decay import LayerFactor, layer_factor

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


OPTIMIZERS = ("SGD", "AdamW")


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay_norm: float | None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
    layer_factor: LayerFactor | None = None,
    no_decay: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by their learning rate and weight decay in order of first use.

    Norm layers decay by ``weight_decay_norm``; biases follow the weights unless ``weight_decay_bias`` is set.
    ``layer_factor`` gives a factor on the learning rate by the parameter's full name. Parameters whose last name is in
    ``no_decay`` do not decay.
    """
    groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = {"lr": base_lr}
            if isinstance(module, NORM_LAYERS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if layer_factor is not None:
                options["lr"] *= layer_factor(f"{path}.{name}")
            if name == "bias":
                if bias_lr_factor != 1.0:
                    options["lr"] = base_lr * bias_lr_factor
                if weight_decay_bias is not None:
                    options["weight_decay"] = weight_decay_bias
            if name in no_decay:
                options["weight_decay"] = 0.0
            groups.setdefault(tuple(options.items()), []).append(parameter)
    return [{**dict(options), "params": parameters} for options, parameters in groups.items()]


def build_optimizer(
    model: nn.Module,
    *,
    base_lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    weight_decay_norm: float | None,
    optimizer: str = "SGD",
    betas: Sequence[float] = (0.9, 0.999),
    **grouping: Any,
) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters; ``grouping`` as for ``parameter_groups``."""
    groups = parameter_groups(model, base_lr=base_lr, weight_decay_norm=weight_decay_norm, **grouping)
    if optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=base_lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
    return torch.optim.SGD(
        groups, lr=base_lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, foreach=True
    )


def _multi_step(steps: Sequence[int], gamma: float, max_iter: int) -> ParamScheduler:
    milestones = [step for step in steps if step <= max_iter]
    values = [gamma**k for k in range(len(milestones) + 1)]
    try:
        return MultiStepParamScheduler(values=values, milestones=milestones, num_updates=max_iter)
    except ValueError as error:
        raise UserError(
            f"SOLVER.STEPS {tuple(steps)} must rise from 1 and end before SOLVER.MAX_ITER {max_iter} (fvcore: {error})"
        ) from error


class Schedule:
    """Learning rates as a function of the iteration: a warm-up, then the named decay.

    ``scheduler`` is a SOLVER.LR_SCHEDULER_NAME. The warm-up runs from ``warmup_factor`` to the decay's value where
    the warm-up ends; with ``rescale_interval`` the whole decay starts only after the warm-up.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        scheduler: str,
        max_iter: int,
        steps: Sequence[int] = (),
        gamma: float = 0.1,
        num_decays: int = 3,
        end_factor: float = 0.0,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        builders: dict[str, Callable[[], ParamScheduler]] = {
            "WarmupMultiStepLR": lambda: _multi_step(steps, gamma, max_iter),
            "WarmupCosineLR": lambda: CosineParamScheduler(1, end_factor),
            "WarmupStepWithFixedGammaLR": lambda: StepWithFixedGammaParamScheduler(1.0, num_decays, gamma, max_iter),
        }
        decay = builders[scheduler]()
        share = min(warmup_iters / max_iter, 1.0)
        start, end = warmup_factor * decay(0.0), decay(0.0) if rescale_interval else decay(share)
        warmup = ConstantParamScheduler(start) if warmup_method == "constant" else LinearParamScheduler(start, end)
        self.factor = CompositeParamScheduler(
            [warmup, decay],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[share, 1 - share],
        )
        self.optimizer, self.max_iter = optimizer, max_iter
        # fvcore's stepwise decay has no value after the last iteration (Detectron2 ends with an IndexError there)
        self.open_end = isinstance(decay, StepWithFixedGammaParamScheduler)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def set(self, iteration: int) -> None:
        """Set the learning rates of the 0-based ``iteration``."""
        if self.open_end and iteration >= self.max_iter:
            return
        factor = self.factor(iteration / self.max_iter)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base * factor

    def current(self) -> float:
        """The learning rate that metrics show: that of the largest parameter group, as Detectron2 reports it."""
        return float(max(self.optimizer.param_groups, key=lambda group: len(group["params"]))["lr"])


def clip_by_value(parameters: Iterable[nn.Parameter], limit: float, norm_type: float) -> None:
    """Clamp every element of the gradients to +-``limit``."""
    for parameter in parameters:
        nn.utils.clip_grad_value_(parameter, limit)


def clip_by_norm(parameters: Iterable[nn.Parameter], limit: float, norm_type: float) -> None:
    """Scale each tensor's gradient on its own to a norm of at most ``limit`` (never the norm over all tensors)."""
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, limit, norm_type)


CLIPPERS: dict[str, Callable[[Iterable[nn.Parameter], float, float], None]] = {
    "value": clip_by_value,
    "norm": clip_by_norm,
}


def build_solver(cfg: Any, model: nn.Module) -> tuple[torch.optim.Optimizer, Schedule]:
    """Optimiser and learning-rate schedule of SOLVER.*."""
    settings = cfg.SOLVER
    optimizer = build_optimizer(
        model,
        base_lr=settings.BASE_LR,
        momentum=settings.MOMENTUM,
        nesterov=settings.NESTEROV,
        weight_decay=settings.WEIGHT_DECAY,
        weight_decay_norm=settings.WEIGHT_DECAY_NORM,
        bias_lr_factor=settings.BIAS_LR_FACTOR,
        weight_decay_bias=settings.WEIGHT_DECAY_BIAS,
        optimizer=settings.OPTIMIZER,
        betas=settings.BETAS,
        layer_factor=layer_factor(cfg),
        no_decay=settings.NO_DECAY,
    )
    schedule = Schedule(
        optimizer,
        scheduler=settings.LR_SCHEDULER_NAME,
        max_iter=settings.MAX_ITER,
        steps=settings.STEPS,
        gamma=settings.GAMMA,
        num_decays=settings.NUM_DECAYS,
        end_factor=settings.BASE_LR_END / settings.BASE_LR,
        warmup_factor=settings.WARMUP_FACTOR,
        warmup_iters=settings.WARMUP_ITERS,
        warmup_method=settings.WARMUP_METHOD,
        rescale_interval=settings.RESCALE_INTERVAL,
    )
    return optimizer, schedule
