"""Published transfer results as records with source and protocol: selecting, grouping, gaps, matching with own runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
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
Record = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Rows that may stand in one table: same data, detector, schedule and protocol."""

    dataset: str
    detector: str
    schedule: str
    protocol: str
    rows: tuple[Record, ...]

    @property
    def metrics(self) -> list[str]:
        """Numeric metrics in the order of the records."""
        found = dict.fromkeys(k for row in self.rows for k, v in row["metrics"].items() if isinstance(v, int | float))
        return [name for name in found if name != "imagenet_linear_top1"]  # another task's number, quoted beside it

    def reference(self, row: Record) -> Record | None:
        """The supervised row that ``row`` is compared with: of its own source if that has one, else the group's."""
        supervised = [r for r in self.rows if r["init"] == "supervised" and r is not row]
        own = [r for r in supervised if set(r["sources"]) & set(row["sources"])]
        return next(iter(own or supervised), None)

    def gap(self, row: Record, metric: str) -> Decimal | None:
        """Difference to supervised, exact in the digits that are printed; None for references and missing numbers."""
        reference = self.reference(row)
        if row["init"] in ("supervised", "random") or reference is None:
            return None
        values = [r["metrics"].get(metric) for r in (row, reference)]
        if any(not isinstance(v, int | float) for v in values):
            return None
        return Decimal(str(values[0])) - Decimal(str(values[1]))


@functools.cache
def load() -> tuple[Record, ...]:
    """Every shipped record: task, dataset, detector, schedule, init, protocol, metrics, source, verification ..."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8")))


def select(
    records: Iterable[Record], *, task: str | None = None, paper: str | None = None, **fields: str | None
) -> list[Record]:
    """Records of a task, whose source has ``paper`` in it, and whose ``fields`` contain the given text."""
    chosen = []
    for record in records:
        if task and not record["dataset"].startswith(TASKS[task]):
            continue
        if paper and paper.lower() not in record["source"].lower():
            continue
        if all(text.lower() in str(record.get(key, "")).lower() for key, text in fields.items() if text):
            chosen.append(record)
    return chosen


def grouped(records: Iterable[Record]) -> list[Group]:
    """Groups in the order of the records; equal rows of several sources are one row that names them all."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        key = (record["dataset"], record["detector"], record["schedule"], record["protocol"])
        rows = groups.setdefault(key, [])
        twin = next((row for row in rows if _same(row, record)), None)
        if twin is None:
            rows.append({**record, "sources": [record["source"]]})
        else:
            twin["sources"].append(record["source"])
            twin["metrics"] = {**record["metrics"], **twin["metrics"]}
    order = {"random": 0, "supervised": 1}
    return [Group(*key, tuple(sorted(rows, key=lambda row: order.get(row["init"], 2)))) for key, rows in groups.items()]


def _same(row: Record, record: Record) -> bool:
    """One result quoted by two sources: same initialisation, and no shared metric differs."""
    if any(row.get(key) != record.get(key) for key in ("init", "pretrain_data", "pretrain_epochs")):
        return False
    shared = row["metrics"].keys() & record["metrics"].keys()
    return bool(shared) and all(row["metrics"][key] == record["metrics"][key] for key in shared)


def row_name(row: Record) -> str:
    """Initialisation with its pretraining data and epochs, as the papers name it."""
    epochs = f", {row['pretrain_epochs']} ep" if row.get("pretrain_epochs") else ""
    return row["init"] + (f" {row['pretrain_data']}{epochs}" if row.get("pretrain_data") else "")


def shown_gap(gap: Decimal | None) -> str:
    """(+2.4), (-0.3) or (0.0) as the papers print it; "" for None."""
    if gap is None:
        return ""
    return f"({gap:+.1f})" if gap else "(0.0)"


@dataclass(frozen=True)
class Protocol:
    """What a published row must share with own runs to stand beside them."""

    dataset: str
    detector: str
    schedule: str
    heads: str

    def mismatches(self, group: Group) -> list[str]:
        """Every field in which a published group differs from these runs, in words; [] when they are comparable."""
        theirs = {
            "data": (self.dataset, group.dataset),
            "detector": (self.detector, group.detector),
            "schedule": (self.schedule, group.schedule),
            "protocol": (self.heads, group.protocol),
        }
        return [
            f"{name} ({own} here, {published} published)"
            for name, (own, published) in theirs.items()
            if own != published
        ]


VOC0712 = "VOC07+12 (train: 2007 trainval + 2012 trainval; test: 2007 test)"
DATA: dict[
    tuple[tuple[str, ...], tuple[str, ...]], str
] = {  # (training sets, test sets) -> name of the data in the records
    (("voc_2007_trainval", "voc_2012_trainval"), ("voc_2007_test",)): VOC0712,
    (("voc_2007_trainval",), ("voc_2007_test",)): "VOC07 (train: 2007 trainval; test: 2007 test)",
    (("coco_2017_train",), ("coco_2017_val",)): "COCO 2017 (train2017 -> val2017)",
    (("lvis_v0.5_train",), ("lvis_v0.5_val",)): "LVIS v0.5 (train v0.5 -> val v0.5)",
    **{
        ((f"coco_2017_train@{p}%",), ("coco_2017_val",)): f"COCO 2017 (train2017 -> val2017), {p}% of train images"
        for p in (1, 2, 5, 10)
    },
}
COCO_SCHEDULES = {12000: "12k", 90000: "1x", 180000: "2x", 540000: "6x"}


def protocol_of(record: Mapping[str, Any]) -> Protocol:
    """The protocol of an own run, in the records' words, from its result.json."""
    flat = record["config"]["flat"]
    train, test = (tuple(sorted(flat.get(f"DATASETS.{part}") or ())) for part in ("TRAIN", "TEST"))
    dataset = DATA.get((train, test), f"{' + '.join(train)} -> {' + '.join(test)}")
    images = int(flat.get("SOLVER.IMS_PER_BATCH") or 0)
    iterations = int(record["iterations"])
    schedule = f"{iterations / 1000:g}k" if iterations >= 1000 else f"{iterations}"
    if dataset.startswith(("COCO", "LVIS")):
        schedule = COCO_SCHEDULES.get(iterations, schedule)
    if images != 16:
        schedule += f" at batch {images}"
    return Protocol(dataset, _detector(flat), schedule, _heads(flat))


def _detector(flat: Mapping[str, Any]) -> str:
    kind = "Mask R-CNN" if flat.get("MODEL.MASK_ON") else "Faster R-CNN"
    if "fpn" in str(flat.get("MODEL.BACKBONE.NAME", "")):
        neck = "FPN"
    else:
        neck = "dilated-C5" if flat.get("MODEL.RESNETS.RES5_DILATION") == 2 else "C4"
    convolutions = flat.get("MODEL.ROI_BOX_HEAD.NUM_CONV") or 0
    heads = " (4conv1fc-SyncBN heads)" if neck == "FPN" and convolutions == 4 else ""
    return f"{kind} R{flat.get('MODEL.RESNETS.DEPTH')}-{neck}{heads}"


def _heads(flat: Mapping[str, Any]) -> str:
    norm, frozen = flat.get("MODEL.RESNETS.NORM"), flat.get("MODEL.BACKBONE.FREEZE_AT")
    tuned = norm in ("BN", "SyncBN", "naiveSyncBN") and frozen == 0 and bool(flat.get("TEST.PRECISE_BN.ENABLED"))
    if not tuned:
        return f"norm {norm}, FREEZE_AT {frozen}, PreciseBN {bool(flat.get('TEST.PRECISE_BN.ENABLED'))}"
    if flat.get("MODEL.ROI_BOX_HEAD.NUM_CONV") == 4:
        return "4conv1fc box head + SyncBN in box/mask heads (InfoMin/PyContrast recipe)"
    return "moco"


def matching(records: Sequence[Record], own: Protocol) -> tuple[list[Group], list[tuple[Group, list[str]]]]:
    """(groups with exactly this protocol, the nearest other groups with what differs), detection tasks only."""
    groups = grouped(r for r in records if "linear" not in r["detector"] and r["dataset"] != "ImageNet-1K")
    judged = [(group, own.mismatches(group)) for group in groups]
    fewest = min((len(differs) for _, differs in judged if differs), default=0)
    nearest = [(group, differs) for group, differs in judged if differs and len(differs) == fewest < 4]
    return [group for group, differs in judged if not differs], nearest
