"""What the config.json of a hub says of a network's computation that none of its tensors shows."""

from __future__ import annotations

from typing import Any

from convert.checkpoint import Checkpoint
from runtime.atomic import read_json
from runtime.errors import UserError

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # and their .index.json

# part of timm's name of an architecture -> how it differs from the network that has the same tensors
OTHERWISE = {
    "resnetblur": "blurs before it takes every second pixel",
    "resnetaa": "averages pixels before it takes every second one",
    "_rpn_": "has its norms after each branch instead of before",
    "qwen3_vit": "has rotary positions",
    "deepseek_vit": "has rotary positions",
    "so400m_patch16_siglip": "computes GELU by tanh",
    "giantopt_patch16_siglip": "computes GELU by tanh",
    "convnext_xxlarge": "has norms of epsilon 1e-5",
    "test_convnext": "computes GELU by tanh, with norms of epsilon 1e-5",
}
# arguments of timm's models that change what is computed and not the tensors
ARGUMENTS = ("act_layer", "aa_layer", "norm_layer", "output_stride", "rope_type", "rope_temperature")
SWIN_EPS = 1e-5


def hub_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json beside weights that have the hub's own name, which lie in a folder of their own; else {}."""
    if not checkpoint.path.name.startswith(HUB_WEIGHTS):
        return {}
    return read_json(checkpoint.path.with_name("config.json"))


def refuse_other_computation(checkpoint: Checkpoint, network: str) -> None:
    """Raise UserError if config.json says that the network (resnet, vit ...) computes what Detectron2's does not."""
    hub = hub_config(checkpoint)
    says = f"{checkpoint.path.with_name('config.json')} says"
    architecture = str(hub.get("architecture", ""))
    if how := next((how for piece, how in OTHERWISE.items() if piece in architecture), None):
        raise UserError(f"{says} that it is a {architecture[:60]}, which {how}; Detectron2's network does not")
    arguments = hub.get("model_args")
    if changed := [key for key in ARGUMENTS if isinstance(arguments, dict) and arguments.get(key) is not None]:
        raise UserError(f"{says} that it was built with {changed[0]}, which Detectron2's network has not")
    activation = hub.get("hidden_act", "gelu")  # a ResNet's is looked at with its strides
    expected = "silu" if hub.get("use_gated_mlp") is True else "gelu"  # transformers' DINOv3 gates by hidden_act
    if network != "resnet" and activation != expected:
        raise UserError(f"{says} hidden_act {str(activation)[:40]!r}; Detectron2's network computes {expected}")
    if network == "swin" and hub.get("layer_norm_eps", SWIN_EPS) != SWIN_EPS:
        raise UserError(f"{says} layer_norm_eps {str(hub['layer_norm_eps'])[:20]}; that of Detectron2's Swin is 1e-05")
