"""ViT, Swin and ConvNeXt in Detectron2 by this project's keys: importing this module registers the backbones.

ViT, Swin and both pyramids are Detectron2's own classes. Any Detectron2 script can import this module, and call
``add_keys`` on its config.
"""

from __future__ import annotations

import math
import warnings
from copy import deepcopy
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.swin import SwinTransformer
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid, ViT
from torch import nn

from transfer.config.schema import ADDED
from transfer.engines.torchvision.model.convnext import ConvNeXt


def add_keys(cfg: CfgNode) -> CfgNode:
    """Add this project's keys that both engines have to Detectron2's config, at their defaults; returns ``cfg``."""
    for name, key in ADDED.items():
        node = cfg
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, CfgNode())
        node[leaf] = deepcopy(key.default)
    return cfg


class PaddedPyramid(SimpleFeaturePyramid):
    """Detectron2's pyramid, padding images to the stride of its coarsest level when no square is asked for.

    Detectron2 misspells that constraint, so that its own class drops the pixels beyond the last whole patch.
    """

    @property
    def size_divisibility(self) -> int:
        """The stride of the coarsest scale."""
        return int(self._size_divisibility)


def build_vit_sfp_backbone(cfg: Any, input_shape: ShapeSpec) -> PaddedPyramid:
    """The backbone of that name in MODEL.BACKBONE.NAME."""
    model, vit = cfg.MODEL, cfg.MODEL.VIT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm.models.layers", FutureWarning)
        net = ViT(
            img_size=vit.IMG_SIZE,
            patch_size=vit.PATCH_SIZE,
            embed_dim=vit.EMBED_DIM,
            depth=vit.DEPTH,
            num_heads=vit.NUM_HEADS,
            mlp_ratio=vit.MLP_RATIO,
            qkv_bias=vit.QKV_BIAS,
            drop_path_rate=vit.DROP_PATH_RATE,
            norm_layer=partial(nn.LayerNorm, eps=vit.NORM_EPS),
            use_abs_pos=vit.USE_ABS_POS,
            use_rel_pos=vit.USE_REL_POS,
            rel_pos_zero_init=vit.REL_POS_ZERO_INIT,
            window_size=vit.WINDOW_SIZE,
            window_block_indexes=list(vit.WINDOW_BLOCKS),
            residual_block_indexes=list(vit.RESIDUAL_BLOCKS),
            pretrain_img_size=vit.PRETRAIN_IMG_SIZE,
            pretrain_use_cls_token=vit.PRETRAIN_CLS_TOKEN,
        )
    top = LastLevelMaxPool()
    top.in_feature = f"p{int(math.log2(vit.PATCH_SIZE / model.SFP.SCALE_FACTORS[-1]))}"  # p5 for patches of 16 pixels
    return PaddedPyramid(
        net,
        in_feature="last_feat",
        out_channels=model.FPN.OUT_CHANNELS,
        scale_factors=list(model.SFP.SCALE_FACTORS),
        top_block=top,
        norm=model.FPN.NORM,
        square_pad=model.BACKBONE.SQUARE_PAD,
    )


def _pyramid(cfg: Any, bottom_up: Backbone) -> FPN:
    model = cfg.MODEL
    return FPN(
        bottom_up,
        in_features=list(model.FPN.IN_FEATURES),
        out_channels=model.FPN.OUT_CHANNELS,
        norm=model.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=model.FPN.FUSE_TYPE,
        square_pad=model.BACKBONE.SQUARE_PAD,
    )


def build_swin_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """The backbone of that name in MODEL.BACKBONE.NAME."""
    swin = cfg.MODEL.SWIN
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm.models.layers", FutureWarning)
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        net = SwinTransformer(
            pretrain_img_size=swin.PRETRAIN_IMG_SIZE,
            embed_dim=swin.EMBED_DIM,
            depths=list(swin.DEPTHS),
            num_heads=list(swin.NUM_HEADS),
            window_size=swin.WINDOW_SIZE,
            mlp_ratio=swin.MLP_RATIO,
            qkv_bias=swin.QKV_BIAS,
            drop_path_rate=swin.DROP_PATH_RATE,
            ape=swin.USE_ABS_POS,
            patch_norm=swin.PATCH_NORM,
            use_checkpoint=swin.ACT_CHECKPOINT,
        )
    return _pyramid(cfg, net)


class ConvNeXtBackbone(ConvNeXt, Backbone):
    """This project's ConvNeXt, which Detectron2 does not have, with Detectron2's interface."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides by output name."""
        return {name: ShapeSpec(channels=self.channels[name], stride=self.strides[name]) for name in self.channels}


def build_convnext_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """The backbone of that name in MODEL.BACKBONE.NAME."""
    convnext = cfg.MODEL.CONVNEXT
    net = ConvNeXtBackbone(
        depths=list(convnext.DEPTHS),
        widths=list(convnext.DIMS),
        drop_path_rate=convnext.DROP_PATH_RATE,
        layer_scale=convnext.LAYER_SCALE,
        grn=convnext.GRN,
        checkpointing=convnext.ACT_CHECKPOINT,
    )
    return _pyramid(cfg, net)


for builder in (build_vit_sfp_backbone, build_swin_fpn_backbone, build_convnext_fpn_backbone):
    if builder.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(builder)
