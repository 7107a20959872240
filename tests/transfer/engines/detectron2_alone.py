"""Detectron2's own training, with which the engines are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.seeds import seed_everything
from runtime.torch_files import load_torch


def train_with_detectron2_alone(cfg: Any, folder: Path) -> dict[str, Any]:
    """What Detectron2's own script does: its trainer, its loader, its checkpointer."""
    from detectron2.engine import DefaultTrainer

    import transfer.engines.detectron2.heads  # noqa: F401
    from transfer.engines.detectron2.data import register_datasets
    from transfer.engines.detectron2.engine import detectron2_config

    own = detectron2_config(cfg, folder)
    own.DATASETS.TEST = ()
    register_datasets(own.DATASETS.TRAIN)
    seed_everything(own.SEED)
    trainer = DefaultTrainer(own)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return load_torch(folder / "model_final.pth")
