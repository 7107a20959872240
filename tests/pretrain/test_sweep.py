"""Sweeps of pretrainings, and that every committed plan's flags are ones pretraining accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pretrain import sweep
from pretrain.methods.row import Sizes
from pretrain.settings.checks import check_settings, check_sizes
from pretrain.settings.options import parse
from runtime.errors import UserError

PLANS = sorted(Path("plans").glob("ablation_pretrain*.yaml"))


def test_every_run_of_the_committed_plans_is_accepted() -> None:
    argvs = []
    for plan in map(sweep.read_plan, PLANS):
        runs = [sweep.place(plan, group, name, 0)[1] for group, runs in plan["groups"].items() for name in runs]
        argvs += [[*plan["base"], *flags] for flags in runs]
    for file in Path("plans").glob("*.yaml"):
        inits = yaml.safe_load(file.read_text()).get("inits", {})
        argvs += [init["pretrain"]["argv"] for init in inits.values() if isinstance(init, dict) and "pretrain" in init]
    assert len(PLANS) == 2
    assert len(argvs) > 50
    for argv in argvs:
        settings = parse([str(part).format(output="runs/x", init="x", seed=0) for part in argv])
        batch, parts = settings.optimisation.batch_size, settings.optimisation.accumulate
        check_settings(settings)
        check_sizes(settings, Sizes(9469, 10, batch, 9469 // batch, parts), ranks=1)


def test_table_gives_mean_and_spread_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"output": str(tmp_path), "base": ["DIR"], "seeds": [0, 1, 2], "groups": {"g": {"a": ["--cos"], "b": []}}}
    values = iter([50.0, 60.0, 70.0])

    def pretend(flags: list, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"iteration": 1, "knn": next(values)}) + "\n")
        (folder / "finished").touch()

    for seed in (0, 1, 2):
        pretend([], tmp_path / "g" / "a" / f"seed{seed}", seed)
    text = sweep.table(plan, ["g"])
    assert "| a | `--cos` | 60.00 ± 10.00 | 3 |" in text
    assert "| b | `` | not run | 0 |" in text


def test_runs_are_shared_between_groups_and_go_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"output: {tmp_path / 'out'}\nbase: [DIR]\nseeds: [0, 1]\n"
        "groups: {a: {one: [--cos], two: []}, b: {three: [--mlp], same: a/one}}"
    )
    begun = []

    def pretend(flags: list, folder: Path, seed: int) -> None:
        begun.append((folder.relative_to(tmp_path / "out").as_posix(), flags))
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"iteration": 1, "knn": 40.0 + seed}) + "\n")
        (folder / "finished").touch()

    monkeypatch.setattr(sweep, "run", pretend)
    monkeypatch.setattr("sys.argv", ["sweep.py", str(plan), "--jobs", "1"])
    assert sweep.main() == 0
    assert begun == [
        (f"{run}/seed{seed}", ["DIR", *flags])
        for seed in (0, 1)
        for run, flags in (("a/one", ["--cos"]), ("a/two", []), ("b/three", ["--mlp"]))
    ]
    assert "| same | `--cos` | 40.50 ± 0.71 | 2 |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "output: x",
        "!!python/object/apply:os.getcwd []",
        "output: x\nbase: 1\nseeds: []\ngroups: {a: {b: 1}}",
        "output: x\nbase: []\nseeds: [0]\ngroups: {a: {b: a/c}}",
        "output: x\nbase: []\nseeds: [0]\ngroups: {a: {b: a/c, c: a/d, d: []}}",
    ],
)
def test_bad_plans_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.yaml").write_text(content)
    with pytest.raises(UserError):
        sweep.read_plan(tmp_path / "plan.yaml")
