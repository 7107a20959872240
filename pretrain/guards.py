"""What stops a run before it is spoilt, and what warns of one that learns nothing."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from pretrain.exchange import rank_and_size
from runtime.atomic import write_json
from runtime.distributed import all_gather_rows
from runtime.errors import UserError
from runtime.logs import get_logger

log = get_logger("pretrain")


class FiniteGuard:
    """Refuses an update whose loss or gradient is not finite, on every rank alike."""

    def __init__(self, folder: Path, tolerated: int = 0) -> None:
        """``tolerated`` such steps in a row are skipped; the next one stops the run."""
        self.folder, self.tolerated, self.in_a_row = folder, tolerated, 0

    def allows(self, loss: torch.Tensor, parameters: list[torch.Tensor], step: int, images: torch.Tensor) -> bool:
        """Whether the update of ``step`` may be made. ``images`` are the indices of this rank's batch (B).

        Otherwise writes nonfinite_step_N.json; raises UserError after more than the tolerated number in a row.
        """
        # one number per tensor and one product: inf and NaN survive both, and the device is asked once
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
        healthy = (torch.isfinite(norms.sum()) & torch.isfinite(loss.detach())).float()
        if bool((all_gather_rows(healthy[None]) > 0).all()):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        what = "loss" if not bool(torch.isfinite(loss)) else "gradient"
        everyone = all_gather_rows(images.to(loss.device)).tolist()
        file = self.folder / f"nonfinite_step_{step}.json"
        if rank_and_size()[0] == 0:
            write_json(file, {"step": step, "what": what, "loss": float(loss), "images": everyone})
        named = ", ".join(map(str, everyone[:8])) + (", ..." if len(everyone) > 8 else "")
        if self.in_a_row > self.tolerated:
            raise UserError(
                f"the {what} of step {step} is not finite (images {named}; all in {file}); the weights were not "
                "updated. Lower --lr, use --precision fp32, or tolerate single steps with --skip-nonfinite N"
            )
        log.warning("step %d skipped: the %s is not finite (images %s; all in %s)", step, what, named, file)
        return False


class HealthWatch:
    """Warns once about each way in which contrastive learning usually goes wrong, with its likely cause."""

    def __init__(self, keys: int, total_steps: int, directions: int = 1) -> None:
        """``keys`` is K, 0 for methods without negatives; ``directions`` is how many contrasts the loss sums."""
        self.floor = directions * math.log(keys + 1) if keys else math.inf
        self.chance = f"{directions} log(K+1)" if directions > 1 else "log(K+1)"
        self.grace = max(50, total_steps // 20)  # steps before a loss at chance level is worth a word
        self.said: set[str] = set()
        self.high = 0

    def look(self, step: int, readings: dict[str, float]) -> list[str]:
        """New warnings for the readings (loss, acc1, key_spread) of a step."""
        found = {}
        spread, accuracy = readings.get("key_spread"), readings.get("acc1", 0.0)
        if step >= self.grace and readings["loss"] > self.floor - 0.05:
            found["chance"] = (
                f"the loss {readings['loss']:.3f} stays at {self.chance} = {self.floor:.3f}: nothing is learnt yet. "
                "Usual causes: a learning rate too low or too high for the batch, a momentum of the key encoder far "
                "from 0.999, or views that share nothing"
            )
        if spread is not None and spread < 0.05:
            found["collapse"] = (
                f"the keys have collapsed (spread {spread:.4f}, healthy is near 1): all images look alike to the "
                "encoder. Usual causes: --moco-m too small (0 fails), a learning rate too high"
            )
        self.high = self.high + 1 if accuracy > 99.5 and math.isfinite(self.floor) else 0
        if self.high >= 3 and step >= self.grace:
            found["leak"] = (
                f"the positive is found {accuracy:.1f} % of the time: BatchNorm may give it away (MoCo, section 3.3). "
                "On one device use --bn-splits 4 or 8, or a larger --moco-k if the task is simply too easy"
            )
        fresh = [text for name, text in found.items() if name not in self.said]
        self.said |= found.keys()
        return fresh
