"""What a detector is made of: config, weights and the names of its classes, found in a run folder or given singly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError
from runtime.listing import counted
from runtime.logs import get_logger
from transfer.records.classes import CLASSES, Classes, read_classes
from transfer.records.result_file import read_result

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from transfer.engines.protocol import Engine

CONFIG, FINAL_WEIGHTS = "config.yaml", "model_final.pth"
log = get_logger("predict")


@dataclass(frozen=True)
class RunFiles:
    """``config``: a file, or a name in configs/. ``folder``: that of the weights, where the run's other files are."""

    config: str | Path
    weights: Path
    folder: Path


def find_files(run: str | os.PathLike[str], config: str | os.PathLike[str] | None = None) -> RunFiles:
    """The files of ``run``: a run folder of this project or of Detectron2, or the weights of a trained detector.

    ``config``: instead of the config.yaml beside the weights. Raises UserError for what is missing.
    """
    path = Path(run).expanduser()
    if not path.exists():
        raise UserError(f"{run}: no such run folder or file of weights")
    weights = path / FINAL_WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        unfinished = sorted(path.glob("model_*.pth"))
        below = [] if unfinished else sorted(path.glob(f"**/{FINAL_WEIGHTS}"))
        if below:
            raise UserError(f"{run}: no {FINAL_WEIGHTS} in it, but in folders below; name one: {below[0].parent}")
        hint = f"; name a checkpoint of it, {unfinished[-1]}" if unfinished else "; train it first"
        raise UserError(f"{run}: no {FINAL_WEIGHTS} in it, the run has not finished{hint}")
    beside = weights.parent / CONFIG
    if config is None and not beside.is_file():
        raise UserError(f"{run}: no {CONFIG} beside the weights; name their config with --config-file")
    return RunFiles(beside if config is None else os.fspath(config), weights, weights.parent)


def choose_engine(name: str, folder: Path) -> Engine:
    """The engine called ``name``; for "auto" the one that the run was trained with, where it is installed."""
    from transfer.engines import ENGINES, resolve_engine

    if name == "auto":
        recorded = ((_result(folder)).get("engine") or {}).get("name")
        if recorded in ENGINES:
            try:
                return resolve_engine(recorded)
            except UserError:
                log.warning("the run was trained with engine %s, which is not installed", recorded)
    return resolve_engine(name)


def _result(folder: Path) -> dict[str, Any]:
    try:
        return read_result(folder) or {}
    except UserError:  # what it says besides the engine is not needed
        return {}


def find_classes(cfg: CfgNode, folder: Path, given: str | os.PathLike[str] | None = None) -> Classes:
    """The names of the detector's classes: ``given``, classes.json, the config's data sets, or else numbers.

    Raises UserError when a file has another number of classes than the detector.
    """
    count = number_of_classes(cfg)
    if given is not None or (folder / CLASSES).is_file():
        file = Path(given).expanduser() if given is not None else folder / CLASSES
        classes = read_classes(file)
        if len(classes.names) != count:
            there = counted(len(classes.names), "class", "classes")
            raise UserError(f"classes {file}: {there}, the detector has {count}; name its own list")
        return classes
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        known = _of_data_set(name)
        if known is not None and len(known.names) == count:
            return known
    log.warning(
        "%s does not say what its %d classes are called, so they are numbered; give a list of names", folder, count
    )
    return Classes(tuple(f"class {i}" for i in range(count)), tuple(range(1, count + 1)))


def number_of_classes(cfg: CfgNode) -> int:
    """Of the detector that ``cfg`` describes."""
    section = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    return int(cfg.MODEL[section].NUM_CLASSES)


def _of_data_set(name: str) -> Classes | None:
    """The classes of a built-in set, or of one whose files are here; None for any other."""
    from transfer.data.built_in import COCO_SETS, VOC_SETS
    from transfer.data.catalog import get_dataset
    from transfer.data.voc import VOC_CLASSES

    if name in VOC_SETS:
        return Classes(tuple(VOC_CLASSES), tuple(range(1, len(VOC_CLASSES) + 1)))
    if name in COCO_SETS and not name.startswith("keypoints"):
        return coco_classes()
    try:
        spec = get_dataset(name)
        return Classes(tuple(spec.class_names), tuple(spec.category_ids))
    except UserError:
        return None


def coco_classes() -> Classes:
    """The 80 classes of COCO with their ids, which have gaps."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    listed = enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    pairs = [(id_, name) for id_, name in listed if name not in ("N/A", "__background__")]
    return Classes(tuple(name for _, name in pairs), tuple(id_ for id_, _ in pairs))
