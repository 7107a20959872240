"""From a config to the batches of training, precise batch norm and testing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.listing import counted
from runtime.logs import get_logger
from transfer.config.protocol import CACHED
from transfer.data.catalog import get_dataset
from transfer.data.keypoints import mirrored_order
from transfer.data.labels import Record
from transfer.data.loader import PackedRecords, TestLoader, TrainLoader, build_test_loader, build_train_loader
from transfer.data.mapper import DetectionMapper
from transfer.data.random_geometry import RandomGeometry
from transfer.data.samplers import draw_seeds, repeat_factors
from transfer.engines.training.choices import class_count_keys
from transfer.engines.training.input_geometry import training_geometry
from transfer.engines.training.proposals import with_proposals
from transfer.engines.training.shared_draws import Batch, SharedDraws
from transfer.engines.training.world_size import images_per_process


class TrainingFeed:
    """The training batches of a config for one rank of ``world``; they depend on seeds and position only.

    ``process_seed`` is the seed of this process's generators.
    """

    def __init__(self, cfg: Any, rank: int, world: int, process_seed: int) -> None:
        records = training_records(cfg)
        self.rank, self.images = rank, len(records)
        self.images_of_classes = _images_of_classes(records, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        self.process_seed = process_seed
        self.options: dict[str, Any] = {
            "records": PackedRecords(records),  # packed once for all loaders; the list itself is not kept
            "mapper": build_mapper(cfg, train=True),
            "batch_size": images_per_process(cfg.SOLVER.IMS_PER_BATCH, world),
            "seed": cfg.SEED,
            "rank": rank,
            "world": world,
            "aspect_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            "repeat_factors": _factors(cfg, records),
            "pin_memory": cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
        }
        self.num_workers = cfg.DATALOADER.NUM_WORKERS
        self.precise_bn, self.eval_period = cfg.TEST.PRECISE_BN, cfg.TEST.EVAL_PERIOD

    def streams(
        self, worker_seed: int, start: int, precise_bn_start: int
    ) -> tuple[Iterator[Batch], Callable[[], Iterator[Batch]]]:
        """Training batches from number ``start`` on, and how to open those of precise batch norm.

        ``worker_seed`` is what ``draw_base_seed`` returned before step 0. The batches of precise batch norm begin with
        number ``precise_bn_start``: the same images, loaded in this process.
        """
        if self.num_workers or not self.precise_bn.ENABLED:
            seed = worker_seed if self.num_workers else self.process_seed
            loader = build_train_loader(**self.options, draw_seed=seed, num_workers=self.num_workers, start=start)
            return iter(loader), lambda: iter(self._in_this_process(start=precise_bn_start))
        generator = np.random.RandomState(draw_seeds(0, self.process_seed)[0])
        draws = SharedDraws(self._in_this_process(generator=generator))
        draws.skip(start, precise_bn_start, self.precise_bn.NUM_ITER, self.eval_period)
        return draws.training(), draws.measuring

    def _in_this_process(self, **options: Any) -> TrainLoader:
        return build_train_loader(**self.options, draw_seed=self.process_seed, num_workers=0, **options)


def training_records(cfg: Any) -> list[Record]:
    """Records of all DATASETS.TRAIN; images without a usable annotation are dropped if the config asks for it.

    A detector of keypoints drops those with fewer than MIN_KEYPOINTS_PER_IMAGE. Raises UserError when there are none,
    or when a data set has another number of classes than the config.
    """
    logger = get_logger(__name__)
    records: list[Record] = []
    for index, name in enumerate(cfg.DATASETS.TRAIN):
        spec = get_dataset(name)
        for key in class_count_keys(cfg):
            count = cfg.MODEL[key.split(".")[1]].NUM_CLASSES
            if len(spec.class_names) != count:
                classes = counted(len(spec.class_names), "class", "classes")
                raise UserError(f"data set {name} has {classes}, {key} is {count}; set it to {len(spec.class_names)}")
        records += _records(cfg, "TRAIN", index, spec.records(masks=cfg.MODEL.MASK_ON))
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        annotated = [r for r in records if any(a.get("iscrowd", 0) == 0 for a in r["annotations"])]
        dropped = len(records) - len(annotated)
        if dropped:
            logger.info("training drops %d of %d images without an annotation", dropped, len(records))
        records = annotated
    if cfg.MODEL.KEYPOINT_ON:
        records = [r for r in records if _visible(r) >= cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE]
    if not records:
        raise UserError(f"no image of {', '.join(cfg.DATASETS.TRAIN)} has an annotation to train on")
    return records


def _records(cfg: Any, part: str, index: int, records: list[Record]) -> list[Record]:
    """The records of data set ``index`` of DATASETS.TRAIN or TEST, with their proposals where the detector has none."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return records
    return with_proposals(records, cfg.DATASETS[f"PROPOSAL_FILES_{part}"][index])


def _images_of_classes(records: list[Record], classes: int) -> list[int]:
    """How many images have each class."""
    counts = Counter(category for r in records for category in {int(a["category_id"]) for a in r["annotations"]})
    return [counts[category] for category in range(classes)]


def _visible(record: Record) -> int:
    """Keypoints with a label, hidden ones included."""
    return sum(flag > 0 for a in record["annotations"] for flag in a.get("keypoints", ())[2::3])


def _mirrored_keypoints(cfg: Any) -> list[int] | None:
    if not cfg.MODEL.KEYPOINT_ON:
        return None
    return mirrored_order(get_dataset(cfg.DATASETS.TRAIN[0]).summary.keypoint_names)


def build_mapper(cfg: Any, *, train: bool) -> DetectionMapper:
    """The mapper of INPUT.*; masks and keypoints are read in training only."""
    settings, proposals = cfg.INPUT, None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposals = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{'TRAIN' if train else 'TEST'}"]
    if not train:
        return DetectionMapper(
            train=False,
            image_format=settings.FORMAT,
            geometry=RandomGeometry(min_sizes=(settings.MIN_SIZE_TEST,), max_size=settings.MAX_SIZE_TEST),
            proposals=proposals,
        )
    return DetectionMapper(
        train=True,
        image_format=settings.FORMAT,
        geometry=training_geometry(cfg),
        masks=settings.MASK_FORMAT if cfg.MODEL.MASK_ON else "",
        keypoints=_mirrored_keypoints(cfg),
        proposals=proposals,
        file_states=cfg.ENGINE.FEATURES == CACHED,
    )


def build_test_feed(cfg: Any, dataset: str, rank: int, world: int) -> TestLoader:
    """This rank's contiguous share of a data set, one image at a time."""
    index = list(cfg.DATASETS.TEST).index(dataset) if cfg.MODEL.LOAD_PROPOSALS else 0
    return build_test_loader(
        records=_records(cfg, "TEST", index, get_dataset(dataset).records()),
        mapper=build_mapper(cfg, train=False),
        rank=rank,
        world=world,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _factors(cfg: Any, records: list[Record]) -> torch.Tensor | None:
    loader = cfg.DATALOADER
    if loader.SAMPLER_TRAIN == "TrainingSampler":
        return None
    categories = [{a["category_id"] for a in r["annotations"]} for r in records]
    return repeat_factors(categories, loader.REPEAT_THRESHOLD, loader.REPEAT_SQRT)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch split into at most ``parts`` non-empty pieces of nearly equal size, in order."""
    bounds = [round(k * len(batch) / parts) for k in range(parts + 1)]
    return [batch[a:b] for a, b in itertools.pairwise(bounds) if b > a]
