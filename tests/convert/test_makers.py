"""Transformers and ConvNeXts: the maker's network and the detector's with converted weights give the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.conversion import convert
from convert.rotary_periods import rotary_periods
from tests.convert.detector_features import detector_network, difference
from tests.convert.makers import MAKERS
from tests.convert.networks import random_tensors


@pytest.mark.parametrize("name", MAKERS)
def test_features_equal_the_makers(name: str, tmp_path: Path) -> None:
    maker = MAKERS[name]
    net = maker.build()
    torch.save(net.state_dict(), tmp_path / "x.pth")
    backbone = convert(tmp_path / "x.pth", heads=maker.heads)
    assert (backbone.family, backbone.architecture.name) == (maker.family, maker.name)
    assert backbone.coverage.set == backbone.coverage.backbone_tensors
    assert all(source.startswith(maker.dropped) for source in backbone.coverage.dropped), backbone.coverage.dropped
    assert backbone.max_abs_diff is not None
    assert set(backbone.max_abs_diff.values()) == {0.0}
    sizes = [None, (96, 160), (112, 48)] if maker.any_size else [None]
    assert [size for size in sizes if difference(maker, net, backbone, size) > maker.rounding] == []


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("dinov3", "vit_small_patch16_dinov3_qkvb"),
        ("dinov3-swiglu", "vit_small_plus_patch16_dinov3_qkvb"),
        ("dinov3-unbiased", "vit_7b_patch16_dinov3"),
    ],
)
def test_an_official_dinov3_is_what_timm_makes_of_it(name: str, model: str, tmp_path: Path) -> None:
    """timm's own reader of the authors' files is the oracle; it computes the periods and drops the bias of keys."""
    eva = pytest.importorskip("timm.models.eva")
    timm = pytest.importorskip("timm")
    timm.layers.set_fused_attn(False)
    net = timm.create_model(model, embed_dim=64, depth=2, num_heads=1).eval()
    state = random_tensors(name) | {"rope_embed.periods": torch.tensor(rotary_periods(64))}
    torch.save(state, tmp_path / "x.pth")
    net.load_state_dict(eva.checkpoint_filter_fn(state, net))
    backbone = convert(tmp_path / "x.pth")
    assert not any("attention heads" in note for note in backbone.notes)  # the periods show them
    maker = MAKERS["timm DINOv3"]
    assert [difference(maker, net, backbone, size) for size in ((64, 64), (80, 176))] == [0.0, 0.0]


def test_the_periods_of_the_file_are_the_detectors(tmp_path: Path) -> None:
    """The released files hold them rounded to bfloat16, and the authors' network computes with those."""
    found = []
    for rounded in (False, True):
        periods = torch.tensor(rotary_periods(64))
        state = random_tensors("dinov3") | {"rope_embed.periods": periods.bfloat16() if rounded else periods}
        torch.save(state, tmp_path / "x.pth")
        network = detector_network(convert(tmp_path / "x.pth"))
        assert torch.equal(network.rope_embed.periods, periods.bfloat16().float() if rounded else periods)
        with torch.no_grad():
            found.append(network(torch.ones(1, 3, 64, 96).cumsum(3) / 50)["last_feat"])
    assert 0 < float((found[0] - found[1]).abs().max()) < 0.5
