"""Does an initialisation gain more in AP75, which needs better boxes, than in AP50? Only where the runs show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.comparison.differences import Difference, compare_pair
from transfer.comparison.gap import Table
from transfer.comparison.shape import UNBOUNDED, as_percent, log_ratio
from transfer.comparison.verdicts import AHEAD, BEHIND, verdicts


@dataclass(frozen=True)
class BoxQuality:
    """AP75 / AP50 of one initialisation compared with a reference: a difference that holds over the whole report."""

    init: str
    reference: str
    difference: Difference  # of logarithms

    @property
    def percent(self) -> tuple[float, float, float]:
        """(difference, low, high) in per cent of the reference's ratio."""
        one = self.difference
        low, high = one.mean if one.low is None else one.low, one.mean if one.high is None else one.high
        return as_percent(one.mean), as_percent(low), as_percent(high)


def box_quality(tables: Sequence[Table]) -> list[list[BoxQuality]]:
    """For every table the ratios that differ from that of the supervised initialisation, adjusted over all tables."""
    tested = {}
    for i, table in enumerate(tables):
        reference = table.references.get("supervised")
        for init in table.inits if reference is not None else ():
            if init not in table.references.values():
                difference = _difference(table, init, str(reference))
                if difference is not None:
                    tested[i, init] = difference
    words = {key: verdict.word for key, verdict in verdicts(tested).items()}
    return [
        [
            BoxQuality(init, table.references["supervised"], difference)
            for (place, init), difference in tested.items()
            if place == i and words[place, init] in (AHEAD, BEHIND)
        ]
        for i, table in enumerate(tables)
    ]


def _difference(table: Table, init: str, reference: str) -> Difference | None:
    """None where one of the two has no such ratio, e.g. because its AP is too small."""
    sides = []
    for one in (init, reference):
        rows = [table.row(one, "bbox", metric) for metric in ("AP75", "AP50")]
        ratio = log_ratio(rows[0].cells, rows[1].cells) if rows[0] and rows[1] else "no such metrics"
        if isinstance(ratio, str):
            return None
        sides.append((one, ratio))
    weights, method = compare_pair(*sides, without_pretraining=table.without_pretraining, scale=UNBOUNDED)
    return method or weights
