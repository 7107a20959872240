"""Rotary positions: DINOv3's equations, one rotation for the whole image whatever the windows, and timm's blocks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.transfer.engines.backbone_cases import VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.config import default_config
from transfer.engines.torchvision.builder import build_backbone
from transfer.engines.torchvision.model.rope import AxialRope, rotate

ROPE = {
    **VIT,
    "MODEL.VIT.ROPE": True,
    "MODEL.VIT.USE_ABS_POS": False,
    "MODEL.VIT.USE_REL_POS": False,
    "MODEL.VIT.DROP_PATH_RATE": 0.0,
    "MODEL.BACKBONE.SQUARE_PAD": 0,
}
GLOBAL = {**ROPE, "MODEL.VIT.WINDOW_BLOCKS": []}
TOKENS = {"MODEL.VIT.CLS_TOKEN": True, "MODEL.VIT.REGISTERS": 4}
SIZES = [(5, 5), (3, 7)]


def build(settings: dict[str, Any]) -> Any:
    cfg = default_config()
    for key, value in {**COMMON, **settings}.items():
        cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        for block in backbone.net.blocks:
            block.attn.qkv.weight.mul_(20)  # initial weights attend to all places alike
    return backbone


def turned_by_complex_numbers(x: torch.Tensor, size: tuple[int, int], position: int) -> torch.Tensor:
    """The vector of one patch by arXiv:2508.10104 and RoPE's equation 16, as complex numbers, in float64."""
    head = len(x)
    place = [(2 * (index + 0.5) / length - 1) for index, length in zip(divmod(position, size[1]), size)]
    pairs = torch.complex(x[: head // 2].double(), x[head // 2 :].double())
    for channel in range(head // 2):
        axis, number = divmod(channel, head // 4)
        angle = 2 * math.pi * place[axis] / 100 ** (number / (head // 4))
        pairs[channel] *= complex(math.cos(angle), math.sin(angle))
    return torch.cat((pairs.real, pairs.imag))


@pytest.mark.parametrize("size", SIZES)
def test_every_vector_turns_by_the_place_of_its_patch(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 2 + math.prod(size), 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, AxialRope(16)(size, prefix=2))
    assert torch.equal(turned[:, :, :2], x[:, :, :2])  # tokens before the patches have no place
    for position in range(math.prod(size)):
        expected = turned_by_complex_numbers(x[1, 2, 2 + position], size, position)
        torch.testing.assert_close(turned[1, 2, 2 + position].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_table_is_timms(size: tuple[int, int]) -> None:
    layers = pytest.importorskip("timm.layers")
    theirs = layers.RotaryEmbeddingDinoV3(16, feat_shape=None).get_embed(list(size))
    sines, cosines = theirs.chunk(2, dim=-1)
    table = AxialRope(16)(size)
    assert torch.equal(table[:, 0], torch.stack((cosines, sines)))


@pytest.mark.parametrize("size", [(6, 6), (4, 7)])
def test_a_window_sees_the_angles_of_the_whole_image(size: tuple[int, int]) -> None:
    rope = AxialRope(16)
    whole = rope(size)[:, 0].unflatten(1, size)
    windows = rope(size, window=3)
    across = -(-size[1] // 3)
    for number in range(windows.shape[1]):
        top, left = (3 * place for place in divmod(number, across))
        inside = whole[:, top : top + 3, left : left + 3]
        window = windows[:, number].unflatten(1, (3, 3))[:, : inside.shape[1], : inside.shape[2]]
        assert torch.equal(window, inside)
    assert torch.allclose(windows.square().sum(0), torch.ones(()))  # the padding too has angles


def test_one_window_over_the_grid_is_global_attention() -> None:
    """Each window must get its own part of the table: here there is one, and the result is known."""
    windowed = build({**ROPE, "MODEL.VIT.WINDOW_SIZE": 4, "MODEL.VIT.WINDOW_BLOCKS": [0, 1, 2, 3]})
    whole = build(GLOBAL)
    whole.load_state_dict(windowed.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(windowed.net(images)["last_feat"], whole.net(images)["last_feat"])


def test_windows_attend_as_their_queries_and_keys_turned_in_the_whole_image() -> None:
    """The attention of a block in windows, by hand: turn in the image, then take each window apart."""
    backbone = build({**ROPE, "MODEL.VIT.WINDOW_SIZE": 2, "MODEL.VIT.WINDOW_BLOCKS": [0]}).double()
    block, heads, head = backbone.net.blocks[0], 3, 16
    x = torch.randn(1, 4, 6, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = block.norm1(x)
    qkv = block.attn.qkv(y).reshape(24, 3, heads, head)
    turned = torch.stack(
        [torch.stack([turned_by_complex_numbers(qkv[p, part, h], (4, 6), p) for h in range(heads)]) for p in range(24)
         for part in range(2)]
    ).reshape(24, 2, heads, head)  # fmt: skip
    mixed = torch.zeros(4, 6, heads, head, dtype=torch.float64)
    for top in (0, 2):
        for left in (0, 2, 4):
            here = [(top + row) * 6 + left + column for row in range(2) for column in range(2)]
            for h in range(heads):
                logits = turned[here, 0, h] @ turned[here, 1, h].T / head**0.5
                values = logits.softmax(-1) @ qkv[here, 2, h]
                mixed[top : top + 2, left : left + 2, h] = values.reshape(2, 2, head)
    expected = x + block.attn.proj(mixed.flatten(2))[None]
    expected = expected + block.mlp(block.norm2(expected))
    ropes = backbone.net._ropes((4, 6), 0)
    torch.testing.assert_close(block(x, ropes), expected, rtol=0, atol=1e-6)  # the periods are those of float32


@pytest.mark.parametrize("settings", [ROPE, GLOBAL, {**GLOBAL, **TOKENS}], ids=["windows", "global", "tokens"])
def test_fused_attention_equals_the_exact_one(settings: dict[str, Any]) -> None:
    exact, fused = (build({**settings, "ENGINE.ATTENTION": kind}) for kind in ("exact", "fused"))
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fused.net(images)["last_feat"], exact.net(images)["last_feat"], rtol=1e-3, atol=1e-5)


def test_positions_matter() -> None:
    turned, unturned = build(GLOBAL), build({**GLOBAL, "MODEL.VIT.ROPE": False})
    state = {name: value for name, value in turned.state_dict().items() if "rope_embed" not in name}
    unturned.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(turned.net(images)["last_feat"], unturned.net(images)["last_feat"], atol=1e-3)


def test_trains_in_bfloat16_with_recomputed_blocks() -> None:
    backbone = build({**ROPE, "MODEL.VIT.ACT_CHECKPOINT": True}).train()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(images)
    sum(m.float().square().mean() for m in maps.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.grad is not None)
    assert "net.rope_embed.periods" in backbone.state_dict()
    assert not any("periods" in name for name, _ in backbone.named_parameters())
