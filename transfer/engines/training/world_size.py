"""A batch divided among processes, and SOLVER.REFERENCE_WORLD_SIZE: a schedule written for another number of them."""

from __future__ import annotations

from typing import Any

from runtime.errors import UserError
from runtime.logs import get_logger


def images_per_process(images: int, processes: int) -> int:
    """The share of SOLVER.IMS_PER_BATCH ``images`` of each process; raises UserError unless all shares are equal."""
    if images % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH {images} is not a multiple of {processes} processes")
    return images // processes


def scale_to_processes(cfg: Any, processes: int) -> Any:
    """``cfg`` with batch, learning rate and schedule scaled linearly from REFERENCE_WORLD_SIZE to ``processes``.

    Images per process stay the same. With REFERENCE_WORLD_SIZE 0, or equal to ``processes``, ``cfg`` itself.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return cfg
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not a multiple of REFERENCE_WORLD_SIZE {reference}"
        )
    scaled, scale = cfg.clone(), processes / reference
    frozen = scaled.is_frozen()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
    solver.BASE_LR = solver.BASE_LR * scale
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = round(solver[key] / scale)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / scale)
    solver.REFERENCE_WORLD_SIZE = processes
    if frozen:
        scaled.freeze()
    get_logger(__name__).info(
        "scaled to %d processes: batch %d, learning rate %g, %d iterations, warm-up %d",
        processes,
        solver.IMS_PER_BATCH,
        solver.BASE_LR,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
    )
    return scaled
