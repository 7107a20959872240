"""Numbers on a command line: how they are read, and the bounds they must keep."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from runtime.errors import UserError

# the normal numbers of float32, in which weights are updated: a smaller rate is rounded to nothing, or loses its digits
LEAST_RATE, GREATEST_RATE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
RATES = f"above 0 and a number that float32 can hold ({LEAST_RATE:.2g} to {GREATEST_RATE:.2g})"


def is_rate(value: float) -> bool:
    """Whether training in float32 can use the learning rate ``value``."""
    return LEAST_RATE <= value <= GREATEST_RATE


def flag(name: str) -> str:
    """The flag of a setting: ``moco_k`` -> ``--moco-k``."""
    return f"--{name.replace('_', '-')}"


def whole(text: str, least: int = 0) -> int:
    """A whole number of ``least`` or more, as the ``type`` of an argparse argument."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more, not {text}")
    return value


def positive(text: str) -> int:
    """A whole number of 1 or more, as the ``type`` of an argparse argument."""
    return whole(text, 1)


@dataclass(frozen=True)
class Bounds:
    """The half-open interval that a number must lie in, ``low <= value < high``. NaN lies in none."""

    low: float = 0.0
    high: float = math.inf

    def check(self, name: str, value: float) -> None:
        """Raise UserError where ``value``, that of the setting ``name``, is outside."""
        if not self.low <= value < self.high:
            interval = "a finite number" if self.high == math.inf else f"below {self.high:g}"
            raise UserError(f"{flag(name)} must be {self.low:g} or more and {interval}, not {value}")
