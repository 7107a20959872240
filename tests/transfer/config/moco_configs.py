"""The MoCo repository's five detection configs as facts: which keys each sets, to what, and on which base it stands.

Written down from the last version of its detection/configs (the first had SyncBN) and of arXiv:1911.05722, section
4.2: C4 with one more norm behind res5, BN tuned and synchronised, statistics re-estimated before evaluation, 24k steps
on VOC 07+12 and a 2x schedule on COCO, batch 16 at rate 0.02, shorter sides 480-800 and 640-800.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SIDES = tuple(range(480, 801, 32))
BASE = "Base-RCNN-C4-BN"
MSRA = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

TORCH_INPUT: dict[str, Any] = {  # a backbone trained in PyTorch: RGB in torchvision's normalisation, stride in the 3x3
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
    "MODEL.WEIGHTS": "See Instructions",
}
# config -> (base or None, key -> value)
MOCO_CONFIGS: dict[str, tuple[str | None, dict[str, Any]]] = {
    BASE: (
        None,
        {
            "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
            "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.RESNETS.NORM": "naiveSyncBN",
            "TEST.PRECISE_BN.ENABLED": True,
            "SOLVER.IMS_PER_BATCH": 16,
            "SOLVER.BASE_LR": 0.02,
        },
    ),
    "coco_R_50_C4_2x": (
        BASE,
        {
            "MODEL.MASK_ON": True,
            "MODEL.WEIGHTS": MSRA,
            "INPUT.MIN_SIZE_TRAIN": str(SIDES[5:]),  # YAML has no tuples: Detectron2's files write them as text
            "INPUT.MIN_SIZE_TEST": 800,
            "DATASETS.TRAIN": '("coco_2017_train",)',
            "DATASETS.TEST": '("coco_2017_val",)',
            "SOLVER.STEPS": "(120000, 160000)",
            "SOLVER.MAX_ITER": 180000,
        },
    ),
    "coco_R_50_C4_2x_moco": ("coco_R_50_C4_2x", TORCH_INPUT),
    "pascal_voc_R_50_C4_24k": (
        BASE,
        {
            "MODEL.MASK_ON": False,
            "MODEL.WEIGHTS": MSRA,
            "MODEL.ROI_HEADS.NUM_CLASSES": 20,
            "INPUT.MIN_SIZE_TRAIN": str(SIDES),
            "INPUT.MIN_SIZE_TEST": 800,
            "DATASETS.TRAIN": "('voc_2007_trainval', 'voc_2012_trainval')",
            "DATASETS.TEST": "('voc_2007_test',)",
            "SOLVER.STEPS": "(18000, 22000)",
            "SOLVER.MAX_ITER": 24000,
            "SOLVER.WARMUP_ITERS": 100,
        },
    ),
    "pascal_voc_R_50_C4_24k_moco": ("pascal_voc_R_50_C4_24k", TORCH_INPUT),
}


def write_moco_configs(folder: Path) -> dict[str, Path]:
    """The five files as YAML with their chain of bases; name -> path."""
    written = {}
    for name, (base, keys) in MOCO_CONFIGS.items():
        tree: dict[str, Any] = {} if base is None else {"_BASE_": f"{base}.yaml"}
        for key, value in keys.items():
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        written[name] = folder / f"{name}.yaml"
        written[name].write_text(yaml.safe_dump(tree, sort_keys=False))
    return written
