"""Transformers and ConvNeXts of every maker: found by their keys, every tensor in its place, wrong ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from convert.backbone_file import read_backbone, write_backbone
from convert.checkpoint import read_checkpoint
from convert.conversion import convert
from convert.families import TABLE
from convert.layouts import LAYOUTS
from convert.recognition import fits, key_prefixes
from runtime.errors import UserError
from tests.convert.networks import NETWORKS, network_fixture, of_encoder, random_tensors

TENSORS = {name: random_tensors(name) for name in NETWORKS}
# numbers in the result beside those of the file: periods that makers compute, biases of keys; masks are not in it
BEYOND_THE_FILE = {
    "dinov3": -2 * 192,
    "dinov3-swiglu": -2 * 192,
    "timm-dinov3": 16,
    "timm-dinov3-qkvb": 16 + 2 * 64,
    "timm-dinov3-swiglu": 16 + 2 * 64,
    "transformers-dinov3": 16 + 2 * 64,
    "transformers-dinov3-file": 16 + 2 * 64,
}
HEADS = {"timm-dinov2-swiglu": 1, "dinov2-swiglu": 1}  # a width of 96, of which no network is published


def save(tensors: dict[str, Tensor], path: Path) -> Path:
    torch.save(tensors, path)
    return path


def test_every_family_and_spelling_has_a_fixture() -> None:
    rows = {name for name, row in TABLE.items() if LAYOUTS[row.main.layout].network != "resnet"}
    assert {network_fixture(name)["family"] for name in NETWORKS} | {"google-vit"} == rows
    assert len(NETWORKS) >= 40


@pytest.mark.parametrize("name", NETWORKS)
def test_every_encoder_is_found_and_whole(name: str, tmp_path: Path) -> None:
    spec = network_fixture(name)
    path = save(TENSORS[name], tmp_path / "x.pth")
    read = read_checkpoint(path)
    fitting = [n for n, row in TABLE.items() if not row.same_keys_as and fits(read, row, key_prefixes(read.tensors))]
    assert fitting == [spec["family"]]
    default, *_ = spec["encoders"]
    for encoder, root in spec["encoders"].items():
        asked = None if encoder == default and not name.endswith("ema") else encoder
        backbone = convert(path, encoder=asked, heads=HEADS.get(name))
        assert (backbone.family, backbone.encoder) == (spec["family"], encoder)
        assert backbone.coverage.set == backbone.coverage.backbone_tensors == len(backbone.tensors)
        assert backbone.max_abs_diff is not None
        assert set(backbone.max_abs_diff.values()) == {0.0}
        assert all(key.startswith(backbone.architecture.prefix) for key in backbone.tensors)
        # every number of the encoder is in the result once, or its name is among those left behind
        left = {source.replace("module.", "") for source in backbone.coverage.dropped}
        inside = {k: v for k, v in TENSORS[name].items() if k.startswith(root) and k.replace("module.", "") not in left}
        numbers = sum(v.numel() for v in inside.values()) + BEYOND_THE_FILE.get(name, 0)
        assert numbers == sum(a.size for a in backbone.tensors.values())
        bare = convert(save(of_encoder(TENSORS[name], root), tmp_path / "bare.pth"), heads=HEADS.get(name))
        assert all(np.array_equal(bare.tensors[key], array) for key, array in backbone.tensors.items())


@pytest.mark.parametrize("name", ["timm-vit", "transformers-dinov2-file", "timm-swin", "torchvision-convnext"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrapper=st.sampled_from(["", "module.", "_orig_mod.", "_fsdp_wrapped_module."]),
    prefix=st.sampled_from(["", "state_dict.", "model."]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 9999),
)
def test_wrappers_types_and_order_do_not_matter(
    name: str, tmp_path: Path, wrapper: str, prefix: str, dtype: torch.dtype, seed: int
) -> None:
    if network_fixture(name)["encoders"] != {"encoder": ""}:
        pytest.skip("lies below a prefix of its own")
    plain = {k: v.to(dtype) if v.is_floating_point() else v for k, v in TENSORS[name].items()}
    order = np.random.default_rng(seed).permutation(list(plain))
    path = save({f"{prefix}{wrapper}{key}": plain[key] for key in order}, tmp_path / "x.pth")
    backbone, expected = convert(path, verify=False), convert(save(TENSORS[name], tmp_path / "y.pth"), verify=False)
    assert list(backbone.tensors) == list(expected.tensors)
    for key, array in backbone.tensors.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, torch.tensor(expected.tensors[key]).to(dtype).float().numpy())


@pytest.mark.parametrize("form", ["pkl", "pth", "safetensors"])
@pytest.mark.parametrize("name", ["dinov2", "dinov3", "timm-dinov3-swiglu", "timm-swin", "convnextv2"])
def test_files_hold_full_names_and_convert_to_themselves(name: str, form: str, tmp_path: Path) -> None:
    backbone = convert(save(TENSORS[name], tmp_path / "x.pth"))
    file, record = write_backbone(backbone, tmp_path / "d2", [form])
    tensors, sidecar = read_backbone(file)
    assert all(np.array_equal(tensors[key], array) for key, array in backbone.tensors.items())
    assert sidecar is not None
    assert sidecar["config"] == json.loads(json.dumps(backbone.config))
    assert "MODEL.RESNETS.STRIDE_IN_1X1" not in sidecar["config"]
    again = convert(file)
    assert again.family.startswith("detectron2-")
    assert again.architecture == backbone.architecture
    assert all(np.array_equal(again.tensors[key], array) for key, array in backbone.tensors.items())
    if form == "pth":  # Detectron2 would match names by their ends, of which a transformer has many alike
        assert torch.load(file, weights_only=False)["matching_heuristics"] is False
    record.unlink()


def changed(name: str, change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    tensors = dict(TENSORS[name])
    change(tensors)
    return tensors


def rename(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda t: t.update({new: t.pop(old)})


def add(key: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    return lambda t: t.update({key: torch.randn(*shape)})


def lose(key: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda t: t.pop(key)


REFUSED: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], str]] = {
    "a block is missing": (
        "timm-vit",
        lambda t: [t.pop(k) for k in list(t) if k.startswith("blocks.0.") and "norm1.weight" not in k],
        r"of vit_64x2_16 are missing: blocks\.0\.",
    ),
    "a middle block is missing": (
        "timm-vit",
        lambda t: t.update({k.replace("blocks.1.", "blocks.2."): t.pop(k) for k in list(t) if ".1." in k}),
        r"blocks\.1 is missing, though there are blocks\.0 to blocks\.2: this is half a network",
    ),
    "one tensor is missing": ("timm-vit", lose("blocks.1.attn.proj.bias"), "1 of 30 tensors of vit_64x2_16 are"),
    "keys without queries": (
        "transformers-vit", lose("layers.0.attention.q_proj.weight"), r"attn.qkv.weight is there in part only \(k, v\)",
    ),
    "a layer scale in one block only": ("timm-deit3", lose("blocks.1.ls1.gamma"), "ls1.gamma; this is half a network"),
    "the decoder of MAE": (
        "mae", lambda t: [t.pop(k) for k in list(t) if "decoder" not in k], "the decoder of a masked autoencoder",
    ),
    "rotary positions": ("timm-vit", lose("pos_embed"), "its positions are rotary or relative"),
    "rotary and absolute positions": (
        "dinov2", add("rope_embed.periods", 16), "a position embedding beside rotary positions"
    ),
    "EVA-02": ("timm-dinov3", add("pos_embed", 1, 5, 64), r"pos_embed .* \(absolute positions beside rotary ones"),
    "learned rotary positions": ("timm-dinov3", add("rope.freqs", 2, 2, 1, 16), "other rotary positions than DINOv3's"),
    "a rotary ViT without class token": ("timm-dinov3", lose("cls_token"), "attention, whose positions are relative"),
    "DINOv3 without its periods": ("dinov3", lose("rope_embed.periods"), "DINOv3's rotary positions are known by"),
    "periods of no heads": (
        "dinov3", lambda t: t.update({"rope_embed.periods": torch.ones(7)}), "rope_embed.periods is 7, which no heads"
    ),
    "periods of 0": (
        "dinov3", lambda t: t["rope_embed.periods"].fill_(0), "periods are not all above 0: they were never filled in"
    ),
    "a mask of another shape": (
        "dinov3", lambda t: t.update({"blocks.0.attn.qkv.bias_mask": torch.ones(64)}), "its mask have different shapes"
    ),
    "a mask that was never filled": (
        "dinov3", lambda t: t["blocks.1.attn.qkv.bias_mask"].fill_(float("nan")), "bias_mask holds NaN or Inf"
    ),
    "values without queries": ("timm-dinov3-qkvb", lose("blocks.0.attn.q_bias"), r"qkv.bias is there in part only \(v"),
    "half of a gate": ("timm-dinov3-swiglu", lose("blocks.1.mlp.fc1_x.bias"), "in part only \\(gate\\)"),
    "half of a gate in transformers": (
        "transformers-dinov3-file", lose("layer.1.mlp.gate_proj.weight"), r"4 of 34 .* blocks\.1\.mlp\.w12\.weight",
    ),
    "BEiT": ("timm-vit", add("blocks.0.attn.relative_position_bias_table", 9, 1), "relative position biases"),
    "biases of EVA": ("timm-vit", add("blocks.0.attn.q_bias", 64), "biases of queries and values alone"),
    "CLIP of timm": ("timm-vit", add("norm_pre.weight", 64), "a norm before the blocks"),
    "distilled DeiT": ("timm-vit", add("dist_token", 1, 1, 64), "a distillation token"),
    "conv stem": (
        "timm-vit", lambda t: t.update({"patch_embed.proj.0.weight": t["patch_embed.proj.weight"]}), "conv stem",
    ),
    "a fine-tuned detector": ("timm-vit", add("blocks.0.attn.rel_pos_h", 3, 64), "start from the whole detector"),
    "positions of no square": (
        "timm-vit", lambda t: t.update(pos_embed=torch.randn(1, 8, 64)), "8 positions, which are not those",
    ),
    "two sizes of patches": (
        "timm-vit", lambda t: t.update({"patch_embed.proj.weight": torch.randn(64, 3, 16, 14)}), "64x3x16x14, not",
    ),
    "grey images": ("timm-vit", lambda t: t.update({"patch_embed.proj.weight": torch.randn(64, 1, 8, 8)}), "64x1x8x8"),
    "NaN": ("timm-swin", lambda t: t["patch_embed.proj.bias"].fill_(float("nan")), "holds NaN or Inf"),
    "integers": (
        "timm-vit", lambda t: t.update({"norm.weight": torch.ones(64, dtype=torch.int64)}), "not floating point",
    ),
    "never filled": (
        "timm-vit", lambda t: t.update({"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)}), "never filled in",
    ),
    "another width in one layer": (
        "timm-vit", lambda t: t.update({"blocks.1.mlp.fc1.weight": torch.randn(128, 64)}), "128x64 instead of 256x64",
    ),
    "Swin V2": ("swin", add("model.layers.0.blocks.0.attn.logit_scale", 1, 1, 1), r"cosine attention \(Swin V2\)"),
    "absolute positions in Swin": ("swin", add("model.absolute_pos_embed", 1, 256, 16), "an absolute position"),
    "half a Swin": (
        "timm-swin", lambda t: [t.pop(k) for k in list(t) if k.startswith("layers.1.blocks.")], "layers.1.blocks.",
    ),
    "half a ConvNeXt": (
        "convnext", lambda t: [t.pop(k) for k in list(t) if k.startswith("model.stages.2.")], r"stages\.2 is missing",
    ),
    "FCMAE's sparse layers": ("convnext", add("model.stages.0.0.dwconv.kernel", 49, 8), "FCMAE"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_held_is_named(case: str, tmp_path: Path) -> None:
    name, change, message = REFUSED[case]
    tensors = {k: v.clone() for k, v in TENSORS[name].items()}
    change(tensors)
    path = save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        convert(path)


def test_a_refusal_on_the_command_line_is_one_line(tmp_path: Path, run_cli: Any) -> None:
    path = save(changed("timm-vit", lose("blocks.1.norm2.bias")), tmp_path / "x.pth")
    done = run_cli(["convert/to_d2.py", path])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pth"]


def test_teacher_and_student_are_told_apart(tmp_path: Path) -> None:
    path = save(TENSORS["dino"], tmp_path / "x.pth")
    teacher, student = convert(path), convert(path, encoder="student")
    assert not np.array_equal(*(b.tensors["backbone.net.cls_token"] for b in (teacher, student)))
    assert any("the teacher" in note and "--encoder student" in note for note in teacher.notes)


def test_heads_are_those_published_or_said(tmp_path: Path) -> None:
    path = save(TENSORS["timm-vit"], tmp_path / "x.pth")
    assert convert(path).config["MODEL.VIT.NUM_HEADS"] == 1
    assert any(note.startswith("1 attention heads: 64 channels a head") for note in convert(path).notes)
    assert convert(path, heads=4).config["MODEL.VIT.NUM_HEADS"] == 4
    with pytest.raises(UserError, match="say it with --heads, a divisor of 64"):
        convert(path, heads=5)
    with pytest.raises(UserError, match="--heads is for plain ViTs"):
        convert(save(TENSORS["timm-swin"], tmp_path / "s.pth"), heads=3)
    with pytest.raises(UserError, match="cannot be told from a width of 96; say it with --heads"):
        convert(save(TENSORS["dinov2-swiglu"], tmp_path / "g.pth"))


@pytest.mark.parametrize(("width", "heads"), [(384, 12), (768, 12)])
def test_moco_v3s_small_vit_has_twelve_heads(width: int, heads: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=width, depth=1, num_heads=heads, num_classes=0
    )
    state = {f"module.base_encoder.{key}": value for key, value in net.state_dict().items()}
    path = save({**state, **{k.replace("base", "momentum"): v for k, v in state.items()}}, tmp_path / "x.pth")
    assert convert(path).config["MODEL.VIT.NUM_HEADS"] == heads


def test_the_hubs_config_gives_heads_and_epsilon(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(TENSORS["transformers-vit-file"], str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2, "layer_norm_eps": 1e-8}))
    config = convert(tmp_path / "model.safetensors").config
    assert (config["MODEL.VIT.NUM_HEADS"], config["MODEL.VIT.NORM_EPS"]) == (2, 1e-8)
    assert convert(save(TENSORS["transformers-vit-file"], tmp_path / "x.pth")).config["MODEL.VIT.NORM_EPS"] == 1e-12


def test_positions_are_kept_and_said(tmp_path: Path) -> None:
    backbone = convert(save(TENSORS["dinov2"], tmp_path / "x.pth"))
    assert np.array_equal(backbone.tensors["backbone.net.pos_embed"], TENSORS["dinov2"]["pos_embed"].numpy())
    assert backbone.config["MODEL.VIT.PRETRAIN_IMG_SIZE"] == 56
    text = "\n".join(backbone.notes)
    assert "position embedding: a grid of 4 x 4, kept as it is; the detector resamples it" in text
    assert "patches of 14 pixels are kept as they are; a detector here needs patches of 8, 16, 32" in text
    assert "the class token: in the file; ViTDet leaves it out" in text
    registers = convert(save(TENSORS["timm-dinov2-registers"], tmp_path / "y.pth"))
    assert registers.config["MODEL.VIT.PRETRAIN_CLS_TOKEN"] is False
    assert "MODEL.VIT.CLS_TOKEN True MODEL.VIT.REGISTERS 4" in "\n".join(registers.notes)


def test_names_of_resnets_are_refused_for_others(tmp_path: Path, run_cli: Any) -> None:
    path = save(TENSORS["timm-vit"], tmp_path / "x.pth")
    done = run_cli(["convert/to_d2.py", path, "--reverse"])
    assert done.returncode == 2
    assert "holds a vit_64x2_16; torchvision's names are for ResNets only" in done.stderr
