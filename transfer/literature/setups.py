"""What a published row was trained with, field by field: from its protocol, its detector's name and its own ``setup``.

``protocols.json`` describes every protocol once: ``family`` (its class), ``summary``, ``setup`` (fields that hold for
all of its rows), ``by_dataset`` (fields by the first word of the data set's name) and ``by_neck`` (fields by the neck,
unless ``setup`` states them). A row's own ``setup`` comes last. A field that the source does not state is absent, never
guessed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.literature.rows import PublishedRow

FILE = Path(__file__).with_name("protocols.json")
FIELDS = {  # field -> its name in tables and sentences, in the order in which protocols are described
    "dataset": "data",
    "detector": "detector",
    "backbone": "backbone",
    "neck": "neck",
    "schedule": "schedule",
    "head": "box head",
    "backbone_norm": "backbone norm",
    "frozen_stages": "frozen stages",
    "precise_bn": "PreciseBN",
    "input": "input statistics",
    "stride": "place of the stride",
    "image_size": "image size",
    "augmentation": "augmentation",
    "test_size": "image size in testing",
    "test_augmentation": "test-time augmentation",
    "optimiser": "optimiser",
    "lr": "learning rate",
    "batch": "batch",
    "weight_decay": "weight decay",
    "evaluator": "evaluator",
    "framework": "framework",
    "recipe": "recipe",
}
NECKS = ("dilated-C5", "DC5", "C4", "FPN", "ViTDet")
ARCHITECTURES = (
    "Cascade Mask R-CNN",
    "Cascade R-CNN",
    "Mask/Keypoint R-CNN",
    "Keypoint R-CNN",
    "DensePose R-CNN",
    "Mask R-CNN",
    "Faster R-CNN",
    "RetinaNet",
    "FCN-16s",
    "Plain-DETR",
    "HTC++",
    "DETR",
)
BACKBONE = re.compile(
    r"EVA02-[BL]|ViT-7B/16|ViT-Adapter-[TSBL]|HiViT-[TSB]|MIMDet-ViT-[BL]|ViT-(?:Ti|S|B|L|H)|MViTv2-[TSBLH]|SwinV2-S|Swin-[TSBL]|ConvMAE-B|RX?\d+(?:v2)?(?:w\dx)?|AMDIM"
)


@dataclass(frozen=True)
class Detector:
    """A detector's name in its parts; "" where the name does not say."""

    architecture: str
    backbone: str
    neck: str


@functools.cache
def detector_parts(name: str) -> Detector:
    """``Mask R-CNN R50-FPN (4conv1fc-SyncBN heads)`` -> Mask R-CNN, R50, FPN."""
    backbone = BACKBONE.search(name)
    architecture = next((kind for kind in ARCHITECTURES if name.startswith(kind)), "")
    neck = "FPN" if architecture == "RetinaNet" else next((neck for neck in NECKS if neck in name), "")
    return Detector(architecture, backbone[0] if backbone else "", neck)


@functools.cache
def protocols() -> Mapping[str, Mapping[str, Any]]:
    """Every protocol by the name that rows use."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def setup_of(row: PublishedRow) -> dict[str, Any]:
    """Every stated field of ``FIELDS`` of a row."""
    protocol, parts = protocols()[row["protocol"]], detector_parts(row["detector"])
    fields: dict[str, Any] = {
        "dataset": row["dataset"],
        "detector": parts.architecture or row["detector"],
        "backbone": parts.backbone,
        "neck": parts.neck,
        "schedule": _schedule(row["schedule"]),
    }
    if is_detection(row) and not row["dataset"].startswith("Cityscapes"):  # whose rate, batch and size differ
        fields |= protocol["setup"]
        if parts.architecture == "RetinaNet":  # has no box head, and halves the rate of the R-CNNs in Detectron2
            fields.pop("lr", None)
        else:
            fields |= {**protocol["by_neck"].get(parts.neck, {}), **protocol["setup"]}
        for words, setup in protocol["by_dataset"].items():
            fields |= setup if row["dataset"].startswith(words) else {}
        fields |= _input_of(row)
    fields |= row.get("setup") or {}
    return {name: fields[name] for name in FIELDS if fields.get(name) not in (None, "")}


def _schedule(text: str) -> str | None:
    """The schedule without remarks in brackets; None when the source does not state it."""
    stated = re.sub(r" \(.*\)", "", text)
    return stated if stated[:1].isdigit() else None


def _input_of(row: PublishedRow) -> dict[str, str]:
    """MSRA's supervised ResNets need another input and stride than torchvision's, whatever the protocol."""
    if row.get("weights") == "MSRA":
        return {"input": "BGR, std 1", "stride": "1x1 convolution"}
    return {}


def is_detection(row: PublishedRow) -> bool:
    """Whether the row is a fine-tuned detector, to which a protocol's fields apply, and not a classifier."""
    return any(word in row["task"] for word in ("detection", "instance segmentation", "keypoint", "dense pose"))


def protocol_family(row: PublishedRow) -> str:
    """The class of the row's protocol, e.g. MoCo, 4conv1fc, ViTDet."""
    return str(protocols()[row["protocol"]]["family"])


def value_text(value: Any) -> str:
    """A field's value in words."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def setup_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field -> (value of ``one``, value of ``other``) where both are stated and differ."""
    return {
        name: (one[name], other[name]) for name in FIELDS if name in one and name in other and one[name] != other[name]
    }
