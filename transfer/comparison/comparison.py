"""The whole comparison of a plan or a folder of runs as one value: everything that a report shows is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from transfer.comparison.curves import Curves, ScheduleLengths, learning_curves, schedule_lengths
from transfer.comparison.detection_errors import DetectionErrors, detection_errors
from transfer.comparison.example_images import Examples, example_images
from transfer.comparison.gap import Table
from transfer.records.run import Run


@dataclass(frozen=True)
class Failure:
    """A run without numbers, and why."""

    run: str  # initialisation and seed
    error: str


@dataclass(frozen=True)
class BoxQuality:
    """Differences of one initialisation to a reference in AP50 and in AP75, which needs better boxes."""

    init: str
    reference: str
    ap50: float
    ap75: float


@dataclass(frozen=True)
class ConfigComparison:
    """One config: its table of numbers, and what else is known of its runs."""

    table: Table
    failures: Sequence[Failure]
    curves: Curves
    box_quality: Sequence[BoxQuality]
    errors: DetectionErrors | None = None  # None: detections were not asked for
    examples: Examples | None = None


@dataclass(frozen=True)
class Comparison:
    """Every config, and groups of configs that differ in the length of their schedule alone."""

    configs: Sequence[ConfigComparison]
    schedules: Sequence[ScheduleLengths] = field(default_factory=tuple)

    @property
    def tables(self) -> list[Table]:
        """The tables of numbers."""
        return [config.table for config in self.configs]


def complete(
    tables: Sequence[Table], *, errors: Mapping[str, str] | None = None, detections: bool = True, examples: bool = True
) -> Comparison:
    """Add what is computed from ``tables`` and their runs' files.

    ``errors``: run folder -> why it has no number, where that is better known than from its result.json.
    ``detections``: with error types and, unless ``examples`` is false, example images. They take most of the time.
    """
    configs = [
        ConfigComparison(
            table,
            _failures(table, errors or {}),
            learning_curves(table),
            _box_quality(table),
            detection_errors(table) if detections else None,
            example_images(table) if detections and examples else None,
        )
        for table in tqdm(tables, desc="error types and examples", disable=None if detections else True)
    ]
    return Comparison(configs, schedule_lengths(tables))


def _failures(table: Table, errors: Mapping[str, str]) -> list[Failure]:
    return [
        Failure(f"{run.init}, seed {run.seed}", " ".join((errors.get(str(run.folder)) or _reason(run)).split()))
        for run in table.runs
        if not run.finished
    ]


def _reason(run: Run) -> str:
    return run.error or run.status


def _box_quality(table: Table) -> list[BoxQuality]:
    """Against the supervised initialisation, for what is not a reference itself."""
    reference = table.references.get("supervised")
    qualities = []
    for init in table.inits if reference is not None else ():
        rows = [table.row(init, "bbox", metric) for metric in ("AP50", "AP75")]
        gaps = [row.differences["supervised"].mean for row in rows if row and "supervised" in row.differences]
        if len(gaps) == 2 and init not in table.references.values():
            qualities.append(BoxQuality(init, str(reference), *gaps))
    return qualities
