"""How the makers of vision transformers name their tensors. The targets are the names of the detector's ViT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convert.spelling import Rule, Spelling, rules

QKV, PROJ = "blocks.{i}.attn.qkv.{f}", "blocks.{i}.attn.proj.{f}"
FC1, FC2 = "blocks.{i}.mlp.fc1.{f}", "blocks.{i}.mlp.fc2.{f}"
GATED, GATED_OUT = "blocks.{i}.mlp.w12.{f}", "blocks.{i}.mlp.w3.{f}"
NORM1, NORM2 = "blocks.{i}.norm1.{f}", "blocks.{i}.norm2.{f}"
SCALE1, SCALE2 = "blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"
PATCHES, POSITIONS, CLASS, REGISTERS = "patch_embed.proj.{f}", "pos_embed", "cls_token", "register_tokens"
PERIODS = "rope_embed.periods"
# DINOv3 keeps the bias of queries, keys and values with a factor for each number, 0 for those of the keys
QKV_BIAS, MASK = "blocks.{i}.attn.qkv.bias", "mask"
# of makers who name the layers of plain and of gated networks alike: convert.assembly renames them
GATE, UP, DOWN = "blocks.{i}.mlp.gate.{f}", "blocks.{i}.mlp.up.{f}", "blocks.{i}.mlp.down.{f}"

_TIMM_BLOCK = (
    (NORM1, NORM1),
    (QKV, QKV),
    ("blocks.{i}.attn.qkv.bias_mask", QKV_BIAS, MASK),
    (PROJ, PROJ),
    (NORM2, NORM2),
    (FC1, FC1),
    (FC2, FC2),
    (GATED, GATED),
    ("blocks.{i}.mlp.w1.{f}", GATED, "gate"),
    ("blocks.{i}.mlp.w2.{f}", GATED, "up"),
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
    ("storage_tokens", REGISTERS),
    (PERIODS, PERIODS),
    ("norm.{f}", "norm.{f}"),
)


def _apart(query: str, key: str, value: str) -> tuple[tuple[str, str, str], ...]:
    return ((query, QKV, "q"), (key, QKV, "k"), (value, QKV, "v"))


# words in names -> what the detector's ViT does not have
REFUSED = {
    "patch_embed.proj.0.": "a patch embedding of several convolutions (the conv stem of MoCo v3)",
    "patch_embed.backbone.": "a convolutional network before the blocks (hybrid ViT)",
    "relative_position_bias": "relative position biases (BEiT, SimMIM)",
    "rel_pos_bias": "relative position biases (BEiT)",
    "rel_pos_h": "the relative positions of a fine-tuned detector; start from the whole detector instead",
    "rel_pos_w": "the relative positions of a fine-tuned detector; start from the whole detector instead",
    "rope": "other rotary positions than DINOv3's",
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
EVA_BEGIN = (("patch_embed.proj.weight", "blocks.0.gamma_1", "cls_token", "reg_token"),)
# DINOv2 trains with its blocks in chunks, blocks.CHUNK.NUMBER; a block keeps its number within the whole network
_CHUNKED_BLOCK = tuple((source.replace("blocks.", "blocks.{c}."), *rest) for source, *rest in _TIMM_BLOCK)
TIMM = Spelling(
    "vit",
    "vit",
    rules(*_TIMM_INPUT, *_TIMM_BLOCK, *_CHUNKED_BLOCK),
    begin=tuple(("patch_embed.proj.weight", f"blocks.{first}.norm1.weight") for first in ("0", "0.0")),
    inside=("patch_embed.", "blocks."),
    refused=REFUSED,
    unless=EVA_BEGIN,
)
# timm's Eva with DINOv3's positions, of which it keeps no tensor: its others have absolute or relative positions, or
# no class token beside the registers
EVA = Spelling(
    "dinov3 of timm",
    "vit",
    rules(
        (PATCHES, PATCHES),
        (CLASS, CLASS),
        ("reg_token", REGISTERS),
        ("norm.{f}", "norm.{f}"),
        (NORM1, NORM1),
        ("blocks.{i}.attn.qkv.weight", "blocks.{i}.attn.qkv.weight"),
        ("blocks.{i}.attn.q_bias", QKV_BIAS, "q"),
        ("blocks.{i}.attn.v_bias", QKV_BIAS, "v"),
        (PROJ, PROJ),
        (NORM2, NORM2),
        (FC1, FC1),
        (FC2, FC2),
        ("blocks.{i}.mlp.fc1_g.{f}", GATE),
        ("blocks.{i}.mlp.fc1_x.{f}", UP),
        ("blocks.{i}.gamma_1", SCALE1),
        ("blocks.{i}.gamma_2", SCALE2),
    ),
    begin=EVA_BEGIN,
    inside=("patch_embed.", "blocks."),
    refused={**REFUSED, "pos_embed": "absolute positions beside rotary ones (EVA-02)"},
    rotary=True,
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

_HF_ROTARY_BLOCKS = ("model.layer", "layer")  # of the modules since transformers 5, and of all files
DINOV3_HUGGINGFACE = Spelling(
    "dinov3 of transformers",
    "vit",
    (
        *rules(
            ("embeddings.patch_embeddings.{f}", PATCHES),
            ("embeddings.cls_token", CLASS),
            ("embeddings.register_tokens", REGISTERS),
            ("norm.{f}", "norm.{f}"),
        ),
        *(
            Rule(f"{blocks}.{{i}}.{source}", *rest)
            for blocks in _HF_ROTARY_BLOCKS
            for source, *rest in (
                *_apart("attention.q_proj.{f}", "attention.k_proj.{f}", "attention.v_proj.{f}"),
                ("attention.o_proj.{f}", PROJ),
                ("norm1.{f}", NORM1),
                ("norm2.{f}", NORM2),
                ("mlp.gate_proj.{f}", GATE),
                ("mlp.up_proj.{f}", UP),
                ("mlp.down_proj.{f}", DOWN),
                ("layer_scale1.lambda1", SCALE1),
                ("layer_scale2.lambda1", SCALE2),
            )
        ),
    ),
    begin=tuple(("embeddings.patch_embeddings.weight", f"{blocks}.0.norm1.weight") for blocks in _HF_ROTARY_BLOCKS),
    inside=("embeddings.patch_embeddings.", *(f"{blocks}." for blocks in _HF_ROTARY_BLOCKS)),
    refused={},
    rotary=True,
)

# of everyone else's norms; of those of transformers' ViT, ViTMAE and DPT; of those of every released DINOv3
LARGE_EPS, SMALL_EPS, ROTARY_EPS = 1e-6, 1e-12, 1e-5


def norm_eps(names: Iterable[str], rotary: bool = False) -> float:
    """The epsilon of a ViT's norms, which no tensor shows, by its positions and the names that its maker gives them."""
    if rotary:
        return ROTARY_EPS
    return SMALL_EPS if any(".layernorm_before." in name for name in names) else LARGE_EPS


VIT_SPELLINGS: Mapping[str, Spelling] = {
    spelling.name: spelling for spelling in (TIMM, EVA, TORCHVISION, HUGGINGFACE, DINOV3_HUGGINGFACE)
}
