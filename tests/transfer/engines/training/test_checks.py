"""What is said about a schedule before it is run."""

from __future__ import annotations

import logging

import pytest

from transfer.config import load_config
from transfer.engines.training.checks import check_schedule


def warnings(opts: list[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    logger = logging.getLogger("transfer_gap")
    before, logger.propagate = logger.propagate, True
    try:
        caplog.clear()
        check_schedule(load_config("demo_R18_FPN.yaml", ["SOLVER.WARMUP_ITERS", "0", *opts]), 1)
    finally:
        logger.propagate = before
    return [record.getMessage() for record in caplog.records]


def test_steps_after_the_end_are_named(caplog: pytest.LogCaptureFixture) -> None:
    steps = ["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(10, 30, 40)"]
    assert warnings(steps, caplog) == [
        "SOLVER.STEPS (10, 30, 40): the learning rate does not change at 30, 40, after SOLVER.MAX_ITER 20"
    ]
    assert warnings([*steps, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], caplog) == []
    assert warnings(["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(10, 15)"], caplog) == []
