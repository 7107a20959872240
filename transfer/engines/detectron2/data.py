"""Batches for Detectron2: from the shared loader, or from Detectron2's own loader for data that only it provides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks
from torch.utils.data import get_worker_info

from runtime.errors import UserError
from runtime.stop import leave_signals_to_the_parent
from transfer.data.catalog import get_dataset
from transfer.data.keypoints import mirrored_pairs
from transfer.engines.training.batches import TrainingFeed, build_test_feed

Items = list[dict[str, Any]]


def as_detectron2_items(batch: Sequence[dict[str, Any]]) -> Items:
    """Items of the shared loader with their targets as Detectron2's Instances; others unchanged."""
    items: Items = []
    for item in batch:
        if "instances" not in item:
            items.append(dict(item))
            continue
        targets = item["instances"]
        instances = Instances(tuple(item["image"].shape[1:]))
        instances.gt_boxes, instances.gt_classes = Boxes(targets["boxes"]), targets["classes"]
        masks = targets.get("masks")
        if masks is not None:
            instances.gt_masks = BitMasks(masks) if isinstance(masks, torch.Tensor) else PolygonMasks(masks)
        if targets.get("keypoints") is not None and len(targets["classes"]):  # as from Detectron2's loader
            instances.gt_keypoints = Keypoints(targets["keypoints"])
        items.append({**item, "instances": instances})
    return items


def needs_own_loader(cfg: Any) -> bool:
    """Whether the config needs data that only Detectron2's loader provides; such runs do not resume exactly."""
    return bool(cfg.MODEL.LOAD_PROPOSALS)


class ResumableBatches:
    """The training batches in the form that Detectron2's trainer expects; ``iter()`` starts at batch ``start``.

    The shared loader plans Detectron2's own stream (order, sizes, flips) without hidden state, so that it can start
    anywhere; Detectron2's sampler would start again with the first epoch.
    """

    def __init__(self, feed: TrainingFeed) -> None:
        self.feed, self.start, self.worker_seed, self.precise_bn_start = feed, 0, -1, 0
        self.last: Items = []
        self._measuring: Callable[[], Iterator[Items]] | None = None

    def measuring(self) -> Iterator[Items]:
        """The batches of precise batch norm; training has begun."""
        assert self._measuring is not None
        return (as_detectron2_items(batch) for batch in self._measuring())

    def __iter__(self) -> Iterator[Items]:
        batches, self._measuring = self.feed.streams(self.worker_seed, self.start, self.precise_bn_start)
        for batch in batches:
            self.last = as_detectron2_items(batch)
            yield self.last


class _SignalSafeMapper:
    """Detectron2's mapper for workers that ignore stop signals.

    Detectron2's loader accepts no ``worker_init_fn``, so the first call in a worker sets the signals up.
    """

    def __init__(self, mapper: DatasetMapper) -> None:
        self._mapper, self._unprotected = mapper, True

    def __call__(self, record: dict[str, Any]) -> Any:
        if self._unprotected and get_worker_info() is not None:
            leave_signals_to_the_parent()
            self._unprotected = False
        return self._mapper(record)


def own_train_loader(cfg: Any) -> Any:
    """Detectron2's training loader on the data sets of the shared catalog."""
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST], masks=cfg.MODEL.MASK_ON)
    return build_detection_train_loader(cfg, mapper=_SignalSafeMapper(DatasetMapper(cfg, is_train=True)))


def test_batches(cfg: Any, dataset: str, rank: int, world: int) -> Any:
    """One image at a time, this rank's share."""
    if needs_own_loader(cfg):
        register_datasets([dataset], masks=cfg.MODEL.MASK_ON)
        return build_detection_test_loader(cfg, dataset)
    return build_test_feed(cfg, dataset, rank, world)


def register_datasets(names: Sequence[str], *, masks: bool = False) -> None:
    """Register the shared records in Detectron2's catalog under these names.

    Built-in names that the shared catalog does not have (panoptic) stay Detectron2's. The shared records
    hold floats: Detectron2's reader keeps integers, whose resized coordinates it would then truncate. ``masks``: for a
    detector with masks, see ``DatasetSpec.records``.
    """
    for name in names:
        try:
            spec = get_dataset(name)
        except UserError:
            if name in DatasetCatalog.list():
                continue
            raise
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda spec=spec: _with_box_modes(spec.records(masks=masks)))
        metadata = MetadataCatalog.get(name)
        metadata.set(thing_classes=list(spec.class_names), evaluator_type=spec.kind)
        if points := spec.summary.keypoint_names:
            metadata.set(keypoint_names=points, keypoint_flip_map=mirrored_pairs(points))


def _with_box_modes(records: list[dict[str, Any]]) -> Items:
    return [
        {**r, "annotations": [{**a, "bbox_mode": BoxMode(a["bbox_mode"])} for a in r["annotations"]]} for r in records
    ]
