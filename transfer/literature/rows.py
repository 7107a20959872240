"""Published transfer results as rows with source and protocol: selecting, grouping, gaps to supervised."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("numbers.json")
TASKS = {  # command-line name -> words that begin the data set's name
    "voc": ("VOC07+12", "VOC07"),
    "voc07+12": ("VOC07+12",),
    "voc07": ("VOC07 ",),
    "coco": ("COCO 2017 (",),
    "keypoints": ("COCO 2017 keypoints",),
    "densepose": ("COCO 2017 DensePose",),
    "lvis": ("LVIS",),
    "lvis-v1": ("LVIS v1",),
    "cityscapes": ("Cityscapes",),
    "segmentation": ("VOC (train_aug", "Cityscapes (train_fine"),
    "linear": ("ImageNet-1K",),
}
BASELINES = ("supervised", "random")  # initialisations that gaps are measured to, or that have none
PublishedRow = dict[str, Any]  # the keys are in ``schema.KEYS``
GroupKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Reference:
    """The supervised row that a gap is measured to."""

    row: PublishedRow
    same_source: bool

    @property
    def note(self) -> str:
        """The paper of the row when it is not the one that reports the gap's other side, else ""."""
        return "" if self.same_source else str(self.row["paper"])


@dataclass(frozen=True)
class Group:
    """Rows of one table: same data, detector, schedule and protocol; what else differs stands in a row's ``setup``."""

    dataset: str
    detector: str
    schedule: str
    protocol: str
    rows: tuple[PublishedRow, ...]

    @property
    def metrics(self) -> list[str]:
        """Metrics in the order of the rows."""
        names = dict.fromkeys(name for row in self.rows for name in row["metrics"])
        return [name for name in names if name != "imagenet_linear_top1"]  # another task's number, quoted with it

    def reference(self, row: PublishedRow, metric: str) -> Reference | None:
        """The supervised row that ``row`` is compared with: same table, same ``setup``, and it has ``metric``.

        A row of the same paper comes first, wherever that paper prints it. Without one it is the value that most other
        papers give for this table, and ``same_source`` is False. Among several rows of one paper the one with the same
        pretraining data is chosen; None where that leaves different values, since they are different baselines.
        """
        if row["init"] in BASELINES:
            return None
        candidates = [
            other
            for other in _supervised().get((self.dataset, self.detector, self.schedule, self.protocol), ())
            if other.get("setup") == row.get("setup") and metric in other["metrics"]
        ]
        papers = row.get("papers") or [row["paper"]]
        own = [other for other in candidates if other["paper"] in papers]
        if own:
            alike = [other for other in own if other.get("pretrain_data") == row.get("pretrain_data")] or own
            values = {other["metrics"][metric] for other in alike}
            return Reference(alike[0], same_source=True) if len(values) == 1 else None
        counts = Counter(other["metrics"][metric] for other in candidates)
        usual = max(counts, key=lambda value: counts[value], default=None)  # the first of equally frequent ones
        return next((Reference(r, same_source=False) for r in candidates if r["metrics"][metric] == usual), None)

    def gap(self, row: PublishedRow, metric: str) -> Decimal | None:
        """Difference to supervised, exact in the printed digits; None for baselines and where one side is missing."""
        reference = self.reference(row, metric)
        if reference is None or metric not in row["metrics"]:
            return None
        return difference(row, reference.row, metric)

    def shown_gap(self, row: PublishedRow, metric: str) -> str:
        """The gap in brackets; it names the paper of the supervised row when that is not the row's own."""
        gap = self.gap(row, metric)
        reference = self.reference(row, metric)
        return shown_gap(gap, reference.note if reference else "")


def difference(row: PublishedRow, other: PublishedRow, metric: str) -> Decimal:
    """``row`` minus ``other``, exact in the printed digits."""
    return Decimal(str(row["metrics"][metric])) - Decimal(str(other["metrics"][metric]))


@functools.cache
def load() -> tuple[PublishedRow, ...]:
    """Every row that ships with the project."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8")))


@functools.cache
def _supervised() -> Mapping[GroupKey, list[PublishedRow]]:
    """The supervised rows of every table, so that a gap does not depend on which rows were selected."""
    tables: dict[GroupKey, list[PublishedRow]] = {}
    for row in load():
        if row["init"] == "supervised":
            tables.setdefault(group_key(row), []).append(row)
    return tables


def group_key(row: PublishedRow) -> GroupKey:
    """What the rows of one table share: (data, detector, schedule, protocol)."""
    return row["dataset"], row["detector"], row["schedule"], row["protocol"]


def select(
    rows: Iterable[PublishedRow], *, task: str | None = None, paper: str | None = None, **fields: str | None
) -> list[PublishedRow]:
    """Rows of a task, whose source has ``paper`` in it, and whose ``fields`` contain the given text."""
    chosen = []
    for row in rows:
        if task and not row["dataset"].startswith(TASKS[task]):
            continue
        if paper and paper.lower() not in f"{row['paper']}, {row['source']}".lower():
            continue
        if all(text.lower() in str(row.get(key, "")).lower() for key, text in fields.items() if text):
            chosen.append(row)
    return chosen


def grouped(rows: Iterable[PublishedRow]) -> list[Group]:
    """Groups in the order of the rows; equal rows of several sources become one row that names them all."""
    groups: dict[GroupKey, list[PublishedRow]] = {}
    for row in rows:
        group = groups.setdefault(group_key(row), [])
        same = next((other for other in group if _same(other, row)), None)
        if same is None:
            group.append({**row, "sources": [row["source"]], "papers": [row["paper"]]})
        else:
            same["sources"].append(row["source"])
            same["papers"].append(row["paper"])
            same["metrics"] = {**row["metrics"], **same["metrics"]}
    order = {"random": 0, "supervised": 1}
    return [Group(*key, tuple(sorted(group, key=lambda r: order.get(r["init"], 2)))) for key, group in groups.items()]


def _same(one: PublishedRow, other: PublishedRow) -> bool:
    """One result quoted by two sources: same weights and setup, and no metric that both have differs."""
    if identity(one) != identity(other) or one.get("setup") != other.get("setup"):
        return False
    in_both = one["metrics"].keys() & other["metrics"].keys()
    return bool(in_both) and all(one["metrics"][key] == other["metrics"][key] for key in in_both)


def identity(row: PublishedRow) -> tuple[Any, ...]:
    """What the fine-tuning started from: two rows with the same identity differ in protocol or source only."""
    pretrain = tuple(sorted((row.get("pretrain") or {}).items()))
    return row["init"], row.get("pretrain_data"), row.get("pretrain_epochs"), row.get("weights"), pretrain


def row_name(row: PublishedRow) -> str:
    """Initialisation with its pretraining data, epochs and settings, as the papers name it; then its own setup."""
    parts = [f"{row['init']} {row.get('pretrain_data', '')}".rstrip()]
    if row.get("pretrain_epochs"):
        parts.append(f"{row['pretrain_epochs']} ep")
    if row.get("weights"):
        parts.append(f"{row['weights']} weights")
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in (row.get("pretrain") or {}).items()]
    parts += [f"{name.replace('_', ' ')}: {value}" for name, value in (row.get("setup") or {}).items()]
    return ", ".join(parts)


def shown_gap(gap: Decimal | None, note: str = "") -> str:
    """(+2.4), (-0.3) or (0.0) as the papers print it; with ``note``, (+2.4 vs note); "" for None."""
    if gap is None:
        return ""
    return f"({gap:+.1f}{f' vs {note}' if note else ''})" if gap else f"(0.0{f' vs {note}' if note else ''})"
