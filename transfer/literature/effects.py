"""What a difference of protocol was worth: pairs of published rows of the same weights that differ in one field.

A pair needs two rows that started from the same weights (by ``rows.identity``), on the same data, with every field
that both state equal but one. A change of neck brings its box head with it, a change of evaluator its framework. Pairs
of one paper come first; pairs of two papers count where no paper has both. Where no pair exists, ``STATED`` holds what
a source says or what rows of other weights suggest.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.literature.rows import PublishedRow, difference, identity, load
from transfer.literature.setups import FIELDS, setup_differences, setup_of

FEWEST_FIELDS = 12  # that both rows state; with fewer, an unstated difference is as likely as the stated one
METRICS = {"AP": "AP", "APbb": "AP", "APmk": "mask AP", "AP50": "AP50"}  # metric -> its name; the first in both rows
BROUGHT = {  # field -> what changes with it
    "dataset": {"image_size", "test_size", "evaluator"},
    "neck": {"head"},
    "evaluator": {"framework"},
}
Value = Any


@dataclass(frozen=True)
class Effect:
    """The change of ``metric``, in points, when ``field`` goes from ``before`` to ``after``."""

    field: str
    before: Value
    after: Value
    points: float  # median over the pairs
    low: float
    high: float
    pairs: int  # 0 when stated
    source: str
    metric: str = "AP"

    @property
    def reversed(self) -> Effect:
        """The same effect the other way round."""
        return Effect(
            *(self.field, self.after, self.before),
            *(-self.points, -self.high, -self.low),
            *(self.pairs, self.source, self.metric),
        )


STATED = (
    Effect(
        *("input", "BGR, std 1", "RGB, ImageNet mean and std", 0.7, 0.7, 0.7, 0),
        "supervised on VOC07+12: 53.5 with MSRA's weights (MoCo v1 Table 2b), 54.2 with torchvision's (DenseCL README)",
    ),
    Effect(
        *("stride", "1x1 convolution", "3x3 convolution", 0.7, 0.7, 0.7, 0),
        "goes with the input statistics: the 0.7 is for both together (MoCo v1 Table 2b and DenseCL README)",
    ),
    Effect(
        *("lr", 0.02, "searched", 6.3, 6.3, 6.3, 0),
        "BYOL on VOC07+12: 49.0 at 0.02 (OpenSelfSup), 55.3 with the rate searched (SimSiam Table 5); other weights, "
        "so at most",
    ),
)


def separate_differences(one: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, tuple[Value, Value]]:
    """Field -> both values where two setups differ, without what another changed field brings with it."""
    changed = setup_differences(one, other)
    brought = {name for field in changed for name in BROUGHT.get(field, ())}
    return {field: values for field, values in changed.items() if field not in brought}


def changed_field(one: Mapping[str, Value], other: Mapping[str, Value]) -> str | None:
    """The only field in which two setups differ, apart from what it brings with it; None for none or several."""
    changed = list(separate_differences(one, other))
    return changed[0] if len(changed) == 1 else None


def _pairs(rows: Iterable[PublishedRow]) -> Iterable[tuple[str, PublishedRow, PublishedRow]]:
    by_weights: dict[tuple[Any, ...], dict[str, tuple[PublishedRow, dict[str, Value]]]] = {}
    for row in rows:
        if "recipe" not in (row.get("setup") or {}):
            setup = setup_of(row)
            value = next((row["metrics"][name] for name in METRICS if name in row["metrics"]), None)
            result = repr((setup, row["schedule"], value))  # a result that another table quotes counts once
            by_weights.setdefault(identity(row), {}).setdefault(result, (row, setup))
    for same in by_weights.values():
        for (one, setup), (other, other_setup) in itertools.combinations(same.values(), 2):
            known = ("schedule" in setup and "schedule" in other_setup) or one["schedule"] == other["schedule"]
            if known and len(setup.keys() & other_setup.keys()) >= FEWEST_FIELDS:
                name = changed_field(setup, other_setup)
                if name is not None:
                    yield name, one, other


@functools.cache
def effects() -> tuple[Effect, ...]:
    """Every effect that a pair of shipped rows shows, then the stated ones; fields in the order of ``FIELDS``."""
    changes: dict[tuple[str, Value, Value, str], list[tuple[float, str, str]]] = {}
    for name, one, other in _pairs(load()):
        metric = next((m for m in METRICS if m in one["metrics"] and m in other["metrics"]), None)
        before, after = setup_of(one)[name], setup_of(other)[name]
        if metric is None or (name == "dataset" and before.split(",")[0] != after.split(",")[0]):
            continue  # AP of other images or classes is another quantity; fractions of one training set compare
        change = float(difference(other, one, metric))
        if str(before) > str(after):
            before, after, change = after, before, -change
        changes.setdefault((name, before, after, METRICS[metric]), []).append((change, one["paper"], other["paper"]))
    measured = [_effect(*key, pairs) for key, pairs in changes.items()]
    return tuple(sorted([*measured, *STATED], key=lambda effect: list(FIELDS).index(effect.field)))


def _effect(name: str, before: Value, after: Value, metric: str, pairs: Sequence[tuple[float, str, str]]) -> Effect:
    pairs = [pair for pair in pairs if pair[1] == pair[2]] or pairs
    changes = [change for change, _, _ in pairs]
    papers = "; ".join(dict.fromkeys(one if one == other else f"{one} and {other}" for _, one, other in pairs))
    middle = round(statistics.median(changes), 2)
    return Effect(name, before, after, middle, min(changes), max(changes), len(changes), papers, metric)


def effect_of(field: str, before: Value, after: Value) -> Effect | None:
    """The effect of exactly this change, AP before AP50; None when nobody has published it."""
    both = [effect for known in effects() for effect in (known, known.reversed)]
    exact = [e for e in both if (e.field, e.before, e.after) == (field, before, after)]
    return min(exact, key=lambda effect: (effect.metric != "AP", effect.pairs == 0), default=None)
