"""Tensors of a shape that no maker writes: scalars, placeholders, dimensions too many."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import assert_equal, random_net, save
from tests.convert.networks import random_tensors

RESNET = random_net("s", depth=18, stem=64).state_dict()
NETWORKS = ("transformers-vit", "timm-swin", "timm-convnextv2")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strange", ["scalar", "empty", "a dimension more", "flat"])
def test_no_tensor_of_a_network_may_have_it(name: str, strange: str, tmp_path: Path) -> None:
    """One tensor of each kind in turn; the forward passes never see what does not fit."""
    tensors = random_tensors(name)
    plain = convert(save(tensors, tmp_path / "x.pth"), verify=False)
    kinds = {re.sub(r"\d+", "", key): key for key in tensors if key not in plain.coverage.dropped}
    for key in kinds.values():
        other = {
            "scalar": torch.tensor(1.0),
            "empty": torch.empty(0),
            "a dimension more": tensors[key][None],
            "flat": torch.cat([tensors[key].flatten(), torch.ones(1)]),
        }[strange]
        with pytest.raises(UserError) as caught:
            convert(save({**tensors, key: other}, tmp_path / "y.pth"))
        assert str(caught.value).count("\n") == 0
        if strange == "scalar":
            assert f"{key} is a single number" in str(caught.value)


@pytest.mark.parametrize("state", [RESNET, random_tensors("timm-vit"), random_tensors("timm-swin")])
def test_placeholders_of_a_sharded_training_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    empty = {"module": {key: torch.empty(0) for key in state}}
    with pytest.raises(UserError, match=r"is empty: its numbers are not in this file.*zero_to_fp32\.py"):
        convert(save(empty, tmp_path / "x.pth"))


def test_a_counter_is_one_number(tmp_path: Path) -> None:
    key = "layer1.0.bn1.num_batches_tracked"
    assert_equal(convert(save({**RESNET, key: torch.tensor([7])}, tmp_path / "x.pth")), RESNET)
    for counter in (torch.tensor([1, 2]), torch.empty(0)):
        with pytest.raises(UserError, match=f"{key} (holds 2 numbers|is empty)"):
            convert(save({**RESNET, key: counter}, tmp_path / "y.pth"))


def test_the_forms_of_makers_are_one_tensor(tmp_path: Path) -> None:
    """timm has 1x1 convolutions or linear layers, torchvision C x 1 x 1 factors, the authors 1 x 1 x 1 x C ones."""
    tensors = random_tensors("timm-convnextv2")
    expected = convert(save(tensors, tmp_path / "x.pth"))
    other = {k: v[..., None, None] if k.endswith(("fc1.weight", "fc2.weight")) and v.ndim == 2 else v
             for k, v in tensors.items()}  # fmt: skip
    other |= {k: v[None, None, None] for k, v in tensors.items() if ".grn." in k}
    converted = convert(save(other, tmp_path / "y.pth"))
    assert all(np.array_equal(converted.tensors[key], array) for key, array in expected.tensors.items())
