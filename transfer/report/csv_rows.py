"""The rows of gap.csv. Every number that any format of a report shows is a string of these rows, formatted once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from transfer.comparison.gap import Difference, Row, Table
from transfer.report.escaping import csv_text

ROLES = ("supervised", "random")
COLUMNS = [
    *("config", "init", "task", "metric", "n", "seeds", "mean", "std"),
    *(f"vs_{role}{part}" for role in ROLES for part in ("", "_init", "_low", "_high", "_n", "_interval", "_verdict")),
]
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
MAIN = ("AP", "AP50", "AP75")  # the columns of the papers' tables
SIZES = ("APs", "APm", "APl", "APr", "APc", "APf")  # by object size, by category frequency (LVIS)
FLOOR = 0.1  # AP below which a detector has learned nothing
RELATION = {"ahead": "ahead of", "behind": "behind"}
NOT_INDEPENDENT = (
    "The metrics of one run are computed from the same detections: they are not independent, and several of them "
    "agreeing is not several pieces of evidence. With many rows, about one interval in twenty misses the truth."
)

CsvRow = dict[str, str]  # column -> text


def number(value: float | None, signed: bool = False) -> str:
    """Two decimals (a tenth of the papers' last digit), a true minus-free zero; "" for None."""
    if value is None:
        return ""
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-0.00", "+0.00" if signed else "0.00") if float(text) == 0 else text


def csv_rows(tables: Iterable[Table]) -> list[CsvRow]:
    """The rows of gap.csv, every value already the string that is shown."""
    return [_csv_row(table.name, row) for table in tables for row in table.rows]


def _csv_row(config: str, row: Row) -> CsvRow:
    cells = dict.fromkeys(COLUMNS, "")
    cells |= {"config": config, "init": row.init, "task": row.task, "metric": row.metric, "n": str(row.n)}
    cells |= {"seeds": " ".join(map(str, row.values)), "mean": number(row.mean), "std": number(row.std)}
    for role, difference in row.differences.items():
        cells |= {f"vs_{role}{part}": text for part, text in _difference(difference).items()}
    return cells


def _difference(difference: Difference) -> CsvRow:
    interval = difference.interval
    return {
        "": number(difference.mean, signed=True),
        "_init": difference.reference,
        "_low": number(interval.low, signed=True),
        "_high": number(interval.high, signed=True),
        "_n": str(len(difference.seeds)),
        "_interval": interval.method,
        "_verdict": difference.verdict,
    }


def to_csv(rows: Sequence[CsvRow]) -> str:
    """gap.csv as text."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: csv_text(text) for column, text in row.items()} for row in rows)
    return sink.getvalue()


def mean_and_spread(row: CsvRow) -> str:
    """Mean with its standard deviation; one run has none and prints no plus-minus."""
    return f"{row['mean']} ± {row['std']}" if row["std"] else row["mean"]


def interval(row: CsvRow, role: str) -> str:
    """The interval in brackets, "" when there is none."""
    low, high = row[f"vs_{role}_low"], row[f"vs_{role}_high"]
    return f"[{low}, {high}]" if low else ""


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
        """Number of runs of ``init``: that of the first of ``columns`` that it has."""
        return next((row["n"] for column in columns if (row := self.get(init, *column))), "0")

    def columns(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """(task, metric) pairs with one of these metric names, box before mask."""
        return [key for key in self.metrics if key[1] in names]

    def classes(self, task: str) -> list[str]:
        """Metric names of single classes ("AP-person") of one task."""
        return [metric for t, metric in self.metrics if t == task and metric.startswith("AP-")]

    def role(self) -> str:
        """The role of the reference that the main table compares with: supervised, or random without it."""
        return next((role for role in ROLES if any(row[f"vs_{role}"] for row in self.rows)), ROLES[0])


def title(task: str, metric: str) -> str:
    """A column title such as "box AP50"."""
    return f"{TASKS.get(task, task)} {metric}"


def sentence(row: CsvRow, role: str) -> str:
    """One comparison in words, e.g. "moco is +2.40 box AP ahead of supervised on voc (95 % interval ..., n=5)"."""
    verdict = row[f"vs_{role}_verdict"]
    what = f"{row[f'vs_{role}']} {title(row['task'], row['metric'])}"
    reference = f"{row[f'vs_{role}_init']} on {row['config']}"
    n = row[f"vs_{role}_n"]
    if verdict == "no interval":
        return f"{row['init']} measured {what} against {reference} in one run (n=1: no interval, so no verdict)."
    kind = "95 % interval" if n != "1" else "95 % interval over the test images of one seed"
    bounds = f"{kind} {row[f'vs_{role}_low']} to {row[f'vs_{role}_high']}, n={n}"
    if verdict == "within noise":
        return f"{row['init']} is within noise of {reference}: {what} ({bounds})."
    return f"{row['init']} is {what} {RELATION[verdict]} {reference} ({bounds})."


def summary(rows: Sequence[CsvRow]) -> list[str]:
    """The sentences a report begins with: AP of every initialisation against each reference, per config.

    Initialisations that are not references come first, against supervised before random: they are what the plan asks
    about. A config on which nothing was learned gets one sentence at the end: its differences may be significant and
    still say nothing.
    """
    sentences: list[tuple[tuple[bool, int], str]] = []
    for config, of_config in by_config(rows).items():
        for task, metric in of_config.columns(("AP",))[:1]:
            ap_rows = [row for init in of_config.inits if (row := of_config.get(init, task, metric))]
            if all(float(row["mean"]) < FLOOR for row in ap_rows):
                what = title(task, metric)
                text = f"Nothing was learned on {config}: no initialisation reaches {FLOOR} {what}."
                sentences.append(((True, len(ROLES)), text))
            else:
                sentences += _config_sentences(of_config, ap_rows)
    return [text for _, text in sorted(sentences, key=lambda pair: pair[0])]


def _config_sentences(of_config: ConfigRows, ap_rows: Sequence[CsvRow]) -> list[tuple[tuple[bool, int], str]]:
    """(sort key, sentence) of one config."""
    references = {row[f"vs_{role}_init"] for row in of_config.rows for role in ROLES}
    supervised = {row["vs_supervised_init"] for row in of_config.rows}
    sentences = []
    for place, role in enumerate(ROLES):
        for row in ap_rows:
            # random against supervised is the mirror image of supervised against random, which the summary has anyway
            mirror = role == "supervised" and row["init"] in references - supervised
            if row[f"vs_{role}"] and not mirror:
                sentences.append(((row["init"] in references, place), sentence(row, role)))
    return sentences
