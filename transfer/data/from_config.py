"""Loaders as a config describes them: the only place of the data layer that reads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.data import samplers
from transfer.data.catalog import get_dataset
from transfer.data.labels import Record
from transfer.data.loader import TestLoader, TrainLoader, build_test_loader, build_train_loader
from transfer.data.mapper import DetectionMapper

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

log = get_logger("data")


def mapper_from_config(cfg: CfgNode, train: bool) -> DetectionMapper:
    """The mapper that INPUT and MODEL.MASK_ON describe."""
    source = cfg.INPUT
    sizes = source.MIN_SIZE_TRAIN if train else source.MIN_SIZE_TEST
    return DetectionMapper(
        train=train,
        image_format=source.FORMAT,
        min_sizes=(sizes,) if isinstance(sizes, int) else sizes,
        max_size=source.MAX_SIZE_TRAIN if train else source.MAX_SIZE_TEST,
        sampling=source.MIN_SIZE_TRAIN_SAMPLING if train else "choice",
        flip=source.RANDOM_FLIP if train else "none",
        masks=source.MASK_FORMAT if cfg.MODEL.MASK_ON else "",
    )


def training_records(names: Sequence[str], filter_empty: bool = True) -> list[Record]:
    """Records of all training sets in order, without images that hold no non-crowd annotation (``filter_empty``)."""
    if not names:
        raise UserError("DATASETS.TRAIN is empty; name a data set, for example voc_2007_trainval")
    records: list[Record] = []
    for name in names:
        spec = get_dataset(name)
        for finding in spec.labels.findings:
            log.info("data set %s: %s", name, finding)
        records += spec.records()
    if filter_empty:
        kept = [r for r in records if any(a.get("iscrowd", 0) == 0 for a in r["annotations"])]
        if len(kept) < len(records):
            log.info(
                "%d of %d images have no annotation and are not trained on", len(records) - len(kept), len(records)
            )
        records = kept
    if not records:
        raise UserError(f"no annotated image in {', '.join(names)}; nothing to train on")
    return records


def loader_for_training(
    cfg: CfgNode,
    *,
    draw_seed: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    num_workers: int | None = None,
    records: list[Record] | None = None,
) -> TrainLoader:
    """``build_train_loader`` with what DATASETS.TRAIN, DATALOADER, INPUT, SOLVER.IMS_PER_BATCH and SEED say.

    ``num_workers`` overrides DATALOADER.NUM_WORKERS (Detectron2's PreciseBN loader has 0). Raises UserError when the
    batch does not divide by ``world``.
    """
    total = cfg.SOLVER.IMS_PER_BATCH
    if total < 1 or total % world:
        raise UserError(f"SOLVER.IMS_PER_BATCH {total} does not divide by {world} processes")
    if records is None:
        records = training_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    known = ("TrainingSampler", "RepeatFactorTrainingSampler")
    chosen = cfg.DATALOADER.SAMPLER_TRAIN
    if chosen not in known:
        raise UserError(f"DATALOADER.SAMPLER_TRAIN {chosen}: only {' and '.join(known)} are known")
    factors = None
    if chosen == known[1]:
        categories = [{a["category_id"] for a in r["annotations"]} for r in records]
        factors = samplers.repeat_factors(categories, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT)
    return build_train_loader(
        records=records,
        mapper=mapper_from_config(cfg, train=True),
        batch_size=total // world,
        seed=cfg.SEED,
        draw_seed=draw_seed,
        rank=rank,
        world=world,
        aspect_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        repeat_factors=factors,
        num_workers=cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers,
        start=start,
    )


def loader_for_testing(cfg: CfgNode, name: str, *, rank: int = 0, world: int = 1) -> TestLoader:
    """``build_test_loader`` of one data set, batch 1 per rank, as Detectron2 evaluates."""
    return build_test_loader(
        records=get_dataset(name).records(),
        mapper=mapper_from_config(cfg, train=False),
        rank=rank,
        world=world,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
