"""All checks of a run, in order, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.listing import counted
from transfer.data.catalog import DatasetSpec, get_dataset
from transfer.engines.protocol import Engine
from transfer.engines.training.checks import check_values
from transfer.engines.training.choices import class_count_keys, finds_proposals
from transfer.engines.training.proposals import read_proposals
from transfer.evaluate.keypoint_ap import COCO_KEYPOINTS

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Datasets:
    """The data sets of a run. ``train`` is empty when the run only evaluates."""

    train: tuple[DatasetSpec, ...]
    test: tuple[DatasetSpec, ...]

    @classmethod
    def of(cls, cfg: CfgNode, *, train: bool) -> Datasets:
        """The data sets that ``cfg`` names; raises UserError for a name that is not known, or none to work on."""
        names = [*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST]
        if not_text := [name for name in names if not isinstance(name, str)]:
            raise UserError(f"DATASETS: {not_text[0]!r} is not the name of a data set; write ('NAME',)")
        if train and not cfg.DATASETS.TRAIN:
            raise UserError("DATASETS.TRAIN is empty: the data set to train on is not there; name one")
        if not train and not cfg.DATASETS.TEST:
            raise UserError("DATASETS.TEST is empty; --eval-only has nothing to evaluate on")
        return cls(
            tuple(map(get_dataset, cfg.DATASETS.TRAIN)) if train else (), tuple(map(get_dataset, cfg.DATASETS.TEST))
        )

    def all(self) -> list[DatasetSpec]:
        """Training and test sets, each once, in order."""
        return list(dict.fromkeys((*self.train, *self.test)))


def check(
    cfg: CfgNode, datasets: Datasets, engine: Engine, *, processes: int, explicit: Mapping[str, str], train: bool
) -> None:
    """Raise UserError for the first thing that would stop the run later, the quick checks first.

    ``explicit``: keys that the user set -> where, see ``transfer.config.explicit_keys``. ``train`` False: the run only
    evaluates.
    """
    engine.check(cfg)
    check_values(cfg, processes, train=train)
    for dataset in datasets.all():
        dataset.require()
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoints(cfg, datasets)
    check_labels(cfg, datasets)
    check_classes(cfg, datasets, explicit)
    if cfg.MODEL.LOAD_PROPOSALS:
        check_proposals(cfg, datasets)


def check_proposals(cfg: CfgNode, datasets: Datasets) -> None:
    """Every image has an entry in the file of proposals of its data set; the files are read whole."""
    for part, specs in (("TRAIN", datasets.train), ("TEST", datasets.test)):
        for spec, file in zip(specs, cfg.DATASETS[f"PROPOSAL_FILES_{part}"]):
            read_proposals(file, spec.summary.image_ids)


def check_labels(cfg: CfgNode, datasets: Datasets) -> None:
    """Image sizes agree with the annotations, test sets have annotations, and MODEL.MASK_ON has masks of its format."""
    proposals = finds_proposals(cfg)
    for dataset in datasets.all():
        dataset.check_image_sizes()
        summary = dataset.summary
        if dataset in datasets.test and not summary.annotated(masks=cfg.MODEL.MASK_ON):
            dropped = ""
            if summary.annotations:
                dropped = f" (MODEL.MASK_ON: all {summary.annotations} were dropped, none has a usable polygon)"
            raise UserError(
                f"data set {dataset.name} has no annotations to evaluate against{dropped}; remove it from DATASETS.TEST"
            )
        if dataset in datasets.test and dataset.evaluator == "cityscapes" and not (cfg.MODEL.MASK_ON or proposals):
            raise UserError(f"data set {dataset.name} is evaluated on masks alone; set MODEL.MASK_ON True")
        if cfg.MODEL.MASK_ON and summary.maskless:
            raise UserError(f"data set {dataset.name}: {summary.maskless}; MODEL.MASK_ON needs one for each")
        polygons = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon"
        if polygons and dataset in datasets.train and summary.run_lengths:
            raise UserError(
                f"data set {dataset.name}: {summary.run_lengths}, INPUT.MASK_FORMAT polygon needs polygons; set it to "
                "bitmask"
            )


def check_classes(cfg: CfgNode, datasets: Datasets, explicit: Mapping[str, str]) -> None:
    """All data sets have the same classes, as many as a NUM_CLASSES that the user set."""
    first, *others = datasets.all()
    for other in others:
        if other.class_names != first.class_names:
            raise UserError(
                f"data sets {first.name} and {other.name} have different classes; a detector needs one list"
            )
    for key in class_count_keys(cfg):
        count = cfg.MODEL[key.split(".")[1]].NUM_CLASSES
        if key in explicit and count != len(first.class_names):
            classes = counted(len(first.class_names), "class", "classes")
            raise UserError(f"{key} is {count} ({explicit[key]}), data set {first.name} has {classes}")


def check_keypoints(cfg: CfgNode, datasets: Datasets) -> None:
    """All data sets name the same keypoints, as many as the keypoint head and TEST.KEYPOINT_OKS_SIGMAS have."""
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    first = datasets.all()[0]
    for dataset in datasets.all():
        points = dataset.summary.keypoint_names
        if len(points) != expected:
            raise UserError(
                f"data set {dataset.name} names {len(points)} keypoints in its categories, "
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {expected}"
            )
        if points != first.summary.keypoint_names:
            raise UserError(
                f"data sets {first.name} and {dataset.name} have different keypoints; a detector needs one list"
            )
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if datasets.test and sigmas != expected:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS gives {sigmas} standard deviations, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{expected}; give one per keypoint"
        )
