"""From differences to words: ahead, behind, equivalent, undecided or no verdict, with a known error rate.

Two families are tested over all comparisons of a report, each at 5 %: "no difference" and "a difference of the margin
or more". Both are adjusted by Holm (1979), so a report in which nothing differs says ahead or behind once in twenty
reports at most, and a report in which everything differs by the margin says equivalent as rarely. A comparison cannot
be wrong in both. Intervals in tables stay single 95 % intervals: one may exclude 0 and its verdict be undecided.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from transfer.comparison.differences import Difference
from transfer.comparison.student import ALPHA, upper_tail

MARGIN = 0.5  # points of AP within which two initialisations count as equivalent
AHEAD, BEHIND, EQUIVALENT, UNDECIDED, NONE = "ahead", "behind", "equivalent", "undecided", "no verdict"

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Verdict:
    """One comparison in a word, and what the word rests on."""

    word: str
    margin: float
    reason: str = ""  # of "no verdict"
    p_difference: float | None = None  # both adjusted over the report
    p_equivalence: float | None = None
    within_margin: bool = False  # the difference is smaller than the margin; may hold for "ahead" too
    failed: int = 0
    planned: int = 0
    decided_with: int | None = None  # seeds at which a sequential plan reached the word, where more have been added

    @property
    def text(self) -> str:
        """The word with what qualifies it, for a sentence."""
        if self.word == NONE:
            text = f"{NONE} ({self.reason})"
        elif self.word == EQUIVALENT:
            text = f"{EQUIVALENT} within ±{self.margin:g}"
        elif self.within_margin:
            text = f"{self.word} by less than {self.margin:g}"
        else:
            text = self.word
        text += f", decided with {self.decided_with} seeds" if self.decided_with else ""
        return f"{text}, among the runs that finished ({self.failed} of {self.planned} failed)" if self.failed else text


def verdicts(
    differences: Mapping[Key, Difference], *, margin: float = MARGIN, alpha: float = ALPHA
) -> dict[Key, Verdict]:
    """A verdict for every comparison of a report (all initialisations, configs and headline metrics together).

    Comparisons without an interval (one seed, no spread) get no verdict and do not count in the family. Give all
    comparisons of the report in one call: the adjustment depends on their number.
    """
    tested = {key: difference for key, difference in differences.items() if difference.p is not None}
    of_difference = dict(zip(tested, holm([d.p for d in tested.values() if d.p is not None])))
    of_equivalence = dict(zip(tested, holm([equivalence_p(d, margin) for d in tested.values()])))
    words = {}
    for key, difference in differences.items():
        failed, planned = difference.failed, difference.planned
        if key not in tested:
            words[key] = Verdict(NONE, margin, difference.problem, failed=failed, planned=planned)
            continue
        differs, within = of_difference[key] <= alpha, of_equivalence[key] <= alpha
        direction = AHEAD if difference.mean > 0 else BEHIND
        word = direction if differs else EQUIVALENT if within else UNDECIDED
        words[key] = Verdict(word, margin, "", of_difference[key], of_equivalence[key], within, failed, planned)
    return words


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979), in their order."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def equivalence_p(difference: Difference, margin: float = MARGIN) -> float:
    """p of "the difference is ``margin`` or more": two one-sided tests (Schuirmann 1987), the larger of both.

    Raises ValueError for a difference without an interval.
    """
    if difference.standard_error is None or difference.df is None:
        raise ValueError(f"no interval to test equivalence with: {difference.problem}")
    error, df = difference.standard_error, difference.df
    below, above = (difference.mean + margin) / error, (margin - difference.mean) / error
    return float(max(upper_tail(below, df), upper_tail(above, df)))
