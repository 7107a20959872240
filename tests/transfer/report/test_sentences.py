"""What a report says in words: never more than its runs show."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from runtime.errors import UserError
from tests.transfer.run_store import make_record, write_run
from transfer.comparison.comparison import Comparison, complete
from transfer.comparison.gap import Table, compare
from transfer.comparison.sequential import SequentialPlan
from transfer.records.run import find_runs
from transfer.report.csv_rows import bound, csv_rows, interval, interval_methods, verdict_class
from transfer.report.sentences import protocol_sentences, spread_sentence, summary

REFERENCES = {"supervised": "supervised", "random": "random"}


def write(root: Path, init: str, values: Sequence[float], pretraining: str = "", kind: str = "backbone") -> None:
    """One run per seed with this AP; AP50 is twice and AP75 0.8 of it."""
    for seed, ap in enumerate(values):
        metrics = {"bbox": {"AP": ap, "AP50": 2 * ap, "AP75": 0.8 * ap}}
        record = make_record(init=init, seed=seed, metrics=metrics)
        record["init"]["kind"] = kind
        write_run(root, record, pretraining)


def compared(root: Path, margin: float = 0.5, hours: Mapping[str, float] | None = None) -> Comparison:
    tables = compare(list(find_runs(root)), REFERENCES)
    return complete(tables, margin=margin, pretraining_hours=hours, detections=False)


def test_ahead_names_what_it_is_about(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0, 30.2, 29.9, 30.1])
    write(tmp_path, "moco", [32.1, 32.2, 31.9, 32.3])
    comparison = compared(tmp_path)
    assert summary(comparison) == [
        "moco is +2.08 box AP ahead of supervised on toy with these weights (95 % interval +1.92 to +2.23, n=4)."
    ]
    assert comparison.next_step == "What now: nothing is undecided."


def test_one_seed_is_a_description(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0])
    write(tmp_path, "moco", [32.0])
    comparison = compared(tmp_path)
    assert summary(comparison) == [
        "moco against supervised on toy: +2.00 box AP on these images, with this seed; other seeds may differ by as "
        "much (n=1: no verdict)."
    ]
    assert comparison.next_step == "What now: the comparison has one seed, so no verdict: add a second seed."


def test_a_failed_run_is_named_in_sentence_and_table(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.1, 15.3])
    write(tmp_path, "moco", [17.1, 17.21])
    failed = make_record(init="moco", seed=2, status="failed", error="the loss is not finite at iteration 812")
    write_run(tmp_path, failed)
    comparison = compared(tmp_path)
    (sentence,) = summary(comparison)
    assert sentence.startswith("Among the runs that finished, moco is +2.11 box AP ahead of supervised")
    assert "1 of 6 runs failed (moco, seed 2: the loss is not finite at iteration 812)" in sentence
    rows = {row["init"]: row for row in csv_rows(comparison.tables) if row["metric"] == "AP"}
    assert (rows["moco"]["n"], rows["moco"]["failed"], rows["moco"]["vs_supervised_planned"]) == ("2", "1", "6")


def test_unequal_seeds_have_a_difference_of_named_means(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.3, 14.9])
    write(tmp_path, "moco", [15.5, 15.9, 15.2, 2.0, 2.1])
    comparison = compared(tmp_path)
    row = next(row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP"))
    assert (row["mean"], row["vs_supervised"]) == ("10.14", "+0.47")
    assert row["vs_supervised_over"] == "over 3 seeds that both have"
    assert (row["vs_supervised_own_mean"], row["vs_supervised_reference_mean"]) == ("15.53", "15.07")
    assert "over the seeds that both have" in summary(comparison)[0]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([30.02, 30.21, 29.9, 30.13], r"moco and supervised on toy are equivalent within ±0.5 AP"),
        ([30.9, 28.8, 31.5, 30.2], r"moco against supervised on toy is undecided"),
        ([30.0, 30.2, 29.9, 30.1], r"no verdict: no spread between runs"),
    ],
)
def test_equal_is_not_undecided(tmp_path: Path, own: Sequence[float], words: str) -> None:
    write(tmp_path, "supervised", [30.0, 30.2, 29.9, 30.1])
    write(tmp_path, "moco", own)
    assert re.search(words, summary(compared(tmp_path))[0])


def test_undecided_says_how_many_seeds_would_decide(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0, 30.2, 29.9])
    write(tmp_path, "moco", [30.9, 30.5, 31.5])
    step = compared(tmp_path).next_step
    assert "the comparison is undecided (moco against supervised on toy)" in step
    assert re.search(r"see differences above \d+\.\d AP; about \d+ more seeds would see 0.5 \(about \d+ min\)", step)
    assert "see 0.2" in compared(tmp_path, margin=0.2).next_step


def test_two_pretraining_runs_speak_of_the_method(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0, 30.2])
    for run, centre in enumerate((33.0, 33.5, 33.2)):
        write(tmp_path, "moco", [centre, centre + 0.1], f"pretrain{run}")
    comparison = compared(tmp_path, hours={"moco": 2.0})
    (sentence,) = summary(comparison)
    assert sentence.startswith("The method moco is +3.18 box AP ahead of supervised on toy (95 % interval")
    assert "3 against 1 pretraining runs, n=2" in sentence
    assert "supervised is one pretraining run: the sentence is about these weights of it" in sentence
    (row,) = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert (row["n"], row["pretraining_runs"], row["vs_supervised_question"]) == ("6", "3", "the method")
    assert float(row["variance_pretraining"]) > 0
    (spread,) = comparison.configs[0].spreads
    text = spread_sentence(spread)
    assert "from the pretraining run" in text
    assert re.search(r"one more pretraining run buys ±\d+\.\d\d, one more fine-tuning seed ±\d+\.\d\d", text)


def test_an_undecided_method_is_told_its_pretraining_runs_and_cost(tmp_path: Path) -> None:
    for run, (own, other) in enumerate(((30.0, 30.4), (31.0, 29.7))):
        write(tmp_path, "moco", [own, own + 0.2], f"pretrain{run}")
        write(tmp_path, "supervised", [other, other + 0.1], f"pretrain{run}")
    step = compared(tmp_path, margin=2.0, hours={"moco": 2.0}).next_step
    assert re.search(r"about \d+ pretraining runs with \d+ seeds each would see 2 \(about [\d.]+ h in all\)", step)
    assert "cost unknown" in compared(tmp_path, margin=2.0).next_step


def write_repetitions(root: Path, init: str, values: Sequence[float], kind: str = "backbone") -> None:
    """Run k of pretraining k, with the fine-tuning seed k; weights without pretraining have seeds only."""
    for k, ap in enumerate(values):
        record = make_record(init=init, seed=k, metrics={"bbox": {"AP": ap, "AP50": 2 * ap, "AP75": 0.8 * ap}})
        record["init"]["kind"] = kind
        write_run(root, record, "" if kind == "random" else f"pretrain{k}")


def test_repetitions_of_everything_speak_of_the_method(tmp_path: Path) -> None:
    write_repetitions(tmp_path, "supervised", [14.0, 15.0, 14.6])
    write_repetitions(tmp_path, "moco", [7.4, 9.8, 9.0])
    write_repetitions(tmp_path, "random", [5.1, 4.8, 5.6], "random")
    comparison = compared(tmp_path, margin=5.0, hours={"moco": 2.0, "supervised": 1.0})
    moco, against_random, supervised = summary(comparison)
    assert moco == (
        "The method moco is -5.80 box AP behind supervised on toy (95 % interval -8.41 to -3.19, 3 repetitions)."
    )
    assert against_random.startswith("The method moco against random on toy is undecided: +3.57 box AP")
    assert supervised.startswith("The method supervised is +9.37 box AP ahead of random on toy")
    # the runs of this store take no time, so a repetition costs the pretraining of moco
    assert comparison.next_step.endswith("about 4 repetitions would see 5 (about 8.0 h in all).")
    text = spread_sentence(comparison.configs[0].spreads[0])
    assert text.startswith("moco: standard deviation of a run 1.22 (pretraining, seed and residual together).")
    assert re.search(r"one more repetition buys ±\d+\.\d\d\.$", text)
    (row,) = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert (row["vs_supervised_n"], row["vs_supervised_question"]) == ("3", "the method")
    assert row["vs_supervised_interval"].startswith("t over repetitions, n=3 and 3")


def test_kinds_of_interval_are_named_once_with_their_degrees_of_freedom() -> None:
    def text(*kinds: str) -> str:
        return interval_methods([{"vs_random_interval": kind} for kind in kinds], "random")

    assert text("paired t over seeds, n=3", "paired t over seeds, n=3") == "paired t over seeds, n=3"
    one = "t over repetitions, n=3 and 3"
    assert text(f"{one}, 2.4 df", f"{one}, 10.0 df", f"{one}, 3.1 df") == f"{one}, 2.4 to 10.0 df"
    assert text(f"{one}, 2.4 df", f"{one}, 2.4 df", "none (one seed)") == f"none (one seed); {one}, 2.4 df"


def test_repetitions_that_failed_are_counted(tmp_path: Path) -> None:
    write_repetitions(tmp_path, "supervised", [14.0, 15.0, 14.6])
    write_repetitions(tmp_path, "moco", [7.4, 9.8])
    fail(tmp_path, "moco", 2)
    (sentence,) = summary(compared(tmp_path))
    assert sentence.startswith("Among the runs that finished, the method moco")
    assert "2 against 3 repetitions" in sentence
    assert "1 of 6 runs failed" in sentence


def test_box_quality_is_mentioned_only_beyond_the_noise(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0, 30.2, 29.9])
    for seed in range(3):
        metrics = {"bbox": {"AP": 31.0, "AP50": 60.0 + seed / 10, "AP75": 36.0 + seed / 5}}
        write_run(tmp_path, make_record(init="moco", seed=seed, metrics=metrics))
        noise = {"bbox": {"AP": 31.0, "AP50": 60.0 + 9 * (seed == 1), "AP75": 30.0}}
        write_run(tmp_path, make_record(init="noisy", seed=seed, metrics=noise))
    (one,) = compared(tmp_path).configs[0].box_quality
    assert one.init == "moco"
    assert one.percent[1] > 0


def test_an_initialisation_without_any_run_does_not_vanish(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.1])
    for seed in (0, 1):
        error = f"the loss is not finite at iteration {seed}"
        write_run(tmp_path, make_record(init="moco", seed=seed, status="failed", error=error))
    assert summary(compared(tmp_path)) == [
        "moco has no result on toy: all of its 2 runs failed (moco, seed 0: the loss is not finite at iteration 0, and "
        "1 more)."
    ]


def test_an_interval_that_no_metric_can_have_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [5.0, 1.0])
    write(tmp_path, "moco", [5.0, 9.0])
    comparison = compared(tmp_path)
    (row,) = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert interval(row, "supervised").endswith("]*")
    assert "reaches beyond what the metric can be: there the runs do not bound the difference" in summary(comparison)[0]


def test_an_end_beside_0_is_not_shown_as_0(tmp_path: Path) -> None:
    """[+0.00, +2.00] and "excludes 0" would contradict each other."""
    write(tmp_path, "supervised", [30.0, 30.0])
    write(tmp_path, "moco", [30.92153313, 31.07846687])
    comparison = compared(tmp_path)
    (sentence,) = summary(comparison)
    assert "95 % interval +0.003 to +2.00" in sentence
    assert [bound(v) for v in (None, 0.0, -0.0, -0.004, 0.00049, 1e-9, -1.0)] == [
        *("", "+0.00", "+0.00", "-0.004", "+0.0005", "+0.00", "-1.00")
    ]


def test_the_margin_of_a_folder_is_an_option(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write(tmp_path, "supervised", [30.0, 30.2, 29.9, 30.1])
    write(tmp_path, "moco", [31.0, 31.1, 30.95, 31.2])
    command = ["transfer/measure_gap.py", str(tmp_path), "--no-detections"]
    assert "moco is +1.01 box AP ahead of supervised on toy with these weights (" in run_cli(command, check=0).stdout
    wide = run_cli([*command, "--margin", "2"], check=0).stdout
    assert "moco is +1.01 box AP ahead of supervised on toy with these weights, by less than 2 (" in wide
    assert "--margin must be between 0 and 100" in run_cli([*command, "--margin", "0"], check=2).stderr


def fail(root: Path, init: str, seed: int) -> None:
    """A run that diverged."""
    write_run(root, make_record(init=init, seed=seed, status="failed", error="the loss is not finite"))


def test_a_pair_without_a_common_seed_does_not_vanish(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0])
    fail(tmp_path, "supervised", 1)
    write_run(tmp_path, make_record(init="moco", seed=1))
    fail(tmp_path, "moco", 0)
    comparison = compared(tmp_path)
    assert summary(comparison) == [
        "moco against supervised on toy: no comparison, because no seed finished in every run (2 failed: moco, seed 0: "
        "the loss is not finite, and 1 more)."
    ]
    assert comparison.next_step == "What now: 1 pair has no common seed: run the same seeds for both."


def test_pretraining_runs_without_a_common_seed_do_not_vanish(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.1, 14.9])
    for run, seeds in enumerate(((0, 1), (1, 2), (0, 2))):  # any two share a seed, so they are no repetitions either
        for seed in seeds:
            write_run(tmp_path, make_record(init="moco", seed=seed), f"pretrain{run}")
    assert summary(compared(tmp_path)) == [
        "moco against supervised on toy: no comparison, because no seed finished in every run."
    ]


def test_failures_are_named_where_nothing_was_learned(tmp_path: Path) -> None:
    for init in ("supervised", "random"):
        write(tmp_path, init, [0.0, -0.0])
    fail(tmp_path, "moco", 0)
    assert [sentence.split(" on ")[0] for sentence in summary(compared(tmp_path))] == [
        "moco has no result",
        "Nothing was learned",
    ]


def test_a_finished_run_without_ap_counts_as_failed(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.1, 15.3])
    write(tmp_path, "moco", [17.1, float("nan"), 17.21])
    comparison = compared(tmp_path)
    (sentence,) = summary(comparison)
    assert sentence.startswith("Among the runs that finished, moco")
    assert sentence.endswith("1 of 6 runs failed (moco, seed 1: its bbox AP is not a number).")
    rows = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert [(row["n"], row["failed"]) for row in rows] == [("2", "1")]


def test_a_verdict_of_fewer_seeds_is_not_mixed_with_the_numbers_of_all(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [30.0, 30.1, 29.9, 30.2, 80.0])
    write(tmp_path, "moco", [40.0, 40.2, 39.8, 40.3, 1.0])
    comparison = complete(
        compare(list(find_runs(tmp_path)), REFERENCES), stopping=SequentialPlan(2, 6), detections=False
    )
    (sentence,) = summary(comparison)
    assert re.match(
        r"moco is ahead of supervised on toy with these weights, decided with \d seeds; with all 5 the difference is "
        r"-7.78 box AP \(95 % interval -",
        sentence,
    )
    (row,) = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert re.fullmatch(r"ahead, decided with \d seeds", row["vs_supervised_verdict_text"])
    assert verdict_class(row, "supervised") == "even"


def test_a_side_that_exists_once_is_not_called_a_method(tmp_path: Path) -> None:
    write(tmp_path, "released", [33.0, 33.2])
    write(tmp_path, "random", [10.0, 10.9], kind="random")
    for run, centre in enumerate((30.0, 30.5, 30.2)):
        write(tmp_path, "supervised", [centre, centre + 0.1], f"pretrain{run}")
    sentences = summary(compared(tmp_path))
    assert sentences[0].startswith("released is +2.82 box AP ahead of the method supervised on toy")
    assert "1 against 3 pretraining runs" in sentences[0]
    (of_random,) = [text for text in sentences if text.startswith("The method supervised")]
    assert "3 pretraining runs, n=2" in of_random
    assert "against 1" not in of_random


def test_the_expected_interval_counts_the_noise_of_a_side_that_exists_once(tmp_path: Path) -> None:
    write(tmp_path, "random", [9.0, 11.0, 10.0], kind="random")
    for run, centre in enumerate((30.0, 30.1, 30.05)):
        write(tmp_path, "supervised", [centre, centre + 0.1, centre + 0.05], f"pretrain{run}")
    comparison = compared(tmp_path)
    row = next(row for row in comparison.tables[0].headline_rows if row.init == "supervised")
    one = row.gaps["random"].difference
    assert one.low is not None
    spreads = {spread.init: spread for spread in comparison.configs[0].spreads}
    for spread in spreads.values():  # the runs show 1.2 to 2.3; as noisy as supervised would be 0.1
        assert 1.0 < spread.half_width < 2 * (one.mean - one.low)


def test_one_seed_does_not_say_what_another_buys(tmp_path: Path) -> None:
    for run in range(3):
        write(tmp_path, "supervised", [15 + 0.3 * run**2], f"pretrain{run}")
        write(tmp_path, "moco", [16 + 0.4 * run], f"pretrain{run}")
    text = spread_sentence(compared(tmp_path).configs[0].spreads[0])
    assert "one more pretraining run buys ±" in text
    assert text.endswith("; what one more fine-tuning seed buys is unknown with one seed.")


def test_runs_that_see_the_margin_are_not_told_to_repeat_themselves(tmp_path: Path) -> None:
    own, other = (0.1, -0.1, 0.2, -0.2, 0.3, -0.3), (0.3, -0.25, -0.2, 0.15, 0.1, -0.1)
    for run in range(6):
        write(tmp_path, "moco", [16.0 + own[run] + 0.05 * seed for seed in range(3)], f"pretrain{run}")
        write(tmp_path, "supervised", [15.75 + other[run] + 0.05 * seed for seed in range(3)], f"pretrain{run}")
    step = compared(tmp_path).next_step
    assert step.endswith("0.5 is among them, so only more runs can show equivalence or a smaller difference.")


def test_the_same_weights_are_not_two_pretraining_runs(tmp_path: Path) -> None:
    write(tmp_path, "supervised", [15.0, 15.1])
    write(tmp_path, "moco", [16.0, 16.1])
    for run, sha256 in enumerate(("b" * 64, "a" * 64)):  # that of the run without a pretraining seed, and another
        record = make_record(init="moco", seed=0)
        record["init"]["sha256"] = sha256
        write_run(tmp_path, record, f"pretrain{run}")
    with pytest.raises(UserError, match="same weights, which would count as two pretraining runs"):
        compared(tmp_path)
    shutil.rmtree(tmp_path / "toy" / "moco" / "pretrain0")
    assert summary(compared(tmp_path))  # two different runs, wherever they are


@pytest.mark.parametrize(("most", "words"), [(4, "The plan adds seeds itself, up to 4."), (3, "ends with 3 seeds.")])
def test_a_plan_that_stops_says_whether_seeds_are_left(tmp_path: Path, most: int, words: str) -> None:
    write(tmp_path, "supervised", [30.0, 31.2, 29.1])
    write(tmp_path, "moco", [30.9, 29.5, 31.5])
    tables = compare(list(find_runs(tmp_path)), REFERENCES)
    assert complete(tables, stopping=SequentialPlan(2, most), detections=False).next_step.endswith(words)


def test_a_table_of_frozen_backbones_says_what_is_fixed(tmp_path: Path) -> None:
    def table(root: Path, heads: str, stages: list[str], **fields: object) -> Table:
        flat = {"MODEL.ROI_HEADS.NAME": heads, "MODEL.RESNETS.OUT_FEATURES": stages}
        for init in ("supervised", "moco"):
            write_run(root, make_record(init=init, flat=flat, **{"protocol": "frozen", **fields}))
        (found,) = compare(list(find_runs(root)), REFERENCES)
        return found

    (c4,) = protocol_sentences(table(tmp_path / "c4", "Res5ROIHeads", ["res4"], backbone_sha256="f" * 64))
    assert c4 == (
        "Frozen backbone: stem to res4 and their batch-norm statistics are those of the initialisation; its sha256 was "
        "the same at the start and at the end of every run. Everything after it is trained, and so is res5, which "
        "belongs to the region heads."
    )
    (fpn,) = protocol_sentences(table(tmp_path / "fpn", "StandardROIHeads", ["res2", "res5"]))
    assert fpn == (
        "Frozen backbone: stem to res5 and their batch-norm statistics are those of the initialisation. Everything "
        "after it is trained."
    )
    assert not protocol_sentences(table(tmp_path / "tuned", "Res5ROIHeads", ["res4"], protocol="tuned"))
