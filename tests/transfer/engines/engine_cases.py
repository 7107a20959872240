"""Detectors and inputs on which the embedded engine is compared with Detectron2, and what is compared."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
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

CASCADE = {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
PYRAMID = {
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[x, x * 1.26, x * 1.587] for x in (8, 16, 32, 64, 128)],
}
RETINANET = {
    **PYRAMID,
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.RETINANET.NUM_CLASSES": CLASSES,
    "MODEL.RETINANET.NUM_CONVS": 2,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 100,
}
KEYPOINTS = 7
PEOPLE = {
    **FPN,
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": KEYPOINTS,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (32, 32),
}

GIVEN_PROPOSALS = {"MODEL.LOAD_PROPOSALS": True, "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}

CASES |= {
    "cascade_mask": {**THIN, **FPN, **MASK, **CASCADE},
    "cascade_two_stages_sigmoid": {
        **R18, **FPN, **CASCADE, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (0.4, 0.6), "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.4],
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": ((8.0, 8.0, 4.0, 4.0), (20.0, 20.0, 10.0, 10.0)),
    },
    "cascade_keypoints": {**THIN, **PEOPLE, **CASCADE},
    "cascade_mask_c5_giou": {**THIN, **C5, **MASK, **CASCADE, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou"},
    "retinanet": {**THIN, **RETINANET, "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0},
    "retinanet_smooth_gn": {
        **R18, **RETINANET, "MODEL.RETINANET.NORM": "GN", "MODEL.RETINANET.PRIOR_PROB": 0.02,
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 1.5, "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.4,
        "MODEL.RETINANET.BBOX_REG_WEIGHTS": (2.0, 2.0, 1.0, 1.0),
    },
    "retinanet_bn_giou": {
        **THIN, **RETINANET, **TUNED, "MODEL.RESNETS.NORM": "BN", "MODEL.RETINANET.NORM": "BN",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "giou",
    },
    "rcnn_on_p7": {
        **THIN, **FPN, **PYRAMID, "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    },
    "keypoints": {**THIN, **PEOPLE, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5},
    "keypoints_mask_normalised": {
        **R18, **PEOPLE, **MASK, "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": False,
        "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": 4.0, "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 2, "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 7,
    },
    "fpn_deformable": {
        **THIN, **FPN, **TUNED, "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
    },
    "dc5_deformable_modulated": {
        **THIN, **C5, "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [True, False, False, True],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
    },
    "proposals": {**THIN, **FPN, "MODEL.META_ARCHITECTURE": "ProposalNetwork"},
    "proposals_c4": {**THIN, "MODEL.META_ARCHITECTURE": "ProposalNetwork"},
    "fpn_mask_other_thresholds": {
        **THIN, **FPN, **MASK, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 9, "MODEL.RPN.LOSS_WEIGHT": 0.5,
        "MODEL.RPN.NMS_THRESH": 0.5, "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 2.0,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 10,
    },
    "retinanet_other_thresholds": {
        **THIN, **RETINANET, "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6"],
        "MODEL.RETINANET.NMS_THRESH_TEST": 0.3,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.2, 0.3], "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[x, x * 1.26] for x in (8, 16, 32, 64)],
    },
    "fpn_deformable_groups": {
        **THIN, **FPN, "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, True, True],
        "MODEL.RESNETS.DEFORM_NUM_GROUPS": 2,
    },
    "fast_rcnn": {**THIN, **FPN, **MASK, **GIVEN_PROPOSALS},
    "fast_rcnn_c4": {**THIN, **GIVEN_PROPOSALS, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True},
}  # fmt: skip

GIVEN = ("image", "height", "width", "image_id", "proposals")  # of an input, what a model is given

SCALED = {  # random predictors hardly move: spread their outputs so that scores and boxes differ
    "cls_score": 10.0,
    "bbox_pred": 20.0,
    "objectness_logits": 5.0,
    "anchor_deltas": 3.0,
    "mask_head.predictor": 100.0,
    "score_lowres": 0.02,
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
                "keypoints": draw_keypoints(boxes),
                "proposals": draw_proposals(boxes, height, width),
            }
        )
    return items


def draw_proposals(boxes: np.ndarray, height: int, width: int) -> dict[str, torch.Tensor]:
    """Proposals around the boxes and elsewhere, best first."""
    rng = np.random.RandomState(len(boxes) + 10)
    near = np.repeat(boxes, 3, axis=0) + rng.uniform(-5, 5, (3 * len(boxes), 4))
    corner = rng.uniform(0, 40, (20, 2))
    found = np.concatenate([near, np.concatenate([corner, corner + rng.uniform(8, 30, (20, 2))], axis=1)])
    found = np.clip(found, 0, [width, height, width, height]).astype(np.float32)
    logits = np.sort(rng.normal(0, 3, len(found)).astype(np.float32))[::-1].copy()
    return {"boxes": torch.from_numpy(found), "logits": torch.from_numpy(logits)}


def draw_keypoints(boxes: np.ndarray) -> torch.Tensor:
    """Keypoints N x K x 3 around the boxes, some of them outside, on an edge, hidden or without a label."""
    rng = np.random.RandomState(len(boxes))
    share = rng.uniform(-0.2, 1.2, (len(boxes), KEYPOINTS, 2)).round(1).astype(np.float32)
    places = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    flags = rng.choice([0, 1, 2], (len(boxes), KEYPOINTS, 1)).astype(np.float32)
    return torch.from_numpy(np.concatenate([np.where(flags > 0, places, 0), flags], axis=2).astype(np.float32))


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
            if name.endswith("conv2_offset.bias"):  # new offsets are 0
                parameter.copy_(torch.linspace(-1.5, 1.5, len(parameter)))


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
                **({} if f["keypoints"] is None else {"keypoints": f["keypoints"][:8].tolist()}),
            }
            for f in found
        ],
    }


def run_embedded(settings: dict[str, Any], inputs: list[dict[str, Any]], bitmask: bool = False) -> dict[str, Any]:
    """One training step's losses and gradients, then detections, by the embedded engine."""
    from transfer.config import default_config
    from transfer.engines.torchvision.builder import build_model
    from transfer.engines.torchvision.model.focal_loss import skip_first_call
    from transfer.engines.torchvision.model.postprocess import paste_masks

    skip_first_call()  # the second engine in this process would be one call ahead

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
            "keypoints": given["keypoints"] if cfg.MODEL.KEYPOINT_ON else None,
        }
        items.append({**{k: given[k] for k in GIVEN}, "instances": instances})
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
            "keypoints": f.keypoints,
        }
        for f, given in zip(raw, inputs)
    ]
    return {"model": model, "fresh": fresh, "rng": after_build, "losses": losses, "found": found}


def run_detectron2(settings: dict[str, Any], inputs: list[dict[str, Any]], bitmask: bool = False) -> dict[str, Any]:
    """The same by Detectron2."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
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
        if cfg.MODEL.KEYPOINT_ON and len(given["boxes"]):  # as from Detectron2's loader
            instances.gt_keypoints = Keypoints(given["keypoints"])
        proposals = Instances(instances.image_size)
        proposals.proposal_boxes = Boxes(given["proposals"]["boxes"].clone())
        proposals.objectness_logits = given["proposals"]["logits"].clone()
        items.append({**{k: given[k] for k in GIVEN}, "instances": instances, "proposals": proposals})
    torch.manual_seed(1)
    with EventStorage(), deformable_on_cpu():
        losses = model.train()(items)
        sum(losses.values()).backward()
        with torch.no_grad():
            raw = model.eval()(items)
    found = [_proposals(r["proposals"]) if "proposals" in r else _detections(r["instances"]) for r in raw]
    return {"model": model, "fresh": fresh, "rng": after_build, "losses": losses, "found": found}


def _detections(found: Any) -> dict[str, Any]:
    return {
        "boxes": found.pred_boxes.tensor,
        "scores": found.scores,
        "classes": found.pred_classes,
        "masks": found.pred_masks if found.has("pred_masks") else None,
        "keypoints": found.pred_keypoints if found.has("pred_keypoints") else None,
    }


def _proposals(found: Any) -> dict[str, Any]:
    logits = found.objectness_logits
    none = {"classes": torch.zeros(len(logits), dtype=torch.int64), "masks": None, "keypoints": None}
    return {"boxes": found.proposal_boxes.tensor, "scores": logits, **none}


@contextlib.contextmanager
def deformable_on_cpu() -> Iterator[None]:
    """Give Detectron2's modules torchvision's operator: their own has no backward and no modulated form on a CPU."""
    from detectron2.layers import deform_conv as theirs
    from torchvision.ops import deform_conv2d

    def plain(x: Any, offset: Any, weight: Any, stride: Any, padding: Any, dilation: Any, *rest: Any) -> Any:
        return deform_conv2d(x, offset, weight, None, stride, padding, dilation)

    def modulated(
        x: Any, offset: Any, mask: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
    ) -> Any:
        return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    saved = theirs.deform_conv, theirs.modulated_deform_conv
    theirs.deform_conv, theirs.modulated_deform_conv = plain, modulated
    try:
        yield
    finally:
        theirs.deform_conv, theirs.modulated_deform_conv = saved


def draw_bitmasks(given: dict[str, Any]) -> torch.Tensor:
    """The polygons of an input as booleans (N x H x W)."""
    from pycocotools import mask as rle

    size = given["image"].shape[1:]
    drawn = [rle.decode(rle.merge(rle.frPyObjects([p.tolist() for p in ps], *size))) for ps in given["polygons"]]
    stack = np.stack(drawn) if drawn else np.zeros((0, *size))
    return torch.from_numpy(stack.astype(bool))
