"""An encoder from a checkpoint, for probes: ours or the official code's with its head, and whatever else converts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convert.vit import VisionTransformer
from pretrain.encoders import RESNETS, build_encoder, vit
from pretrain.encoders.checkpoint_file import load_checkpoint
from runtime.errors import UserError
from runtime.listing import listed

if TYPE_CHECKING:
    from torchvision.models import ResNet

    from convert.backbone import Backbone
    from convert.preprocessing import Preprocessing

PREFIXES = ("module.encoder_q.", "encoder_q.", "module.", "")
DICTIONARY = {"queue", "queue_ptr"}  # what a checkpoint may hold beside its encoder
FLAGS = "--(encoder|prefix|family|heads|preprocessing) "  # in messages of the converter
HEADS = ({"fc.weight", "fc.bias"}, {"fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"})


@dataclass(frozen=True)
class ReadEncoder:
    """network: in evaluation mode, maps B x 3 x H x W, normalised as this project's views, to the head's outputs; a
    ResNet, or a ViT, whose features are its class token.

    arch: its name. has_head: whether the file held a head; without one ``network`` gives the pooled features.
    settings: those of the pretraining, {} where they are not recorded. origin: how the file was understood.
    """

    network: nn.Module
    arch: str
    has_head: bool
    settings: dict[str, Any]
    origin: str


def read_encoder(path: str | Path, arch: str | None = None) -> ReadEncoder:
    """The encoder of a checkpoint; ``arch`` names its architecture where the file does not, or must agree with it.

    Raises UserError for a file without an encoder, for weights that do not fit it exactly, and for NaN in them.
    """
    try:
        checkpoint = load_checkpoint(Path(path))
        prefix = next((p for p in PREFIXES if p + "conv1.weight" in checkpoint["state_dict"]), None)
    except (UserError, TypeError):
        prefix = None
    try:
        if prefix is None or (arch or str(checkpoint["arch"])) not in RESNETS:
            return _converted(path, arch)
        return _of_pretraining(path, arch or str(checkpoint["arch"]), prefix, checkpoint)
    except UserError as error:
        if re.search(FLAGS, str(error)):
            raise UserError(f"{error}. These are flags of convert/to_d2.py: probe the file that it writes") from error
        raise


def _of_pretraining(path: str | Path, arch: str, prefix: str, checkpoint: dict[str, Any]) -> ReadEncoder:
    state = {name: value for name, value in checkpoint["state_dict"].items() if isinstance(name, str)}
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    weights = {name: value for name, value in weights.items() if name.rsplit(".", 1)[-1] not in DICTIONARY}
    _refuse_strange_values(path, weights)
    head = {name for name in weights if name.startswith("fc.")}
    if head not in HEADS:  # of another method: only the features before it are read
        weights = {name: value for name, value in weights.items() if name not in head}
    mlp = "fc.0.weight" in weights
    last = weights.get("fc.2.weight" if mlp else "fc.weight")
    stem = "cifar" if weights["conv1.weight"].shape[-1] == 3 else "imagenet"
    encoder = build_encoder(arch, outputs=1 if last is None else len(last), mlp=mlp, stem=stem)
    try:
        missing, unused = encoder.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit {arch}: {' '.join(str(error).split())[:200]}") from error
    if lacking := [key for key in missing if not key.startswith("fc.")]:
        raise UserError(f"{path} lacks {len(lacking)} tensors of {arch}, the first is {lacking[0]}")
    if unused:
        raise UserError(f"{path} is not a {arch}: it has {len(unused)} more tensors ({listed(unused, 4)}); check -a")
    if bad := [name for name, value in encoder.state_dict().items() if not torch.isfinite(value).all()]:
        raise UserError(f"{path}: {bad[0]} holds NaN or Inf: the training diverged; take an earlier checkpoint")
    _refuse_second_encoder(path)
    settings = _own_settings(checkpoint.get("settings"))
    return ReadEncoder(encoder.eval(), arch, last is not None, settings, "a pretraining checkpoint")


def _refuse_strange_values(path: str | Path, weights: dict[str, Any]) -> None:
    """Raise UserError for what ``load_state_dict`` would take for a weight, or end in a traceback at."""
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            kind = str(value.layout) if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"{path}: {name} is {kind}, not a tensor of weights")
        if name.endswith("num_batches_tracked"):
            continue
        if not value.is_floating_point():
            raise UserError(
                f"{path}: {name} holds {str(value.dtype).removeprefix('torch.')}, not floating point weights"
            )
        if not value.ndim:
            raise UserError(f"{path}: {name} is a single number, which no tensor of a network is")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise UserError(f"{path}: {name} holds negative numbers, which no variance is: the file is damaged")
    if not any(bool(value.any()) for value in weights.values() if value.ndim == 4):
        raise UserError(f"{path}: all its convolutions are 0: the weights were never filled in, or were lost in saving")


def _refuse_second_encoder(path: str | Path) -> None:
    """Raise UserError if the file holds another network too, and nothing says which one is meant: an average, say."""
    from convert.checkpoint import read_checkpoint
    from convert.recognition import recognise

    recognise(read_checkpoint(path, checksums=False))


def _own_settings(settings: Any) -> dict[str, Any]:
    """The settings of this project's pretraining; {} for those of other code under the same name."""
    size = settings.get("image_size", 224) if isinstance(settings, dict) else None
    return settings if isinstance(size, int) and not isinstance(size, bool) and size > 0 else {}


def _converted(path: str | Path, arch: str | None) -> ReadEncoder:
    """The backbone that the converter finds in the file, as a network without a head."""
    from convert.conversion import convert

    backbone = convert(path, verify=False)
    name = backbone.architecture.name
    if arch is not None and arch != name:
        raise UserError(f"{path} holds a {name}, not the {arch} of -a")
    origin = f"family {backbone.family}, encoder {backbone.encoder}"
    if isinstance(backbone.architecture, VisionTransformer):
        side = backbone.architecture.grid * backbone.architecture.patch
        return ReadEncoder(_vit_of(backbone).eval(), name, False, {"image_size": side}, origin)
    return ReadEncoder(_network_of(backbone).eval(), name, False, {}, origin)


def _vit_of(backbone: Backbone) -> nn.Module:
    """A plain ViT whose features are its class token, at the image size of its positions."""
    arch = backbone.architecture
    assert isinstance(arch, VisionTransformer)
    unlike = {
        f"patches of {arch.patch} pixels": arch.patch != vit.PATCH,
        "no class token": not (arch.cls_token and arch.cls_position),
        "rotary positions": arch.rope,
        "registers": arch.registers > 0,
        "layer scale": arch.layer_scale,
        "SwiGLU": arch.gated,
        "no bias on queries": not arch.qkv_bias,
        "no final norm": not arch.final_norm,
        f"a feed-forward network of {arch.hidden}": not arch.gated and arch.hidden != 4 * arch.width,
    }
    if parts := [what for what, is_so in unlike.items() if is_so]:
        raise UserError(f"{backbone.source} is a {arch.name} with {parts[0]}; probes read plain ViTs without that")
    size = vit.Size(arch.width, arch.depth, arch.heads)
    network = vit.VisionTransformer(size, image_size=arch.grid * arch.patch, outputs=1)
    network.head = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = arch.norm_eps
    network.load_state_dict({k.removeprefix(arch.prefix): torch.tensor(a) for k, a in backbone.tensors.items()})
    _expect_views(network, network.patch_embed, backbone.preprocessing)
    return network


def _network_of(backbone: Backbone) -> ResNet:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    from convert.rename import DETECTRON2, TORCHVISION

    arch = backbone.resnet("probes are")
    if (arch.stem, arch.res2) != (64, 256 if arch.bottleneck else 64):
        raise UserError(f"{backbone.source} holds a {arch.name}; probes read networks of torchvision's width only")
    block = Bottleneck if arch.bottleneck else BasicBlock
    network = ResNet(block, list(arch.blocks), groups=arch.groups, width_per_group=arch.width // arch.groups)  # type: ignore[arg-type]
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    parts = {name: DETECTRON2.parse(name) for name in backbone.tensors}
    named = {TORCHVISION.format(part): torch.tensor(backbone.tensors[name]) for name, part in parts.items() if part}
    network.load_state_dict(named, strict=False)  # complete, as the converter has checked; BN counters may be absent
    for module in network.modules():
        if backbone.preprocessing.stride_in_1x1 and isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    _expect_views(network, network.conv1, backbone.preprocessing)
    return network


def _expect_views(network: nn.Module, first: nn.Module, preprocessing: Preprocessing) -> None:
    """Let the network take images that are normalised as this project's views; ``first`` is its first layer."""
    from convert.preprocessing import IMAGENET

    if preprocessing.config() == {**IMAGENET.config(), "MODEL.RESNETS.STRIDE_IN_1X1": preprocessing.stride_in_1x1}:
        return
    order = [2, 1, 0] if preprocessing.format == "BGR" else [0, 1, 2]
    ours_mean, ours_std = (torch.tensor(v)[order].view(3, 1, 1) for v in (IMAGENET.pixel_mean, IMAGENET.pixel_std))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.pixel_mean, preprocessing.pixel_std))
    # (x ours_std + ours_mean - mean) / std as one product and one sum
    scale, shift = ours_std / std, (ours_mean - mean) / std

    def renormalise(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        (images,) = inputs
        return images[:, order] * scale.to(images) + shift.to(images)

    first.register_forward_pre_hook(renormalise)
