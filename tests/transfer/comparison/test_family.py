"""The verdicts of a whole report: which comparisons are tested together, and how often a word is false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from transfer.comparison.family import FAMILY_ALPHA, family, repeated, undecided, with_verdicts
from transfer.comparison.gap import Gap, Table, compare
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.verdicts import AHEAD, BEHIND, EQUIVALENT, NONE, UNDECIDED
from transfer.records.run import Run

REFERENCES = {"supervised": "supervised", "random": "random"}


def tables_of(values: Mapping[str, Sequence[float]], name: str = "toy") -> list[Table]:
    """One table of runs with these AP, one per seed."""
    runs = [
        Run(Path(f"{name}/{init}/{seed}"), name, init, seed, "finished", None, {("bbox", "AP"): ap}, {"k": 1})
        for init, aps in values.items()
        for seed, ap in enumerate(aps)
    ]
    return compare(runs, REFERENCES)


def gap_of(tables: Sequence[Table], init: str, role: str) -> Gap:
    row = tables[0].row(init, "bbox", "AP")
    assert row is not None
    return row.gaps[role]


def word(tables: Sequence[Table], init: str, role: str) -> str:
    verdict = gap_of(tables, init, role).verdict
    assert verdict is not None
    return verdict.word


def test_each_pair_counts_once_and_its_mirror_has_the_opposite_word() -> None:
    rng = np.random.default_rng(0)
    values = {init: centre + rng.normal(0, 0.1, 5) for init, centre in (("supervised", 30), ("random", 20), ("a", 30))}
    tables = with_verdicts(tables_of(values))
    assert set(family(tables)) == {("toy", "a", "supervised"), ("toy", "a", "random"), ("toy", "supervised", "random")}
    assert word(tables, "supervised", "random") == AHEAD
    assert word(tables, "random", "supervised") == BEHIND
    assert word(tables, "a", "supervised") == EQUIVALENT


def test_a_config_on_which_nothing_was_learned_is_not_tested() -> None:
    tables = tables_of({"supervised": [0.05, 0.06], "a": [0.01, 0.03]})
    assert family(tables) == {}
    verdict = gap_of(with_verdicts(tables), "a", "supervised").verdict
    assert verdict is not None
    assert (verdict.word, verdict.reason) == (NONE, "nothing was learned")


def test_a_null_report_rarely_says_ahead_or_behind() -> None:
    rng = np.random.default_rng(1)
    reports, false = 400, 0
    for _ in range(reports):
        inits = ("supervised", "random", "a", "b", "c")
        tables = with_verdicts(tables_of({init: rng.normal(20, 1, 3).tolist() for init in inits}))
        verdicts = [gap.verdict for _, gap in family(tables).values()]
        false += any(verdict is not None and verdict.word in (AHEAD, BEHIND) for verdict in verdicts)
    assert false / reports <= 0.05


def test_the_sequential_rule_replaces_the_verdict_and_stays() -> None:
    rule = SequentialPlan(2, 6)
    early = {"supervised": [30.0, 30.1, 29.9, 30.2], "a": [40.0, 40.2, 39.8, 40.3]}
    tables = with_verdicts(tables_of(early), stopping=rule)
    paired = [b - a for a, b in zip(early["supervised"], early["a"])]
    assert word(tables, "a", "supervised") == rule.decide(paired) == AHEAD
    later = {init: [*values, value] for (init, values), value in zip(early.items(), (80.0, 1.0))}
    assert word(with_verdicts(tables_of(later), stopping=rule), "a", "supervised") == AHEAD  # it was final
    assert word(with_verdicts(tables_of(later)), "a", "supervised") == UNDECIDED
    noisy = tables_of({"supervised": [30.0, 33.0, 27.0], "a": [31.0, 29.0, 32.5]})
    assert undecided(with_verdicts(noisy, stopping=rule)) == [("toy", "a", "supervised")]


def test_a_pair_with_too_few_common_seeds_is_not_decided() -> None:
    rule = SequentialPlan(3, 6)
    few = with_verdicts(tables_of({"supervised": [30.0, 30.1, 29.9], "a": [31.1, 31.5]}), stopping=rule)
    assert undecided(few, rule.least) == [("toy", "a", "supervised")]
    verdict = gap_of(few, "a", "supervised").verdict
    assert verdict is not None
    assert verdict.text == "no verdict (2 common seeds, and the plan first looks at 3)"
    one = with_verdicts(tables_of({"supervised": [30.0, 30.1], "a": [31.1]}), stopping=SequentialPlan(2, 6))
    assert undecided(one) == [("toy", "a", "supervised")]
    runs = [run for table in tables_of({"supervised": [30.0, 30.1], "a": [31.1, 31.0]}) for run in table.runs]
    apart = compare([run for run in runs if (run.init == "a") == (run.seed == 1)], REFERENCES)
    assert undecided(with_verdicts(apart, stopping=rule)) == [("toy", "a", "supervised")]
    repeats = with_verdicts(tables_of({"supervised": [30.0, 30.1], "a": [31.0, 31.1]}), stopping=SequentialPlan(2, 6))
    assert undecided(repeats) == []  # more repeats of one run would be added up to the most


def test_comparisons_of_the_report_share_the_rule_and_the_adjustment() -> None:
    values = {"supervised": [30.0, 30.1, 29.9], "a": [31.1, 31.5, 30.9]}
    one = tables_of(values)
    p = gap_of(one, "a", "supervised").difference.p
    assert p is not None
    assert 0.001 < p < FAMILY_ALPHA
    assert word(with_verdicts(one), "a", "supervised") == AHEAD
    many = [table for i in range(30) for table in tables_of(values, name=f"toy{i}")]  # Holm: 30 p is above the level
    assert word(with_verdicts(many), "a", "supervised") == UNDECIDED


def test_runs_that_stand_in_two_tables_are_one_comparison() -> None:
    rng = np.random.default_rng(2)
    values = {init: centre + rng.normal(0, 0.1, 4) for init, centre in (("random", 20), ("a", 20.1), ("b", 21))}
    (plain,) = tables_of(values)
    own = replace(plain, name="toy-own_lr", runs=tuple(
        replace(run, folder=Path("own") / run.folder) if run.init == "b" else run for run in plain.runs
    ))  # fmt: skip
    everything = family([plain, own])
    same = repeated(everything, [plain, own])
    assert same == {("toy-own_lr", "a", "random"): ("toy", "a", "random")}
    alone, both = with_verdicts([plain]), with_verdicts([plain, own])
    for init in ("a", "b"):
        first, second = gap_of(both, init, "random").verdict, gap_of(both[1:], init, "random").verdict
        assert first is not None
        assert second is not None
        assert first.word == second.word
    adjusted = [gap_of(tables, "a", "random").verdict for tables in (alone, both)]
    assert all(verdict is not None and verdict.p_difference is not None for verdict in adjusted)
