"""How a training fails: the errors and words that both engines share."""

from __future__ import annotations

from runtime.errors import UserError

ONE_VALUE = "more than 1 value per channel"  # how torch refuses a variance of a single element


class NonFiniteLoss(FloatingPointError, UserError):
    """Training has diverged: one line for the user, exit code 2, checkpoints intact."""
