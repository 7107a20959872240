"""From a Detectron2-schema config to a model: the one place of this engine where the config is read for modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfer.engines.torchvision.backbones import BUILDERS, build_pyramid
from transfer.engines.torchvision.model.anchors import AnchorGenerator
from transfer.engines.torchvision.model.box_head import FastRCNNConvFCHead, FastRCNNOutputLayers
from transfer.engines.torchvision.model.cascade import CascadeROIHeads
from transfer.engines.torchvision.model.dilated_c5 import DilatedC5
from transfer.engines.torchvision.model.federated_loss import FederatedClasses
from transfer.engines.torchvision.model.fpn import FPN, LastLevelP6P7
from transfer.engines.torchvision.model.keypoint_head import KRCNNConvDeconvUpsampleHead
from transfer.engines.torchvision.model.mask_head import MaskRCNNConvUpsampleHead
from transfer.engines.torchvision.model.norms import build_norm
from transfer.engines.torchvision.model.poolers import ROIPooler
from transfer.engines.torchvision.model.proposal_network import ProposalNetwork
from transfer.engines.torchvision.model.rcnn import GeneralizedRCNN, ImageDetector
from transfer.engines.torchvision.model.resnet import ResNet, build_res5_head
from transfer.engines.torchvision.model.retinanet import RetinaNet, RetinaNetHead
from transfer.engines.torchvision.model.roi_heads import RegionSampler, Res5ROIHeads, StandardROIHeads
from transfer.engines.torchvision.model.rpn import RPN, RPNHead
from transfer.engines.torchvision.model.simple_feature_pyramid import SimpleFeaturePyramid

Backbone = ResNet | FPN | DilatedC5 | SimpleFeaturePyramid
PYRAMIDS = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")


def build_model(cfg: Any) -> ImageDetector:
    """The detector that ``cfg`` describes, on the CPU, with Detectron2's initial weights for the current seed."""
    model = cfg.MODEL
    pixels: dict[str, Any] = {"pixel_mean": list(model.PIXEL_MEAN), "pixel_std": list(model.PIXEL_STD)}
    pixels["square_size"] = model.BACKBONE.SQUARE_PAD
    backbone = build_backbone(cfg)
    if model.META_ARCHITECTURE == "RetinaNet":
        return build_retinanet(cfg, backbone, pixels)
    proposal_generator = None if model.LOAD_PROPOSALS else build_rpn(cfg, backbone)
    if model.META_ARCHITECTURE == "ProposalNetwork":
        assert proposal_generator is not None  # ``check_conflicts`` refuses LOAD_PROPOSALS with it
        return ProposalNetwork(backbone, proposal_generator, **pixels)
    heads = build_res5_roi_heads if model.ROI_HEADS.NAME.startswith("Res5ROIHeads") else build_standard_roi_heads
    return GeneralizedRCNN(backbone, proposal_generator, heads(cfg, backbone), **pixels)


def build_retinanet(cfg: Any, backbone: Backbone, pixels: dict[str, Any]) -> RetinaNet:
    """RetinaNet on the maps of MODEL.RETINANET.IN_FEATURES."""
    settings = cfg.MODEL.RETINANET
    generator = _anchor_generator(cfg, backbone, settings.IN_FEATURES)
    head = RetinaNetHead(
        backbone.channels[settings.IN_FEATURES[0]],
        levels=len(settings.IN_FEATURES),
        num_anchors=generator.count,
        num_classes=settings.NUM_CLASSES,
        num_convs=settings.NUM_CONVS,
        norm=settings.NORM,
        prior=settings.PRIOR_PROB,
    )
    return RetinaNet(
        backbone,
        head,
        generator,
        in_features=settings.IN_FEATURES,
        box_weights=settings.BBOX_REG_WEIGHTS,
        iou_thresholds=settings.IOU_THRESHOLDS,
        iou_labels=settings.IOU_LABELS,
        focal_alpha=settings.FOCAL_LOSS_ALPHA,
        focal_gamma=settings.FOCAL_LOSS_GAMMA,
        box_loss=settings.BBOX_REG_LOSS_TYPE,
        smooth_l1_beta=settings.SMOOTH_L1_LOSS_BETA,
        score_thresh=settings.SCORE_THRESH_TEST,
        topk_candidates=settings.TOPK_CANDIDATES_TEST,
        nms_thresh=settings.NMS_THRESH_TEST,
        topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        **pixels,
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
        deformable=resnets.DEFORM_ON_PER_STAGE,
        modulated=resnets.DEFORM_MODULATED,
        offset_groups=resnets.DEFORM_NUM_GROUPS,
    )
    if model.BACKBONE.NAME in PYRAMIDS:
        top = None
        if model.BACKBONE.NAME == "build_retinanet_resnet_fpn_backbone":
            top = LastLevelP6P7(bottom_up.channels["res5"], model.FPN.OUT_CHANNELS)
        return build_pyramid(cfg, bottom_up, top)
    if model.BACKBONE.NAME == "build_resnet_dilated_c5_backbone":
        return DilatedC5(bottom_up, norm=resnets.NORM)
    return bottom_up


def _anchor_generator(cfg: Any, backbone: Backbone, in_features: Sequence[str]) -> AnchorGenerator:
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    return AnchorGenerator(
        sizes=anchors.SIZES,
        aspect_ratios=anchors.ASPECT_RATIOS,
        strides=[backbone.strides[name] for name in in_features],
        offset=anchors.OFFSET,
    )


def build_rpn(cfg: Any, backbone: Backbone) -> RPN:
    """The region proposal network on the maps of MODEL.RPN.IN_FEATURES."""
    rpn = cfg.MODEL.RPN
    generator = _anchor_generator(cfg, backbone, rpn.IN_FEATURES)
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


def _predictor(cfg: Any, in_channels: int, box_weights: Sequence[float] | None = None) -> FastRCNNOutputLayers:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    return FastRCNNOutputLayers(
        in_channels,
        num_classes=heads.NUM_CLASSES,
        box_weights=box_weights or box.BBOX_REG_WEIGHTS,
        class_agnostic=box.CLS_AGNOSTIC_BBOX_REG,
        box_loss=box.BBOX_REG_LOSS_TYPE,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        sigmoid=box.USE_SIGMOID_CE,
        federated=_federated(cfg) if box.USE_FED_LOSS else None,
        score_thresh=heads.SCORE_THRESH_TEST,
        nms_thresh=heads.NMS_THRESH_TEST,
        topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _federated(cfg: Any) -> FederatedClasses:
    box = cfg.MODEL.ROI_BOX_HEAD
    return FederatedClasses(cfg.MODEL.ROI_HEADS.NUM_CLASSES, box.FED_LOSS_NUM_CLASSES, box.FED_LOSS_FREQ_WEIGHT_POWER)


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


def _keypoint_head(cfg: Any, in_channels: int) -> KRCNNConvDeconvUpsampleHead | None:
    head, heads = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
    if not cfg.MODEL.KEYPOINT_ON:
        return None
    most = head.NUM_KEYPOINTS * heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION
    return KRCNNConvDeconvUpsampleHead(
        in_channels,
        conv_dims=list(head.CONV_DIMS),
        num_keypoints=head.NUM_KEYPOINTS,
        loss_weight=head.LOSS_WEIGHT,
        normalizer=None if head.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS else most,
    )


def _box_head(cfg: Any, channels: int) -> FastRCNNConvFCHead:
    box = cfg.MODEL.ROI_BOX_HEAD
    return FastRCNNConvFCHead(
        channels,
        box.POOLER_RESOLUTION,
        conv_dims=[box.CONV_DIM] * box.NUM_CONV,
        fc_dims=[box.FC_DIM] * box.NUM_FC,
        conv_norm=box.NORM,
    )


def build_standard_roi_heads(cfg: Any, backbone: Backbone) -> StandardROIHeads:
    """Separate branches on the maps of MODEL.ROI_HEADS.IN_FEATURES; "CascadeROIHeads" has a box branch per stage."""
    model, names = cfg.MODEL, list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    strides, channels = [backbone.strides[name] for name in names], backbone.channels[names[0]]
    shared: dict[str, Any] = {"in_features": names, "box_pooler": _pooler(model.ROI_BOX_HEAD, strides)}
    # parts are built in Detectron2's order, which decides their initial weights
    if model.ROI_HEADS.NAME == "CascadeROIHeads":
        cascade, heads, predictors = model.ROI_BOX_CASCADE_HEAD, [], []
        for weights in cascade.BBOX_REG_WEIGHTS:
            heads.append(_box_head(cfg, channels))
            predictors.append(_predictor(cfg, heads[-1].out_channels, weights))
        shared |= {"box_heads": heads, "box_predictors": predictors, "ious": cascade.IOUS}
    else:
        head = _box_head(cfg, channels)
        shared |= {"box_head": head, "box_predictor": _predictor(cfg, head.out_channels)}
        shared |= {"train_on_predicted_boxes": model.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES}
    kind = CascadeROIHeads if model.ROI_HEADS.NAME == "CascadeROIHeads" else StandardROIHeads
    return kind(
        _sampler(cfg),
        mask_pooler=_pooler(model.ROI_MASK_HEAD, strides) if model.MASK_ON else None,
        mask_head=_mask_head(cfg, channels),
        keypoint_pooler=_pooler(model.ROI_KEYPOINT_HEAD, strides) if model.KEYPOINT_ON else None,
        keypoint_head=_keypoint_head(cfg, channels),
        **shared,
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
