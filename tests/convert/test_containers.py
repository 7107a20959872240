"""Weights in lists, in subclasses of dict and in objects: read as data, converted, or a second encoder is named."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import assert_equal, random_net, save

FIRST, SECOND = (random_net(label, depth=18, stem=64) for label in "se")
S, E = FIRST.state_dict(), SECOND.state_dict()


class EasyDict(dict):
    """As many configuration packages have one."""


class Ordered(collections.OrderedDict):
    """Pickled with a call, then its items."""


@dataclasses.dataclass
class Average:
    weights: dict[str, torch.Tensor]


class Wrapped(nn.Module):
    """A module in a module, with a tensor as plain attribute, which its state dict does not have."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.stale = torch.zeros(1)


BESIDE: dict[str, tuple[Any, str]] = {
    "a list": ([E], "ema.0"),
    "a tuple": ((E, 5), "ema.0"),
    "a subclass of dict": (EasyDict(E), "ema"),
    "a dataclass": (Average(E), "ema.weights"),
    "a namespace": (argparse.Namespace(net={"state_dict": E}), "ema.net.state_dict"),
    "a module": (SECOND, "ema"),
    "a module inside one": (Wrapped(SECOND), "ema.encoder"),
}


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize("name", BESIDE)
def test_a_second_encoder_in_it_needs_a_choice(name: str, form: bool, tmp_path: Path) -> None:
    content, prefix = BESIDE[name]
    torch.save({"state_dict": S, "ema": content}, tmp_path / "c.pth", _use_new_zipfile_serialization=form)
    with pytest.raises(UserError, match=f"two encoders with different tensors.*--prefix '{prefix}'"):
        convert(tmp_path / "c.pth")
    assert_equal(convert(tmp_path / "c.pth", prefix=prefix, verify=False), E)


WHOLE: dict[str, Any] = {
    "a subclass of dict": EasyDict(S),
    "an ordered one": {"state_dict": Ordered(S)},
    "a module": FIRST,
    "a module in a dict": {"model": FIRST, "epoch": 3},
    "Fabric's names": {"model": {f"_forward_module.{key}": value for key, value in S.items()}},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_in_it_is_converted(name: str, tmp_path: Path) -> None:
    converted = convert(save(WHOLE[name], tmp_path / "c.pth"))
    assert_equal(converted, S)
    assert converted.coverage.dropped == ()


def test_what_lies_beside_a_tuples_dict_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--prefix '1.0'"):
        convert(save((S, [E]), tmp_path / "c.pth"))  # type: ignore[arg-type]


def test_a_plain_attribute_of_a_module_is_no_weight(tmp_path: Path) -> None:
    """Pruning and spectral norm leave the last product beside the parameter that makes it."""
    net = random_net("p", depth=18, stem=64)
    weight = net.conv1._parameters.pop("weight")
    net.conv1.register_parameter("weight_orig", weight)
    net.conv1.weight = torch.zeros(64, 3, 7, 7)  # type: ignore[assignment]
    with pytest.raises(UserError):
        convert(save({"model": net}, tmp_path / "c.pth"))


@pytest.mark.parametrize("view", [torch._neg_view, lambda x: torch.complex(x, x).conj()])
def test_a_view_that_changes_its_numbers_is_not_read_without_it(view: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conv1\.weight holds a view that changes its storage \((neg|conj)"):
        convert(save({**S, "conv1.weight": view(S["conv1.weight"])}, tmp_path / "c.pth"))


def test_a_repeated_number_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"repeats few numbers many times \(expand\): save it with .contiguous"):
        convert(save({**S, "bn1.weight": torch.ones(1).expand(64)}, tmp_path / "c.pth"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x.to("meta"), r"a tensor without numbers \(device meta\)"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "a quantised tensor"),
    ],
)
def test_a_tensor_without_its_numbers_is_named(change: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"conv1\.weight holds {kind}, not floating point weights"):
        convert(save({**S, "conv1.weight": change(S["conv1.weight"])}, tmp_path / "c.pth"))


def test_a_single_tensor_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a single tensor without a name, not a checkpoint"):
        convert(save(S["conv1.weight"], tmp_path / "c.pth"))  # type: ignore[arg-type]


@pytest.mark.parametrize("extra", ["conv1.weight", "another.weight"])
def test_a_shard_holds_what_its_index_says(extra: str, tmp_path: Path) -> None:
    files = {"a.bin": {"conv1.weight": S["conv1.weight"]}, "b.bin": {k: S[k] for k in S if k != "conv1.weight"}}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {key: file for file, part in files.items() for key in part}}))
    for file, part in files.items():
        torch.save(part, tmp_path / file)
    assert_equal(convert(index, verify=False), S)
    torch.save({**files["b.bin"], extra: S["conv1.weight"] + 1}, tmp_path / "b.bin")
    with pytest.raises(UserError, match=f"tensors that its weight_map does not name there: {extra}"):
        convert(index)
