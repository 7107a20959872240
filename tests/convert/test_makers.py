"""Transformers and ConvNeXts: the maker's network and the detector's with converted weights give the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.conversion import convert
from tests.convert.detector_features import difference
from tests.convert.makers import MAKERS


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
    assert difference(maker, net, backbone) <= maker.rounding
