"""Why a checkpoint cannot be converted, said from its keys, and what would work instead."""

from __future__ import annotations

from collections import Counter

from convert.checkpoint import Checkpoint
from convert.rename import LAYOUTS, Layout, Part
from runtime.errors import UserError

# a piece of a key -> what kind of network has it
STRANGERS = {
    "cls_token": "a vision transformer (ViT)",
    "pos_embed": "a vision transformer (ViT)",
    "patch_embed.proj.weight": "a vision transformer (ViT, Swin)",
    "relative_position_bias_table": "a Swin transformer",
    "trunk_output": "a RegNet",
    "_feature_blocks.block1": "a RegNet",
    "s1.b1": "a RegNet (pycls)",
    "features.0.weight": "a VGG or AlexNet",
    "stages.0.0.gamma": "a ConvNeXt",
    "denseblock1": "a DenseNet",
    "_blocks.0._depthwise_conv": "an EfficientNet",
}


def explain_no_backbone(checkpoint: Checkpoint) -> str:
    """One or two sentences: what kind of network the keys are of, or which names a ResNet was looked for under."""
    names = checkpoint.tensors
    for name in names:
        if name.endswith("conv1.0.weight"):
            return (
                f"{checkpoint.source_names[name]} is a deep stem (ResNet-C/D/S, resnet50d): Detectron2's ResNet has "
                "one 7x7 convolution; pretrain a plain resnet50"
            )
    for piece, kind in STRANGERS.items():
        if hit := next((n for n in names if piece in n), None):
            return f"Its keys ({checkpoint.source_names[hit]}) are those of {kind}; only ResNets can be converted"
    if roots := find_roots(checkpoint):
        where = ", ".join(r or "the top level" for r in roots)
        return f"There is a ResNet at: {where}; take it with --prefix '{roots[0]}'"
    begins = Counter(checkpoint.source_names[n].rsplit(".", 2)[0][:40] for n in names)
    sample = ", ".join(k for k, _ in begins.most_common(3))
    return f"No ResNet of torchvision's topology in its {len(names)} tensors (keys begin with {sample})"


def find_roots(checkpoint: Checkpoint) -> list[str]:
    """The prefixes under which a ResNet stem and its first block lie, in torchvision's or Detectron2's names."""
    found = []
    for layout in (LAYOUTS["torchvision"], LAYOUTS["detectron2"]):
        stem, block = layout.format(Part(1, 0, 1, "")), layout.format(Part(2, 0, 1, ""))
        for name in checkpoint.tensors:
            root = name[: -len(stem)]
            if name.endswith(stem) and (not root or root.endswith(".")) and root + block in checkpoint.tensors:
                found.append(root.rstrip("."))
    return found


def strange_parts(checkpoint: Checkpoint, layout: Layout, root: str) -> None:
    """Refuse tensors inside the stem or the stages that torchvision's ResNet has not (deep stem, SE, biases, ...)."""
    start = len(root) + 1 if root else 0
    namespaces = tuple({layout.format(Part(s, 0, 1, "")).split(".")[0] + "." for s in range(2, 6)})
    if layout.name not in ("torchvision", "detectron2"):
        return
    for name in checkpoint.tensors:
        local = name[start:]
        if (not root or name.startswith(f"{root}.")) and local.startswith(namespaces) and not layout.parse(local):
            raise UserError(
                f"{checkpoint.path}: {checkpoint.source_names[name]} is no tensor of torchvision's ResNet "
                f"({_guess(local)}); Detectron2's ResNet cannot hold it"
            )


def _guess(local: str) -> str:
    for piece, kind in {
        "downsample.2.": "a pooled shortcut: ResNet-D",
        ".se.": "squeeze-and-excitation",
        ".bias": "a convolution with bias: BN is folded in, or there is none",
        ".attn.": "attention",
        ".mixing_conv.": "selective kernels",
    }.items():
        if piece in local:
            return kind
    return "another kind of block"
