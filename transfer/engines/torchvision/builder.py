"""From a Detectron2-schema config to a model: the one place of this engine where the config is read for modules."""

from __future__ import annotations

from typing import Any

from transfer.engines.torchvision.backbones import BUILDERS, build_pyramid
from transfer.engines.torchvision.model.anchors import AnchorGenerator
from transfer.engines.torchvision.model.box_head import FastRCNNConvFCHead, FastRCNNOutputLayers
from transfer.engines.torchvision.model.dilated_c5 import DilatedC5
from transfer.engines.torchvision.model.fpn import FPN
from transfer.engines.torchvision.model.mask_head import MaskRCNNConvUpsampleHead
from transfer.engines.torchvision.model.norms import build_norm
from transfer.engines.torchvision.model.poolers import ROIPooler
from transfer.engines.torchvision.model.rcnn import GeneralizedRCNN
from transfer.engines.torchvision.model.resnet import ResNet, build_res5_head
from transfer.engines.torchvision.model.roi_heads import RegionSampler, Res5ROIHeads, StandardROIHeads
from transfer.engines.torchvision.model.rpn import RPN, RPNHead
from transfer.engines.torchvision.model.simple_feature_pyramid import SimpleFeaturePyramid

Backbone = ResNet | FPN | DilatedC5 | SimpleFeaturePyramid


def build_model(cfg: Any) -> GeneralizedRCNN:
    """The detector that ``cfg`` describes, on the CPU, with Detectron2's initial weights for the current seed."""
    model = cfg.MODEL
    backbone = build_backbone(cfg)
    proposal_generator = build_rpn(cfg, backbone)
    heads = build_res5_roi_heads if model.ROI_HEADS.NAME.startswith("Res5ROIHeads") else build_standard_roi_heads
    return GeneralizedRCNN(
        backbone,
        proposal_generator,
        heads(cfg, backbone),
        pixel_mean=list(model.PIXEL_MEAN),
        pixel_std=list(model.PIXEL_STD),
        square_size=model.BACKBONE.SQUARE_PAD,
    )


def build_backbone(cfg: Any) -> Backbone:
    """What MODEL.BACKBONE.NAME names: ResNet (C4, dilated C5), the MoCo paper's dilated C5, or one with a pyramid."""
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        return BUILDERS[cfg.MODEL.BACKBONE.NAME](cfg)
    model, resnets = cfg.MODEL, cfg.MODEL.RESNETS
    bottom_up = ResNet(
        depth=resnets.DEPTH,
        out_features=list(resnets.OUT_FEATURES),
        norm=resnets.NORM,
        freeze_at=model.BACKBONE.FREEZE_AT,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        res5_dilation=resnets.RES5_DILATION,
    )
    if model.BACKBONE.NAME == "build_resnet_fpn_backbone":
        return build_pyramid(cfg, bottom_up)
    if model.BACKBONE.NAME == "build_resnet_dilated_c5_backbone":
        return DilatedC5(bottom_up, norm=resnets.NORM)
    return bottom_up


def build_rpn(cfg: Any, backbone: Backbone) -> RPN:
    """The region proposal network on the maps of MODEL.RPN.IN_FEATURES."""
    rpn, anchors = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
    generator = AnchorGenerator(
        sizes=anchors.SIZES,
        aspect_ratios=anchors.ASPECT_RATIOS,
        strides=[backbone.strides[name] for name in rpn.IN_FEATURES],
        offset=anchors.OFFSET,
    )
    head = RPNHead(backbone.channels[rpn.IN_FEATURES[0]], generator.count, list(rpn.CONV_DIMS))
    return RPN(
        head,
        generator,
        in_features=rpn.IN_FEATURES,
        box_weights=rpn.BBOX_REG_WEIGHTS,
        iou_thresholds=rpn.IOU_THRESHOLDS,
        iou_labels=rpn.IOU_LABELS,
        batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        positive_fraction=rpn.POSITIVE_FRACTION,
        pre_nms_topk=(rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
        post_nms_topk=(rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
        nms_thresh=rpn.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        boundary_thresh=rpn.BOUNDARY_THRESH,
        box_loss=rpn.BBOX_REG_LOSS_TYPE,
        smooth_l1_beta=rpn.SMOOTH_L1_BETA,
        loss_weight=rpn.LOSS_WEIGHT,
        box_loss_weight=rpn.BBOX_REG_LOSS_WEIGHT,
    )


def _sampler(cfg: Any) -> RegionSampler:
    heads = cfg.MODEL.ROI_HEADS
    return RegionSampler(
        num_classes=heads.NUM_CLASSES,
        batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
        positive_fraction=heads.POSITIVE_FRACTION,
        iou_thresholds=heads.IOU_THRESHOLDS,
        iou_labels=heads.IOU_LABELS,
        append_ground_truth=heads.PROPOSAL_APPEND_GT,
    )


def _pooler(head: Any, strides: list[int]) -> ROIPooler:
    return ROIPooler(
        head.POOLER_RESOLUTION,
        strides=strides,
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )


def _predictor(cfg: Any, in_channels: int) -> FastRCNNOutputLayers:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    return FastRCNNOutputLayers(
        in_channels,
        num_classes=heads.NUM_CLASSES,
        box_weights=box.BBOX_REG_WEIGHTS,
        class_agnostic=box.CLS_AGNOSTIC_BBOX_REG,
        box_loss=box.BBOX_REG_LOSS_TYPE,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        sigmoid=box.USE_SIGMOID_CE,
        score_thresh=heads.SCORE_THRESH_TEST,
        nms_thresh=heads.NMS_THRESH_TEST,
        topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _mask_head(cfg: Any, in_channels: int) -> MaskRCNNConvUpsampleHead | None:
    head = cfg.MODEL.ROI_MASK_HEAD
    if not cfg.MODEL.MASK_ON:
        return None
    return MaskRCNNConvUpsampleHead(
        in_channels,
        num_conv=head.NUM_CONV,
        conv_dim=head.CONV_DIM,
        num_classes=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        norm=head.NORM,
    )


def build_standard_roi_heads(cfg: Any, backbone: Backbone) -> StandardROIHeads:
    """Separate box and mask branches on the maps of MODEL.ROI_HEADS.IN_FEATURES."""
    names, box = list(cfg.MODEL.ROI_HEADS.IN_FEATURES), cfg.MODEL.ROI_BOX_HEAD
    strides, channels = [backbone.strides[name] for name in names], backbone.channels[names[0]]
    head = FastRCNNConvFCHead(
        channels,
        box.POOLER_RESOLUTION,
        conv_dims=[box.CONV_DIM] * box.NUM_CONV,
        fc_dims=[box.FC_DIM] * box.NUM_FC,
        conv_norm=box.NORM,
    )
    return StandardROIHeads(
        _sampler(cfg),
        in_features=names,
        box_pooler=_pooler(box, strides),
        box_head=head,
        box_predictor=_predictor(cfg, head.out_channels),
        mask_pooler=_pooler(cfg.MODEL.ROI_MASK_HEAD, strides) if cfg.MODEL.MASK_ON else None,
        mask_head=_mask_head(cfg, channels),
        train_on_predicted_boxes=box.TRAIN_ON_PRED_BOXES,
    )


def build_res5_roi_heads(cfg: Any, backbone: Backbone) -> Res5ROIHeads:
    """The C4 head; "Res5ROIHeadsExtraNorm" adds the MoCo paper's norm after res5."""
    names, resnets = list(cfg.MODEL.ROI_HEADS.IN_FEATURES), cfg.MODEL.RESNETS
    res5, channels = build_res5_head(
        res2_channels=resnets.RES2_OUT_CHANNELS,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        norm=resnets.NORM,
    )
    predictor = _predictor(cfg, channels)
    mask_head = _mask_head(cfg, channels)
    extra = build_norm(resnets.NORM, channels) if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm" else None
    return Res5ROIHeads(
        _sampler(cfg),
        in_features=names,
        pooler=_pooler(cfg.MODEL.ROI_BOX_HEAD, [backbone.strides[names[0]]]),
        res5=res5,
        box_predictor=predictor,
        mask_head=mask_head,
        extra_norm=extra,
    )
