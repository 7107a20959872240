"""The tensors of a ViT, ConvNeXt or Swin from a checkpoint, in the names of the detectors."""

from __future__ import annotations

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
from convert.vit_spellings import norm_eps
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
    pieces = Pieces(checkpoint, encoder.names)
    notes: tuple[str, ...] = ()
    network: vit.VisionTransformer | convnext.ConvNeXt | swin.Swin
    if kind == "vit":
        network, notes = _vit(checkpoint, encoder, pieces.shapes(), heads)
    else:
        network = convnext.infer(pieces.shapes()) if kind == "convnext" else swin.infer(pieces.shapes())
    loaded = pieces.load(dict(network.parts()), network.name)
    if not any(loaded[name].any() for name in FIRST if name in loaded):
        raise UserError("its first convolution is 0: the weights were never filled in, or were lost in saving")
    resampled: dict[str, np.ndarray] = {}  # in place of the file's
    if patch_size is not None and isinstance(network, vit.VisionTransformer) and patch_size != network.patch:
        resampled = {PATCHES: resample_patches(loaded[PATCHES], patch_size)}
        notes += (_resampled(network.patch, patch_size),)
        network, loaded = replace(network, patch=patch_size), loaded | resampled
    tensors = {network.prefix + name: array for name, array in loaded.items()}

    def compare(stride_in_1x1: bool) -> dict[str, float]:
        # torch is not needed to rename
        if isinstance(network, vit.VisionTransformer):
            from convert.verify_vit import compare_vit

            source = dict(pieces.arrays()) | {name: {"": array} for name, array in resampled.items()}
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


def _vit(
    checkpoint: Checkpoint, encoder: Encoder, shapes: dict[str, tuple[int, ...]], heads: int | None
) -> tuple[vit.VisionTransformer, tuple[str, ...]]:
    family = TABLE.get(encoder.family)  # None of a prefix that the user named
    hub = hub_config(checkpoint)
    width = next(iter(shapes.get(PATCHES, ())), 0)
    known = heads or _number(hub, "num_attention_heads") or (family.heads.get(width) if family else None)
    network = vit.infer(shapes, known, _norm_eps(hub, encoder.names.values()))
    if known is not None:
        return network, ()
    source = "the published number for this width" if width in vit.HEADS else "64 channels a head"
    return network, (f"{network.heads} attention heads: {source}; no tensor shows it, --heads says another",)


def _number(hub: dict[str, Any], key: str) -> int | None:
    value = hub.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _norm_eps(hub: dict[str, Any], names: Iterable[str]) -> float:
    value = hub.get("layer_norm_eps")
    if isinstance(value, float) and 0 < value < 1:
        return value
    return norm_eps(names)
