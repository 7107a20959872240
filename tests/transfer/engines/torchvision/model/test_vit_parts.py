"""Parts of a ViT that Detectron2 lacks or cannot run here: SwiGLU, the last norm, recomputed blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.transfer.engines.backbone_cases import CONVNEXT, SWIN, VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.config import default_config
from transfer.engines.torchvision.builder import build_backbone

RECOMPUTED = {
    "MODEL.VIT.ACT_CHECKPOINT": {**VIT, "MODEL.VIT.RESIDUAL_BLOCKS": [1]},
    "MODEL.SWIN.ACT_CHECKPOINT": SWIN,
    "MODEL.CONVNEXT.ACT_CHECKPOINT": CONVNEXT,
}


def build(settings: dict[str, Any]) -> Any:
    cfg = default_config()
    for key, value in {**COMMON, **settings}.items():
        cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    return build_backbone(cfg).train()


@pytest.mark.parametrize("key", RECOMPUTED)
def test_recomputed_blocks_have_the_same_outputs_and_gradients(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.checkpoint as checkpointing

    calls: list[Any] = []
    original = checkpointing.checkpoint

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args[0])
        return original(*args, **options)

    monkeypatch.setattr(checkpointing, "checkpoint", counted)
    for name in ("vit", "swin", "convnext"):
        module = __import__(f"transfer.engines.torchvision.model.{name}", fromlist=["checkpoint"])
        if hasattr(module, "checkpoint"):
            monkeypatch.setattr(module, "checkpoint", counted)
    found = []
    for on in (False, True):
        backbone = build({**RECOMPUTED[key], key: on})
        images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
        torch.manual_seed(1)  # of the drop path, which is drawn again as it was
        maps = backbone(images)
        sum(m.square().mean() for m in maps.values()).backward()
        found.append((maps, {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}))
        assert bool(calls) == on
    for ours, theirs in zip(*found):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_swiglu_is_a_gated_silu_of_two_thirds_of_the_width() -> None:
    backbone = build({**VIT, "MODEL.VIT.FEED_FORWARD": "swiglu", "MODEL.VIT.MLP_RATIO": 4.0})
    mlp = backbone.net.blocks[0].mlp
    assert tuple(mlp.w12.weight.shape) == (2 * 128, 48)  # two thirds of 192
    x = torch.randn(2, 5, 48, dtype=torch.float64)
    double = mlp.double()
    both = x @ double.w12.weight.T + double.w12.bias
    gate, value = both[..., :128], both[..., 128:]
    torch.testing.assert_close(double(x), (gate * torch.sigmoid(gate) * value) @ double.w3.weight.T + double.w3.bias)


def test_the_last_norm_is_over_channels() -> None:
    plain = {**VIT, "MODEL.VIT.DROP_PATH_RATE": 0.0, "MODEL.VIT.NORM_EPS": 1e-3}
    with_norm, without = build({**plain, "MODEL.VIT.FINAL_NORM": True}), build({**plain, "MODEL.VIT.FINAL_NORM": False})
    state = {name: value for name, value in with_norm.state_dict().items() if name in without.state_dict()}
    without.load_state_dict(state)
    images = torch.randn(1, 3, 128, 128)
    normed, bare = (next(iter(b.net(images).values())) for b in (with_norm, without))
    expected = F.layer_norm(bare.permute(0, 2, 3, 1), (48,), eps=1e-3).permute(0, 3, 1, 2)
    torch.testing.assert_close(normed, expected, rtol=1e-4, atol=1e-5)
