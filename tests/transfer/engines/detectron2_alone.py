"""Detectron2's own training, with which the engines are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.seeds import seed_everything
from runtime.torch_files import load_torch
from transfer.data.catalog import get_dataset
from transfer.data.keypoints import mirrored_pairs


def train_with_detectron2_alone(cfg: Any, folder: Path) -> dict[str, Any]:
    """What Detectron2's own script does: its trainer, its loader, its checkpointer."""
    from detectron2.engine import DefaultTrainer

    import transfer.engines.detectron2.heads  # noqa: F401
    from transfer.engines.detectron2.engine import detectron2_config

    own = detectron2_config(cfg, folder)
    own.DATASETS.TEST = ()
    register_datasets(own.DATASETS.TRAIN, masks=cfg.MODEL.MASK_ON)
    seed_everything(own.SEED)
    trainer = DefaultTrainer(own)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return load_torch(folder / "model_final.pth")


def register_datasets(names: Sequence[str], *, masks: bool = False) -> None:
    """Register this project's records in Detectron2's catalog under these names.

    The records hold floats: Detectron2's reader keeps integers, whose resized coordinates it would then truncate.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import BoxMode

    def records(name: str) -> list[dict[str, Any]]:
        return [
            {**r, "annotations": [{**a, "bbox_mode": BoxMode(a["bbox_mode"])} for a in r["annotations"]]}
            for r in get_dataset(name).records(masks=masks)
        ]

    for name in names:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda name=name: records(name))
        spec, metadata = get_dataset(name), MetadataCatalog.get(name)
        metadata.set(thing_classes=list(spec.class_names), evaluator_type=spec.kind)
        if points := spec.summary.keypoint_names:
            metadata.set(keypoint_names=points, keypoint_flip_map=mirrored_pairs(points))
