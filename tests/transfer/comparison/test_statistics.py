"""Differences against a brute-force oracle, coverage of intervals, and scipy's own bootstrap and t interval."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UserError
from transfer.comparison.gap import compare
from transfer.comparison.intervals import percentile_interval, resamples, sample_std
from transfer.records.run import Run, find_runs, read_run

INITS = ("random", "supervised", "moco", "bank")
METRICS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"))


def random_store(rng: random.Random) -> list[Run]:
    runs = []
    for init in INITS:
        for seed in rng.sample(range(8), rng.randint(0, 6)):
            status = rng.choices(["finished", "failed", "missing"], [8, 1, 1])[0]
            # AP is always there: a run without it counts as failed (see test_sentences.py)
            scores = {m: round(rng.uniform(0, 60), 4) for m in METRICS if rng.random() < 0.9 or m == METRICS[0]}
            metrics = scores if status == "finished" else {}
            runs.append(Run(Path(f"{init}/{seed}"), "toy", init, seed, status, None, metrics, {"k": 1}))
    rng.shuffle(runs)
    return runs


def oracle(
    runs: list[Run], init: str, reference: str, metric: tuple[str, str]
) -> tuple[list[int], float, float] | None:
    """(seeds, mean, half width) of the paired difference in exact fractions; the t quantile is scipy.stats.t's."""
    import scipy.stats

    value = {(r.init, r.seed): Fraction(str(r.metrics[metric])) for r in runs if metric in r.metrics}
    seeds = sorted(s for i, s in value if i == init and (reference, s) in value)
    if not seeds:
        return None
    paired = [value[init, s] - value[reference, s] for s in seeds]
    centre = sum(paired) / len(paired)
    if len(paired) == 1:
        return seeds, float(centre), math.nan
    variance = sum((d - centre) ** 2 for d in paired) / (len(paired) - 1)
    return seeds, float(centre), scipy.stats.t.ppf(0.975, len(paired) - 1) * math.sqrt(variance / len(paired))


def test_gap_equals_the_oracle_on_a_thousand_stores() -> None:
    rng = random.Random(6)
    compared = 0
    for _ in range(1000):
        runs = random_store(rng)
        tables = compare(runs, {"supervised": "supervised", "random": "random"})
        rows = {(row.init, (row.task, row.metric)): row for table in tables for row in table.rows}
        for init in INITS:
            for metric in METRICS:
                own = [r.metrics[metric] for r in runs if r.init == init and metric in r.metrics]
                row = rows.get((init, metric))
                assert (row is None) == (not own)
                if row is None:
                    continue
                assert row.n == len(own)
                assert row.mean == pytest.approx(statistics.fmean(own), abs=1e-12)
                assert row.std == (pytest.approx(statistics.stdev(own), abs=1e-9) if len(own) > 1 else None)
                for reference in ("supervised", "random"):
                    expected = oracle(runs, init, reference, metric) if init != reference else None
                    gap = row.gaps.get(reference)
                    assert (gap is None) == (expected is None)
                    if gap is None or expected is None:
                        continue
                    seeds, centre, half = expected
                    compared += 1
                    difference = gap.difference
                    assert list(difference.seeds) == seeds
                    assert difference.mean == pytest.approx(centre, abs=1e-12)
                    assert difference.own_mean - difference.reference_mean == pytest.approx(centre, abs=1e-12)
                    if len(seeds) == 1:
                        assert (difference.low, difference.problem) == (None, "one seed")
                        continue
                    assert difference.low == pytest.approx(max(centre - half, -100), abs=1e-9)
                    assert difference.high == pytest.approx(min(centre + half, 100), abs=1e-9)
    assert compared > 5000


def bootstrap(statistic: Callable[[np.ndarray], float], images: int, replicates: int, seed: int) -> tuple[float, float]:
    """A paired percentile bootstrap from the two functions of which ``ImageBootstrap`` is made.

    ``statistic`` maps how often each image was drawn, int[images], to a difference.
    """
    draws = resamples(images, replicates, seed)
    return percentile_interval(np.array([statistic(np.bincount(draw, minlength=images)) for draw in draws]))


def weighted_mean(values: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda weights: float(weights @ values / weights.sum())


def test_image_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    covered, truth, images = 0, 0.8, 150
    for trial in range(400):
        hard = rng.gamma(2.0, 2.0, images)
        paired = (hard + truth + rng.normal(0, 1, images)) - (hard + rng.normal(0, 1, images))
        low, high = bootstrap(weighted_mean(paired), images, 400, trial)
        covered += low <= truth <= high
    assert 0.93 <= covered / 400 <= 0.97


def test_bootstrap_is_scipys() -> None:
    import scipy.stats

    rng = np.random.default_rng(3)
    a, b = rng.gamma(2, 3, 80), rng.gamma(2, 3, 80)
    ours = bootstrap(weighted_mean(a - b), 80, 2000, 11)
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(11),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert resamples(5, 3, 0).shape == (3, 5)


def test_one_run_has_no_spread() -> None:
    assert sample_std([3.0]) is None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"flat": {"SOLVER.BASE_LR": 0.01}}, "SOLVER.BASE_LR"),
        ({"flat": {"SOLVER.IMS_PER_BATCH": 8}}, "SOLVER.IMS_PER_BATCH"),
        ({"flat": {"MODEL.RESNETS.STRIDE_IN_1X1": True}}, "MODEL.RESNETS.STRIDE_IN_1X1"),
        ({"flat": {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}}, "MODEL.PIXEL_STD"),
        ({"flat": {"INPUT.FORMAT": "BGR"}}, "INPUT.FORMAT"),
        ({"flat": {"NEW.KEY": 1}}, "NEW.KEY"),
        ({"engine": {"name": "detectron2", "versions": {"torch": "2.14.1"}}}, "engine.name"),
        ({"engine": {"name": "torchvision", "versions": {"torch": "2.4.0"}}}, "engine.versions.torch"),
        ({"evaluator": "voc/2007-11pt"}, "evaluator"),
        ({"iterations": 99}, "iterations"),
        (
            {
                "datasets": {
                    "train": [{"name": "toy_train", "sha256": "0" * 64, "images": 8}],
                    "test": [{"name": "toy_val", "sha256": "e" * 64, "images": 4}],
                }
            },
            "datasets.train.sha256",
        ),
    ],
)
def test_unequal_runs_are_refused_by_name(store: Callable[..., Path], change: dict, key: str) -> None:
    store(init="supervised")
    root = store(init="moco", **change)
    runs = list(find_runs(root))
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        compare(runs, {"supervised": "supervised"})
    (table,) = compare(runs, {"supervised": "supervised"}, allow=[key])
    assert [allowed.key for allowed in table.allowed] == [key]
    row = table.row("moco", "bbox", "AP")
    assert row is not None
    assert row.gaps["supervised"].difference.mean == 0


def test_a_run_changed_on_a_resume_is_refused_by_name(store: Callable[..., Path]) -> None:
    changes = [{"iteration": 50, "changed": {"SOLVER.IMS_PER_BATCH": [8, 4], "init": ["random", "backbone x"]}}]
    store(init="supervised")
    runs = list(find_runs(store(init="moco", changes=changes)))
    message = r"moco/seed0 .*SOLVER\.IMS_PER_BATCH was 8 until iteration 50, then 4; .*--allow SOLVER\.IMS_PER_BATCH"
    with pytest.raises(UserError, match=message):
        compare(runs, {"supervised": "supervised"})
    with pytest.raises(UserError, match="init was random until iteration 50"):
        compare(runs, {"supervised": "supervised"}, allow=["SOLVER.IMS_PER_BATCH"])
    (table,) = compare(runs, {"supervised": "supervised"}, allow=["SOLVER.IMS_PER_BATCH", "init"])
    assert [(allowed.key, allowed.values) for allowed in table.allowed] == [
        ("SOLVER.IMS_PER_BATCH (changed on resume)", {"moco": "8 until iteration 50, then 4"}),
        ("init (changed on resume)", {"moco": "random until iteration 50, then backbone x"}),
    ]


def test_free_keys_may_differ(store: Callable[..., Path]) -> None:
    store(init="supervised", flat={"MODEL.WEIGHTS": "a.pkl", "OUTPUT_DIR": "x", "SEED": 1})
    root = store(init="moco", flat={"MODEL.WEIGHTS": "b.pkl", "OUTPUT_DIR": "y", "SEED": 2})
    (table,) = compare(list(find_runs(root)), {"supervised": "supervised"})
    assert table.allowed == ()
    row = table.row("moco", "bbox", "AP")
    assert row is not None
    assert "supervised" in row.gaps


def test_undefined_metrics_are_not_numbers(store: Callable[..., Path]) -> None:
    root = store(metrics={"bbox": {"AP": 1.0, "APs": -1, "APm": None, "APl": float("nan")}})
    assert dict(read_run(root / "toy" / "moco" / "seed0").metrics) == {("bbox", "AP"): 1.0}


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 2}', '{"schema": 1, "status": "finished"}', "nonsense"])
def test_a_broken_result_is_a_failed_run_with_the_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    run = read_run(tmp_path)
    assert (run.status, dict(run.metrics)) == ("failed", {})
    assert str(run.error).startswith(f"{tmp_path / 'result.json'} ")
