"""How the makers of vision transformers name their tensors. The targets are the names of Detectron2's ViT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convert.spelling import Rule, Spelling, rules

QKV, PROJ = "blocks.{i}.attn.qkv.{f}", "blocks.{i}.attn.proj.{f}"
FC1, FC2 = "blocks.{i}.mlp.fc1.{f}", "blocks.{i}.mlp.fc2.{f}"
GATED, GATED_OUT = "blocks.{i}.mlp.w12.{f}", "blocks.{i}.mlp.w3.{f}"
NORM1, NORM2 = "blocks.{i}.norm1.{f}", "blocks.{i}.norm2.{f}"
SCALE1, SCALE2 = "blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"
PATCHES, POSITIONS, CLASS, REGISTERS = "patch_embed.proj.{f}", "pos_embed", "cls_token", "register_tokens"

_TIMM_BLOCK = (
    (NORM1, NORM1),
    (QKV, QKV),
    (PROJ, PROJ),
    (NORM2, NORM2),
    (FC1, FC1),
    (FC2, FC2),
    (GATED, GATED),
    (GATED_OUT, GATED_OUT),
    (SCALE1, SCALE1),
    (SCALE2, SCALE2),
)
_TIMM_INPUT = (
    (PATCHES, PATCHES),
    (POSITIONS, POSITIONS),
    (CLASS, CLASS),
    (REGISTERS, REGISTERS),
    ("reg_token", REGISTERS),
    ("norm.{f}", "norm.{f}"),
)


def _apart(query: str, key: str, value: str) -> tuple[tuple[str, str, str], ...]:
    return ((query, QKV, "q"), (key, QKV, "k"), (value, QKV, "v"))


# words in names -> what Detectron2's ViT does not have
REFUSED = {
    "patch_embed.proj.0.": "a patch embedding of several convolutions (the conv stem of MoCo v3)",
    "patch_embed.backbone.": "a convolutional network before the blocks (hybrid ViT)",
    "relative_position_bias": "relative position biases (BEiT, SimMIM)",
    "rel_pos_bias": "relative position biases (BEiT)",
    "rel_pos_h": "the relative positions of a fine-tuned detector; start from the whole detector instead",
    "rel_pos_w": "the relative positions of a fine-tuned detector; start from the whole detector instead",
    "rope": "rotary positions (DINOv3, EVA-02)",
    "periods": "rotary positions (DINOv3)",
    "storage_tokens": "rotary positions and storage tokens (DINOv3)",
    "bias_mask": "DINOv3's attention, whose positions are rotary",
    "gamma_1": "BEiT's or EVA's attention, whose positions are relative or rotary",
    "attn.q_bias": "biases of queries and values alone (BEiT, SimMIM, EVA-02), whose positions are relative or rotary",
    "norm_pre.": "a norm before the blocks (CLIP)",
    "dist_token": "a distillation token (DeiT's distilled models); take the plain model",
    "prompt_embeddings": "learned prompts among the tokens",
    "deep_prompt_embeddings": "learned prompts among the tokens",
    "merger.": "rotary positions (Qwen3-VL)",
    "attn.q_norm": "norms of queries and keys",
    "attn.k_norm": "norms of queries and keys",
    "attn.norm": "a norm inside the attention (EVA-02)",
    "mlp.norm": "a norm inside the feed-forward network (EVA-02)",
}
# DINOv2 trains with its blocks in chunks, blocks.CHUNK.NUMBER; a block keeps its number within the whole network
_CHUNKED_BLOCK = tuple((source.replace("blocks.", "blocks.{c}."), target) for source, target in _TIMM_BLOCK)
TIMM = Spelling(
    "vit",
    "vit",
    rules(*_TIMM_INPUT, *_TIMM_BLOCK, *_CHUNKED_BLOCK),
    begin=tuple(("patch_embed.proj.weight", f"blocks.{first}.norm1.weight") for first in ("0", "0.0")),
    inside=("patch_embed.", "blocks."),
    refused=REFUSED,
)
TORCHVISION = Spelling(
    "vit of torchvision",
    "vit",
    rules(
        ("conv_proj.{f}", PATCHES),
        ("class_token", CLASS),
        ("encoder.pos_embedding", POSITIONS),
        ("encoder.ln.{f}", "norm.{f}"),
        *(
            (f"encoder.layers.encoder_layer_{{i}}.{source}", target)
            for source, target in (
                ("ln_1.{f}", NORM1),
                ("ln_2.{f}", NORM2),
                ("self_attention.in_proj_weight", "blocks.{i}.attn.qkv.weight"),
                ("self_attention.in_proj_bias", "blocks.{i}.attn.qkv.bias"),
                ("self_attention.out_proj.{f}", PROJ),
                ("mlp.0.{f}", FC1),
                ("mlp.3.{f}", FC2),
                ("mlp.linear_1.{f}", FC1),
                ("mlp.linear_2.{f}", FC2),
            )
        ),
    ),
    begin=(("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),),
    inside=("conv_proj.", "encoder."),
    refused={},
)
_HF_INPUT = rules(
    ("embeddings.patch_embeddings.projection.{f}", PATCHES),
    ("embeddings.position_embeddings", POSITIONS),
    ("embeddings.cls_token", CLASS),
    ("embeddings.register_tokens", REGISTERS),
    ("layernorm.{f}", "norm.{f}"),
)
_HF_BLOCK = (
    *_apart("attention.q_proj.{f}", "attention.k_proj.{f}", "attention.v_proj.{f}"),
    *_apart("attention.attention.query.{f}", "attention.attention.key.{f}", "attention.attention.value.{f}"),
    ("attention.o_proj.{f}", PROJ),
    ("attention.output.dense.{f}", PROJ),
    ("layernorm_before.{f}", NORM1),
    ("layernorm_after.{f}", NORM2),
    ("norm1.{f}", NORM1),
    ("norm2.{f}", NORM2),
    ("intermediate.dense.{f}", FC1),
    ("output.dense.{f}", FC2),
    ("mlp.fc1.{f}", FC1),
    ("mlp.fc2.{f}", FC2),
    ("mlp.weights_in.{f}", GATED),
    ("mlp.weights_out.{f}", GATED_OUT),
    ("mlp.gate_proj.{f}", GATED, "gate"),
    ("mlp.up_proj.{f}", GATED, "up"),
    ("mlp.down_proj.{f}", GATED_OUT),
    ("layer_scale1.lambda1", SCALE1),
    ("layer_scale2.lambda1", SCALE2),
)


_HF_BLOCKS = ("encoder.layer", "layers")  # before and since transformers 5
# ViTModel, ViTMAEModel, Dinov2Model, with or without registers
HUGGINGFACE = Spelling(
    "vit of transformers",
    "vit",
    (
        *_HF_INPUT,
        *(Rule(f"{blocks}.{{i}}.{source}", *rest) for blocks in _HF_BLOCKS for source, *rest in _HF_BLOCK),
    ),
    begin=tuple(
        ("embeddings.patch_embeddings.projection.weight", f"{blocks}.0.{norm}.weight")
        for blocks in _HF_BLOCKS
        for norm in ("layernorm_before", "norm1")
    ),
    inside=("embeddings.patch_embeddings.", *(f"{blocks}." for blocks in _HF_BLOCKS)),
    refused={
        "relative_position": "relative position biases (BEiT, Data2Vec)",
        "lambda_1": "BEiT's or Data2Vec's blocks",
        "detection_tokens": "detection tokens (YOLOS); start from the ViT that it was made from",
        "distillation_token": "a distillation token (DeiT's distilled models); take the plain model",
    },
)

LARGE_EPS, SMALL_EPS = 1e-6, 1e-12  # of everyone else's norms; of those of transformers' ViT, ViTMAE and DPT


def norm_eps(names: Iterable[str]) -> float:
    """The epsilon of a ViT's norms, which no tensor shows, by the names that its maker gives them."""
    return SMALL_EPS if any(".layernorm_before." in name for name in names) else LARGE_EPS


VIT_SPELLINGS: Mapping[str, Spelling] = {spelling.name: spelling for spelling in (TIMM, TORCHVISION, HUGGINGFACE)}
