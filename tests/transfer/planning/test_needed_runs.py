"""``--power``: the runs that would see a difference, before anything is run."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transfer.comparison.family import FAMILY_ALPHA
from transfer.comparison.gap import compare
from transfer.comparison.power import seeds_for
from transfer.comparison.sequential import SequentialPlan
from transfer.planning.lr_search import LearningRate
from transfer.planning.needed_runs import _measured, power_text
from transfer.planning.plan import load_plan
from transfer.records.run import Run


def test_a_published_spread_plans_without_any_run(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    plan = load_plan("plans/moco_voc.yaml")
    text = power_text(plan, [], {}, 0.5)
    comparisons = int(re.findall(r"comparisons \((\d+)\)", text)[0])
    seeds = seeds_for(0.5, 0.2, alpha=FAMILY_ALPHA / comparisons)
    assert re.search(rf"voc_R50_C4 +0\.20 +{seeds} seeds +unknown", text)
    assert "MoCo's detection/README.md" in text


def test_tables_at_own_rates_and_seeds_to_come_count(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    plan = load_plan("plans/moco_voc.yaml")
    assert not any(init.lr for init in plan.inits)
    rate = replace(plan, inits=(*plan.inits[:-1], replace(plan.inits[-1], lr=LearningRate(value=0.01))))
    plain, doubled = (
        int(re.findall(r"comparisons \((\d+)\)", power_text(one, [], {}, 0.5))[0]) for one in (plan, rate)
    )
    # only the pairs of the one initialisation that has a rate are compared a second time
    assert doubled == plain + len(plan.configs) * 2
    assert f"Seeds in the plan: {len(plan.seeds)}\n" in power_text(plan, [], {}, 0.5)
    open_ended = replace(plan, seeds=(0, 1), stopping=SequentialPlan(2, 7))
    until_decided = power_text(open_ended, [], {}, 0.5)
    assert "Seeds in the plan: 2 to 7\n" in until_decided
    assert re.search(r"voc_R50_C4 +0\.20 +\d\.\d seeds on average, seen in \d+% of plans", until_decided)


def test_other_data_have_no_published_spread(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    assert "unknown: finish two seeds first" in power_text(load_plan("plans/demo.yaml"), [], {}, 0.5)
    low_data = power_text(load_plan("plans/coco_low_data.yaml"), [], {}, 0.5)  # trains on parts of COCO
    assert "0.10" not in low_data


@pytest.mark.parametrize("runs", [1, 4])
def test_the_measured_spread_is_that_of_one_run(runs: int) -> None:
    rng, spreads = np.random.default_rng(0), []
    for _ in range(20):
        rows = [
            Run(Path(f"{init}/{r}/{seed}"), "toy", init, seed, "finished", None, {("bbox", "AP"): ap}, pretraining=name)
            for init in ("supervised", "moco")
            for r in range(runs)
            for seed, ap in enumerate(rng.normal(30 + r, 0.5, 8))
            for name in [f"pretrain{r}" if runs > 1 else ""]
        ]
        spread = _measured(compare(rows, {"supervised": "supervised"})[0])
        assert spread is not None
        spreads.append(spread.seeds)
    assert np.mean(spreads) == pytest.approx(0.5, rel=0.1)


def test_repetitions_of_everything_are_planned_as_such(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    demo = load_plan("plans/demo.yaml")
    assert "Repetitions in the plan: 4\n" in power_text(demo, [], {}, 0.5)
    ap = {"supervised": (14.0, 15.0, 14.6), "moco": (7.4, 9.8, 9.0), "random": (5.1, 4.8, 5.6)}
    rows = [
        Run(Path(f"{init}/{k}"), "demo_R18_C4", init, k, "finished", None, {("bbox", "AP"): value}, pretraining=name)
        for init, values in ap.items()
        for k, value in enumerate(values)
        for name in ["" if init == "random" else f"pretrain{k}"]
    ]
    tables = compare(rows, {"supervised": "supervised"})
    spread = _measured(tables[0])
    assert spread is not None
    assert spread.seeds == pytest.approx(np.std(ap["moco"], ddof=1))  # the noisiest, all sources together
    text = power_text(demo, tables, {}, 3.0)
    assert re.search(r"^ *demo_R18_C4 +1\.22 +- +- +7 repetitions +unknown$", text, re.M)
    assert "pretraining runs x" not in text
    assert "more than 20 repetitions" in power_text(demo, tables, {}, 0.1)


def test_measured_spread_and_cost(plan_file: Path, measure_gap: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SPREAD", "0.3")
    monkeypatch.setattr("transfer.planning.needed_runs._published", lambda config: None)
    subprocess.run([*measure_gap, "--no-detections"], check=True, capture_output=True, timeout=240)
    before = sorted(Path("runs").rglob("*"))
    done = subprocess.run([*measure_gap, "--power", "1"], check=True, capture_output=True, text=True, timeout=240)
    assert re.search(r"toy +\d\.\d\d +\d+ seeds +about [\d.]+ min", done.stdout.replace(" h", " min"))
    assert re.search(r"\d+ pretraining runs x \d+ seeds", done.stdout)
    assert "measured: the noisiest comparison of finished runs; pretraining runs are taken" in done.stdout
    assert sorted(Path("runs").rglob("*")) == before  # nothing was run or written
