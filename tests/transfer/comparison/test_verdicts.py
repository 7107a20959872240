"""Verdicts: Holm and TOST against statsmodels, what a word needs, and how often an empty report is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.comparison.differences import Difference, compare_initialisations
from transfer.comparison.verdicts import equivalence_p, holm, verdicts


def seeds(values: list[float]) -> dict[str, dict[int, float]]:
    return {"weights": dict(enumerate(values))}


def difference(own: list[float], reference: list[float]) -> Difference:
    found = compare_initialisations({"own": seeds(own), "reference": seeds(reference)}, "reference")["own"].difference
    assert found is not None
    return found


def test_holm_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p = rng.random(size) ** 4
        p[: size // 3] = p[0]  # ties
        assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1], abs=1e-12)
    assert holm([]) == []


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_equivalence_is_statsmodels() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    rng = np.random.default_rng(1)
    for _ in range(20):
        own, reference = rng.normal(30, 0.3, 6), rng.normal(30, 0.3, 6)
        theirs = weightstats.ttost_paired(own, reference, -0.5, 0.5)[0]
        assert equivalence_p(difference(list(own), list(reference))) == pytest.approx(float(theirs), abs=1e-9)


def test_equivalence_needs_an_interval() -> None:
    with pytest.raises(ValueError, match="one seed"):
        equivalence_p(difference([1.0], [2.0]))


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ([12.0, 12.1, 12.05, 11.9], "ahead"),
        ([8.0, 8.1, 8.05, 7.9], "behind"),
        ([10.0, 10.05, 9.98, 10.01], "equivalent within ±0.5"),
        ([10.2, 10.21, 10.19, 10.2], "ahead by less than 0.5"),
        ([10.0, 14.0, 7.0, 10.0], "undecided"),
        ([13.0], "no verdict (one seed)"),
        ([0.0, 0.0], "no verdict (no spread between runs: repeats of one run, or a metric with few values)"),
    ],
)
def test_words(own: list[float], text: str) -> None:
    reference = [10.0, 10.02, 9.99, 10.01] if own != [0.0, 0.0] else [10.0, 10.0]
    assert verdicts({"own": difference(own, reference[: len(own)])})["own"].text == text


def test_a_failed_run_qualifies_the_word() -> None:
    values = {"own": seeds([12.0, 12.1, 12.05]), "reference": seeds([10.0, 10.02, 9.99])}
    lost = {"own": {"weights": {3: "diverged"}}}
    found = compare_initialisations(values, "reference", failures=lost)["own"].difference
    assert found is not None
    assert verdicts({0: found})[0].text == "ahead, among the runs that finished (1 of 7 failed)"


def test_the_family_is_the_report() -> None:
    near = difference([10.30, 10.52, 10.41], [10.0, 10.0, 10.01])  # p about 0.026
    assert near.p is not None
    assert 0.01 < near.p < 0.05
    assert verdicts({"a": near})["a"].word == "ahead"
    noise = difference([10.0, 11.0, 9.0], [10.0, 10.0, 10.0])
    crowd = verdicts({"a": near, "b": noise, "c": noise})
    assert crowd["a"].word == "undecided"
    assert crowd["a"].p_difference == pytest.approx(3 * near.p)
    single = difference([10.0], [9.0])  # one seed is not tested and does not make the family larger
    assert verdicts({"a": near, "b": single})["a"].word == "ahead"


def test_a_wider_margin_calls_more_equivalent() -> None:
    found = difference([10.6, 10.0, 10.3], [10.0, 10.02, 10.4])
    assert verdicts({0: found}, margin=0.5)[0].word == "undecided"
    assert verdicts({0: found}, margin=5.0)[0].text == "equivalent within ±5"


def false_verdicts(reports: int, comparisons: int, n: int) -> float:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(reports):
        block = rng.normal(0, 1, n)
        runs = {str(i): seeds(list(30 + block + rng.normal(0, 1, n))) for i in range(comparisons + 1)}
        results = compare_initialisations(runs, "0")
        found = verdicts({i: r.difference for i, r in results.items() if r.difference is not None})
        wrong += any(verdict.word in ("ahead", "behind") for verdict in found.values())
    return wrong / reports


def test_one_seed_never_says_ahead() -> None:
    assert false_verdicts(200, 7, 1) == 0


@pytest.mark.parametrize("n", [2, 5])
def test_a_report_without_differences_is_wrong_in_at_most_5_per_cent(n: int) -> None:
    assert false_verdicts(400, 4, n) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
