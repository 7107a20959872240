"""Training settings that only torch and fvcore can judge: precision, schedule, batch; for both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import flatten
from transfer.config.expectations import check_expectations
from transfer.config.shapes import check_shapes
from transfer.config.values import check_bounds

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


log = get_logger("run")


def check_values(cfg: CfgNode, processes: int, *, train: bool) -> None:
    """Raise UserError naming the first key whose value no run in ``processes`` processes could be made with.

    ``train`` False leaves out what matters to training only. A warm-up longer than the run is allowed and warned of.
    """
    from transfer.engines.training.device import choose_device

    values = flatten(cfg)
    check_bounds(values, train=train)
    check_shapes(values)
    choose_device(cfg.MODEL.DEVICE)
    check_expectations(cfg.TEST.EXPECTED_RESULTS)
    if train:
        check_precision(cfg)
        scaled = _at(cfg, processes)
        check_schedule(scaled, processes)
        share = scaled.SOLVER.IMS_PER_BATCH // processes
        if share < cfg.ENGINE.ACCUMULATE:
            raise UserError(
                f"ENGINE.ACCUMULATE {cfg.ENGINE.ACCUMULATE} is more parts than the {share} images of a process"
            )


def check_precision(cfg: CfgNode) -> None:
    """Raise UserError unless training can compute in the type that the config asks for on its device."""
    from transfer.engines.training.device import choose_device
    from transfer.engines.training.precision import Precision

    Precision(cfg.SOLVER.AMP.ENABLED, cfg.ENGINE.AMP_DTYPE, choose_device(cfg.MODEL.DEVICE))


def _at(cfg: CfgNode, processes: int) -> CfgNode:
    """``cfg`` as SOLVER.REFERENCE_WORLD_SIZE scales it."""
    from transfer.engines.training.world_size import scale_to_processes

    return scale_to_processes(cfg, processes)


def check_schedule(cfg: CfgNode, processes: int) -> None:
    """Raise UserError unless batch, optimiser and learning-rate schedule can be made; ``cfg`` is already scaled."""
    import torch

    from transfer.engines.training.solver import build_solver

    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise UserError(f"SOLVER.MAX_ITER {solver.MAX_ITER} after scaling to {processes} processes; it is too short")
    if solver.IMS_PER_BATCH % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is not a multiple of {processes} processes")
    try:
        build_solver(cfg, torch.nn.Linear(1, 1))  # the schedule itself says whether its steps fit its length
    except KeyError as error:
        raise UserError(f"SOLVER.LR_SCHEDULER_NAME {error} is not known") from error
    except (ValueError, AssertionError) as error:
        raise UserError(f"SOLVER: {' '.join(str(error).split()) or 'no such schedule'}") from error
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        log.warning(
            "SOLVER.WARMUP_ITERS %d is not over by SOLVER.MAX_ITER %d: the learning rate stays below SOLVER.BASE_LR",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )
