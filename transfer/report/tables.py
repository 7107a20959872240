"""gap.csv and the tables made from it: every number of a report is a string of gap.csv, written once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer.comparison.gap import Difference, Row, Table

ROLES = ("supervised", "random")
COLUMNS = [
    *("config", "init", "task", "metric", "n", "seeds", "mean", "std"),
    *(f"vs_{role}{part}" for role in ROLES for part in ("", "_init", "_low", "_high", "_n", "_interval", "_verdict")),
]
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
MAIN = ("AP", "AP50", "AP75")  # the columns of the papers' tables
SIZES = ("APs", "APm", "APl", "APr", "APc", "APf")  # by object size, by category frequency (LVIS)
FLOOR = 0.1  # AP of a detector that finds next to nothing
RELATION = {"ahead": "ahead of", "behind": "behind"}
NOT_INDEPENDENT = (
    "The metrics of one run are computed from the same detections: they are not independent, and several of them "
    "agreeing is not several pieces of evidence. With many rows, about one interval in twenty misses the truth."
)

Record = dict[str, str]


def number(value: float | None, signed: bool = False) -> str:
    """Two decimals (a tenth of the papers' last digit), a true minus-free zero; "" for None."""
    if value is None:
        return ""
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-0.00", "+0.00" if signed else "0.00") if float(text) == 0 else text


def records(tables: Iterable[Table]) -> list[Record]:
    """The rows of gap.csv, every value already the string that is shown."""
    return [_record(table.name, row) for table in tables for row in table.rows]


def _record(config: str, row: Row) -> Record:
    record = dict.fromkeys(COLUMNS, "")
    record |= {"config": config, "init": row.init, "task": row.task, "metric": row.metric, "n": str(row.n)}
    record |= {"seeds": " ".join(map(str, row.values)), "mean": number(row.mean), "std": number(row.std)}
    for role, difference in row.differences.items():
        record |= {f"vs_{role}{part}": text for part, text in _difference(difference).items()}
    return record


def _difference(difference: Difference) -> Record:
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


def to_csv(rows: Sequence[Record]) -> str:
    """gap.csv as text."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def shown(record: Record) -> str:
    """Mean with its spread; one run has none and prints no plus-minus."""
    return f"{record['mean']} ± {record['std']}" if record["std"] else record["mean"]


def span(record: Record, role: str) -> str:
    """The interval in brackets, "" when there is none."""
    low, high = record[f"vs_{role}_low"], record[f"vs_{role}_high"]
    return f"[{low}, {high}]" if low else ""


def by_config(rows: Iterable[Record]) -> dict[str, Index]:
    """The records of every config, in order."""
    groups: dict[str, list[Record]] = {}
    for row in rows:
        groups.setdefault(row["config"], []).append(row)
    return {config: Index(group) for config, group in groups.items()}


class Index:
    """The records of one config by (init, task, metric)."""

    def __init__(self, rows: Sequence[Record]) -> None:
        self.rows = list(rows)
        self._by_name = {(row["init"], row["task"], row["metric"]): row for row in self.rows}
        self.inits = list(dict.fromkeys(row["init"] for row in self.rows))
        self.metrics = list(dict.fromkeys((row["task"], row["metric"]) for row in self.rows))

    def get(self, init: str, task: str, metric: str) -> Record | None:
        """One record, or None."""
        return self._by_name.get((init, task, metric))

    def columns(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """(task, metric) pairs with one of these metric names, box before mask."""
        return [key for key in self.metrics if key[1] in names]

    def classes(self, task: str) -> list[str]:
        """Metric names of single classes ("AP-person") of one task."""
        return [metric for t, metric in self.metrics if t == task and metric.startswith("AP-")]


def title(task: str, metric: str) -> str:
    """A column title such as "box AP50"."""
    return f"{TASKS.get(task, task)} {metric}"


def sentence(record: Record, role: str) -> str:
    """One comparison in words, e.g. "moco is +2.40 box AP ahead of supervised on voc (95 % interval ..., n=5)"."""
    verdict = record[f"vs_{role}_verdict"]
    what = f"{record[f'vs_{role}']} {title(record['task'], record['metric'])}"
    between = f"{record[f'vs_{role}_init']} on {record['config']}"
    n = record[f"vs_{role}_n"]
    if verdict == "no interval":
        return f"{record['init']} measured {what} against {between} in one run (n=1: no interval, so no verdict)."
    kind = "95 % interval" if n != "1" else "95 % interval over the test images of one seed"
    bounds = f"{kind} {record[f'vs_{role}_low']} to {record[f'vs_{role}_high']}, n={n}"
    if verdict == "within noise":
        return f"{record['init']} is within noise of {between}: {what} ({bounds})."
    return f"{record['init']} is {what} {RELATION[verdict]} {between} ({bounds})."


def summary(rows: Sequence[Record]) -> list[str]:
    """The sentences a report begins with: AP of every initialisation against each reference, per config.

    What is no reference itself comes first, against supervised before random, since it is what the plan asks about. A
    config on which nothing was learned gets one sentence at the end: its differences may be significant, and still say
    nothing.
    """
    said: list[tuple[tuple[bool, int], str]] = []
    for config, index in by_config(rows).items():
        references = {row[f"vs_{role}_init"] for row in index.rows for role in ROLES}
        supervised = {row["vs_supervised_init"] for row in index.rows}
        for task, metric in index.columns(("AP",))[:1]:
            found = [r for init in index.inits if (r := index.get(init, task, metric))]
            if all(float(record["mean"]) < FLOOR for record in found):
                what = title(task, metric)
                words = f"Nothing was learned on {config}: no initialisation reaches {FLOOR} {what}."
                said.append(((True, len(ROLES)), words))
                continue
            for place, role in enumerate(ROLES):
                for record in found:
                    mirror = role == "supervised" and record["init"] in references - supervised
                    if record[f"vs_{role}"] and not mirror:
                        said.append(((record["init"] in references, place), sentence(record, role)))
    return [words for _, words in sorted(said, key=lambda pair: pair[0])]


def markdown(rows: Sequence[Record], failures: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """gap.md's tables: one per config, then the differences with their intervals."""
    parts = []
    indices = by_config(rows)
    for config in dict.fromkeys([*indices, *failures]):
        index = indices.get(config, Index([]))
        parts.append(f"## {config}\n")
        parts.append(_markdown_values(index) + _markdown_differences(index))
        if failures.get(config):
            parts.append("Runs without a number:\n")
            parts.append("\n".join(f"- {name}: {error}" for name, error in failures[config]) + "\n")
    return "\n".join(parts)


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _markdown_values(index: Index) -> str:
    columns = index.columns(MAIN)
    if not columns:
        return "No finished run.\n"
    text = _pipe(["init", "n", *(title(*c) for c in columns)]) + _pipe(["---", *["---:"] * (len(columns) + 1)])
    for init in index.inits:
        found = [index.get(init, *c) for c in columns]
        n = next((r["n"] for r in found if r), "0")
        text += _pipe([init, n, *(shown(r) if r else "" for r in found)])
    return text + "\n"


def _markdown_differences(index: Index) -> str:
    text = ""
    for role in ROLES:
        found = [
            (init, title(*c), record)
            for init in index.inits
            for c in index.columns((*MAIN, *SIZES))
            if (record := index.get(init, *c)) and record[f"vs_{role}"]
        ]
        if found:
            reference = found[0][2][f"vs_{role}_init"]
            text += _pipe(["init", "metric", f"difference to {reference}", "95 % interval", "n", "verdict"])
            text += _pipe(["---", "---", "---:", "---", "---:", "---"])
            for init, what, r in found:
                text += _pipe([init, what, r[f"vs_{role}"], span(r, role), r[f"vs_{role}_n"], r[f"vs_{role}_verdict"]])
            text += "\n"
    return text


def latex(rows: Sequence[Record]) -> str:
    """gap.tex: a booktabs table per config in the papers' layout, differences to supervised in brackets."""
    parts = ["% needs \\usepackage{booktabs}"]
    for config, index in by_config(rows).items():
        columns = index.columns(MAIN)
        head = " & ".join(["init", "$n$", *(_tex(title(*c)) for c in columns)])
        body = [f"{_tex(init)} & {_tex_row(index, init, columns)} \\\\" for init in index.inits]
        parts.append(
            f"% {config}\n\\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
            + "\n".join(body)
            + "\n\\bottomrule\n\\end{tabular}"
        )
    return "\n\n".join(parts) + "\n"


def _tex_row(index: Index, init: str, columns: Sequence[tuple[str, str]]) -> str:
    cells = []
    for column in columns:
        record = index.get(init, *column)
        if record is None:
            cells.append("--")
            continue
        spread = f"\\,$\\pm$\\,{record['std']}" if record["std"] else ""
        gap = f" (${record['vs_supervised']}$)" if record["vs_supervised"] else ""
        cells.append(f"{record['mean']}{spread}{gap}")
    found = [r["n"] for c in columns if (r := index.get(init, *c))]
    return " & ".join([found[0] if found else "0", *cells])


def _tex(text: str) -> str:
    for char in "&%$#_{}":
        text = text.replace(char, f"\\{char}")
    return text
