"""Warnings about a run that learns nothing."""

from __future__ import annotations

import math


class HealthWatch:
    """Warns once about each way in which contrastive learning usually goes wrong, with its likely cause."""

    def __init__(self, chance: float, total_steps: int) -> None:
        """``chance`` is the loss of a method that learns nothing, infinite where there is none (see Method)."""
        self.chance = chance
        self.grace = max(50, total_steps // 20)  # first steps, in which a loss at chance level is normal
        self.given: set[str] = set()  # kinds of warnings given so far
        self.high = 0  # readings in a row at which the positive was found nearly always

    def new_warnings(self, step: int, readings: dict[str, float]) -> list[str]:
        """Warnings about the readings (loss, acc1, key_spread) of a step that have not been given before."""
        warnings = {}
        spread, accuracy = readings.get("key_spread"), readings.get("acc1", 0.0)
        if step >= self.grace and readings["loss"] > self.chance - 0.05:
            warnings["chance"] = (
                f"the loss {readings['loss']:.3f} stays at {self.chance:.3f}, where nothing is told apart (log(K+1) "
                "for InfoNCE): nothing is learnt yet. Usual causes: a learning rate too low or too high for the batch, "
                "a momentum of the key encoder far from 0.999, or views that share nothing"
            )
        if spread is not None and spread < 0.05:
            warnings["collapse"] = (
                f"the keys have collapsed (spread {spread:.4f}, healthy is near 1): all images look alike to the "
                "encoder. Usual causes: --moco-m too small (0 fails), a learning rate too high"
            )
        self.high = self.high + 1 if accuracy > 99.5 and math.isfinite(self.chance) else 0
        if self.high >= 3 and step >= self.grace:
            warnings["leak"] = (
                f"the positive is found {accuracy:.1f} % of the time: BatchNorm may give it away (MoCo, section 3.3). "
                "On one device use --bn-splits 4 or 8, or a larger --moco-k if the task is simply too easy"
            )
        fresh = [text for kind, text in warnings.items() if kind not in self.given]
        self.given |= warnings.keys()
        return fresh
