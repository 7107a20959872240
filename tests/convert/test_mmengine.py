"""Training checkpoints of mmengine's Runner: their message hub pickles methods as ``getattr(HistoryBuffer, 'min')``.

The class here pickles to the opcodes of a file that mmengine 0.10.7 wrote; the package is needed neither to write nor
to read it.
"""

from __future__ import annotations

import pickletools
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import assert_equal, build, fixture, save

MODULE = "mmengine.logging.history_buffer"


def history_buffer() -> Any:
    """A stand-in for mmengine's class, in a module of that name: its state holds its own methods by name."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.ones(3), np.ones(3, dtype=np.int64)
            self._statistics_methods = {name: getattr(HistoryBuffer, name) for name in ("min", "max", "mean")}

        def min(self) -> None:
            raise AssertionError("the converter called a method")

        max = mean = min

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("the converter restored an object")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = MODULE, "HistoryBuffer"
    HistoryBuffer.min.__module__, HistoryBuffer.min.__qualname__ = MODULE, "HistoryBuffer.min"
    return HistoryBuffer


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint with a message hub, and its online encoder; the class is gone once it is written."""
    checkpoint, encoders = build(fixture("mmselfsup"))
    module = types.ModuleType(MODULE)
    module.HistoryBuffer = history_buffer()  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", MODULE):
            patch.setitem(sys.modules, name, module)
        checkpoint["message_hub"] = {
            "log_scalars": {"train/loss": module.HistoryBuffer()},
            "runtime_info": {"epoch": 2},
        }
        path = save(checkpoint, tmp_path / "epoch_2.pth")
    return path, encoders["online"]


def test_the_file_has_the_opcodes_of_mmengines_own(written: tuple[Path, Any]) -> None:
    with zipfile.ZipFile(written[0]) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    names = [argument for op, argument, _ in pickletools.genops(pickled) if op.name == "GLOBAL"]
    assert f"{MODULE} HistoryBuffer" in names
    assert any(name in ("__builtin__ getattr", "builtins getattr") for name in names)


def test_it_converts_and_nothing_is_called(written: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", forbidding(__import__, "mmengine"))
    path, state = written
    backbone = convert(path, verify=False)
    assert backbone.family == "mmselfsup"
    assert_equal(backbone, state)


def forbidding(imports: Any, package: str) -> Any:
    def checked(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith(package)
        return imports(name, *rest, **more)

    return checked


def test_the_average_of_its_hook_needs_a_choice(written: tuple[Path, dict], tmp_path: Path) -> None:
    checkpoint, encoders = build(fixture("mmselfsup"))
    average = {f"module.{k}": v + 1 for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
    checkpoint["ema_state_dict"] = average
    with pytest.raises(UserError, match=r"state_dict holds the average and ema_state_dict the trained weights"):
        convert(save(checkpoint, tmp_path / "c.pth"))
