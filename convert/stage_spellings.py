"""How the makers of ConvNeXt and Swin name their tensors. The targets are the authors' names."""

from __future__ import annotations

from collections.abc import Mapping

from convert.spelling import Rule, Spelling, rules

STEM = "downsample_layers.0.{i}.{f}"
BLOCK = "stages.{i}.{j}"
NORM, DEPTHWISE = f"{BLOCK}.norm.{{f}}", f"{BLOCK}.dwconv.{{f}}"
FIRST, SECOND = f"{BLOCK}.pwconv1.{{f}}", f"{BLOCK}.pwconv2.{{f}}"
SCALE, GRN_SCALE, GRN_SHIFT = f"{BLOCK}.gamma", f"{BLOCK}.grn.gamma", f"{BLOCK}.grn.beta"
STAGES = range(4)
_SPARSE = {"kernel": "a sparse convolution of FCMAE's training; take the released encoder"}

CONVNEXT = Spelling(
    "convnext",
    "convnext",
    rules(
        ("downsample_layers.{i}.{j}.{f}", "downsample_layers.{i}.{j}.{f}"),
        *((target, target) for target in (DEPTHWISE, NORM, FIRST, SECOND, SCALE, GRN_SCALE, GRN_SHIFT)),
    ),
    begin=(("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),),
    inside=("downsample_layers.", "stages."),
    refused=_SPARSE,
)
CONVNEXT_TIMM = Spelling(
    "convnext of timm",
    "convnext",
    rules(
        ("stem.{i}.{f}", STEM),
        ("stages.{i}.downsample.{j}.{f}", "downsample_layers.{i}.{j}.{f}"),
        ("stages.{i}.blocks.{j}.conv_dw.{f}", DEPTHWISE),
        ("stages.{i}.blocks.{j}.norm.{f}", NORM),
        ("stages.{i}.blocks.{j}.mlp.fc1.{f}", FIRST),
        ("stages.{i}.blocks.{j}.mlp.fc2.{f}", SECOND),
        ("stages.{i}.blocks.{j}.gamma", SCALE),
        ("stages.{i}.blocks.{j}.mlp.grn.weight", GRN_SCALE),
        ("stages.{i}.blocks.{j}.mlp.grn.bias", GRN_SHIFT),
    ),
    begin=(("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),),
    inside=("stem.", "stages."),
    refused={},
)
_HF_DINOV3_STAGES = ("model.stages", "stages")  # of the modules since transformers 5, and of all files
DINOV3_CONVNEXT_HUGGINGFACE = Spelling(
    "dinov3 convnext of transformers",
    "convnext",
    tuple(
        Rule(f"{stages}.{{i}}.{source}", target)
        for stages in _HF_DINOV3_STAGES
        for source, target in (
            ("downsample_layers.{j}.{f}", "downsample_layers.{i}.{j}.{f}"),
            ("layers.{j}.depthwise_conv.{f}", DEPTHWISE),
            ("layers.{j}.layer_norm.{f}", NORM),
            ("layers.{j}.pointwise_conv1.{f}", FIRST),
            ("layers.{j}.pointwise_conv2.{f}", SECOND),
            ("layers.{j}.gamma", SCALE),
        )
    ),
    begin=tuple(
        (f"{stages}.0.downsample_layers.0.weight", f"{stages}.0.layers.0.depthwise_conv.weight")
        for stages in _HF_DINOV3_STAGES
    ),
    inside=tuple(f"{stages}." for stages in _HF_DINOV3_STAGES),
    refused={},
)
CONVNEXT_HUGGINGFACE = Spelling(
    "convnext of transformers",
    "convnext",
    rules(
        ("embeddings.patch_embeddings.{f}", "downsample_layers.0.0.{f}"),
        ("embeddings.layernorm.{f}", "downsample_layers.0.1.{f}"),
        ("encoder.stages.{i}.downsampling_layer.{j}.{f}", "downsample_layers.{i}.{j}.{f}"),
        ("encoder.stages.{i}.layers.{j}.dwconv.{f}", DEPTHWISE),
        ("encoder.stages.{i}.layers.{j}.layernorm.{f}", NORM),
        ("encoder.stages.{i}.layers.{j}.pwconv1.{f}", FIRST),
        ("encoder.stages.{i}.layers.{j}.pwconv2.{f}", SECOND),
        ("encoder.stages.{i}.layers.{j}.layer_scale_parameter", SCALE),
        ("encoder.stages.{i}.layers.{j}.grn.weight", GRN_SCALE),
        ("encoder.stages.{i}.layers.{j}.grn.bias", GRN_SHIFT),
    ),
    begin=(("embeddings.patch_embeddings.weight", "encoder.stages.0.layers.0.dwconv.weight"),),
    inside=("embeddings.", "encoder.stages."),
    refused={},
)


def _of_torchvision() -> tuple[Rule, ...]:
    """torchvision numbers stem, stages and what lies between them as one list."""
    found = list(rules(("features.0.{i}.{f}", STEM)))
    for stage in STAGES:
        block = f"features.{2 * stage + 1}.{{j}}"
        found += rules(
            *(
                (f"{block}.{source}", target.replace("{i}", str(stage)))
                for source, target in (
                    ("block.0.{f}", DEPTHWISE),
                    ("block.2.{f}", NORM),
                    ("block.3.{f}", FIRST),
                    ("block.5.{f}", SECOND),
                    ("layer_scale", SCALE),
                )
            )
        )
        if stage:
            found += rules((f"features.{2 * stage}.{{j}}.{{f}}", f"downsample_layers.{stage}.{{j}}.{{f}}"))
    return tuple(found)


CONVNEXT_TORCHVISION = Spelling(
    "convnext of torchvision",
    "convnext",
    _of_torchvision(),
    begin=(("features.0.0.weight", "features.1.0.block.0.weight"),),
    inside=("features.",),
    refused={},
)

_SWIN_BLOCK = (
    "norm1.{f}",
    "norm2.{f}",
    "attn.qkv.{f}",
    "attn.proj.{f}",
    "attn.relative_position_bias_table",
    "mlp.fc1.{f}",
    "mlp.fc2.{f}",
)
_SWIN_INPUT = ("patch_embed.proj.{f}", "patch_embed.norm.{f}")
_MERGE = ("reduction.weight", "norm.{f}")
_COMPUTED = ("relative_position_index", "attn_mask")
_REFUSED = {
    "absolute_pos_embed": "an absolute position embedding",
    "logit_scale": "cosine attention (Swin V2)",
    "cpb_mlp": "continuous position biases (Swin V2)",
    "continuous_position_bias": "continuous position biases (Swin V2)",
}
_IN_LAYERS = tuple((f"layers.{{i}}.blocks.{{j}}.{name}",) * 2 for name in _SWIN_BLOCK)
# the authors', MoBY's and SimMIM's: a stage ends with the merging of its patches
SWIN = Spelling(
    "swin",
    "swin",
    rules(
        *((name, name) for name in _SWIN_INPUT),
        *_IN_LAYERS,
        *((f"layers.{{i}}.downsample.{name}",) * 2 for name in _MERGE),
    ),
    begin=(("patch_embed.proj.weight", "layers.0.downsample.reduction.weight"),),
    inside=("patch_embed.", "layers."),
    refused=_REFUSED,
    ignored=_COMPUTED,
)
# timm's since 0.9: a stage begins with it
SWIN_TIMM = Spelling(
    "swin of timm",
    "swin",
    rules(
        *((name, name) for name in _SWIN_INPUT),
        *_IN_LAYERS,
        *(
            (f"layers.{stage + 1}.downsample.{name}", f"layers.{stage}.downsample.{name}")
            for stage in range(3)
            for name in _MERGE
        ),
    ),
    begin=(("patch_embed.proj.weight", "layers.3.downsample.reduction.weight"),),
    inside=("patch_embed.", "layers."),
    refused=_REFUSED,
    ignored=_COMPUTED,
)
_HF = (
    ("layernorm_before.{f}", "norm1.{f}"),
    ("layernorm_after.{f}", "norm2.{f}"),
    *((f"attention.{part}_proj.{{f}}", "attn.qkv.{f}", part) for part in "qkv"),
    *((f"attention.self.{name}.{{f}}", "attn.qkv.{f}", name[0]) for name in ("query", "key", "value")),
    ("attention.o_proj.{f}", "attn.proj.{f}"),
    ("attention.output.dense.{f}", "attn.proj.{f}"),
    (
        "attention.relative_position_bias.relative_position_bias_table",
        "attn.relative_position_bias_table",
    ),
    ("attention.self.relative_position_bias_table", "attn.relative_position_bias_table"),
    ("intermediate.dense.{f}", "mlp.fc1.{f}"),
    ("output.dense.{f}", "mlp.fc2.{f}"),
    ("mlp.fc1.{f}", "mlp.fc1.{f}"),
    ("mlp.fc2.{f}", "mlp.fc2.{f}"),
)
SWIN_HUGGINGFACE = Spelling(
    "swin of transformers",
    "swin",
    rules(
        ("embeddings.patch_embeddings.projection.{f}", "patch_embed.proj.{f}"),
        ("embeddings.norm.{f}", "patch_embed.norm.{f}"),
        *(
            (f"encoder.layers.{{i}}.blocks.{{j}}.{source}", f"layers.{{i}}.blocks.{{j}}.{target}", *part)
            for source, target, *part in _HF
        ),
        *((f"encoder.layers.{{i}}.downsample.{name}", f"layers.{{i}}.downsample.{name}") for name in _MERGE),
    ),
    begin=(("embeddings.patch_embeddings.projection.weight", "encoder.layers.0.blocks.0.layernorm_before.weight"),),
    inside=("embeddings.", "encoder.layers."),
    refused=_REFUSED,
    ignored=(*_COMPUTED, "mask_token"),
)


def _swin_of_torchvision() -> tuple[Rule, ...]:
    found = list(rules(("features.0.0.{f}", "patch_embed.proj.{f}"), ("features.0.2.{f}", "patch_embed.norm.{f}")))
    for stage in STAGES:
        names = [(name, name) for name in _SWIN_BLOCK if not name.startswith("mlp.")]
        for source, target in (*names, ("mlp.0.{f}", "mlp.fc1.{f}"), ("mlp.3.{f}", "mlp.fc2.{f}")):
            found += rules((f"features.{2 * stage + 1}.{{j}}.{source}", f"layers.{stage}.blocks.{{j}}.{target}"))
        if stage:
            found += rules(*((f"features.{2 * stage}.{n}", f"layers.{stage - 1}.downsample.{n}") for n in _MERGE))
    return tuple(found)


SWIN_TORCHVISION = Spelling(
    "swin of torchvision",
    "swin",
    _swin_of_torchvision(),
    begin=(("features.0.0.weight", "features.1.0.attn.relative_position_bias_table"),),
    inside=("features.",),
    refused=_REFUSED,
    ignored=_COMPUTED,
)

_ALL = (
    CONVNEXT,
    CONVNEXT_TIMM,
    CONVNEXT_HUGGINGFACE,
    DINOV3_CONVNEXT_HUGGINGFACE,
    CONVNEXT_TORCHVISION,
    SWIN,
    SWIN_TIMM,
    SWIN_HUGGINGFACE,
    SWIN_TORCHVISION,
)
STAGE_SPELLINGS: Mapping[str, Spelling] = {spelling.name: spelling for spelling in _ALL}
