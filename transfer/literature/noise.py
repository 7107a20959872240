"""How much a published number varies from trial to trial: the spread that its source gives, else a typical one."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from transfer.comparison.power import PUBLISHED_SPREADS
from transfer.literature.rows import PublishedRow

Z = 1.96  # two-sided 95 %; the spread is taken as known, since the trials behind it are not ours
# (words that begin the data set's name, metrics, spread of a single run in points, where it was published)
_TYPICAL = [
    (("VOC07",), {"AP": 0.2, "AP50": 0.2, "AP75": 0.4}, PUBLISHED_SPREADS["voc"].source),
    (("COCO 2017 (",), dict.fromkeys(("APbb", "APmk"), PUBLISHED_SPREADS["coco"].sd), PUBLISHED_SPREADS["coco"].source),
    (("LVIS",), dict.fromkeys(("APbb", "APmk"), PUBLISHED_SPREADS["lvis"].sd), PUBLISHED_SPREADS["lvis"].source),
]
TYPICAL_SOURCES = tuple(f"{spread.sd:g} AP: {spread.source}" for spread in PUBLISHED_SPREADS.values())


@dataclass(frozen=True)
class TrialSpread:
    """Standard deviation of single runs, in points; ``typical`` when it is another experiment's."""

    sd: float
    source: str
    typical: bool


@dataclass(frozen=True)
class Noise:
    """95 % half-width of a difference of two means over trials, in points."""

    half_width: float
    typical: bool

    def contains(self, gap: float) -> bool:
        """Whether a difference is inside the noise of its trials."""
        return abs(gap) <= self.half_width


def spread_of(row: PublishedRow, metric: str) -> TrialSpread | None:
    """The spread that the row's source gives, or that its single trials show, else a typical one; None when unknown."""
    if metric in row.get("spread", {}):
        return TrialSpread(row["spread"][metric], row["source"], typical=False)
    if len(runs := row.get("runs", {}).get(metric, ())) > 1:
        return TrialSpread(statistics.stdev(runs), row["source"], typical=False)
    for words, spreads, source in _TYPICAL:
        if row["dataset"].startswith(words) and metric in spreads:
            return TrialSpread(spreads[metric], source, typical=True)
    return None


def noise_of_difference(row: PublishedRow, other: PublishedRow, metric: str) -> Noise | None:
    """The noise of ``row`` minus ``other``; a row without ``n_trials`` counts as one run. None when unknown."""
    spreads = [(spread_of(side, metric), int(side.get("n_trials", 1))) for side in (row, other)]
    variance, typical = 0.0, False
    for spread, trials in spreads:
        if spread is None:
            return None
        variance += spread.sd**2 / trials
        typical = typical or spread.typical
    return Noise(Z * math.sqrt(variance), typical)
