"""A run folder with a detector of random weights, in milliseconds: what it detects is arbitrary, and repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from runtime.seeds import seed_everything
from runtime.torch_files import save_torch
from tests.transfer.train_command import TINY
from transfer.config import dump_config, load_config, merge_opts
from transfer.data.catalog import get_dataset
from transfer.engines.torchvision.builder import build_model
from transfer.records.classes import write_classes

KEPT = {"TEST.DETECTIONS_PER_IMAGE": "20", "DATALOADER.NUM_WORKERS": "0"}


def write_detector(folder: Path, data: str, **opts: str) -> Any:
    """config.yaml, model_final.pth and classes.json in ``folder``; returns the config. ``opts`` are keys with __."""
    pairs = {**TINY, **KEPT, "DATASETS.TRAIN": f"('{data}',)", "DATASETS.TEST": f"('{data}',)"}
    pairs.update({key.replace("__", "."): value for key, value in opts.items()})
    cfg = load_config("demo_R18_FPN.yaml")
    merge_opts(cfg, [word for pair in pairs.items() for word in pair])
    cfg.OUTPUT_DIR = str(folder)
    seed_everything(3)
    model = build_model(cfg)
    with torch.no_grad():  # confident and different classes, and boxes that move
        for parameter in model.roi_heads.box_predictor.parameters():
            parameter.mul_(20)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_config(cfg))
    save_torch({"model": model.state_dict()}, folder / "model_final.pth")
    write_classes(folder, get_dataset(data))
    return cfg
