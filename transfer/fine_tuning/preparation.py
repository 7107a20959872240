"""From a loaded config and the command line to a complete config: data sets, classes, batch, initialisation, folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import explicit_keys, flatten
from transfer.data.catalog import get_dataset
from transfer.engines.training.checks import check_values
from transfer.evaluate.keypoint_ap import COCO_KEYPOINTS
from transfer.fine_tuning.initialisation import Init, apply_settings, evaluated_model, resolve_init
from transfer.fine_tuning.weight_addresses import local_weights

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

DEFAULT_SEED = 0
FINAL_WEIGHTS = "model_final.pth"
log = get_logger("run")


def output_folder(cfg: CfgNode, args: argparse.Namespace) -> Path:
    """OUTPUT_DIR if it was set, else runs/CONFIG/INIT/seedN; also replaces a negative SEED by ``DEFAULT_SEED``."""
    if cfg.SEED < 0:
        log.info("SEED is not set: using %d", DEFAULT_SEED)
        cfg.SEED = DEFAULT_SEED
    if "OUTPUT_DIR" in explicit_keys(args.config_file, args.opts):
        if not cfg.OUTPUT_DIR:
            raise UserError("OUTPUT_DIR is empty; name a folder, or leave it out")
        return Path(cfg.OUTPUT_DIR)
    init = args.init_name or Path(args.init or cfg.MODEL.WEIGHTS or "init").name.split(".")[0]
    folder = Path("runs") / Path(args.config_file).stem / init / f"seed{cfg.SEED}"
    cfg.OUTPUT_DIR = str(folder)
    return folder


def prepare(cfg: CfgNode, args: argparse.Namespace, folder: Path, processes: int = 1) -> Init:
    """Complete ``cfg`` in place and return the initialisation. Raises UserError for everything that cannot run."""
    explicit = explicit_keys(args.config_file, args.opts)
    if args.scale_to_batch:
        for line in scale_to_batch(cfg, args.scale_to_batch):
            log.info("%s", line)
    check_values(cfg, processes, train=not args.eval_only)
    check_datasets(cfg, explicit, train=not args.eval_only)
    if args.eval_only:
        given = "MODEL.WEIGHTS" in args.opts
        init = evaluated_model(local_weights(cfg.MODEL.WEIGHTS) if given else folder / FINAL_WEIGHTS)
    else:
        init = resolve_init(args.init, cfg, name=args.init_name, folder=folder)
    for line in apply_settings(cfg, init, explicit):
        log.info("from the initialisation: %s", line)
    cfg.MODEL.WEIGHTS = "" if init.weights is None else str(init.weights)
    return init


def check_datasets(cfg: CfgNode, explicit: dict[str, str], *, train: bool) -> None:
    """All data sets are there, agree on their classes, and NUM_CLASSES (set here if nobody did) is their number."""
    names = [*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST]
    if odd := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"DATASETS: {odd[0]!r} is not the name of a data set; write ('NAME',)")
    if train and not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name at least one training set")
    if not train and not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; --eval-only has nothing to evaluate on")
    for name in names:
        get_dataset(name).require()
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoints(cfg, names)
    classes: list[str] | None = None
    for name in dict.fromkeys(names):
        spec = get_dataset(name)
        spec.check_image_sizes()
        for finding in spec.summary.findings:
            log.info("data set %s: %s", name, finding)
        if name in cfg.DATASETS.TEST and not spec.summary.annotated:
            raise UserError(f"data set {name} has no annotations to evaluate against; remove it from DATASETS.TEST")
        if cfg.MODEL.MASK_ON and spec.summary.maskless:
            raise UserError(f"data set {name}: {spec.summary.maskless}; MODEL.MASK_ON needs one for each")
        if classes is not None and spec.class_names != classes:
            raise UserError(f"data sets {names[0]} and {name} have different classes; a detector has one list")
        classes = spec.class_names
    if classes is None:
        return
    for section in ("ROI_HEADS", "RETINANET") if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else ("ROI_HEADS",):
        key, node = f"MODEL.{section}.NUM_CLASSES", cfg.MODEL[section]
        if len(classes) != node.NUM_CLASSES:
            if key in explicit:
                raise UserError(
                    f"{key} is {node.NUM_CLASSES} ({explicit[key]}), data set {names[0]} has {len(classes)} classes"
                )
            node.NUM_CLASSES = len(classes)
            log.info("%s = %d, the classes of %s", key, len(classes), names[0])


def check_keypoints(cfg: CfgNode, names: Sequence[str]) -> None:
    """All data sets name the same keypoints, as many as the keypoint head and TEST.KEYPOINT_OKS_SIGMAS have."""
    listed = {name: get_dataset(name).summary.keypoint_names for name in names}
    wanted = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    for name, points in listed.items():
        if len(points) != wanted:
            raise UserError(
                f"data set {name} names {len(points)} keypoints in its categories, "
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {wanted}"
            )
        if points != listed[names[0]]:
            raise UserError(f"data sets {names[0]} and {name} have different keypoints; a detector has one list")
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if cfg.DATASETS.TEST and sigmas != wanted:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS gives {sigmas} standard deviations, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{wanted}; give one per keypoint"
        )


def scale_to_batch(cfg: CfgNode, batch: int) -> list[str]:
    """Apply the linear rule for ``batch`` images per step in place; returns what changed, line by line.

    Learning rates x k, iterations, steps, warm-up and periods / k, where k = batch / IMS_PER_BATCH: the same number of
    images is seen (Goyal et al., arXiv:1706.02677). What is 0, and so off, stays 0.
    """
    if cfg.SOLVER.IMS_PER_BATCH < 1:
        raise UserError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} must be 1 or more")
    k = batch / cfg.SOLVER.IMS_PER_BATCH
    scaled = {
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * k,
        "SOLVER.BASE_LR_END": cfg.SOLVER.BASE_LR_END * k,
        "SOLVER.STEPS": tuple(round(step / k) for step in cfg.SOLVER.STEPS),
    }
    before = flatten(cfg)
    for key in ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"):
        scaled[key] = max(1, round(before[key] / k)) if before[key] > 0 else before[key]
    lines = []
    for key, value in scaled.items():
        section, leaf = key.split(".")
        old, cfg[section][leaf] = cfg[section][leaf], value
        if value != old:
            lines.append(f"scaled to a batch of {batch}: {key} {old} -> {value}")
    return lines
