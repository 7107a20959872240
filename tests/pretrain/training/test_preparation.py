"""What a run takes from its settings before its first step."""

import logging

import pytest

from pretrain.settings.options import parse
from pretrain.training import preparation
from pretrain.training.preparation import with_precision


def settings(*flags):
    return parse(["images", "-a", "resnet18", *flags])


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_processor_has_and_the_record_says_which(monkeypatch, native, expected):
    monkeypatch.setattr(preparation, "has_native_bfloat16", lambda device: native)
    chosen = with_precision(settings("--precision", "auto"), "cpu")
    assert (chosen.model.precision, chosen.recorded["precision"]) == (expected, expected)
    assert chosen.model.bf16 is native


@pytest.mark.parametrize(
    ("device", "native", "warned"), [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)]
)
def test_bf16_that_was_asked_for_stays_with_a_warning_where_it_is_slow(monkeypatch, caplog, device, native, warned):
    monkeypatch.setattr(preparation, "has_native_bfloat16", lambda device: native)
    monkeypatch.setattr(preparation.log.parent, "propagate", True)  # a run of another test may have switched it off
    given = settings("--precision", "bf16")
    with caplog.at_level(logging.WARNING):
        assert with_precision(given, device) is given
    assert ("no bfloat16 arithmetic" in caplog.text) is warned


def test_float32_needs_nothing(monkeypatch):
    monkeypatch.setattr(preparation, "has_native_bfloat16", lambda device: True)
    given = settings()
    assert with_precision(given, "cpu") is given
