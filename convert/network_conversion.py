"""The tensors of a ViT, ConvNeXt or Swin from a checkpoint, in the names of the detectors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from convert import convnext, swin, vit
from convert.assembly import Pieces
from convert.backbone import Converted
from convert.checkpoint import Checkpoint
from convert.families import TABLE
from convert.hub_config import hub_config
from convert.patch_size import resample_patches
from convert.recognition import Encoder
from convert.rotary_periods import BASE, check_periods, rotary_periods
from convert.spelling import Spelling
from convert.vit_spellings import PERIODS, norm_eps
from runtime.errors import UserError

PATCHES = "patch_embed.proj.weight"
FIRST = (PATCHES, "downsample_layers.0.0.weight")  # what an image meets first


def convert_network(
    checkpoint: Checkpoint, encoder: Encoder, heads: int | None = None, patch_size: int | None = None
) -> Converted:
    """``heads``: attention heads of a ViT, if the user says so; ``patch_size``: to which its patches are resampled.

    Raises UserError for what Detectron2's network cannot hold, a missing tensor, and NaN or Inf.
    """
    kind = encoder.layout.network
    if heads is not None and kind != "vit":
        raise UserError("--heads is for plain ViTs, whose tensors do not show it: leave it out")
    if patch_size is not None and kind != "vit":
        raise UserError(f"--patch-size is for plain ViTs; this is a {kind}: leave it out")
    pieces = Pieces(checkpoint, encoder.names, zero_keys=_rotary(encoder))
    notes: tuple[str, ...] = ()
    network: vit.VisionTransformer | convnext.ConvNeXt | swin.Swin
    if kind == "vit":
        network, notes = _vit(checkpoint, encoder, pieces.shapes(), heads)
    else:
        network = convnext.infer(pieces.shapes()) if kind == "convnext" else swin.infer(pieces.shapes())
    parts = dict(network.parts())
    made: dict[str, np.ndarray] = {}  # beside the file's tensors, or in place of one
    if isinstance(network, vit.VisionTransformer) and network.rope and PERIODS not in pieces.of:
        made, note = _periods(checkpoint, network)
        notes += (note,)
    loaded = pieces.load({name: shape for name, shape in parts.items() if name not in made}, network.name)
    if not any(loaded[name].any() for name in FIRST if name in loaded):
        raise UserError("its first convolution is 0: the weights were never filled in, or were lost in saving")
    if PERIODS in loaded:
        check_periods(loaded[PERIODS])
    if patch_size is not None and isinstance(network, vit.VisionTransformer) and patch_size != network.patch:
        made[PATCHES] = resample_patches(loaded[PATCHES], patch_size)
        notes += (_resampled(network.patch, patch_size),)
        network = replace(network, patch=patch_size)
    loaded |= made
    tensors = {network.prefix + name: loaded[name] for name in parts}

    def compare(stride_in_1x1: bool) -> dict[str, float]:
        # torch is not needed to rename
        if isinstance(network, vit.VisionTransformer):
            from convert.verify_vit import compare_vit

            source = dict(pieces.arrays()) | {name: {"": array} for name, array in made.items()}
            difference = compare_vit(source, tensors, network)
        else:
            from convert.verify_stages import compare_stages

            difference = compare_stages(pieces.arrays(), tensors, network)
        if worst := [stage for stage, value in difference.items() if value != 0.0]:
            raise UserError(f"the converted backbone differs from its source in {worst[0]}: {difference[worst[0]]}")
        return difference

    return Converted(network, tensors, compare, (*notes, *network.notes()))


def _resampled(old: int, new: int) -> str:
    kept = "it answers an enlarged patch as the original answers the patch" if new > old else "an approximation"
    return (
        f"patch embedding: resampled from {old} to {new} pixels by the pseudo-inverse of a bicubic resize (FlexiViT); "
        f"{kept}. The features of an image are no longer those of its maker's network"
    )


def _rotary(encoder: Encoder) -> bool:
    return isinstance(encoder.layout, Spelling) and encoder.layout.rotary


def _periods(checkpoint: Checkpoint, network: vit.VisionTransformer) -> tuple[dict[str, np.ndarray], str]:
    """The periods that a maker computes and does not keep in the file, and what to say of them."""
    theta = hub_config(checkpoint).get("rope_theta", BASE)
    if not isinstance(theta, int | float) or isinstance(theta, bool) or not 1 < theta < math.inf:
        raise UserError(f"config.json beside it says rope_theta {str(theta)[:20]!r}, which is not a base of periods")
    note = f"rotary periods: not in the file, as its maker does not keep them; computed with base {theta:g}"
    return {PERIODS: rotary_periods(network.width // network.heads, float(theta))}, note


def _vit(
    checkpoint: Checkpoint, encoder: Encoder, shapes: dict[str, tuple[int, ...]], heads: int | None
) -> tuple[vit.VisionTransformer, tuple[str, ...]]:
    family = TABLE.get(encoder.family)  # None of a prefix that the user named
    hub = hub_config(checkpoint)
    width = next(iter(shapes.get(PATCHES, ())), 0)
    known = heads or _number(hub, "num_attention_heads") or (family.heads.get(width) if family else None)
    rotary = _rotary(encoder) or PERIODS in shapes
    network = vit.infer(shapes, known, _norm_eps(hub, encoder.names.values(), rotary), rotary)
    if known is not None or PERIODS in shapes:
        return network, ()
    published = vit.ROPE_HEADS if rotary else vit.HEADS
    source = "the published number for this width" if width in published else "64 channels a head"
    return network, (f"{network.heads} attention heads: {source}; no tensor shows it, --heads says another",)


def _number(hub: dict[str, Any], key: str) -> int | None:
    value = hub.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _norm_eps(hub: dict[str, Any], names: Iterable[str], rotary: bool) -> float:
    value = hub.get("layer_norm_eps")
    if isinstance(value, float) and 0 < value < 1:
        return value
    return norm_eps(names, rotary)
