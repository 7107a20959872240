"""How much memory a training will need, estimated before its first step from what autograd keeps of one image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from runtime.autograd_memory import kept_bytes
from runtime.free_memory import free_memory
from runtime.seeds import seed_everything
from transfer.data.labels import Record
from transfer.engines.torchvision.builder import build_model
from transfer.engines.training.batches import build_mapper, training_records
from transfer.engines.training.solver import build_solver
from transfer.engines.training.world_size import images_per_process

# Peak of the process over what autograd keeps: beside it a step holds the gradients of the largest maps.
PEAK = 2.2
PROGRAM = 0.95 * 2**30  # bytes: Python, torch and its libraries


@dataclass(frozen=True)
class Estimate:
    """Bytes. needed: peak of one process. free: what it can have, None where that is not known. size: height and width
    of the largest training image."""

    needed: int
    free: int | None
    size: tuple[int, int]
    images: int

    @property
    def fits(self) -> bool:
        """Whether the need is below what is free, as far as that is known."""
        return self.free is None or self.needed <= self.free

    def line(self) -> str:
        """One line; says what to lower where the memory does not suffice."""
        height, width = self.size
        text = (
            f"memory: about {self.needed / 2**30:.1f} GiB for each process ({self.images} images of up to "
            f"{height} x {width} at a time)"
        )
        if self.free is None:
            return text
        text += f", {self.free / 2**30:.1f} GiB are free"
        if self.fits:
            return text
        return f"{text}: not enough; raise ENGINE.ACCUMULATE, or lower SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN"


def estimate_memory(cfg: Any, processes: int = 1) -> Estimate:
    """The estimate of a training of ``cfg`` by the embedded engine, in float32 on the CPU: one forward pass.

    The largest image of the training sets goes through the detector once, and once more twice at a time: the
    difference is what an image needs, without the weights. Mixed precision needs less.
    """
    seed_everything(0)  # proposals depend on the random weights, and what is kept on the proposals
    records = training_records(cfg)
    item = largest_item(cfg, records)
    model = build_model(cfg).train()
    one, two = (kept_bytes(partial(model, [item] * count)) for count in (1, 2))
    build_solver(cfg, model)  # fixes what is frozen, which has no gradient and no momentum
    state = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    images = -(-images_per_process(cfg.SOLVER.IMS_PER_BATCH, processes) // cfg.ENGINE.ACCUMULATE)
    needed = state + 2 * trained + int(PEAK * (two - one)) * images
    height, width = item["image"].shape[-2:]
    if cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available():
        return Estimate(needed, torch.cuda.mem_get_info()[0], (height, width), images)
    free = free_memory()
    return Estimate(needed + int(PROGRAM), free, (height, width), images)


def largest_item(cfg: Any, records: list[Record]) -> dict[str, Any]:
    """The training item of the image that is largest after its resizing to the largest of INPUT.MIN_SIZE_TRAIN."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.CROP.ENABLED = False
    shorter, longest = cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN

    def pixels(record: Record) -> float:
        sides = sorted((record["height"], record["width"]))
        scale = min(shorter / sides[0], longest / sides[1])
        return float(sides[0] * sides[1] * scale**2)

    mapper = build_mapper(cfg, train=True)
    largest = max(records, key=pixels)
    draw = mapper.geometry.draw(np.random.RandomState(0), (largest["height"], largest["width"]))
    item: dict[str, Any] = mapper(largest, draw)
    return item
