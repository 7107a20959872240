"""Settings of training that only torch and fvcore can judge: device, precision, schedule, batch; for both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import flatten
from transfer.config.backbones import check_optimizer, check_square
from transfer.config.expectations import check_expectations
from transfer.config.shapes import check_shapes
from transfer.config.values import check_bounds

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

log = get_logger("run")


def check_values(cfg: CfgNode, processes: int, *, train: bool) -> None:
    """Raise UserError naming the first key whose value no run of ``processes`` processes could use.

    ``train`` False leaves out what only training needs. A warm-up longer than the run is allowed, with a warning.
    """
    from transfer.engines.training.device import choose_device
    from transfer.engines.training.input_geometry import training_geometry
    from transfer.engines.training.world_size import images_per_process, scale_to_processes

    values = flatten(cfg)
    check_bounds(values, train=train)
    check_shapes(values)
    check_square(values, train=train)
    choose_device(cfg.MODEL.DEVICE)
    check_expectations(cfg.TEST.EXPECTED_RESULTS)
    if not train:
        return
    check_optimizer(values)
    training_geometry(cfg)
    check_precision(cfg)
    scaled = scale_to_processes(cfg, processes)
    check_schedule(scaled, processes)
    share = images_per_process(scaled.SOLVER.IMS_PER_BATCH, processes)
    if share < cfg.ENGINE.ACCUMULATE:
        raise UserError(
            f"ENGINE.ACCUMULATE {cfg.ENGINE.ACCUMULATE} must be at most {share}, the number of images of one process"
        )


def check_precision(cfg: CfgNode) -> None:
    """Raise UserError unless the device can train in the type that the config asks for."""
    from transfer.engines.training.device import choose_device
    from transfer.engines.training.precision import Precision

    Precision(cfg.SOLVER.AMP.ENABLED, cfg.ENGINE.AMP_DTYPE, choose_device(cfg.MODEL.DEVICE))


def check_schedule(cfg: CfgNode, processes: int) -> None:
    """Raise UserError unless batch, optimiser and learning-rate schedule can be built; ``cfg`` is already scaled."""
    import torch

    from transfer.engines.training.solver import build_solver
    from transfer.engines.training.world_size import images_per_process

    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise UserError(f"SOLVER.MAX_ITER {solver.MAX_ITER} after scaling to {processes} processes; it is too short")
    images_per_process(solver.IMS_PER_BATCH, processes)
    try:
        build_solver(cfg, torch.nn.Linear(1, 1))  # fvcore decides whether the steps fit the length
    except KeyError as error:
        raise UserError(f"SOLVER.LR_SCHEDULER_NAME {error} is not known") from error
    except (ValueError, AssertionError) as error:
        raise UserError(f"SOLVER: {' '.join(str(error).split()) or 'no such schedule'}") from error
    late = [step for step in solver.STEPS if step > solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        log.warning(
            "SOLVER.STEPS %s: the learning rate does not change at %s, after SOLVER.MAX_ITER %d",
            tuple(solver.STEPS),
            ", ".join(map(str, late)),
            solver.MAX_ITER,
        )
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        log.warning(
            "SOLVER.WARMUP_ITERS %d does not end before SOLVER.MAX_ITER %d: the learning rate stays below "
            "SOLVER.BASE_LR",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )
