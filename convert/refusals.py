"""Why a checkpoint cannot be converted, from its keys, and what would work instead."""

from __future__ import annotations

from collections import Counter

from convert.checkpoint import Checkpoint
from convert.rename import LAYOUTS, Layout, Part
from runtime.errors import UserError
from runtime.listing import listed

# part of a key -> the kind of network that has it
OTHER_NETWORKS = {
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
    "mixing_conv": "a SimCLR v2 network with selective kernels (sk1; its sk0 models can be converted)",
}
# part of the name of a tensor inside a stage -> what it shows about its block
BLOCKS = {
    "downsample.2.": "a pooled shortcut (ResNet-D)",
    ".se.": "squeeze-and-excitation",
    ".attn.": "attention",
    ".mixing_conv.": "selective kernels",
    ".bias": "a convolution with bias (BN folded in, or none)",
}


def explain_no_backbone(checkpoint: Checkpoint) -> str:
    """One sentence: which kind of network the keys belong to, where there is a ResNet, or what the keys look like."""
    names = checkpoint.source_names
    if deep := next((n for n in names if n.endswith("conv1.0.weight") and ".layer" not in f".{n}"), None):
        return (
            f"{names[deep]} is a deep stem (ResNet-C/D/S, resnet50d): Detectron2's ResNet has one 7x7 convolution; "
            "use a plain resnet50"
        )
    if roots := [root for _, root in find_resnets(checkpoint)]:
        where = listed([f"{r}.*" if r else "the top level" for r in roots], 4)
        return f"There is a ResNet at {where}: take it with --prefix '{roots[0]}'"
    for piece, kind in OTHER_NETWORKS.items():
        if match := next((n for n in names if piece in n), None):
            return f"Its keys ({names[match]}) are those of {kind}; only ResNets can be converted"
    if half := next((n for n in names if n.endswith(("layer1.0.conv1.weight", "res2.0.conv1.weight"))), None):
        return f"{names[half]} has no stem convolution beside it: this is half a network; convert the whole encoder"
    begins = Counter(".".join(source.split(".")[:3])[:40] for source in names.values())
    sample = listed([k for k, _ in begins.most_common()], 3)
    return f"No ResNet of torchvision's topology is among its {len(names)} tensors (keys begin with {sample})"


def find_resnets(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Where a ResNet's stem and first block lie: (name of the layout, prefix), in every layout with dotted names."""
    places = []
    for layout in LAYOUTS.values():
        stem, block = layout.format(Part(1, 0, 1, "")), layout.format(Part(2, 0, 1, ""))
        for name in checkpoint.tensors if "." in block else ():
            root = name[: -len(stem)]
            if name.endswith(stem) and (not root or root.endswith(".")) and root + block in checkpoint.tensors:
                places.append((layout.name, root.rstrip(".")))
    return places


def refuse_strange_parts(checkpoint: Checkpoint, layout: Layout, root: str) -> None:
    """Refuse tensors inside stem or stages that torchvision's ResNet does not have (SE, biases, pooled shortcuts)."""
    start = len(root) + 1 if root else 0
    inside = tuple(_namespaces(layout))
    for name in checkpoint.tensors:
        local = name[start:]
        if (not root or name.startswith(f"{root}.")) and local.startswith(inside) and not layout.parse(local):
            kind = next((k for piece, k in BLOCKS.items() if piece in local), "another kind of block")
            raise UserError(
                f"{checkpoint.path} cannot be converted: {checkpoint.source_names[name]} is not a tensor of "
                f"torchvision's ResNet ({kind}), and Detectron2's has no place for it; use a plain resnet50"
            )


def _namespaces(layout: Layout) -> list[str]:
    """The beginnings of names that only the ResNet itself may use; Caffe2's flat names have none."""
    stem = [layout.format(Part(1, 0, 1, field)) for field in ("", "weight")]
    stages = [layout.format(Part(stage, 0, 1, "")) for stage in (2, 3, 4, 5)]
    if "." not in stages[0]:
        return []
    return [n.rsplit(".", 1)[0] + "." for n in stem] + [n.split(".0.")[0] + "." for n in stages]
