"""Why a checkpoint cannot be converted, from its keys, and what would work instead."""

from __future__ import annotations

from collections import Counter

from convert.checkpoint import Checkpoint
from convert.layouts import LAYOUTS, AnyLayout
from runtime.errors import UserError
from runtime.listing import listed

KINDS = {"resnet": "ResNet", "vit": "ViT", "convnext": "ConvNeXt", "swin": "Swin"}
CONVERTED = "ResNets, plain ViTs, ConvNeXts and Swin transformers"
NETWORK_NAMES = {
    "resnet": "torchvision's ResNet",
    "vit": "Detectron2's ViT",
    "convnext": "the authors' ConvNeXt",
    "swin": "Detectron2's Swin",
}
# part of a key -> the kind of network that has it
OTHER_NETWORKS = {
    "resblocks": "a CLIP vision transformer, which has a norm before its blocks that Detectron2's ViT has not",
    "class_embedding": "a CLIP vision transformer, which has a norm before its blocks that Detectron2's ViT has not",
    "decoder_embed": "the decoder of a masked autoencoder; its encoder is not in the file",
    "decoder_blocks": "the decoder of a masked autoencoder; its encoder is not in the file",
    "relative_position_bias_table": "a Swin transformer or BEiT",
    "cls_token": "a vision transformer of another kind",
    "pos_embed": "a vision transformer of another kind",
    "patch_embed.proj.weight": "a transformer of another kind",
    "trunk_output": "a RegNet",
    "_feature_blocks.block1": "a RegNet",
    "s1.b1": "a RegNet (pycls)",
    "features.0.weight": "a VGG or AlexNet",
    "stages.0.0.gamma": "a ConvNeXt",
    "denseblock1": "a DenseNet",
    "mixing_conv": "a SimCLR v2 network with selective kernels (sk1; its sk0 models can be converted)",
}


def explain_no_backbone(checkpoint: Checkpoint) -> str:
    """One sentence: which kind of network the keys belong to, where there is a ResNet, or what the keys look like."""
    names = checkpoint.source_names
    if deep := next((n for n in names if n.endswith("conv1.0.weight") and ".layer" not in f".{n}"), None):
        return (
            f"{names[deep]} is a deep stem (ResNet-C/D/S, resnet50d): Detectron2's ResNet has one 7x7 convolution; "
            "use a plain resnet50"
        )
    if places := find_networks(checkpoint):
        where = listed([*dict.fromkeys(f"{r}.*" if r else "the top level" for _, r in places)], 4)
        kinds = " or ".join(dict.fromkeys(KINDS[LAYOUTS[layout].network] for layout, _ in places))
        return f"There is a {kinds} at {where}: take it with --prefix '{places[0][1]}'"
    for piece, kind in OTHER_NETWORKS.items():
        if match := next((n for n in names if piece in n), None):
            return f"Its keys ({names[match]}) are those of {kind}; {CONVERTED} can be converted"
    if half := next((n for n in names if n.endswith(("layer1.0.conv1.weight", "res2.0.conv1.weight"))), None):
        return f"{names[half]} has no stem convolution beside it: this is half a network; convert the whole encoder"
    begins = Counter(".".join(source.split(".")[:3])[:40] for source in names.values())
    sample = listed([k for k, _ in begins.most_common()], 3)
    return f"No ResNet of torchvision's topology is among its {len(names)} tensors (keys begin with {sample})"


def find_networks(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Where a network begins: (name of the layout, prefix), in every layout with dotted names."""
    places = []
    for layout in LAYOUTS.values():
        for first, *others in layout.begin:
            for name in checkpoint.tensors if all("." in other for other in others) else ():
                root = name[: -len(first)]
                found = name.endswith(first) and (not root or root.endswith("."))
                if found and all(root + other in checkpoint.tensors for other in others):
                    places.append((layout.name, root.rstrip(".")))
    return list(dict.fromkeys(places))


def refuse_strange_parts(checkpoint: Checkpoint, layout: AnyLayout, root: str) -> None:
    """Refuse tensors of a network that Detectron2's does not have (SE, pooled shortcuts, relative position biases)."""
    start = len(root) + 1 if root else 0
    for name in checkpoint.tensors:
        local = name[start:]
        if (not root or name.startswith(f"{root}.")) and not layout.parse(local) and (kind := layout.strange(local)):
            network = NETWORK_NAMES[layout.network]
            raise UserError(
                f"{checkpoint.path} cannot be converted: {checkpoint.source_names[name]} is not a tensor of "
                f"{network} ({kind}), and Detectron2's has no place for it"
            )
