"""What no tensor shows: heads, epsilons, activations, pooling. Said by a config, known of a width, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.conversion import convert
from convert.convnext import infer as infer_convnext
from convert.preprocessing import PREPROCESSING
from convert.vit import infer as infer_vit
from convert.vit_spellings import norm_eps
from runtime.errors import UserError
from tests.convert.checkpoints import in_layout, random_net, save
from tests.convert.makers import SMALL_HF, randomise
from tests.convert.networks import random_tensors

RESNET = random_net("s", depth=18, stem=64).state_dict()


def shapes_of_timm(name: str) -> tuple[dict[str, tuple[int, ...]], Any]:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        net = timm.create_model(name, depth=1)
    return {key.replace("reg_token", "register_tokens"): tuple(v.shape) for key, v in net.state_dict().items()}, net


@pytest.mark.parametrize(
    "name",
    ["vit_so400m_patch14_siglip_224", "vit_gigantic_patch14_224", "vit_giant_patch14_224", "vit_tiny_patch16_224"],
)
def test_heads_of_published_widths(name: str) -> None:
    shapes, net = shapes_of_timm(name)
    assert infer_vit(shapes).heads == net.blocks[0].attn.num_heads


@pytest.mark.parametrize("name", ["vit_so400m_patch16_siglip_256", "vit_giantopt_patch16_siglip_gap_256"])
def test_gelu_by_tanh_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="SigLIP 2, which computes GELU by tanh"):
        infer_vit(shapes_of_timm(name)[0])


def test_a_convnext_of_another_epsilon_is_refused() -> None:
    shapes = {
        f"stages.{s}.{b}.dwconv.weight": (384 << s, 1, 7, 7) for s, n in enumerate((3, 4, 30, 3)) for b in range(n)
    }
    with pytest.raises(UserError, match="convnext_xxlarge, whose norms have epsilon 1e-5"):
        infer_convnext(shapes)


@pytest.mark.parametrize(
    ("model", "config", "options"),
    [
        ("ViTModel", "ViTConfig", {}),
        ("Dinov2Model", "Dinov2Config", {"patch_size": 16}),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"patch_size": 16}),
        ("IJepaModel", "IJepaConfig", {}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_epsilon_is_that_of_the_maker(
    model: str, config: str, options: dict[str, int], prefix: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, config)(**SMALL_HF, **options)
    state = randomise(getattr(transformers, model)(settings)).state_dict()
    path = save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "x.pth")
    converted = convert(path, heads=2, prefix=prefix or None)
    assert converted.config["MODEL.VIT.NORM_EPS"] == settings.layer_norm_eps


HUB: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
    "blurred pooling": (RESNET, {"architecture": "resnetblur18"}, "a resnetblur18, which blurs"),
    "averaged pixels": (RESNET, {"architecture": "resnetaa50"}, "a resnetaa50, which averages"),
    "norms after": (
        random_tensors("timm-vit"),
        {"architecture": "vit_base_patch16_rpn_224"},
        "norms after each branch",
    ),
    "an argument": (RESNET, {"architecture": "resnet18", "model_args": {"aa_layer": "avg"}}, "built with aa_layer"),
    "activation of a ViT": (random_tensors("transformers-vit-file"), {"hidden_act": "quick_gelu"}, "'quick_gelu'"),
    "activation of a Swin": (random_tensors("transformers-swin-file"), {"hidden_act": "gelu_new"}, "'gelu_new'"),
    "a gate of GELU": (
        random_tensors("transformers-dinov3-file"),
        {"hidden_act": "gelu", "use_gated_mlp": True},
        "hidden_act 'gelu'.* computes silu",
    ),
    "a network without gates": (
        random_tensors("transformers-dinov3"),
        {"hidden_act": "silu", "use_gated_mlp": False},
        "hidden_act 'silu'.* computes gelu",
    ),
    "other rotary positions": (random_tensors("timm-dinov3"), {"model_args": {"rope_type": "cat"}}, "with rope_type"),
    "epsilon of a Swin": (random_tensors("transformers-swin-file"), {"layer_norm_eps": 1e-6}, "layer_norm_eps 1e-06"),
}


@pytest.mark.parametrize("name", HUB)
def test_the_config_of_a_hub_is_heard(name: str, tmp_path: Path) -> None:
    state, config, message = HUB[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json says.*{message}"):
        convert(save(state, tmp_path / "pytorch_model.bin"))
    convert(save(state, tmp_path / "other.pth"))  # beside another file it may belong to something else


def test_the_hubs_config_gives_the_base_of_rotary_positions(tmp_path: Path) -> None:
    usual = {"model_type": "dinov3_vit", "num_attention_heads": 2, "hidden_act": "silu", "use_gated_mlp": True}
    found = []
    for theta in (100.0, 50.0):
        (tmp_path / "config.json").write_text(json.dumps({**usual, "rope_theta": theta}))
        backbone = convert(save(random_tensors("transformers-dinov3-file"), tmp_path / "pytorch_model.bin"))
        assert any(note.endswith(f"computed with base {theta:g}") for note in backbone.notes)
        found.append(backbone.tensors["backbone.net.rope_embed.periods"])
    exponents = np.arange(8) / 8  # of heads of 32 channels
    np.testing.assert_allclose(found, [100**exponents, 50**exponents], rtol=1e-6)
    for theta in ("x", 0, True, float("inf")):
        (tmp_path / "config.json").write_text(json.dumps({**usual, "rope_theta": theta}))
        with pytest.raises(UserError, match="rope_theta .* not a base of periods"):
            convert(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    "model",
    ["vit_small_patch16_dinov3", "vit_huge_plus_patch16_dinov3", "vit_7b_patch16_dinov3", "vit_giant_patch16_lingbot"],
)
def test_heads_and_epsilon_of_rotary_networks(model: str) -> None:
    shapes, net = shapes_of_timm(model)
    renames = {"gamma_": "ls", "fc1_g": "gate", "fc1_x": "up"}
    for old, new in renames.items():
        shapes = {key.replace(old, new): shape for key, shape in shapes.items()}
    assert infer_vit(shapes, rotary=True).heads == net.blocks[0].attn.num_heads
    assert norm_eps(shapes, rotary=True) == net.norm.eps


def test_the_satellite_weights_have_a_normalisation_of_their_own(tmp_path: Path) -> None:
    """facebookresearch/dinov3, README: mean (0.430, 0.411, 0.296), std (0.213, 0.156, 0.143)."""
    state = random_tensors("dinov3")
    asked = convert(save(state, tmp_path / "x.pth"), preprocessing=PREPROCESSING["satellite"], verify=False)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.430, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]})
    )
    beside = convert(save(random_tensors("transformers-dinov3"), tmp_path / "pytorch_model.bin"), verify=False)
    assert asked.preprocessing == beside.preprocessing
    assert asked.config["MODEL.PIXEL_MEAN"] == [109.65, 104.805, 75.48]


def test_the_usual_config_of_a_hub_changes_nothing(tmp_path: Path) -> None:
    for state, config in (
        (RESNET, {"architecture": "resnet18", "model_args": {}, "pretrained_cfg": {"tag": "a1_in1k"}}),
        ({in_layout(k, "huggingface"): v for k, v in RESNET.items()}, {"hidden_act": "relu"}),
        (random_tensors("transformers-swin-file"), {"hidden_act": "gelu", "layer_norm_eps": 1e-05}),
        (random_tensors("transformers-dinov3-file"), {"hidden_act": "silu", "use_gated_mlp": True}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        convert(save(state, tmp_path / "pytorch_model.bin"))


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("transformers-vit", "embeddings.detection_tokens"),
        ("transformers-vit", "embeddings.distillation_token"),
        ("timm-vit", "prompt_embeddings"),
        ("timm-vit", "merger.norm.weight"),
    ],
)
def test_tokens_and_positions_of_other_networks_are_named(name: str, token: str, tmp_path: Path) -> None:
    tensors = random_tensors(name)
    assert convert(save(tensors, tmp_path / "x.pth"), verify=False).coverage.dropped is not None
    with pytest.raises(UserError, match=f"{token} is not a tensor of Detectron2's ViT"):
        convert(save({**tensors, token: torch.randn(1, 1, 64)}, tmp_path / "y.pth"))
