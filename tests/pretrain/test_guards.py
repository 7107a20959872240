"""The finite guard, the warnings about runs that learn nothing, and checkpoint folders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pretrain.checkpoints import CheckpointFolder
from pretrain.guards import FiniteGuard, HealthWatch
from runtime.errors import UserError


def parameter(gradient: float) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([0.0, gradient, 1.0])
    return p


@pytest.mark.parametrize(("loss", "gradient", "what"), [
    (math.nan, 0.0, "loss"), (math.inf, 0.0, "loss"), (1.0, math.nan, "gradient"), (1.0, -math.inf, "gradient"),
])  # fmt: skip
def test_guard_names_step_images_and_cause(tmp_path: Path, loss: float, gradient: float, what: str) -> None:
    guard = FiniteGuard(tmp_path)
    with pytest.raises(UserError, match=f"the {what} of step 7 is not finite .images 3, 5;"):
        guard.allows(torch.tensor(loss), [parameter(gradient)], 7, torch.tensor([3, 5]))
    record = json.loads((tmp_path / "nonfinite_step_7.json").read_text())
    assert (record["what"], record["images"]) == (what, [3, 5])


def test_guard_tolerates_so_many_in_a_row(tmp_path: Path) -> None:
    guard, bad, good = FiniteGuard(tmp_path, 2), torch.tensor(math.nan), torch.tensor(1.0)
    images = torch.arange(2)
    for step, loss, allowed in [(0, bad, False), (1, bad, False), (2, good, True), (3, bad, False), (4, bad, False)]:
        assert guard.allows(loss, [parameter(0.0)], step, images) is allowed
    with pytest.raises(UserError):
        guard.allows(bad, [parameter(0.0)], 5, images)


def test_large_finite_gradients_pass(tmp_path: Path) -> None:
    """A sum of norms that overflows float32 would be refused; a single large gradient is not."""
    assert FiniteGuard(tmp_path).allows(torch.tensor(1.0), [parameter(1e15)], 0, torch.arange(1))


HEALTHY = {"loss": 5.0, "acc1": 40.0, "key_spread": 0.9}


@pytest.mark.parametrize(("changes", "words"), [
    ({"loss": math.log(4097)}, "stays at log.K.1. = 8.318"),
    ({"key_spread": 0.01}, "collapsed"),
    ({"acc1": 99.9}, "BatchNorm may give it away"),
])  # fmt: skip
def test_each_failure_is_named_once(changes: dict, words: str) -> None:
    watch = HealthWatch(4096, 1000)
    said = [text for step in range(100, 110) for text in watch.look(step, HEALTHY | changes)]
    assert len(said) == 1
    assert pytest.importorskip("re").search(words, said[0])


def test_healthy_and_young_runs_are_left_in_peace() -> None:
    watch = HealthWatch(4096, 10_000)
    assert not [t for step in range(500) for t in watch.look(step, HEALTHY | {"loss": 8.3})]
    assert not [t for step in range(600, 900) for t in watch.look(step, HEALTHY)]
    assert not HealthWatch(0, 100).look(99, {"loss": 9.0, "acc1": 100.0})


def test_a_symmetric_loss_is_held_against_both_directions() -> None:
    watch = HealthWatch(4096, 1000, directions=2)
    assert not watch.look(100, HEALTHY | {"loss": 12.0})
    assert "stays at 2 log(K+1) = 16.6" in watch.look(101, HEALTHY | {"loss": 16.63})[0]


def test_checkpoints_are_named_ordered_and_pruned(tmp_path: Path) -> None:
    kept = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=2)
    assert kept.name(2000).name == "checkpoint_0199.pth.tar"
    for step in (10, 14, 20, 25):
        kept.save({"step": step, "arch": "resnet18", "state_dict": {}})
    assert [step for step, _ in kept.steps()] == [25, 20]
    found = kept.newest()
    assert found is not None
    assert found[1]["step"] == 25


def test_every_truncation_of_a_checkpoint_falls_back(tmp_path: Path) -> None:
    """64 cuts of the newest file: never a crash, never a wrong load, always the one before."""
    kept = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=0)
    for step in (10, 20):
        kept.save({"step": step, "arch": "resnet18", "state_dict": {"w": torch.full((64,), float(step))}})
    newest = kept.name(20)
    whole = newest.read_bytes()
    for cut in torch.linspace(0, len(whole) - 1, 64).long().tolist():
        newest.write_bytes(whole[:cut])
        found = kept.newest()
        assert found is not None
        assert found[1]["step"] == 10


@pytest.mark.parametrize("moment", ["write", "fsync", "replace", "prune"])
def test_dying_inside_a_save_leaves_a_readable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The process ends (here: an exception nothing catches) at one point of a save; the newest readable one stays."""
    import os

    class Death(BaseException):
        pass

    def die(*args: object, **kwargs: object) -> None:
        raise Death

    kept = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=1)
    kept.save({"step": 10, "arch": "resnet18", "state_dict": {}})
    where = {"write": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace"), "prune": (Path, "unlink")}
    with monkeypatch.context() as patch:
        patch.setattr(*where[moment], die)
        with pytest.raises(Death):
            kept.save({"step": 20, "arch": "resnet18", "state_dict": {}})
    found = kept.newest()
    assert found is not None
    assert found[1]["step"] == (20 if moment == "prune" else 10)
