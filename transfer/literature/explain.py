"""Why an own run differs from a published row: every difference of protocol, and what each was worth elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import UserError
from transfer.config.backbones import BACKBONES
from transfer.config.schema import KEYS
from transfer.literature.effects import Effect, effect_of, separate_differences
from transfer.literature.noise import Noise, noise_of_difference
from transfer.literature.protocols import protocol_of
from transfer.literature.rows import BASELINES, PublishedRow, row_name
from transfer.literature.setups import FIELDS, detector_parts, is_detection, setup_of, value_text

# metric of an own run, as (task, name) -> the name in published rows with boxes alone, and with boxes and masks
OWN_METRICS = {("bbox", "AP"): ("AP", "APbb"), ("segm", "AP"): ("APmk",), ("keypoints", "AP"): ("APkp",)}
STRIDES = {"True": "1x1 convolution", "False": "3x3 convolution"}
IMAGENET_STD = [58.395, 57.12, 57.375]
FRAME = ("dataset", "detector", "backbone", "neck", "schedule")  # rows that share these are near, whatever else differs


@dataclass(frozen=True)
class Cause:
    """One difference of protocol, and its published effect from the row's value to the run's; None when unknown."""

    field: str
    own: Any
    published: Any
    effect: Effect | None

    @property
    def text(self) -> str:
        """The difference and its worth, as one sentence."""
        difference = f"{FIELDS[self.field]}: {value_text(self.own)} here, {value_text(self.published)} published"
        if self.effect is None:
            return f"{difference}: no published pair of rows shows what it is worth"
        pairs = f"{self.effect.pairs} pair{'s' * (self.effect.pairs > 1)}, " if self.effect.pairs else ""
        return f"{difference}: {self.effect.points:+.2f} {self.effect.metric} elsewhere ({pairs}{self.effect.source})"


@dataclass(frozen=True)
class Explanation:
    """The nearest published row of a run, and what separates the two, largest known effect first."""

    row: PublishedRow
    causes: Sequence[Cause]
    not_compared: Sequence[str]  # fields that the row does not state
    differences: Mapping[str, tuple[float, float, Noise | None]]  # published metric -> (own, published, noise)


def setup_of_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``setups.FIELDS`` of an own run, from its result.json."""
    flat = record["config"]["flat"]
    protocol = protocol_of(record)
    parts = detector_parts(protocol.detector)
    fields = {
        "dataset": protocol.dataset,
        "detector": parts.architecture,
        "backbone": parts.backbone,
        "neck": parts.neck,
        "schedule": protocol.schedule.split(" at batch")[0],
        "head": _head(flat, parts.neck),
        **(_of_resnets(flat) if flat.get("MODEL.BACKBONE.NAME") not in BACKBONES else {}),
        "input": _input(flat),
        "image_size": _size(flat, "TRAIN"),
        "augmentation": _augmentation(flat),
        "test_size": _size(flat, "TEST"),
        "test_augmentation": flat.get("TEST.AUG.ENABLED"),
        "optimiser": _optimiser(flat),
        "lr": flat.get("SOLVER.BASE_LR"),
        "batch": flat.get("SOLVER.IMS_PER_BATCH"),
        "weight_decay": flat.get("SOLVER.WEIGHT_DECAY"),
        "evaluator": _evaluator(str(record.get("evaluator", ""))),
        "framework": "Detectron2",  # or the embedded engine, whose arithmetic is the same
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _of_resnets(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "backbone_norm": _norm(flat.get("MODEL.RESNETS.NORM")),
        "frozen_stages": flat.get("MODEL.BACKBONE.FREEZE_AT"),
        "precise_bn": flat.get("TEST.PRECISE_BN.ENABLED"),
        "stride": STRIDES.get(str(flat.get("MODEL.RESNETS.STRIDE_IN_1X1"))),
    }


def _head(flat: Mapping[str, Any], neck: str) -> str | None:
    heads = str(flat.get("MODEL.ROI_HEADS.NAME"))
    if neck == "C4" and heads.startswith("Res5"):  # a detector on res4 may have a head of its own, as the demo's has
        extra = heads == "Res5ROIHeadsExtraNorm"
        return "res5 with an extra norm" if extra else "res5"
    convolutions, layers = flat.get("MODEL.ROI_BOX_HEAD.NUM_CONV"), flat.get("MODEL.ROI_BOX_HEAD.NUM_FC")
    if convolutions is None or layers is None:
        return None
    norm = flat.get("MODEL.ROI_BOX_HEAD.NORM") or ""
    parts = [f"{convolutions} conv"] * bool(convolutions) + [f"{layers} fc"] * bool(layers)
    return " + ".join(parts) + (f", {norm}" if norm else "")


def _norm(name: Any) -> str | None:
    if name in ("SyncBN", "naiveSyncBN"):
        return "tuned SyncBN"
    return f"tuned {name}" if name == "BN" else name or None


def _input(flat: Mapping[str, Any]) -> str | None:
    order, std = flat.get("INPUT.FORMAT"), flat.get("MODEL.PIXEL_STD")
    if order is None or std is None:
        return None
    if all(value == 1 for value in std):
        return f"{order}, std 1"
    return f"{order}, ImageNet mean and std" if list(std) == IMAGENET_STD else f"{order}, std {std}"


def _size(flat: Mapping[str, Any], part: str) -> str | None:
    if part == "TRAIN" and flat.get("INPUT.LSJ.ENABLED"):
        return f"{_recorded(flat, 'INPUT.LSJ.SIZE')} px"
    sides, longest = flat.get(f"INPUT.MIN_SIZE_{part}"), flat.get(f"INPUT.MAX_SIZE_{part}")
    sides = [sides] if isinstance(sides, int) else list(sides or ())
    if not sides or longest is None:
        return None
    short = f"{min(sides)}-{max(sides)}" if len(set(sides)) > 1 else f"{sides[0]}"
    return f"short side {short}, max {longest}"


def _augmentation(flat: Mapping[str, Any]) -> str | None:
    flip = flat.get("INPUT.RANDOM_FLIP")
    if flip is None:
        return None
    names = [f"{flip} flip"] * (flip != "none") + ["random crop"] * bool(flat.get("INPUT.CROP.ENABLED"))
    if flat.get("INPUT.LSJ.ENABLED"):
        low, high = (_recorded(flat, f"INPUT.LSJ.{key}") for key in ("MIN_SCALE", "MAX_SCALE"))
        published = (low, high, flip) == (0.1, 2.0, "horizontal")
        return "LSJ" if published else f"LSJ, scale {low}-{high}, {flip} flip"
    return ", ".join(names) or "none"


def _recorded(flat: Mapping[str, Any], key: str) -> Any:
    """The value of a key of this project, which a record leaves out at its default."""
    return flat.get(key, KEYS[key].default)


def _optimiser(flat: Mapping[str, Any]) -> str:
    name = _recorded(flat, "SOLVER.OPTIMIZER")
    return f"{name} with layer decay" if _recorded(flat, "SOLVER.LAYER_DECAY") != 1 else str(name)


def _evaluator(name: str) -> str | None:
    kind, _, rule = name.partition("/")
    if kind == "voc":
        return "Detectron2 VOC, 11-point" if "11" in rule or "2007" in rule else f"VOC, {rule}"
    return {"coco": "COCO API", "lvis": "LVIS API"}.get(kind)


def explain(record: Mapping[str, Any], rows: Sequence[PublishedRow]) -> Explanation:
    """The nearest row of ``rows``, and every stated field in which the run departs from it.

    Nearest: an initialisation of the run's name first, then the fewest differences in data, detector, backbone, neck
    and schedule, then in the other fields. Raises UserError when no row is a detector.
    """
    own = setup_of_run(record)
    detectors = [row for row in rows if is_detection(row)]
    if not detectors:
        raise UserError("no published detection row matches; see --list for the sources")
    named = [row for row in detectors if _is_named(row, record["init"])]
    row = min(named or detectors, key=lambda row: _distance(own, setup_of(row)))
    published = setup_of(row)
    causes = [
        Cause(field, here, there, effect_of(field, there, here))
        for field, (here, there) in separate_differences(own, published).items()
    ]
    causes.sort(key=lambda cause: -abs(cause.effect.points) if cause.effect else 1.0)  # unknown ones keep their order
    missing = [FIELDS[name] for name in own if name not in published]
    return Explanation(row, causes, missing, _values(record, row))


def _distance(own: Mapping[str, Any], published: Mapping[str, Any]) -> tuple[int, int, int]:
    differs = separate_differences(own, published)
    frame = [name for name in FRAME if name in differs or name not in published]
    return len(frame), len(differs), -len(published)


def _is_named(row: PublishedRow, init: Mapping[str, Any]) -> bool:
    """Whether the row's initialisation is the run's by name: ``moco_v2_800`` and MoCo v2, ``random`` and random."""
    own, published = ("".join(filter(str.isalnum, text)).lower() for text in (str(init["name"]), row["init"]))
    if not own or published in BASELINES:
        return bool(own) and own.startswith(published)
    return own.startswith(published) or published.startswith(own)


def _evaluated_on(dataset: str) -> str:
    """The images and classes that an AP is about: the same for a fraction of the training set, another for own data."""
    known = re.match(r"VOC07|COCO 2017|LVIS v[\d.]+|Cityscapes", dataset)
    return known[0] if known else dataset


def _values(record: Mapping[str, Any], row: PublishedRow) -> dict[str, tuple[float, float, Noise | None]]:
    values: dict[str, tuple[float, float, Noise | None]] = {}
    if _evaluated_on(protocol_of(record).dataset) != _evaluated_on(row["dataset"]):
        return values
    for (task, name), names in OWN_METRICS.items():
        own = (record.get("metrics") or {}).get(task, {}).get(name)
        metric = next((published for published in names if published in row["metrics"]), None)
        if isinstance(own, int | float) and math.isfinite(own) and metric is not None:
            noise = noise_of_difference({**row, "n_trials": 1}, row, metric)  # ours is one run, with a similar spread
            values[metric] = (float(own), float(row["metrics"][metric]), noise)
    return values


def explanation_text(explanation: Explanation, name: str) -> str:
    """What the command prints."""
    row = explanation.row
    lines = [
        f"{name}, against the nearest published row:",
        f"  {row_name(row)}; {row['detector']}, {row['schedule']}, {row['dataset']}; protocol: {row['protocol']}",
        f"  {row['source']}",
    ]
    if any(cause.field == "dataset" for cause in explanation.causes) and not explanation.differences:
        lines.append("  AP on other data is another quantity, so the values are not compared.")
    for metric, (own, published, noise) in explanation.differences.items():
        inside = noise is not None and noise.contains(own - published)
        spread = f" (noise of the trials: ±{noise.half_width:.2f}{', inside it' * inside})" if noise else ""
        lines.append(f"  {metric}: {own:.2f} here, {published} published, {own - published:+.2f}{spread}")
    if explanation.causes:
        lines.append("Differences of protocol, largest known effect first (points: this run minus the published row):")
        lines += [f"  {number}. {cause.text}" for number, cause in enumerate(explanation.causes, 1)]
        lines.append("Effects were measured on other detectors and weights, and need not add up.")
    else:
        lines.append("Every stated field of the protocol is the same.")
    if explanation.not_compared:
        lines.append(f"Not stated by the row: {', '.join(explanation.not_compared)}.")
    return "\n".join(lines)
