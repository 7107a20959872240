"""``train_net.py --dry-run``: what a run would be, checked as a run checks it, without training or writing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.data.catalog import get_dataset

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from transfer.fine_tuning.initialisation import Init


def dry_run_lines(cfg: CfgNode, init: Init, processes: int, engine: str = "torchvision") -> list[str]:
    """Initialisation, data, iterations, memory and time of the checked config of a run of ``engine``.

    The memory is the embedded engine's; Detectron2 keeps the same maps. A few iterations are made to know the time.
    """
    from transfer.engines.torchvision.memory import estimate_memory
    from transfer.engines.torchvision.trial import time_line

    images = sum(len(get_dataset(name).summary.image_ids) for name in cfg.DATASETS.TRAIN)
    seen = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    memory = estimate_memory(cfg, processes)
    obstacle = "" if memory.fits else "the memory does not suffice"
    obstacle = "the engine is Detectron2" if engine != "torchvision" else obstacle
    obstacle = "several processes" if processes > 1 else obstacle
    return [
        f"initialisation: {init.name} ({init.record()['kind']})",
        f"data: {images} images of {', '.join(cfg.DATASETS.TRAIN)}; tested on {', '.join(cfg.DATASETS.TEST) or 'none'}",
        f"iterations: {cfg.SOLVER.MAX_ITER} of {cfg.SOLVER.IMS_PER_BATCH} images, {seen / max(1, images):.1f} epochs",
        memory.line(),
        f"time: not measured: {obstacle}" if obstacle else time_line(cfg),
    ]
