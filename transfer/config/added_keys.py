"""Keys for what Detectron2 has only in its Python configs: ViT, Swin, large-scale jitter, AdamW; and for ConvNeXt.

The defaults of a backbone are those of its smallest published detector: ViT-B of projects/ViTDet, Swin-T, ConvNeXt-T.
"""

from __future__ import annotations

from typing import Any

from transfer.config.key import Key


def _added(default: Any, meaning: str) -> Key:
    return Key(default, "added", meaning)


ADDED: dict[str, Key] = {
    "MODEL.BACKBONE.SQUARE_PAD": _added(0, "pad every image to this side (ViT, Swin, ConvNeXt); 0 = to the stride"),
    "MODEL.SFP.SCALE_FACTORS": _added([4.0, 2.0, 1.0, 0.5], "scales of the simple feature pyramid, finest first"),
    "MODEL.VIT.IMG_SIZE": _added(1024, "image side for which global blocks hold relative positions"),
    "MODEL.VIT.PATCH_SIZE": _added(16, "side of a patch: 8, 16 or 32"),
    "MODEL.VIT.EMBED_DIM": _added(768, "width"),
    "MODEL.VIT.DEPTH": _added(12, "blocks"),
    "MODEL.VIT.NUM_HEADS": _added(12, "attention heads"),
    "MODEL.VIT.MLP_RATIO": _added(4.0, "width of the feed-forward network over EMBED_DIM"),
    "MODEL.VIT.QKV_BIAS": _added(True, "bias on queries, keys and values"),
    "MODEL.VIT.DROP_PATH_RATE": _added(0.1, "stochastic depth of the last block; rises linearly from 0"),
    "MODEL.VIT.NORM_EPS": _added(1e-6, "epsilon of the layer norms"),
    "MODEL.VIT.USE_ABS_POS": _added(True, "absolute position embedding"),
    "MODEL.VIT.USE_REL_POS": _added(True, "decomposed relative positions in every block"),
    "MODEL.VIT.REL_POS_ZERO_INIT": _added(True, "relative positions start at 0, otherwise random"),
    "MODEL.VIT.WINDOW_SIZE": _added(14, "side of an attention window in patches"),
    "MODEL.VIT.WINDOW_BLOCKS": _added([0, 1, 3, 4, 6, 7, 9, 10], "blocks with window attention; others are global"),
    "MODEL.VIT.RESIDUAL_BLOCKS": _added([], "blocks followed by a convolutional residual branch"),
    "MODEL.VIT.PRETRAIN_IMG_SIZE": _added(224, "image side of the pretraining: the grid of its position embedding"),
    "MODEL.VIT.PRETRAIN_CLS_TOKEN": _added(True, "the position embedding begins with one for a class token"),
    "MODEL.VIT.CLS_TOKEN": _added(False, "the class token takes part in attention (global blocks only)"),
    "MODEL.VIT.REGISTERS": _added(0, "register tokens that take part in attention (global blocks only)"),
    "MODEL.VIT.ROPE": _added(False, "axial rotary positions (DINOv3), in place of USE_ABS_POS and USE_REL_POS"),
    "MODEL.VIT.LAYER_SCALE": _added(False, "a learned factor per channel on both branches of a block (DINOv2)"),
    "MODEL.VIT.FEED_FORWARD": _added("mlp", "mlp or swiglu (DINOv2 ViT-g)"),
    "MODEL.VIT.FINAL_NORM": _added(False, "layer norm after the last block"),
    "MODEL.VIT.ACT_CHECKPOINT": _added(False, "recompute the blocks in the backward pass: less memory, same numbers"),
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": _added(224, "image side of the pretraining, for USE_ABS_POS"),
    "MODEL.SWIN.EMBED_DIM": _added(96, "width of the first stage; doubles from stage to stage"),
    "MODEL.SWIN.DEPTHS": _added([2, 2, 6, 2], "blocks of each stage"),
    "MODEL.SWIN.NUM_HEADS": _added([3, 6, 12, 24], "attention heads of each stage"),
    "MODEL.SWIN.WINDOW_SIZE": _added(7, "side of an attention window in tokens"),
    "MODEL.SWIN.MLP_RATIO": _added(4.0, "width of the feed-forward network over that of its stage"),
    "MODEL.SWIN.QKV_BIAS": _added(True, "bias on queries, keys and values"),
    "MODEL.SWIN.DROP_PATH_RATE": _added(0.2, "stochastic depth of the last block; rises linearly from 0"),
    "MODEL.SWIN.USE_ABS_POS": _added(False, "absolute position embedding"),
    "MODEL.SWIN.PATCH_NORM": _added(True, "layer norm after the patch projection"),
    "MODEL.SWIN.ACT_CHECKPOINT": _added(False, "recompute the blocks in the backward pass"),
    "MODEL.CONVNEXT.DEPTHS": _added([3, 3, 9, 3], "blocks of each stage"),
    "MODEL.CONVNEXT.DIMS": _added([96, 192, 384, 768], "width of each stage"),
    "MODEL.CONVNEXT.DROP_PATH_RATE": _added(0.4, "stochastic depth of the last block; rises linearly from 0"),
    "MODEL.CONVNEXT.LAYER_SCALE": _added(True, "a learned factor per channel on every block (version 1)"),
    "MODEL.CONVNEXT.GRN": _added(False, "global response normalisation in every block (version 2)"),
    "MODEL.CONVNEXT.ACT_CHECKPOINT": _added(False, "recompute the blocks in the backward pass"),
    "INPUT.LSJ.ENABLED": _added(False, "large-scale jitter instead of MIN_SIZE_TRAIN: scale, then cut a square"),
    "INPUT.LSJ.SIZE": _added(1024, "side of the square in pixels"),
    "INPUT.LSJ.MIN_SCALE": _added(0.1, "smallest scale of the image, relative to the square"),
    "INPUT.LSJ.MAX_SCALE": _added(2.0, "largest scale"),
    "SOLVER.OPTIMIZER": _added("SGD", "SGD or AdamW"),
    "SOLVER.BETAS": _added((0.9, 0.999), "decay of AdamW's running means"),
    "SOLVER.LAYER_DECAY": _added(1.0, "factor on the learning rate from layer to layer, from the output down"),
    "SOLVER.NO_DECAY": _added([], "names of parameters without weight decay, e.g. pos_embed"),
}
