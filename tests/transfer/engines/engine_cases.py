"""Detectors and inputs on which the embedded engine is compared with Detectron2, and what is compared."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

CLASSES = 5
COMMON = {
    "MODEL.DEVICE": "cpu",
    "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 24,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 150,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 80,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 25,
}
THIN = {  # a ResNet-50 of an eighth of the width
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 2,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
}
R18 = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
C5 = {
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 2,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
}
MASK = {"MODEL.MASK_ON": True}
TUNED = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.STRIDE_IN_1X1": False}
MOCO_C4 = {**THIN, **TUNED, "MODEL.RESNETS.NORM": "naiveSyncBN", "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"}

# turns the tiny FPN config of the fixtures into one with the MoCo paper's C4 head
EXTRA_NORM_C4: dict[str, Any] = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.NORM": "naiveSyncBN",
    "MODEL.FPN.NORM": "",
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.MASK_ON": False,
    "SOLVER.MAX_ITER": 20,
}

CASES: dict[str, dict[str, Any]] = {
    "fpn_mask": {**R18, **FPN, **MASK},
    "fpn_mask_syncbn": {
        **THIN, **FPN, **MASK, **TUNED, "MODEL.RESNETS.NORM": "SyncBN", "MODEL.FPN.NORM": "SyncBN",
    },
    "fpn_mask_bn_freeze1": {**R18, **FPN, **MASK, "MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 1},
    "fpn_mask_gn": {
        **R18, **FPN, **MASK, "MODEL.RESNETS.NORM": "GN", "MODEL.FPN.NORM": "GN", "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.ROI_MASK_HEAD.NORM": "GN",
    },
    "fpn_4conv1fc": {
        **THIN, **FPN, **MASK, **TUNED, "MODEL.RESNETS.NORM": "SyncBN", "MODEL.FPN.NORM": "SyncBN",
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4, "MODEL.ROI_BOX_HEAD.NUM_FC": 1, "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
        "MODEL.ROI_BOX_HEAD.NORM": "SyncBN", "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    },
    "fpn_giou": {
        **THIN, **FPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou",
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 2.0,
    },
    "fpn_diou": {
        **THIN, **FPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE": "diou", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "diou",
    },
    "fpn_ciou": {
        **THIN, **FPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE": "ciou", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "ciou",
    },
    "c4_stem": {
        **THIN, "MODEL.RESNETS.OUT_FEATURES": ["stem", "res4"], "MODEL.RPN.IN_FEATURES": ["stem"],
    },
    "fpn_anchors_of_equal_product": {
        **THIN, **FPN, "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [24, 32], [64], [128], [256]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0, 2.0], [1.0], [0.5, 1.0], [1.0, 2.0], [1.0, 2.0]],
    },
    "fpn_agnostic": {
        **THIN, **FPN, **MASK, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True, "MODEL.FPN.FUSE_TYPE": "avg",
    },
    "fpn_detectron1": {
        **THIN, **FPN, **MASK, "MODEL.RPN.SMOOTH_L1_BETA": 0.1111, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign", "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.RPN.BOUNDARY_THRESH": 0,
    },
    "fpn_lvis": {
        **THIN, **FPN, **MASK, "MODEL.ROI_HEADS.NUM_CLASSES": 150, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
    "fpn_sigmoid_pred_boxes": {
        **THIN, **FPN, **MASK, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
    },
    "fpn_resnext": {**THIN, **FPN, **TUNED, "MODEL.RESNETS.NUM_GROUPS": 4, "MODEL.RESNETS.WIDTH_PER_GROUP": 4},
    "fpn_two_rpn_convs": {**R18, **FPN, "MODEL.RPN.CONV_DIMS": [-1, 16], "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5},
    "dc5_mask": {**THIN, **C5, **MASK},
    "dc5_moco": {
        **THIN, **C5, **TUNED, "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.BACKBONE.NAME": "build_resnet_dilated_c5_backbone",
    },
    "c4_voc": {**THIN, "MODEL.ROI_HEADS.NUM_CLASSES": 20},
    "c4_voc_moco": {**MOCO_C4, "MODEL.ROI_HEADS.NUM_CLASSES": 20},
    "c4_mask_moco": {**MOCO_C4, **MASK},
}  # fmt: skip

SCALED = {  # random predictors hardly move: spread their outputs so that scores and boxes differ
    "cls_score": 10.0,
    "bbox_pred": 20.0,
    "objectness_logits": 5.0,
    "anchor_deltas": 3.0,
    "mask_head.predictor": 100.0,
}


def draw_inputs(num_classes: int) -> list[dict[str, Any]]:
    """Two images of different orientation, the first with five two-part polygons, the second with one."""
    rng = np.random.RandomState(3)
    items = []
    for index, (height, width, count) in enumerate([(80, 112, 5), (104, 72, 1)]):
        corner, size = rng.uniform(0, 40, (count, 2)), rng.uniform(12, 32, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        polygons = [
            [
                np.array([x1, y1, x2, y1 + 2, (x1 + x2) / 2, y2], dtype=np.float64),
                np.array([x1, y2 - 4, x1 + 6, y2 - 4, x1 + 6, y2, x1, y2], dtype=np.float64),
            ]
            for x1, y1, x2, y2 in boxes.tolist()
        ]
        items.append(
            {
                "image": torch.from_numpy(rng.randint(0, 255, (3, height, width)).astype(np.uint8)),
                "height": height * 2,
                "width": width * 2 + 1,
                "image_id": index,
                "boxes": torch.from_numpy(boxes),
                "classes": torch.from_numpy(rng.randint(0, num_classes, count)),
                "polygons": polygons,
            }
        )
    return items


def spread_predictors(model: torch.nn.Module) -> None:
    """Scale the prediction layers by SCALED; calm the residual branches of a network with frozen statistics."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("norm.weight"):
                buffer.fill_(0.1 if ".conv3." in name or ".conv2." in name else 0.7)
        for name, parameter in model.named_parameters():
            for layer, factor in SCALED.items():
                if name.endswith(f"{layer}.weight"):
                    parameter.mul_(factor)


def summary(model: torch.nn.Module, losses: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stored golden case holds: losses, gradient norms, statistics, and the detections of both images."""
    gradients = {n: float(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None}
    ordered = sorted(gradients)
    return {
        "names": hashlib.sha256("\n".join(model.state_dict()).encode()).hexdigest(),
        "losses": {k: float(v.detach()) for k, v in losses.items()},
        "gradients": {name: gradients[name] for name in ordered[:: max(1, len(ordered) // 12)]},
        "buffers": float(sum(b.double().abs().sum() for n, b in model.named_buffers() if "running" in n)),
        "detections": [
            {
                "count": len(f["scores"]),
                "boxes": f["boxes"][:8].tolist(),
                "scores": f["scores"][:8].tolist(),
                "classes": f["classes"][:8].tolist(),
                "mask_pixels": None if f["masks"] is None else f["masks"][:8].flatten(1).sum(1).tolist(),
            }
            for f in found
        ],
    }


def run_embedded(settings: dict[str, Any], inputs: list[dict[str, Any]], bitmask: bool = False) -> dict[str, Any]:
    """One training step's losses and gradients, then detections, by the embedded engine."""
    from transfer.config import default_config
    from transfer.engines.torchvision.builder import build_model
    from transfer.engines.torchvision.model.postprocess import paste_masks

    cfg = default_config()
    for key, value in {**COMMON, **settings}.items():
        cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    model = build_model(cfg)
    after_build = torch.get_rng_state()
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    spread_predictors(model)
    items = []
    for given in inputs:
        masks = draw_bitmasks(given) if bitmask else given["polygons"]
        instances = {
            "boxes": given["boxes"],
            "classes": given["classes"],
            "masks": masks if cfg.MODEL.MASK_ON else None,
        }
        items.append({**{k: given[k] for k in ("image", "height", "width", "image_id")}, "instances": instances})
    torch.manual_seed(1)
    losses = model.train()(items)
    sum(losses.values()).backward()
    with torch.no_grad():
        raw = model.eval()(items)
    found = [
        {
            "boxes": f.boxes,
            "scores": f.scores,
            "classes": f.classes,
            "masks": None if f.masks is None else paste_masks(f.masks, f.boxes, given["height"], given["width"]),
        }
        for f, given in zip(raw, inputs)
    ]
    return {"model": model, "fresh": fresh, "rng": after_build, "losses": losses, "found": found}


def run_detectron2(settings: dict[str, Any], inputs: list[dict[str, Any]], bitmask: bool = False) -> dict[str, Any]:
    """The same by Detectron2."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
    from detectron2.utils.events import EventStorage

    import transfer.engines.detectron2.heads  # noqa: F401 (registers this project's heads)
    from transfer.engines.detectron2.backbones import add_keys

    cfg = add_keys(get_cfg())
    for key, value in {**COMMON, **settings}.items():
        cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    model = build_model(cfg)
    after_build = torch.get_rng_state()
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    spread_predictors(model)
    items = []
    for given in inputs:
        instances = Instances(tuple(given["image"].shape[1:]))
        instances.gt_boxes, instances.gt_classes = Boxes(given["boxes"].clone()), given["classes"].clone()
        if cfg.MODEL.MASK_ON:
            instances.gt_masks = BitMasks(draw_bitmasks(given)) if bitmask else PolygonMasks(given["polygons"])
        items.append({**{k: given[k] for k in ("image", "height", "width", "image_id")}, "instances": instances})
    torch.manual_seed(1)
    with EventStorage():
        losses = model.train()(items)
    sum(losses.values()).backward()
    with torch.no_grad():
        raw = [r["instances"] for r in model.eval()(items)]
    found = [
        {
            "boxes": r.pred_boxes.tensor,
            "scores": r.scores,
            "classes": r.pred_classes,
            "masks": r.pred_masks if r.has("pred_masks") else None,
        }
        for r in raw
    ]
    return {"model": model, "fresh": fresh, "rng": after_build, "losses": losses, "found": found}


def draw_bitmasks(given: dict[str, Any]) -> torch.Tensor:
    """The polygons of an input as booleans (N x H x W)."""
    from pycocotools import mask as rle

    size = given["image"].shape[1:]
    drawn = [rle.decode(rle.merge(rle.frPyObjects([p.tolist() for p in ps], *size))) for ps in given["polygons"]]
    stack = np.stack(drawn) if drawn else np.zeros((0, *size))
    return torch.from_numpy(stack.astype(bool))
