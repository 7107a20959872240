"""The overall bar: the weight of a stage, the share of a running one, and an ETA from measured seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer.planning.plan import load_plan
from transfer.planning.progress import PlanProgress, last_record, share_done
from transfer.planning.stages import plan_stages
from transfer.planning.state import Outcome


def test_share_of_running_stages(plan_file: Path) -> None:
    stages = {stage.name: stage for stage in plan_stages(load_plan(plan_file))}
    train, pretrain = stages["toy/moco/seed0"], stages["pretrain/moco"]
    assert (share_done(train), share_done(pretrain)) == (0.0, 0.0)
    train.folder.mkdir(parents=True)
    (train.folder / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 40\n")
    lines = [json.dumps({"iteration": i, "loss": 1.0}) for i in range(11)]
    (train.folder / "metrics.json").write_text("\n".join(lines) + '\n{"iterat')
    assert share_done(train) == 0.25
    assert last_record(train.folder / "metrics.json")["iteration"] == 10
    pretrain.folder.mkdir(parents=True)
    (pretrain.folder / "checkpoint_0000.pth.tar").touch()
    assert share_done(pretrain) == 0.5


def test_eta_follows_what_was_measured(plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.planning.progress.tqdm", lambda **kwargs: FakeBar(kwargs["total"]))
    stages = plan_stages(load_plan(plan_file))
    progress = PlanProgress(stages)
    ended = {stage.name: Outcome("finished", seconds=0.0) for stage in stages[:5]}
    progress.update([], ended)
    bar = progress._bar
    assert bar.initial == bar.n > 0
    progress.update([], {**ended, "toy/random/seed0": Outcome("finished", seconds=600.0)})
    assert bar.total - bar.n == pytest.approx(5 * 600.0)


class FakeBar:
    disable = False

    def __init__(self, total: float) -> None:
        self.total, self.n, self.initial = total, 0.0, 0.0

    def refresh(self) -> None: ...
    def set_postfix_str(self, text: str, refresh: bool) -> None: ...


def test_lines_without_a_terminal(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = plan_stages(load_plan(plan_file))
    with PlanProgress(stages) as progress:
        progress.update([], {stages[0].name: Outcome("finished", seconds=0.0)})
        progress.update([stages[1].name], {stages[0].name: Outcome("finished", seconds=5.0)})
        progress.waiting("toy/moco/seed0")
        progress.waiting("toy/moco/seed0")
    assert capsys.readouterr().out == "toy/moco/seed0: waiting, since another runner works on it\n"
