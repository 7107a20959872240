"""The learning rate as a function of the step, for schedules in epochs (MoCo) or in iterations (its IG-1B run)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The learning rate at every step of a run of ``total_steps`` steps.

    ``cos``: half a cosine, held constant within an epoch as MoCo v2 does (within a step when ``by_step``).
    ``after_warmup``: the cosine begins with the end of the warm-up, and the warm-up at 0 (MoCo v3).
    ``every``: times ``gamma`` each so many steps. Otherwise times ``gamma`` at each of ``milestones`` (epochs), or to
    ``factors[i]`` of the base rate where factors are given. ``warmup_steps`` rise linearly to the base rate.
    """

    base: float
    total_steps: int
    steps_per_epoch: int
    cos: bool = False
    by_step: bool = False
    after_warmup: bool = False
    every: int | None = None
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    factors: Sequence[float] | None = None
    warmup_steps: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of step ``step`` (counted from 0)."""
        if step < self.warmup_steps:
            return self.base * (step if self.after_warmup else step + 1) / self.warmup_steps
        if self.cos and self.after_warmup:
            left = self.total_steps - self.warmup_steps
            return self.base * 0.5 * (1 + math.cos(math.pi * (step - self.warmup_steps) / left))
        if self.cos:
            done = step if self.by_step else step // self.steps_per_epoch * self.steps_per_epoch
            return self.base * 0.5 * (1 + math.cos(math.pi * done / self.total_steps))
        if self.every:
            return self.base * self.gamma ** (step // self.every)
        passed = bisect_right(list(self.milestones), step // self.steps_per_epoch)
        if self.factors is not None:
            return self.base * (1.0, *self.factors)[passed]
        return self.base * self.gamma**passed
