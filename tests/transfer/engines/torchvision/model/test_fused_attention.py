"""ENGINE.ATTENTION fused: the results and gradients of the exact operations up to rounding, in both types."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.transfer.engines.backbone_cases import SWIN, VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.config import default_config
from transfer.engines.torchvision.builder import build_backbone

CASES = {
    "windows": VIT,
    "no windows": {**VIT, "MODEL.VIT.WINDOW_BLOCKS": []},
    "absolute positions only": {**VIT, "MODEL.VIT.USE_REL_POS": False},
    "drawn positions": {**VIT, "MODEL.VIT.REL_POS_ZERO_INIT": False},
    "swin": SWIN,
    "swin, absolute": {**SWIN, "MODEL.SWIN.USE_ABS_POS": True, "MODEL.SWIN.PRETRAIN_IMG_SIZE": 64},
}


def outputs(settings: dict[str, Any], attention: str, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
    """The maps of a backbone in training, and the gradients of their sum of squares."""
    cfg = default_config()
    for key, value in {**COMMON, **settings, "ENGINE.ATTENTION": attention}.items():
        cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    backbone = build_backbone(cfg).train()
    images = torch.randn(2, 3, 128, 128)
    torch.manual_seed(1)  # of the drop path
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        maps = backbone(images)
    sum(m.float().square().mean() for m in maps.values()).backward()
    return maps, {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_exact_operations_up_to_rounding(name: str) -> None:
    exact, fused = (outputs(CASES[name], kind, torch.float32) for kind in ("exact", "fused"))
    assert exact[1].keys() == fused[1].keys()
    for ours, theirs in zip(fused, exact):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_trains_in_bfloat16(name: str) -> None:
    (exact, _), (fused, gradients) = (outputs(CASES[name], kind, torch.bfloat16) for kind in ("exact", "fused"))
    for key, value in exact.items():
        torch.testing.assert_close(fused[key].float(), value.float(), rtol=0.1, atol=0.1)
    assert all(torch.isfinite(value).all() for value in gradients.values())
