"""Write tests/fixtures/networks/*.json: names and shapes as the makers' code gives them, for small networks.

    python -m tests.convert.programs.make_network_fixtures      # needs timm, torchvision, transformers

What no package makes is put together from the names in the authors' code, which ``source`` states.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torchvision
import transformers

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "networks"
Shapes = dict[str, list[int]]

VIT = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 2}
HF = {"image_size": 32, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "patch_size": 16}
STAGES = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 2}
SWIN = {"img_size": 64, "embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 2}


def shapes(net: Any) -> Shapes:
    """The state dict of a network."""
    return {name: list(value.shape) for name, value in net.state_dict().items()}


def under(prefix: str, one: Shapes) -> Shapes:
    """The same below ``prefix``."""
    return {prefix + name: shape for name, shape in one.items()}


def without(one: Shapes, *beginnings: str) -> Shapes:
    """Without the names that begin so."""
    return {name: shape for name, shape in one.items() if not name.startswith(beginnings)}


def mlp(prefix: str, *numbers: int) -> Shapes:
    """Linear layers of a head with these numbers in a Sequential."""
    return {f"{prefix}{n}.{field}": [8, 8][: 2 - (field == "bias")] for n in numbers for field in ("weight", "bias")}


def renamed(one: Shapes, *pairs: tuple[str, str]) -> Shapes:
    """With parts of names replaced, in order."""
    result = {}
    for name, shape in one.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = shape
    return result


def before_transformers_5(one: Shapes) -> Shapes:
    """The names in files of transformers, which since version 5 differ from those of its modules."""
    return renamed(
        one,
        ("layers.", "encoder.layer."),
        (".attention.q_proj.", ".attention.attention.query."),
        (".attention.k_proj.", ".attention.attention.key."),
        (".attention.v_proj.", ".attention.attention.value."),
        (".attention.o_proj.", ".attention.output.dense."),
    )


def official_convnext(one: Shapes) -> Shapes:
    """timm's ConvNeXt in the authors' names and shapes."""
    result: Shapes = {}
    for name, shape in renamed(
        one, ("stem.", "downsample_layers.0."), (".blocks.", "."), ("conv_dw", "dwconv"), ("mlp.fc", "pwconv")
    ).items():
        if ".downsample." in name:
            stage, rest = name.removeprefix("stages.").split(".downsample.")
            name = f"downsample_layers.{stage}.{rest}"
        if "mlp.grn." in name:
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            shape = [1, 1, 1, shape[0]]
        result[name.replace("head.norm", "norm").replace("head.fc", "head")] = shape[:2] if "pwconv" in name else shape
    return result


def official_swin(one: Shapes) -> Shapes:
    """timm's Swin in the authors' names: patches are merged at the end of a stage."""
    result: Shapes = {}
    for name, shape in one.items():
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage - 1}.", 1)
        result[name.replace("head.fc", "head")] = shape
        if name.endswith("relative_position_bias_table"):
            result[name.replace("bias_table", "index")] = [4, 4]
    return result


def official_dinov3(one: Shapes, kept: dict[str, list[int]]) -> Shapes:
    """timm's DINOv3 in the authors' names: one bias with its mask, which is 0 for the keys, and what only they keep."""
    result: Shapes = {}
    for name, shape in renamed(
        one,
        ("reg_token", "storage_tokens"),
        ("gamma_", "ls"),
        ("mlp.fc1_g", "mlp.w1"),
        ("mlp.fc1_x", "mlp.w2"),
        ("mlp.fc2", "mlp.w3" if any("fc1_g" in name for name in one) else "mlp.fc2"),
    ).items():
        if name.endswith((".ls1", ".ls2")):
            name += ".gamma"
        if name.endswith("attn.q_bias"):
            result[name.replace("q_bias", "qkv.bias")] = [3 * shape[0]]
            result[name.replace("q_bias", "qkv.bias_mask")] = [3 * shape[0]]
        elif not name.endswith("attn.v_bias"):
            result[name] = shape
    return {**result, "rope_embed.periods": [16], "mask_token": [1, 64], **kept}


def dinov3_fixtures() -> dict[str, tuple[str, str, Shapes, str]]:
    """name -> family, source, names and shapes, root of the encoder."""
    small = {"embed_dim": 64, "depth": 2, "num_heads": 1}
    plain = shapes(timm.create_model("vit_small_patch16_dinov3_qkvb", **small))
    gated = shapes(timm.create_model("vit_small_plus_patch16_dinov3_qkvb", **small))
    unbiased = shapes(timm.create_model("vit_7b_patch16_dinov3", **small))
    local = {"local_cls_norm.weight": [64], "local_cls_norm.bias": [64]}
    repository = "facebookresearch/dinov3 vision_transformer.py"
    options = {**HF, "intermediate_size": 256, "num_register_tokens": 4}
    hf, hf_gated = (
        shapes(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**options, use_gated_mlp=on)))
        for on in (False, True)
    )
    own = renamed(without(official_dinov3(plain, {}), "mask_token"), ("storage_tokens", "register_tokens"))
    own = {name: shape for name, shape in own.items() if not name.endswith("bias_mask")}
    root = "model.backbone.net."
    return {
        "dinov3": ("vit", f"{repository}, vits16", official_dinov3(plain, {}), ""),
        "dinov3-swiglu": ("vit", f"{repository}, vits16plus", official_dinov3(gated, {}), ""),
        "dinov3-unbiased": ("vit", f"{repository}, vit7b16", official_dinov3(unbiased, local), ""),
        "timm-dinov3": (
            "dinov3-timm",
            "timm 1.0.31 vit_small_patch16_dinov3",
            shapes(timm.create_model("vit_small_patch16_dinov3", **small)),
            "",
        ),
        "timm-dinov3-qkvb": ("dinov3-timm", "timm 1.0.31 vit_small_patch16_dinov3_qkvb", plain, ""),
        "timm-dinov3-swiglu": ("dinov3-timm", "timm 1.0.31 vit_small_plus_patch16_dinov3_qkvb", gated, ""),
        "transformers-dinov3": ("dinov3-huggingface", "transformers 5.24 DINOv3ViTModel.state_dict()", hf, ""),
        "transformers-dinov3-file": (
            "dinov3-huggingface",
            "transformers DINOv3ViTModel.save_pretrained(), vits16plus",
            renamed(hf_gated, ("model.layer.", "layer.")),
            "",
        ),
        "this-project-rope-vit": ("detectron2-vit", "convert/to_d2.py", under(root, own), root),
    }


def all_fixtures() -> dict[str, dict[str, Any]]:
    """name -> {family, encoders: {encoder: root}, source, shapes}; the first encoder is the default."""
    made: dict[str, dict[str, Any]] = {}

    def add(name: str, family: str, source: str, content: Shapes, **encoders: str) -> None:
        made[name] = {"family": family, "source": source, "encoders": encoders or {"encoder": ""}, "shapes": content}

    create = timm.create_model
    vit = shapes(create("vit_tiny_patch16_224", **VIT))
    bare = without(vit, "head.")
    dinov2 = shapes(create("vit_small_patch14_dinov2", **{**VIT, "img_size": 56, "num_classes": 0}))
    chunked = renamed(dinov2, ("blocks.0.", "blocks.0.0."), ("blocks.1.", "blocks.1.1."))
    add("timm-vit", "vit", "timm 1.0.31 vit_tiny_patch16_224", vit)
    add(
        "timm-vit-ema",
        "vit",
        "timm 1.0.31, train.py --model-ema",
        {**under("state_dict.", vit), **under("state_dict_ema.", vit)},
        encoder="state_dict.",
        ema="state_dict_ema.",
    )
    add("deit", "vit", "facebookresearch/deit main.py: {'model': ...}", under("model.", vit))
    add("timm-deit3", "vit", "timm 1.0.31 deit3_small_patch16_224", shapes(create("deit3_small_patch16_224", **VIT)))
    add(
        "dinov2",
        "vit",
        "facebookresearch/dinov2 vision_transformer.py, released backbone",
        {**dinov2, "mask_token": [1, 64]},
    )
    add(
        "timm-dinov2-registers",
        "vit",
        "timm 1.0.31 vit_small_patch14_reg4_dinov2",
        shapes(create("vit_small_patch14_reg4_dinov2", **{**VIT, "img_size": 56, "num_classes": 0})),
    )
    add(
        "timm-dinov2-swiglu",
        "vit",
        "timm 1.0.31 vit_giant_patch14_dinov2",
        shapes(create("vit_giant_patch14_dinov2", **{**VIT, "img_size": 56, "num_classes": 0, "embed_dim": 96})),
    )
    add(
        "dinov2-swiglu",
        "vit",
        "facebookresearch/dinov2 swiglu_ffn.py",
        renamed(
            shapes(create("vit_giant_patch14_dinov2", **{**VIT, "img_size": 56, "num_classes": 0, "embed_dim": 96})),
            ("mlp.fc1", "mlp.w12"),
            ("mlp.fc2", "mlp.w3"),
        ),
    )
    add(
        "dinov2-training",
        "dinov2-training",
        "facebookresearch/dinov2 ssl_meta_arch.py, blocks in chunks",
        {
            **under("model.teacher.backbone.", chunked),
            **mlp("model.teacher.dino_head.mlp.", 0, 2),
            **under("model.student.backbone.", chunked),
            **mlp("model.student.dino_head.mlp.", 0, 2),
        },
        teacher="model.teacher.backbone.",
        student="model.student.backbone.",
    )
    add(
        "mae",
        "mae",
        "facebookresearch/mae models_mae.py",
        {
            **under("model.", bare),
            "model.mask_token": [1, 1, 8],
            "model.decoder_pos_embed": [1, 5, 8],
            "model.decoder_embed.weight": [8, 64],
            "model.decoder_embed.bias": [8],
            "model.decoder_blocks.0.norm1.weight": [8],
            "model.decoder_blocks.0.norm1.bias": [8],
            "model.decoder_pred.weight": [768, 8],
            "model.decoder_pred.bias": [768],
        },
        encoder="model.",
    )
    add("mae-encoder", "vit", "facebookresearch/mae, released mae_pretrain_vit_base.pth", under("model.", bare))
    heads = {**mlp("head.mlp.", 0, 2, 4), "head.last_layer.weight_g": [8, 1], "head.last_layer.weight_v": [8, 8]}
    add(
        "dino",
        "dino-vit",
        "facebookresearch/dino main_dino.py",
        {
            **under("teacher.backbone.", bare),
            **under("teacher.", heads),
            **under("student.module.backbone.", bare),
            **under("student.module.", heads),
            "dino_loss.center": [1, 8],
        },
        teacher="teacher.backbone.",
        student="student.module.backbone.",
    )
    add(
        "ibot",
        "dino-vit",
        "bytedance/ibot main_ibot.py",
        {
            **under("teacher.backbone.", bare),
            **under("teacher.", heads),
            **under("student.module.backbone.", {**bare, "masked_embed": [1, 64]}),
            **under("student.module.", heads),
            "ibot_loss.center": [1, 8],
            "ibot_loss.center2": [1, 1, 8],
        },
        teacher="teacher.backbone.",
        student="student.module.backbone.",
    )
    predictor = {**mlp("module.predictor.", 0, 3)}
    add(
        "moco-v3",
        "moco-v3-vit",
        "facebookresearch/moco-v3 builder.py and vits.py",
        {
            **under("state_dict.module.base_encoder.", bare),
            **under("state_dict.module.base_encoder.", mlp("head.", 0, 3)),
            **under("state_dict.module.momentum_encoder.", bare),
            **under("state_dict.module.momentum_encoder.", mlp("head.", 0, 3)),
            **under("state_dict.", predictor),
        },
        query="state_dict.module.base_encoder.",
        key="state_dict.module.momentum_encoder.",
    )
    own_supervised = under("state_dict.module.encoder_q.", vit)
    add(
        "this-project-supervised-vit",
        "supervised-vit",
        "pretrain/main.py --method supervised",
        own_supervised,
        encoder="state_dict.module.encoder_q.",
    )
    add(
        "torchvision-vit",
        "vit-torchvision",
        "torchvision 0.29.1 VisionTransformer",
        shapes(torchvision.models.VisionTransformer(32, 16, 2, 1, 64, 256, num_classes=2)),
    )
    old_names = [("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")]
    add(
        "torchvision-vit-0.12",
        "vit-torchvision",
        "torchvision 0.12 vision_transformer.py",
        renamed(made["torchvision-vit"]["shapes"], *old_names),
    )
    hf_vit = shapes(transformers.ViTModel(transformers.ViTConfig(**HF, intermediate_size=256)))
    add("transformers-vit", "vit-huggingface", "transformers 5.24 ViTModel.state_dict()", hf_vit)
    saved = renamed(before_transformers_5(hf_vit), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"))
    add("transformers-vit-file", "vit-huggingface", "transformers ViTModel.save_pretrained()", saved)
    add(
        "transformers-vit-classifier",
        "vit-huggingface",
        "transformers ViTForImageClassification",
        {**under("vit.", without(saved, "pooler.")), "classifier.weight": [2, 64], "classifier.bias": [2]},
        encoder="vit.",
    )
    add(
        "transformers-mae",
        "vit-huggingface",
        "transformers ViTMAEForPreTraining",
        {
            **under("vit.", without(saved, "pooler.")),
            "decoder.mask_token": [1, 1, 8],
            "decoder.decoder_pos_embed": [1, 5, 8],
            "decoder.decoder_embed.weight": [8, 64],
            "decoder.decoder_layers.0.layernorm_before.weight": [8],
        },
        encoder="vit.",
    )
    dino_config = {**HF, "patch_size": 14, "image_size": 56}
    hf_dino = shapes(transformers.Dinov2Model(transformers.Dinov2Config(**dino_config)))
    add("transformers-dinov2", "vit-huggingface", "transformers 5.24 Dinov2Model.state_dict()", hf_dino)
    add(
        "transformers-dinov2-file",
        "vit-huggingface",
        "transformers Dinov2Model.save_pretrained()",
        renamed(
            hf_dino,
            (".attention.q_proj.", ".attention.attention.query."),
            (".attention.k_proj.", ".attention.attention.key."),
            (".attention.v_proj.", ".attention.attention.value."),
            (".attention.o_proj.", ".attention.output.dense."),
        ),
    )
    gated = shapes(transformers.Dinov2Model(transformers.Dinov2Config(**dino_config, use_swiglu_ffn=True)))
    add("transformers-dinov2-swiglu", "vit-huggingface", "transformers 5.24 Dinov2Model with use_swiglu_ffn", gated)
    registers = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**dino_config))
    add(
        "transformers-dinov2-registers",
        "vit-huggingface",
        "transformers 5.24 Dinov2WithRegistersModel",
        shapes(registers),
    )
    own = {**bare, "cls_token": [1, 1, 64]}
    add(
        "this-project-vit",
        "detectron2-vit",
        "convert/to_d2.py",
        under("model.backbone.net.", own),
        encoder="model.backbone.net.",
    )

    for name, (family, source, content, root) in dinov3_fixtures().items():
        add(name, family, source, content, encoder=root)

    convnext = shapes(create("convnext_tiny", **STAGES))
    second = shapes(create("convnextv2_atto", **STAGES))
    add("timm-convnext", "convnext-timm", "timm 1.0.31 convnext_tiny; SparK's files in timm's names", convnext)
    add("timm-convnextv2", "convnext-timm", "timm 1.0.31 convnextv2_atto", second)
    add(
        "convnext",
        "convnext",
        "facebookresearch/ConvNeXt models/convnext.py",
        under("model.", official_convnext(convnext)),
        encoder="model.",
    )
    add(
        "convnextv2",
        "convnext",
        "facebookresearch/ConvNeXt-V2 models/convnextv2.py",
        under("model.", official_convnext(second)),
        encoder="model.",
    )
    add(
        "spark",
        "convnext",
        "keyu-tian/SparK, released encoder in the authors' names",
        without(official_convnext(convnext), "head.", "norm."),
    )
    add(
        "torchvision-convnext",
        "convnext-torchvision",
        "torchvision 0.29.1 convnext.py",
        shapes(_small_torchvision_convnext()),
    )
    stages = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
    add(
        "transformers-convnext",
        "convnext-huggingface",
        "transformers 5.24 ConvNextModel",
        shapes(transformers.ConvNextModel(transformers.ConvNextConfig(**stages))),
    )
    add(
        "transformers-convnextv2",
        "convnext-huggingface",
        "transformers 5.24 ConvNextV2ForImageClassification",
        under("convnextv2.", shapes(transformers.ConvNextV2Model(transformers.ConvNextV2Config(**stages)))),
        encoder="convnextv2.",
    )
    official = without(official_convnext(convnext), "head.")
    add(
        "dinov3-convnext",
        "convnext",
        "facebookresearch/dinov3 models/convnext.py, whose last norm has two names",
        {**official, "norms.3.weight": [32], "norms.3.bias": [32]},
    )
    hf_dinov3 = shapes(transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**stages)))
    for name, source, one in (
        ("transformers-dinov3-convnext", "transformers 5.24 DINOv3ConvNextModel.state_dict()", hf_dinov3),
        (
            "transformers-dinov3-convnext-file",
            "transformers DINOv3ConvNextModel.save_pretrained()",
            renamed(hf_dinov3, ("model.stages.", "stages.")),
        ),
    ):
        add(name, "dinov3-convnext-huggingface", source, one)
    add(
        "dino-convnext",
        "dino-convnext",
        "facebookresearch/dino main_dino.py with a ConvNeXt",
        {
            **under("teacher.backbone.", without(official_convnext(convnext), "head.")),
            **under("student.module.backbone.", without(official_convnext(convnext), "head.")),
        },
        teacher="teacher.backbone.",
        student="student.module.backbone.",
    )
    add(
        "this-project-convnext",
        "detectron2-convnext",
        "convert/to_d2.py",
        under("model.backbone.bottom_up.", without(official_convnext(convnext), "head.", "norm.")),
        encoder="model.backbone.bottom_up.",
    )

    swin = shapes(create("swin_tiny_patch4_window7_224", **SWIN, num_classes=2))
    official = official_swin(swin)
    add("timm-swin", "swin-timm", "timm 1.0.31 swin_tiny_patch4_window7_224", swin)
    add("swin", "swin", "microsoft/Swin-Transformer swin_transformer.py", under("model.", official), encoder="model.")
    inner = without(official, "head.")
    add(
        "moby",
        "moby",
        "SwinTransformer/Transformer-SSL models/moby.py",
        {
            **under("model.encoder.", inner),
            **under("model.encoder_k.", inner),
            "model.queue1": [8, 8],
            "model.queue2": [8, 8],
            **{f"model.{name}.linear_out.weight": [8, 8] for name in ("projector", "projector_k", "predictor")},
        },
        query="model.encoder.",
        key="model.encoder_k.",
    )
    add(
        "simmim",
        "simmim",
        "microsoft/SimMIM models/simmim.py",
        {
            **under("model.encoder.", {**inner, "mask_token": [1, 1, 16]}),
            "model.decoder.0.weight": [8, 8, 1, 1],
            "model.decoder.0.bias": [8],
        },
        encoder="model.encoder.",
    )
    add(
        "esvit",
        "esvit",
        "microsoft/esvit main_esvit.py",
        {**under("teacher.", inner), **under("teacher.", mlp("head.mlp.", 0, 2)), **under("student.module.", inner)},
        teacher="teacher.",
        student="student.module.",
    )
    add(
        "torchvision-swin",
        "swin-torchvision",
        "torchvision 0.29.1 swin_transformer.py",
        shapes(torchvision.models.SwinTransformer([4, 4], 16, [2, 2, 2, 2], [1, 2, 2, 4], [2, 2], num_classes=2)),
    )
    hf_config = {"image_size": 64, "embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 2}
    hf_swin = shapes(transformers.SwinModel(transformers.SwinConfig(**hf_config)))
    add("transformers-swin", "swin-huggingface", "transformers 5.24 SwinModel.state_dict()", hf_swin)
    add(
        "transformers-swin-file",
        "swin-huggingface",
        "transformers SwinModel.save_pretrained()",
        renamed(
            hf_swin,
            ("attention.q_proj", "attention.self.query"),
            ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("attention.relative_position_bias.relative", "attention.self.relative"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ),
    )
    add(
        "this-project-swin",
        "detectron2-swin",
        "convert/to_d2.py",
        under("model.backbone.bottom_up.", without(inner, "norm.")),
        encoder="model.backbone.bottom_up.",
    )
    return made


def _small_torchvision_convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = (8, 16, 24, 32)
    blocks = [CNBlockConfig(w, n, d) for w, n, d in zip(widths, (*widths[1:], None), (1, 1, 2, 1))]
    return ConvNeXt(blocks, num_classes=2)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in all_fixtures().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=0) + "\n")
