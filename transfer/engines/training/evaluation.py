"""When a model is evaluated during training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def is_evaluation_due(cfg: Any, done: int) -> bool:
    """Whether TEST.EVAL_PERIOD asks for an evaluation after ``done`` iterations."""
    period = cfg.TEST.EVAL_PERIOD
    return bool(period > 0 and done % period == 0)


def is_evaluation_missing(cfg: Any, start: int, evaluated: Collection[int]) -> bool:
    """Whether a run that resumes after ``start`` iterations was interrupted in the evaluation that was due there.

    The checkpoint is written before the evaluation, so a kill in between would leave a gap in the history.
    ``evaluated``: finished iterations of the evaluations in the history. The last evaluation is the caller's.
    """
    return 0 < start < cfg.SOLVER.MAX_ITER and is_evaluation_due(cfg, start) and start not in evaluated
