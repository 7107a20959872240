"""What is said before a run begins."""

import pytest

from transfer.config import load_config
from transfer.fine_tuning import preparation


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (["ENGINE.TEST_ARITHMETIC", "bfloat16"], ["ENGINE.TEST_ARITHMETIC bfloat16"]),
        (["SOLVER.AMP.ENABLED", "True", "ENGINE.AMP_DTYPE", "bfloat16"], ["SOLVER.AMP.ENABLED"]),
        (["SOLVER.AMP.ENABLED", "True"], []),  # float16, which is refused elsewhere
        ([], []),
    ],
)
def test_bfloat16_on_a_processor_without_it_is_named(monkeypatch, opts, named):
    cfg = load_config("demo_R18_C4.yaml", opts)
    monkeypatch.setattr(preparation, "has_native_bfloat16", lambda device: False)
    found = preparation.slow_arithmetic(cfg)
    assert all(key in found for key in named)
    assert bool(found) is bool(named)
    monkeypatch.setattr(preparation, "has_native_bfloat16", lambda device: True)
    assert preparation.slow_arithmetic(cfg) == ""
