"""``--ladder``: cheap configs first, without what they rule out, and said; and how far they can be trusted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from runtime.errors import UserError
from studies.ladder import climb
from transfer.comparison.gap import Table, compare
from transfer.comparison.ladder import ERROR, agreement, ruled_out
from transfer.literature.rank_agreement import published_agreements
from transfer.literature.rows import load
from transfer.planning.ladder import read_dropped
from transfer.planning.plan import load_plan
from transfer.records.run import Run

RUNGS = "configs=[{config: toy.yaml, name: cheap}, {config: toy.yaml, name: dear}]"
WORSE = """  worse:
    pretrain:
      argv: [--output, "{output}/{init}"]
      checkpoint: "{output}/{init}/checkpoint_0001.pth.tar"
"""


@pytest.fixture
def ladder(plan_file: Path, measure_gap: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that climbs: moco is 8 points ahead of "worse" with a small spread."""
    plan_file.write_text(plan_file.read_text().replace("configs:", f"{WORSE}configs:"))
    monkeypatch.setenv("FAKE_SPREAD", "0.1")
    monkeypatch.setenv("FAKE_AP", json.dumps({"worse": 25.0}))
    return [*measure_gap, "--set", RUNGS, "--set", "seeds=[0,1,2]", "--no-detections"]


def run(command: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    return done


def ran(config: str) -> set[str]:
    return {path.parent.parent.name for path in Path("runs/toy", config).glob("*/seed*/result.json")}


def test_what_the_cheap_config_rules_out_is_not_run_on_the_dear_one(ladder: list[str]) -> None:
    run([*ladder, "--ladder"])
    assert ran("cheap") == {"random", "supervised", "moco", "worse"}
    assert ran("dear") == {"random", "supervised", "moco"}  # references stay, however far they are behind
    (dropped,) = read_dropped(load_plan("toy_plan.yaml", settings=[RUNGS]))
    assert (dropped.init, dropped.rung, dropped.leader) == ("worse", "cheap", "moco")
    assert dropped.difference == pytest.approx(8.0, abs=0.5)
    assert 0 < dropped.low < dropped.difference
    text = " ".join(Path("runs/toy/gap.md").read_text().split())
    assert "worse was not run beyond cheap: there it is" in text
    assert "COCO 12k to 1x, R50-FPN +0.87 [" in text
    assert "worse, seed 0: not run yet" not in text
    # the same command finds everything done, and a report says the same
    before = Path("runs/toy/dear/moco/seed0/calls.txt").read_text()
    run([*ladder, "--ladder"])
    run([*ladder, "--report-only"])
    assert Path("runs/toy/dear/moco/seed0/calls.txt").read_text() == before
    assert "worse was not run beyond cheap" in " ".join(Path("runs/toy/gap.md").read_text().split())


def test_without_the_flag_everything_is_run_after_all(ladder: list[str]) -> None:
    run([*ladder, "--ladder"])
    run(ladder)
    assert ran("dear") == {"random", "supervised", "moco", "worse"}
    assert "was not run beyond" not in Path("runs/toy/gap.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--set", "seeds=[0,1]"], "has one config; list cheap ones before the one that counts"),
        (["--set", RUNGS, "--set", "seeds=[0]"], "needs two seeds or more"),
        (["--set", RUNGS, "--set", "seeds={until: decided}"], "cannot be combined with seeds"),
        (["--set", RUNGS, "--only", "dear/*"], "cannot be combined with --only"),
        (["--set", RUNGS, "--report-only"], "--ladder runs the plan"),
    ],
)
def test_mistakes_are_one_line(measure_gap: list[str], settings: list[str], message: str) -> None:
    assert message in run([*measure_gap, "--ladder", *settings], code=2).stderr


@pytest.mark.parametrize(
    "content",
    [
        '{"dropped": [{"init": "a"}]}',
        '{"dropped": [{"init": "worse", "rung": "ten',
        '{"dropped": [{"init": "moco", "rung": "cheap", "leader": "moco", "difference": "x", "low": 1}]}',
        '{"dropped": [{"init": ["moco"], "rung": "cheap", "leader": "moco", "difference": 2, "low": 1}]}',
        "[]",
    ],
)
def test_a_damaged_record_is_named(content: str, plan_file: Path) -> None:
    Path("runs/toy").mkdir(parents=True)
    Path("runs/toy/ladder.json").write_text(content)
    with pytest.raises(UserError, match="ladder.json is damaged"):
        read_dropped(load_plan(plan_file, settings=[RUNGS]))


@pytest.mark.parametrize(("init", "rung"), [("gone", "cheap"), ("moco", "gone"), ("random", "cheap")])
def test_a_record_of_another_plan_drops_nothing(init: str, rung: str, plan_file: Path) -> None:
    Path("runs/toy").mkdir(parents=True)
    one = {"init": init, "rung": rung, "leader": "supervised", "difference": 2.0, "low": 1.0}
    Path("runs/toy/ladder.json").write_text(json.dumps({"dropped": [one]}))
    assert read_dropped(load_plan(plan_file, settings=[RUNGS])) == []


@pytest.mark.parametrize("flag", [["--dry-run"], ["--power", "1"]])
def test_looking_ahead_checks_the_ladder_too(flag: list[str], measure_gap: list[str]) -> None:
    assert "has one config" in run([*measure_gap, "--ladder", *flag], code=2).stderr


def table_of(values: dict[str, list[float]]) -> Table:
    """A table of runs with these AP, one per seed."""
    runs = [
        Run(Path(f"{init}/{seed}"), "toy", init, seed, "finished", None, {("bbox", "AP"): ap}, {"k": 1})
        for init, aps in values.items()
        for seed, ap in enumerate(aps)
    ]
    return compare(runs, {})[0]


def test_the_level_is_shared_by_the_others_and_the_rungs() -> None:
    values = {"a": [10.0, 10.3, 9.8], "b": [9.0, 9.2, 8.9], "c": [9.9, 10.1, 9.7]}
    for rungs in (1, 40):
        lows = {}
        for leader in ("a", "c"):
            difference = np.array(values[leader]) - np.array(values["b"])
            error = difference.std(ddof=1) / 3**0.5
            lows[leader] = difference.mean() - stats.t.ppf(1 - ERROR / (2 * rungs), 2) * error
        found = {one.init: one for one in ruled_out(table_of(values), rungs=rungs)}
        best = max(lows, key=lambda leader: lows[leader])
        assert ("b" in found) == (lows[best] > 0)
        if "b" in found:
            assert found["b"].leader == best
            assert found["b"].low == pytest.approx(lows[best])
    assert "b" not in {one.init for one in ruled_out(table_of(values), rungs=1, keep=["b"])}


@pytest.mark.parametrize(("count", "seeds", "rungs", "lead"), [(3, 2, 1, 0.0), (5, 3, 2, 0.0), (4, 5, 2, 1.0)])
def test_the_best_is_rarely_dropped(count: int, seeds: int, rungs: int, lead: float) -> None:
    rng = np.random.default_rng(0)
    best, _ = climb(rng, 1500, initialisations=count, seeds=seeds, rungs=rungs, lead=lead)
    assert best <= 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


def test_a_large_lead_drops_the_others() -> None:
    _, others = climb(np.random.default_rng(0), 300, initialisations=4, seeds=5, rungs=2, lead=8.0)
    assert others > 0.9


ADDED_SINCE = ("RegionCL",)  # papers with both schedules that joined the collection after the audit


def test_published_rankings_agree_as_an_audit_found() -> None:
    found = published_agreements([row for row in load() if row["paper"] not in ADDED_SINCE])
    expected = {
        "COCO 12k to 1x, R50-C4": (1.00, 6),
        "COCO 12k to 1x, R50-FPN": (0.87, 6),
        "COCO 12k to 1x, RetinaNet": (0.76, 8),
        "COCO 1x to 2x, R50-C4": (0.80, 11),
        "COCO 1x to 2x, R50-FPN": (0.69, 6),
        "COCO 1x to 2x, RetinaNet": (0.71, 8),
    }
    for name, (tau, count) in expected.items():
        assert (round(found[name].tau, 2), found[name].count) == (tau, count)
        assert found[name].low <= found[name].tau <= found[name].high
    now = published_agreements()["COCO 1x to 2x, R50-FPN"]
    assert (round(now.tau, 2), now.count) == (0.75, 9)  # with three backbones of RegionCL


def test_agreement_needs_three_common_names() -> None:
    assert agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}) is None
    one = agreement({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"a": 1.0, "b": 3.0, "c": 2.0, "d": 4.0})
    assert one is not None
    assert one.tau == pytest.approx(stats.kendalltau([1, 2, 3, 4], [1, 3, 2, 4]).statistic)
