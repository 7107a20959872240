"""Which published rows may be compared with own runs: those with the same data, detector, schedule and protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.comparison.gap import Table
from transfer.literature.detector_names import detector_name, protocol_name
from transfer.literature.rows import Group, PublishedRow, grouped, load

MOST_NEAREST = 3
ALL_FIELDS = 4  # a group that differs in all fields of ``Protocol`` is not near


@dataclass(frozen=True)
class Protocol:
    """What a published row must share with own runs to be comparable with them."""

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
# (training sets, test sets) -> name of the data in the published rows
DATA: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {
    (("voc_2007_trainval", "voc_2012_trainval"), ("voc_2007_test",)): VOC0712,
    (("voc_2007_trainval",), ("voc_2007_test",)): "VOC07 (train: 2007 trainval; test: 2007 test)",
    (("coco_2017_train",), ("coco_2017_val",)): "COCO 2017 (train2017 -> val2017)",
    (("lvis_v0.5_train",), ("lvis_v0.5_val",)): "LVIS v0.5 (train v0.5 -> val v0.5)",
    (("cityscapes_fine_instance_seg_train",), ("cityscapes_fine_instance_seg_val",)): "Cityscapes",
    (("keypoints_coco_2017_train",), ("keypoints_coco_2017_val",)): "COCO 2017 keypoints",
    **{
        ((f"coco_2017_train@{p}%",), ("coco_2017_val",)): f"COCO 2017 (train2017 -> val2017), {p}% of train images"
        for p in (1, 2, 5, 10)
    },
}
COCO_SCHEDULES = {12000: "12k", 90000: "1x", 180000: "2x", 540000: "6x"}


def protocol_of(record: Mapping[str, Any]) -> Protocol:
    """The protocol of an own run, in the words of the published rows, from its result.json."""
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
    return Protocol(dataset, detector_name(flat), schedule, protocol_name(flat))


@dataclass(frozen=True)
class PublishedMatch:
    """The published groups for one config: those with its runs' protocol, and the nearest others with what differs."""

    table: Table
    own: Protocol
    exact: Sequence[Group]
    nearest: Sequence[tuple[Group, Sequence[str]]]


def published_matches(tables: Sequence[Table], wanted: Sequence[Mapping[str, str]] = ()) -> list[PublishedMatch]:
    """One match per table with a finished run.

    ``wanted``: words that a row's fields must contain (a plan's published initialisations); random and supervised rows
    are always kept, since gaps are measured to them.
    """
    rows = [r for r in load() if not wanted or r["init"] in ("supervised", "random") or _is_wanted(r, wanted)]
    matches = []
    for table in tables:
        run = next((run for run in table.runs if run.finished), None)
        if run is not None:
            own = protocol_of(run.record)
            exact, nearest = matching(rows, own)
            matches.append(PublishedMatch(table, own, exact, nearest[:MOST_NEAREST]))
    return matches


def _is_wanted(row: PublishedRow, wanted: Sequence[Mapping[str, str]]) -> bool:
    return any(all(v.lower() in str(row.get(k, "")).lower() for k, v in words.items()) for words in wanted)


def matching(rows: Sequence[PublishedRow], own: Protocol) -> tuple[list[Group], list[tuple[Group, list[str]]]]:
    """(groups with exactly this protocol, the nearest other groups with what differs), detection tasks only."""
    groups = grouped(r for r in rows if "linear" not in r["detector"] and r["dataset"] != "ImageNet-1K")
    with_mismatches = [(group, own.mismatches(group)) for group in groups]
    fewest = min((len(differs) for _, differs in with_mismatches if differs), default=0)
    nearest = [
        (group, differs) for group, differs in with_mismatches if differs and len(differs) == fewest < ALL_FIELDS
    ]
    return [group for group, differs in with_mismatches if not differs], nearest
