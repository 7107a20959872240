"""An encoder from a checkpoint, for probes. Its head and stem are recognised by the shapes of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretrain.encoders import ARCHITECTURES, build_encoder
from pretrain.encoders.checkpoint_file import load_checkpoint
from runtime.errors import UserError

if TYPE_CHECKING:
    from torchvision.models import ResNet

PREFIXES = ("module.encoder_q.", "encoder_q.", "module.", "")


def encoder_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The query encoder's tensors under torchvision's names: from MoCo's, a supervised or a plain state dict."""
    prefix = next((p for p in PREFIXES if p + "conv1.weight" in state), None)
    if prefix is None:
        raise UserError("the checkpoint holds no ResNet encoder: it has no tensor [module.][encoder_q.]conv1.weight")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def read_encoder(path: str | Path, arch: str | None = None) -> tuple[ResNet, dict[str, Any]]:
    """(encoder in evaluation mode, checkpoint). UserError for a file without an encoder or weights that do not fit."""
    checkpoint = load_checkpoint(Path(path))
    name = arch or str(checkpoint["arch"])
    if name not in ARCHITECTURES:
        raise UserError(f"{path}: unknown encoder {name}; choose one of {', '.join(ARCHITECTURES)} with -a")
    weights = encoder_weights(checkpoint["state_dict"])
    mlp = "fc.0.weight" in weights
    last = weights.get("fc.2.weight" if mlp else "fc.weight")
    stem = "cifar" if weights["conv1.weight"].shape[-1] == 3 else "imagenet"
    encoder = build_encoder(name, outputs=1 if last is None else len(last), mlp=mlp, stem=stem)
    try:
        missing = encoder.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(f"{path} does not fit {name}: {' '.join(str(error).split())[:200]}") from error
    if lacking := [key for key in missing if not key.startswith("fc.")]:
        raise UserError(f"{path} lacks {len(lacking)} tensors of {name}, the first is {lacking[0]}")
    return encoder.eval(), checkpoint
