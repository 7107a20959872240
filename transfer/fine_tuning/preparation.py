"""From a loaded config and the command line to a checked, complete config: folder, batch, classes, initialisation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.atomic import read_json
from runtime.bfloat16 import SLOW, has_native_bfloat16
from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import explicit_keys, flatten
from transfer.config.values import ONE, check_bound
from transfer.data.set_findings import named_findings
from transfer.engines.protocol import Engine
from transfer.evaluate.coco_ap import HOTCOCO, MAX_DETECTIONS, choose_rule, coco_truth
from transfer.fine_tuning.checks import Datasets, check, class_count_keys
from transfer.fine_tuning.initialisation import Init, apply_settings, evaluated_model, require_init, resolve_init
from transfer.fine_tuning.weight_addresses import local_weights
from transfer.records.result_file import RESULT

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

DEFAULT_SEED = 0
FINAL_WEIGHTS = "model_final.pth"
log = get_logger("run")


def set_default_seed(cfg: CfgNode) -> None:
    """Replace a negative SEED, which stands for a random one, by ``DEFAULT_SEED``: every run can be repeated."""
    if cfg.SEED < 0:
        log.info("SEED is not set: using %d", DEFAULT_SEED)
        cfg.SEED = DEFAULT_SEED


def set_output_folder(cfg: CfgNode, args: argparse.Namespace) -> Path:
    """OUTPUT_DIR where the user set it; otherwise it becomes runs/CONFIG/INIT/seedN. Returns the folder."""
    if "OUTPUT_DIR" in explicit_keys(args.config_file, args.opts):
        if not cfg.OUTPUT_DIR:
            raise UserError("OUTPUT_DIR is empty; name a folder, or leave it out")
        return Path(cfg.OUTPUT_DIR)
    init = args.init_name or Path(args.init or cfg.MODEL.WEIGHTS or "init").name.split(".")[0]
    folder = Path("runs") / Path(args.config_file).stem / init / f"seed{cfg.SEED}"
    cfg.OUTPUT_DIR = str(folder)
    return folder


def refuse_used_folder(folder: Path, *, resume: bool) -> None:
    """Raise UserError when ``folder`` already holds a run that another one would overwrite."""
    if (folder / "last_checkpoint").exists():
        if not resume:
            raise UserError(f"{folder} already holds a run: pass --resume to continue it, or another OUTPUT_DIR")
    elif read_json(folder / RESULT).get("status") == "finished":
        # until the new run ends, its config, log and detections would stand beside the old result
        raise UserError(
            f"{folder} already holds a finished run, and no checkpoint that could be continued: choose another "
            f"OUTPUT_DIR, or remove {RESULT}"
        )


def prepare(cfg: CfgNode, args: argparse.Namespace, folder: Path, engine: Engine, processes: int = 1) -> Init:
    """Check and complete ``cfg`` in place and return the initialisation.

    Raises UserError for everything that would stop the run later. Nothing is written before the checks have passed.
    """
    train = not args.eval_only
    if train:
        refuse_used_folder(folder, resume=args.resume)
    explicit = explicit_keys(args.config_file, args.opts)
    if args.scale_to_batch:
        for line in scale_to_batch(cfg, args.scale_to_batch):
            log.info("%s", line)
    check_evaluator(args.evaluator, cfg)
    if train and (args.init or cfg.MODEL.WEIGHTS):  # before the data sets, which take longer to read
        require_init(args.init or cfg.MODEL.WEIGHTS)
    datasets = Datasets.of(cfg, train=train)
    check(cfg, datasets, engine, processes=processes, explicit=explicit, train=train)
    if choose_rule(args.evaluator).backend == HOTCOCO:
        for spec in datasets.test:
            if spec.kind == "coco":
                coco_truth(spec.content(), HOTCOCO)  # raises here what would end the run after its training
    if slow := slow_arithmetic(cfg):
        log.warning("%s: %s", slow, SLOW)
    for name, finding in named_findings(datasets.train, datasets.test):
        log.info("data set %s: %s", name, finding.line())
    set_class_counts(cfg, datasets)
    if train:
        init = resolve_init(args.init, cfg, name=args.init_name, folder=folder)
    else:
        given = "MODEL.WEIGHTS" in args.opts
        init = evaluated_model(local_weights(cfg.MODEL.WEIGHTS) if given else folder / FINAL_WEIGHTS)
    for line in apply_settings(cfg, init, explicit):
        log.info("from the initialisation: %s", line)
    cfg.MODEL.WEIGHTS = "" if init.weights is None else str(init.weights)
    return init


def slow_arithmetic(cfg: CfgNode) -> str:
    """The settings that ask for bfloat16 on a processor without such arithmetic, "" where none does."""
    if cfg.MODEL.DEVICE != "cpu" or has_native_bfloat16("cpu"):
        return ""
    asked = {
        "SOLVER.AMP.ENABLED with ENGINE.AMP_DTYPE bfloat16": cfg.SOLVER.AMP.ENABLED
        and cfg.ENGINE.AMP_DTYPE == "bfloat16",
        "ENGINE.TEST_ARITHMETIC bfloat16": cfg.ENGINE.TEST_ARITHMETIC == "bfloat16",
    }
    return " and ".join(key for key, set_ in asked.items() if set_)


def check_evaluator(evaluator: str, cfg: CfgNode) -> None:
    """Raise UserError for an unknown evaluator, and for a raised limit that the detector's own makes ineffective."""
    limit, kept = choose_rule(evaluator).limit, cfg.TEST.DETECTIONS_PER_IMAGE
    if limit > MAX_DETECTIONS and 0 <= kept < limit:
        raise UserError(
            f"--evaluator {evaluator} evaluates up to {limit} detections of a class in an image, but the detector "
            f"keeps {kept} of all classes; set TEST.DETECTIONS_PER_IMAGE to {limit} or more"
        )


def set_class_counts(cfg: CfgNode, datasets: Datasets) -> None:
    """Set NUM_CLASSES in ``cfg`` to the number of classes of the data."""
    first = datasets.all()[0]
    for key in class_count_keys(cfg):
        section = cfg.MODEL[key.split(".")[1]]
        if len(first.class_names) != section.NUM_CLASSES:
            section.NUM_CLASSES = len(first.class_names)
            log.info("%s = %d, the classes of %s", key, section.NUM_CLASSES, first.name)


def scale_to_batch(cfg: CfgNode, batch: int) -> list[str]:
    """Apply the linear rule for ``batch`` images per step in place; returns what changed, line by line.

    With k = batch / IMS_PER_BATCH, learning rates are multiplied by k; iterations, steps, warm-up and periods are
    divided by k, so that the run sees the same number of images (Goyal et al., arXiv:1706.02677). A setting that is
    switched off by 0 stays 0.
    """
    check_bound("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, ONE)
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
