"""The whole comparison of a plan or a folder of runs as one value: everything that a report shows is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from transfer.comparison.box_quality import BoxQuality, box_quality
from transfer.comparison.curves import Curves, ScheduleLengths, learning_curves, schedule_lengths
from transfer.comparison.detection_errors import DetectionErrors, detection_errors
from transfer.comparison.example_images import Examples, example_images
from transfer.comparison.family import with_verdicts
from transfer.comparison.gap import Table
from transfer.comparison.next_steps import Spread, measured_spreads, what_now
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.verdicts import MARGIN


@dataclass(frozen=True)
class Failure:
    """A run without numbers, and why."""

    run: str  # initialisation and seed
    error: str


@dataclass(frozen=True)
class ConfigComparison:
    """One config: its table of numbers, and what else is known of its runs."""

    table: Table
    failures: Sequence[Failure]
    curves: Curves
    box_quality: Sequence[BoxQuality]
    spreads: Sequence[Spread] = ()
    errors: DetectionErrors | None = None  # None: detections were not asked for
    examples: Examples | None = None


@dataclass(frozen=True)
class Comparison:
    """Every config, and groups of configs that differ in the length of their schedule alone."""

    configs: Sequence[ConfigComparison]
    schedules: Sequence[ScheduleLengths] = field(default_factory=tuple)
    margin: float = MARGIN
    next_step: str = ""  # which differences are undecided, and what would decide them
    stopping: SequentialPlan | None = None

    @property
    def tables(self) -> list[Table]:
        """The tables of numbers."""
        return [config.table for config in self.configs]


def complete(
    tables: Sequence[Table],
    *,
    margin: float = MARGIN,
    stopping: SequentialPlan | None = None,
    pretraining_hours: Mapping[str, float] | None = None,
    detections: bool = True,
    examples: bool = True,
) -> Comparison:
    """Add the verdicts, and what is computed from ``tables`` and their runs' files.

    ``margin``: differences smaller than this (in points of AP) count as equivalent. ``stopping``: the rule by which
    seeds were added. ``pretraining_hours``: measured, by initialisation. ``detections``: with error types and, unless
    ``examples`` is false, example images. They take most of the time.
    """
    judged = with_verdicts(tables, margin=margin, stopping=stopping)
    configs = [
        ConfigComparison(
            table,
            _failures(table),
            curves,
            quality,
            measured_spreads(table),
            detection_errors(table) if detections else None,
            example_images(table) if detections and examples else None,
        )
        for table, curves, quality in tqdm(
            list(zip(judged, learning_curves(judged), box_quality(judged))),
            desc="error types and examples",
            disable=None if detections else True,
        )
    ]
    next_step = what_now(judged, margin, pretraining_hours or {}, stopping)
    return Comparison(configs, schedule_lengths(judged), margin, next_step, stopping)


def _failures(table: Table) -> list[Failure]:
    return [Failure(run.name, " ".join((run.error or run.status).split())) for run in table.runs if not run.finished]
