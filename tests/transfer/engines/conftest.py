"""A data set of a few drawn images and configs that train on it in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.transfer.engines import engine_cases

FPN = {
    **engine_cases.FPN,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
}
THIN = {
    **engine_cases.THIN,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 60,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.MIN_SIZE_TRAIN": (64, 72),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.STEPS": (),
    "SEED": 7,
}


def merge(cfg: Any, *settings: dict[str, Any]) -> Any:
    """``cfg`` with the settings of the dicts, in order."""
    for given in settings:
        for key, value in given.items():
            cfg.merge_from_list([key, value])
    return cfg


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a data set of eight images of two orientations with coloured rectangles as polygons, three classes."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.RandomState(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(8):
        height, width = ((60, 80), (90, 66))[index % 2]
        pixels = rng.randint(0, 90, (height, width, 3)).astype(np.uint8)
        for _ in range(3):
            w, h = rng.randint(14, 34, 2)
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            category = int(rng.randint(3))
            pixels[y : y + h, x : x + w, category] = 220
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category + 1,
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h),
                    "iscrowd": 0,
                    "segmentation": [[float(v) for v in (x, y, x + w, y + 2, x + w, y + h, x, y + h)]],
                }
            )
        Image.fromarray(pixels).save(folder / f"{index + 1}.png")
        images.append({"id": index + 1, "file_name": f"{index + 1}.png", "height": height, "width": width})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("red", "green", "blue"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return f"coco:{folder / 'instances.json'}:{folder}"


@pytest.fixture(scope="session")
def tiny_config(tiny_coco: str) -> Callable[..., Any]:
    """``tiny_config({key: value}, ...)``: a thin R50-FPN config on the tiny data set with further settings."""
    from transfer.config import default_config

    def build(*settings: dict[str, Any]) -> Any:
        data = {"DATASETS.TRAIN": (tiny_coco,), "DATASETS.TEST": (tiny_coco,)}
        return merge(default_config(), FPN, THIN, SMALL, data, *settings)

    return build


@pytest.fixture(scope="session")
def engine() -> Any:
    """The embedded engine."""
    from transfer.engines import resolve_engine

    return resolve_engine("torchvision")


@pytest.fixture(scope="session")
def detectron2_engine() -> Any:
    """The engine around Detectron2, for tests with its marker."""
    from transfer.engines import resolve_engine

    return resolve_engine("detectron2")


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, Any]]:
    """``weights_of(folder)``: the tensors of its model_final.pth."""
    from runtime.torch_files import load_torch

    return lambda folder: load_torch(folder / "model_final.pth")["model"]
