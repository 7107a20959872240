"""Published transfer results as rows with source and protocol: selecting, grouping, gaps to supervised."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
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
    "cityscapes": ("Cityscapes",),
    "segmentation": ("VOC (train_aug", "Cityscapes (train_fine"),
    "linear": ("ImageNet-1K",),
}
PublishedRow = dict[str, Any]  # task, dataset, detector, schedule, init, protocol, metrics, source, verification ...


@dataclass(frozen=True)
class Group:
    """Rows that are comparable, and so share a table: same data, detector, schedule and protocol."""

    dataset: str
    detector: str
    schedule: str
    protocol: str
    rows: tuple[PublishedRow, ...]

    @property
    def metrics(self) -> list[str]:
        """Numeric metrics in the order of the rows."""
        names = dict.fromkeys(k for row in self.rows for k, v in row["metrics"].items() if isinstance(v, int | float))
        return [name for name in names if name != "imagenet_linear_top1"]  # another task's number, quoted with it

    def reference(self, row: PublishedRow) -> PublishedRow | None:
        """The supervised row that ``row`` is compared with: of its own source if that has one, else the group's."""
        supervised = [r for r in self.rows if r["init"] == "supervised" and r is not row]
        own = [r for r in supervised if set(r["sources"]) & set(row["sources"])]
        return next(iter(own or supervised), None)

    def gap(self, row: PublishedRow, metric: str) -> Decimal | None:
        """Difference to supervised, exact in the digits that are printed; None for references and missing numbers."""
        reference = self.reference(row)
        if row["init"] in ("supervised", "random") or reference is None:
            return None
        values = [r["metrics"].get(metric) for r in (row, reference)]
        if any(not isinstance(v, int | float) for v in values):
            return None
        return Decimal(str(values[0])) - Decimal(str(values[1]))


@functools.cache
def load() -> tuple[PublishedRow, ...]:
    """Every row that ships with the project."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8")))


def select(
    rows: Iterable[PublishedRow], *, task: str | None = None, paper: str | None = None, **fields: str | None
) -> list[PublishedRow]:
    """Rows of a task, whose source has ``paper`` in it, and whose ``fields`` contain the given text."""
    chosen = []
    for row in rows:
        if task and not row["dataset"].startswith(TASKS[task]):
            continue
        if paper and paper.lower() not in row["source"].lower():
            continue
        if all(text.lower() in str(row.get(key, "")).lower() for key, text in fields.items() if text):
            chosen.append(row)
    return chosen


def grouped(rows: Iterable[PublishedRow]) -> list[Group]:
    """Groups in the order of the rows; equal rows of several sources become one row that names them all."""
    groups: dict[tuple[str, str, str, str], list[PublishedRow]] = {}
    for row in rows:
        key = (row["dataset"], row["detector"], row["schedule"], row["protocol"])
        group = groups.setdefault(key, [])
        same = next((other for other in group if _same(other, row)), None)
        if same is None:
            group.append({**row, "sources": [row["source"]]})
        else:
            same["sources"].append(row["source"])
            same["metrics"] = {**row["metrics"], **same["metrics"]}
    order = {"random": 0, "supervised": 1}
    return [Group(*key, tuple(sorted(group, key=lambda r: order.get(r["init"], 2)))) for key, group in groups.items()]


def _same(one: PublishedRow, other: PublishedRow) -> bool:
    """One result quoted by two sources: same initialisation, and no metric that both have differs."""
    if any(one.get(key) != other.get(key) for key in ("init", "pretrain_data", "pretrain_epochs")):
        return False
    in_both = one["metrics"].keys() & other["metrics"].keys()
    return bool(in_both) and all(one["metrics"][key] == other["metrics"][key] for key in in_both)


def row_name(row: PublishedRow) -> str:
    """Initialisation with its pretraining data and epochs, as the papers name it."""
    epochs = f", {row['pretrain_epochs']} ep" if row.get("pretrain_epochs") else ""
    return row["init"] + (f" {row['pretrain_data']}{epochs}" if row.get("pretrain_data") else "")


def shown_gap(gap: Decimal | None) -> str:
    """(+2.4), (-0.3) or (0.0) as the papers print it; "" for None."""
    if gap is None:
        return ""
    return f"({gap:+.1f})" if gap else "(0.0)"
