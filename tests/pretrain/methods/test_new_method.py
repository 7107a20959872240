"""A pretext task is a file and its row: one defined here runs through the command, and nothing else knows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretrain import main
from pretrain.methods import METHODS
from pretrain.methods.base import Method
from pretrain.methods.row import MethodRow, ModelSettings, Sizes, option
from pretrain.settings.recipes import RECIPES
from runtime.arguments import Bounds
from runtime.errors import UserError

FLAGS = ["-a", "resnet18", "--image-size", "32", "-b", "8", "--epochs", "2", "-p", "1", "-j", "0", "--device", "cpu",
         "--knn-every", "0", "--keep", "0"]  # fmt: skip


class Quarters(Method):
    """Which of four turns has a view been given? Three views of each image, each turned by its own number."""

    def __init__(self, encoder: nn.Module, smoothing: float) -> None:
        super().__init__()
        self.encoder_q, self.smoothing = encoder, smoothing

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the number of quarter turns."""
        assert len(views) == 3
        turned = torch.cat([view.rot90(turns, (2, 3)) for turns, view in enumerate(views)])
        turns = torch.arange(3).repeat_interleave(len(indices))
        return F.cross_entropy(self.encoder_q(turned), turns, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class QuartersOptions:
    """The one flag that the method adds."""

    turn_smoothing: float = option(0.0, "quarters: label smoothing (0)", type=float, bounds=Bounds(high=1))


def _build(model: ModelSettings, options: QuartersOptions, sizes: Sizes) -> Method:
    return Quarters(model.encoder(4), options.turn_smoothing)


def _check_sizes(model: ModelSettings, options: QuartersOptions, sizes: Sizes) -> None:
    if sizes.global_batch == 4:
        raise UserError("quarters needs more than 4 images")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tiny_images: Path) -> Callable[..., int]:
    """``command("--flag", ...)`` runs pretrain/main.py on the tiny images with the method registered."""
    row = MethodRow("quarters", _build, QuartersOptions, crops=3, views="supervised", check_sizes=_check_sizes)
    monkeypatch.setitem(METHODS, "quarters", row)
    monkeypatch.setitem(RECIPES, "quarters", {"method": "quarters", "lr": 0.02, "turn_smoothing": 0.1})

    def run(*flags: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["main.py", str(tiny_images), *FLAGS, *map(str, flags)])
        return main.main()

    return run


def test_a_new_method_trains_and_resumes_to_the_same_bits(command: Callable[..., int], tmp_path: Path) -> None:
    flags = ["--method", "quarters", "--turn-smoothing", "0.2"]
    assert command(*flags, "--output", tmp_path / "whole") == 0
    first = tmp_path / "whole" / "checkpoint_0000.pth.tar"
    assert command(*flags, "--output", tmp_path / "resumed", "--resume", first) == 0
    hashes = [(tmp_path / name / "weights.sha256").read_text() for name in ("whole", "resumed")]
    assert hashes[0] == hashes[1]
    checkpoint = torch.load(tmp_path / "whole" / "checkpoint_0001.pth.tar", weights_only=True)
    assert (checkpoint["step"], checkpoint["method"], checkpoint["recipe"]) == (8, "quarters", "quarters")
    assert checkpoint["settings"]["turn_smoothing"] == 0.2  # over the recipe's 0.1
    assert checkpoint["settings"]["lr"] == 0.02
    with pytest.raises(UserError, match=r"turn_smoothing was 0\.2, is 0\.1"):
        command("--method", "quarters", "--output", tmp_path / "other", "--resume", first)


def test_its_option_is_its_own(command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for method in sorted(METHODS.keys() - {"quarters"}):
        with pytest.raises(UserError, match="--turn-smoothing is an option of --method quarters; --method " + method):
            command("--method", method, "--turn-smoothing", "0.2", "--output", tmp_path / "run")
    with pytest.raises(UserError, match="--symmetric is an option of --method moco and pcl; --method quarters"):
        command("--method", "quarters", "--symmetric", "--output", tmp_path / "run")
    with pytest.raises(UserError, match="--turn-smoothing must be 0 or more and below 1, not 1.5"):
        command("--method", "quarters", "--turn-smoothing", "1.5", "--output", tmp_path / "run")
    with pytest.raises(UserError, match="quarters needs more than 4 images"):
        command("--method", "quarters", "-b", "4", "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        command("--help")
    assert re.search(r"--turn-smoothing TURN_SMOOTHING\s+quarters: label smoothing \(0\)", capsys.readouterr().out)


def test_a_checkpoint_older_than_the_option_had_its_default(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of another method continues after a method was added, although its options are recorded from now on."""
    flags = ["--method", "invaspread", "-a", "resnet18", "--image-size", "32", "-b", "8", "--epochs", "2"]
    with monkeypatch.context() as before:
        before.delitem(METHODS, "quarters")
        command(*flags, "--output", tmp_path / "run")
    (tmp_path / "run" / "checkpoint_0001.pth.tar").unlink()
    first = torch.load(tmp_path / "run" / "checkpoint_0000.pth.tar", weights_only=True)
    assert "turn_smoothing" not in first["settings"]
    assert command(*flags, "--output", tmp_path / "run", "--resume") == 0
    last = torch.load(tmp_path / "run" / "checkpoint_0001.pth.tar", weights_only=True)
    assert last["settings"]["turn_smoothing"] == 0.0
    assert last["changes"] == []


def test_no_other_file_of_pretraining_names_a_method(repo: Path) -> None:
    """Everything else reads the row. Recipes are data; "supervised" is also the name of a kind of views."""
    names = re.compile(r"[\"'](" + "|".join(METHODS.keys() - {"supervised"}) + r")[\"']")
    for file in (repo / "pretrain").rglob("*.py"):
        place = file.relative_to(repo / "pretrain").as_posix()
        if not place.startswith("methods/") and place != "settings/recipes.py":
            assert not names.search(file.read_text()), place
