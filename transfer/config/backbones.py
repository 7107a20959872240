"""Checks of the settings of ViT, Swin and ConvNeXt backbones, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runtime.errors import UserError
from transfer.config.values import ONE, POSITIVE, SHARE, ZERO, Values, check_bound

VIT, SWIN, CONVNEXT = "build_vit_sfp_backbone", "build_swin_fpn_backbone", "build_convnext_fpn_backbone"
BACKBONES = (VIT, SWIN, CONVNEXT)
STAGES = ("p0", "p1", "p2", "p3")  # of Swin and ConvNeXt, in Detectron2's names; strides 4, 8, 16, 32
PATCHES = (8, 16, 32)
SCALES = (4.0, 2.0, 1.0, 0.5)
BOUNDS = {
    VIT: {
        **dict.fromkeys(("IMG_SIZE", "EMBED_DIM", "DEPTH", "NUM_HEADS", "PRETRAIN_IMG_SIZE"), ONE),
        **dict.fromkeys(("MLP_RATIO", "NORM_EPS"), POSITIVE),
        **dict.fromkeys(("WINDOW_SIZE", "REGISTERS"), ZERO),
        "DROP_PATH_RATE": SHARE,
    },
    SWIN: {
        **dict.fromkeys(("PRETRAIN_IMG_SIZE", "EMBED_DIM"), ONE),
        "MLP_RATIO": POSITIVE,
        "DROP_PATH_RATE": SHARE,
    },
    CONVNEXT: {"DROP_PATH_RATE": SHARE},
}
SECTIONS = {VIT: "MODEL.VIT", SWIN: "MODEL.SWIN", CONVNEXT: "MODEL.CONVNEXT"}
# lists with one whole number above 0 for each of the four stages
STAGE_LISTS = {SWIN: ("DEPTHS", "NUM_HEADS"), CONVNEXT: ("DEPTHS", "DIMS")}


def produced_maps(values: Values) -> list[str]:
    """Names of the maps of the pyramid; raises UserError naming the first setting that does not fit."""
    backbone = values["MODEL.BACKBONE.NAME"]
    section = SECTIONS[backbone]
    for name, bound in BOUNDS[backbone].items():
        check_bound(f"{section}.{name}", values[f"{section}.{name}"], bound)
    for name in STAGE_LISTS.get(backbone, ()):
        _check_stage_list(f"{section}.{name}", values[f"{section}.{name}"])
    if values["MODEL.BACKBONE.FREEZE_AT"] != 0:
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT {values['MODEL.BACKBONE.FREEZE_AT']} counts the stages of a ResNet; set it to 0 "
            f"for {backbone}"
        )
    if backbone == VIT:
        return _vit_maps(values)
    if backbone == SWIN:
        if values[f"{section}.WINDOW_SIZE"] < 2:
            raise UserError(f"{section}.WINDOW_SIZE {values[f'{section}.WINDOW_SIZE']} must be 2 or more")
        for stage, heads in enumerate(values[f"{section}.NUM_HEADS"]):
            _check_heads(f"{section}.NUM_HEADS", heads, values[f"{section}.EMBED_DIM"] << stage)
    names = values["MODEL.FPN.IN_FEATURES"]
    wanted = list(STAGES[len(STAGES) - len(names) :])
    if not names or list(names) != wanted:
        raise UserError(f"MODEL.FPN.IN_FEATURES {list(names)} must be the last ones of {', '.join(STAGES)}, in order")
    return [f"p{STAGES.index(name) + 2}" for name in names] + ["p6"]


def check_square(values: Values, *, train: bool) -> None:
    """Raise UserError unless every image fits into MODEL.BACKBONE.SQUARE_PAD, and a pyramid onto the square."""
    key = "MODEL.BACKBONE.SQUARE_PAD"
    side = values[key]
    check_bound(key, side, ZERO)
    if not side:
        return
    if values["MODEL.BACKBONE.NAME"] not in BACKBONES:
        raise UserError(f"{key} {side} is for {', '.join(BACKBONES)}; set it to 0 for {values['MODEL.BACKBONE.NAME']}")
    if side % 32:
        raise UserError(f"{key} {side} must be a multiple of 32, the stride of the coarsest map")
    sizes = {"INPUT.MAX_SIZE_TEST": values["INPUT.MAX_SIZE_TEST"]}
    if values["TEST.AUG.ENABLED"]:
        sizes["TEST.AUG.MAX_SIZE"] = values["TEST.AUG.MAX_SIZE"]
    if train:
        largest = "INPUT.LSJ.SIZE" if values["INPUT.LSJ.ENABLED"] else "INPUT.MAX_SIZE_TRAIN"
        sizes[largest] = values[largest]
    for name, size in sizes.items():
        if size > side:
            raise UserError(f"{name} {size} does not fit into {key} {side}; lower the one or raise the other")
    if values["INPUT.MIN_SIZE_TEST"] == 0:
        raise UserError(f"INPUT.MIN_SIZE_TEST 0 keeps the size of an image, which may not fit into {key} {side}")


def check_optimizer(values: Values) -> None:
    """Raise UserError for settings of the optimiser that it would not use, or that no layer of the model has."""
    name, backbone = values["SOLVER.OPTIMIZER"], values["MODEL.BACKBONE.NAME"]
    decay = values["SOLVER.LAYER_DECAY"]
    if not 0 < decay <= 1:
        raise UserError(f"SOLVER.LAYER_DECAY {decay} must be above 0 and at most 1")
    if decay != 1 and backbone not in (VIT, CONVNEXT):
        raise UserError(f"SOLVER.LAYER_DECAY {decay} is for {VIT} and {CONVNEXT}; set it to 1.0 for {backbone}")
    betas = values["SOLVER.BETAS"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"SOLVER.BETAS {tuple(betas)} must be two numbers from 0 to below 1")
    if name == "AdamW" and values["SOLVER.NESTEROV"]:
        raise UserError("SOLVER.NESTEROV is a setting of SGD; set it to False with SOLVER.OPTIMIZER AdamW")
    if not all(isinstance(part, str) and part for part in values["SOLVER.NO_DECAY"]):
        raise UserError(f"SOLVER.NO_DECAY {values['SOLVER.NO_DECAY']} must hold names of parameters")


def _check_stage_list(key: str, numbers: Sequence[Any]) -> None:
    if len(numbers) != 4 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise UserError(f"{key} {list(numbers)} must hold four whole numbers above 0, one for each stage")


def _check_heads(key: str, heads: int, width: int) -> None:
    if width % heads:
        raise UserError(f"{key} {heads} does not divide the width {width}")


def _vit_maps(values: Values) -> list[str]:
    vit: dict[str, Any] = {key[len("MODEL.VIT.") :]: v for key, v in values.items() if key.startswith("MODEL.VIT.")}
    patch = vit["PATCH_SIZE"]
    if patch not in PATCHES:
        raise UserError(
            f"MODEL.VIT.PATCH_SIZE {patch} must be one of {', '.join(map(str, PATCHES))}: the levels of a pyramid have "
            "strides of powers of two"
        )
    _check_heads("MODEL.VIT.NUM_HEADS", vit["NUM_HEADS"], vit["EMBED_DIM"])
    for key in ("IMG_SIZE", "PRETRAIN_IMG_SIZE"):
        if vit[key] < patch:
            raise UserError(f"MODEL.VIT.{key} {vit[key]} is smaller than one patch of MODEL.VIT.PATCH_SIZE {patch}")
    for key in ("WINDOW_BLOCKS", "RESIDUAL_BLOCKS"):
        if not all(isinstance(block, int) and 0 <= block < vit["DEPTH"] for block in vit[key]):
            raise UserError(f"MODEL.VIT.{key} {vit[key]} must hold numbers of the blocks 0 to {vit['DEPTH'] - 1}")
    if vit["WINDOW_BLOCKS"] and vit["WINDOW_SIZE"] < 1:
        raise UserError("MODEL.VIT.WINDOW_SIZE must be 1 or more, or MODEL.VIT.WINDOW_BLOCKS []")
    _check_tokens(vit)
    _check_rope(vit)
    norm, half = values["MODEL.FPN.NORM"], vit["EMBED_DIM"] // 2
    if not norm:
        raise UserError(f"MODEL.FPN.NORM '' is not for {VIT}, whose pyramid has a norm between two layers; use LN")
    if norm == "GN" and half % 32:
        raise UserError(f"MODEL.FPN.NORM GN needs half of MODEL.VIT.EMBED_DIM to be a multiple of 32, not {half}")
    return _pyramid(values["MODEL.SFP.SCALE_FACTORS"], patch, vit["EMBED_DIM"])


def _check_tokens(vit: dict[str, Any]) -> None:
    """Class and register tokens have no place in a grid: not in a window, a convolution or a relative position."""
    tokens = [f"MODEL.VIT.{key} {vit[key]}" for key in ("CLS_TOKEN", "REGISTERS") if vit[key]]
    for key, off in (("WINDOW_BLOCKS", []), ("RESIDUAL_BLOCKS", []), ("USE_REL_POS", False)):
        if tokens and vit[key] != off:
            raise UserError(
                f"{tokens[0]} needs global attention without relative positions: set MODEL.VIT.{key} to {off}, or "
                "leave the token out, as ViTDet does"
            )


def _check_rope(vit: dict[str, Any]) -> None:
    """DINOv3 has no other positions than rotary ones, of which half are an axis' cosines and half its sines."""
    if not vit["ROPE"]:
        return
    for key in ("USE_ABS_POS", "USE_REL_POS"):
        if vit[key]:
            raise UserError(f"MODEL.VIT.ROPE True takes the place of other positions: set MODEL.VIT.{key} to False")
    head = vit["EMBED_DIM"] // vit["NUM_HEADS"]
    if head % 4:
        raise UserError(
            f"MODEL.VIT.ROPE True needs heads of a multiple of 4 channels; MODEL.VIT.EMBED_DIM {vit['EMBED_DIM']} and "
            f"NUM_HEADS {vit['NUM_HEADS']} give {head}"
        )


def _pyramid(scales: Sequence[float], patch: int, width: int) -> list[str]:
    key = "MODEL.SFP.SCALE_FACTORS"
    places = [SCALES.index(scale) for scale in scales if scale in SCALES]
    if not places or len(places) != len(scales) or places != list(range(places[0], places[0] + len(places))):
        raise UserError(f"{key} {list(scales)} must be neighbours of {list(SCALES)}, in this order")
    for scale in scales:
        if scale > 1 and width % int(scale):
            raise UserError(f"{key} {scale} needs a width that it divides; MODEL.VIT.EMBED_DIM is {width}")
    levels = [int(math.log2(patch / scale)) for scale in scales]
    return [f"p{level}" for level in [*levels, levels[-1] + 1]]
