"""The rows of gap.csv. Every number that any format of a report shows is a string of these rows, formatted once."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence

from runtime.listing import counted
from transfer.comparison.differences import BEYOND
from transfer.comparison.gap import ROLES, Gap, Row, Table
from transfer.comparison.variance import Component, components
from transfer.evaluate.headline import PROPOSALS
from transfer.report.escaping import csv_text

OF_GAP = ("", "_init", "_low", "_high", "_n", "_interval", "_verdict")  # the columns of earlier versions
MORE_OF_GAP = (
    *("_verdict_text", "_question", "_own_mean", "_reference_mean", "_over", "_p", "_p_adjusted", "_p_equivalence"),
    *("_failed", "_planned", "_note"),
)
COLUMNS = [
    *("config", "init", "task", "metric", "n", "seeds", "mean", "std"),
    *(f"vs_{role}{part}" for role in ROLES for part in OF_GAP),
    *("failed", "pretraining_runs", "variance_pretraining", "variance_seed", "variance_residual"),
    *(f"vs_{role}{part}" for role in ROLES for part in MORE_OF_GAP),
]
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", PROPOSALS: "proposal"}
MAIN = ("AP", "AP50", "AP75", "AR@100", "AR@1000")  # the columns of the papers' tables
SIZES = (
    "APs",
    "APm",
    "APl",
    "APr",
    "APc",
    "APf",
    "ARs@1000",
    "ARm@1000",
    "ARl@1000",
)  # by object size, by category frequency (LVIS)
SINGLE_INTERVALS = (
    "Intervals are single 95 % intervals: of many, about one in twenty misses the truth. Verdicts are adjusted for all "
    "comparisons of this report (Holm), so an interval may exclude 0 and its verdict be undecided. Only AP (AR@1000 of "
    "proposals) has verdicts: the metrics of one run are computed from the same detections, and several of them "
    "agreeing is not several pieces of evidence. * The interval reaches beyond what the metric can be: there the "
    "runs do not bound the difference."
)

CsvRow = dict[str, str]  # column -> text


def number(value: float | None, signed: bool = False) -> str:
    """Two decimals (a tenth of the papers' last digit), a true minus-free zero; "" for None."""
    if value is None:
        return ""
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-0.00", "+0.00" if signed else "0.00") if float(text) == 0 else text


def bound(value: float | None) -> str:
    """An end of an interval: as a signed ``number``, with more digits where two would show 0 for an end beside it.

    Whether an interval holds 0 is a verdict: an end at -0.003 that is shown as +0.00 would contradict it.
    """
    text = number(value, signed=True)
    if not value or float(text) != 0:
        return text
    return next((fine for places in (3, 4, 5, 6) if float(fine := f"{value:+.{places}f}") != 0), text)


def csv_rows(tables: Iterable[Table]) -> list[CsvRow]:
    """The rows of gap.csv, every value already the string that is shown."""
    rows = []
    for table in tables:
        headline = {id(row) for row in table.headline_rows}
        failed = {init: len(table.failures(init)) for init in table.inits}
        for row in table.rows:
            others = {role: table.row(gap.reference, row.task, row.metric) for role, gap in row.gaps.items()}
            cells = _csv_row(table.name, row, failed[row.init])
            if id(row) in headline:
                cells |= _variances(row)
            for role, gap in row.gaps.items():
                cells |= {f"vs_{role}{part}": text for part, text in _gap(row, gap, others[role]).items()}
            rows.append(cells)
    return rows


def _csv_row(config: str, row: Row, failed: int) -> CsvRow:
    cells = dict.fromkeys(COLUMNS, "")
    seeds = sorted({seed for run in row.cells.values() for seed in run})
    return cells | {
        "config": config,
        "init": row.init,
        "task": row.task,
        "metric": row.metric,
        "n": str(row.n),
        "seeds": " ".join(map(str, seeds)),
        "mean": number(row.mean),
        "std": number(row.std),
        "failed": str(failed),
        "pretraining_runs": str(len(row.cells)),
    }


def _variances(row: Row) -> CsvRow:
    parts = components(row.cells)
    values = {"pretraining": parts.pretraining, "seed": parts.seed, "residual": parts.residual}
    return {f"variance_{name}": _variance(one) for name, one in values.items()}


def _variance(one: Component | None) -> str:
    return "" if one is None else f"{one.value:.4f}"


def _gap(row: Row, gap: Gap, other: Row | None) -> CsvRow:
    one, verdict = gap.difference, gap.verdict
    low, high, kind = one.low, one.high, one.method
    if one.df is None and gap.over_images is not None:
        low, high, kind = gap.over_images.low, gap.over_images.high, gap.over_images.method
    own_mean, reference_mean = number(one.own_mean), number(one.reference_mean)
    shown = (number(row.mean), number(other.mean if other else None))
    seeds = counted(one.n, "seed", "seeds")
    return {
        "": number(one.mean, signed=True),
        "_init": gap.reference,
        "_low": bound(low),
        "_high": bound(high),
        "_n": str(one.n),
        "_interval": kind,
        "_verdict": verdict.word if verdict else "",
        "_verdict_text": verdict.text if verdict else "",
        "_question": one.question,
        "_own_mean": own_mean,
        "_reference_mean": reference_mean,
        # the difference of the shown means, or of other means that have to be named
        "_over": "" if (own_mean, reference_mean) == shown else f"over {seeds} that both have",
        "_p": _p(one.p),
        "_p_adjusted": _p(verdict.p_difference if verdict else None),
        "_p_equivalence": _p(verdict.p_equivalence if verdict else None),
        "_failed": str(one.failed),
        "_planned": str(one.planned),
        "_note": one.note or one.problem,
    }


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def to_csv(rows: Sequence[CsvRow]) -> str:
    """gap.csv as text."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: csv_text(text) for column, text in row.items()} for row in rows)
    return sink.getvalue()


def interval_methods(rows: Iterable[CsvRow], role: str) -> str:
    """How the intervals to a reference were computed; kinds that differ in their degrees of freedom are one kind."""
    degrees: dict[str, list[float]] = {}
    for row in rows:
        kind, _, df = row[f"vs_{role}_interval"].removesuffix(" df").rpartition(", ")
        if not row[f"vs_{role}_interval"].endswith(" df"):
            degrees.setdefault(row[f"vs_{role}_interval"], [])
        else:
            degrees.setdefault(kind, []).append(float(df))
    return "; ".join(f"{kind}, {_from_to(dfs)} df" if dfs else kind for kind, dfs in sorted(degrees.items()))


def _from_to(numbers: Collection[float]) -> str:
    low, high = f"{min(numbers):.1f}", f"{max(numbers):.1f}"
    return low if low == high else f"{low} to {high}"


def mean_and_spread(row: CsvRow) -> str:
    """Mean with its standard deviation; one run has none and prints no plus-minus."""
    return f"{row['mean']} ± {row['std']}" if row["std"] else row["mean"]


def mean_caption(rows: ConfigRows) -> str:
    """What the means of a config are, and their spread if any has one."""
    if not any(row["std"] for row in rows.rows):
        return "Mean (one run each: no spread)"
    repeated = any(row["pretraining_runs"] not in ("", "1") for row in rows.rows)
    return f"Mean ± sample standard deviation over {'runs' if repeated else 'seeds'}"


def bracket(row: CsvRow, role: str) -> str:
    """The difference to a reference as it follows a mean, "" when there is none."""
    over = f" {row[f'vs_{role}_over']}" if row[f"vs_{role}_over"] else ""
    return f"({row[f'vs_{role}']}{over})" if row[f"vs_{role}"] else ""


def interval(row: CsvRow, role: str) -> str:
    """The interval in brackets, "" when there is none."""
    low, high = row[f"vs_{role}_low"], row[f"vs_{role}_high"]
    return f"[{low}, {high}]{unbounded(row, role)}" if low else ""


def unbounded(row: CsvRow, role: str) -> str:
    """The mark of an interval that reaches beyond what the metric can be."""
    return "*" if BEYOND in row[f"vs_{role}_note"] else ""


def by_config(rows: Iterable[CsvRow]) -> dict[str, ConfigRows]:
    """The rows of every config, in order."""
    groups: dict[str, list[CsvRow]] = {}
    for row in rows:
        groups.setdefault(row["config"], []).append(row)
    return {config: ConfigRows(group) for config, group in groups.items()}


class ConfigRows:
    """The rows of one config by (init, task, metric)."""

    def __init__(self, rows: Sequence[CsvRow]) -> None:
        self.rows = list(rows)
        self._by_name = {(row["init"], row["task"], row["metric"]): row for row in self.rows}
        self.inits = list(dict.fromkeys(row["init"] for row in self.rows))
        self.metrics = list(dict.fromkeys((row["task"], row["metric"]) for row in self.rows))

    def get(self, init: str, task: str, metric: str) -> CsvRow | None:
        """One row, or None."""
        return self._by_name.get((init, task, metric))

    def n(self, init: str, columns: Sequence[tuple[str, str]]) -> str:
        """Number of runs of ``init``, "2 of 3" when one failed: that of the first of ``columns`` that it has."""
        row = next((row for column in columns if (row := self.get(init, *column))), None)
        if row is None:
            return "0"
        return f"{row['n']} of {int(row['n']) + int(row['failed'])}" if row["failed"] != "0" else row["n"]

    def columns(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """(task, metric) pairs with one of these metric names, box before mask."""
        return [key for key in self.metrics if key[1] in names]

    def classes(self, task: str) -> list[str]:
        """Metric names of single classes ("AP-person") of one task."""
        return [metric for t, metric in self.metrics if t == task and metric.startswith("AP-")]

    def role(self) -> str:
        """The role of the reference that the main table compares with: supervised, or random without it."""
        return next((role for role in ROLES if any(row[f"vs_{role}"] for row in self.rows)), ROLES[0])


def verdict_class(row: CsvRow, role: str) -> str:
    """The class of the style sheet for a comparison: coloured when it is ahead or behind without a failed run.

    Not coloured where more seeds were added after the verdict and turned the sign of the difference.
    """
    word = row[f"vs_{role}_verdict"]
    agrees = row[f"vs_{role}"][:1] == {"ahead": "+", "behind": "-"}.get(word)
    return word if agrees and row[f"vs_{role}_failed"] == "0" else "even"


def title(task: str, metric: str) -> str:
    """A column title such as "box AP50"."""
    return f"{TASKS.get(task, task)} {metric}"
