"""Checkpoints of every family, built from tests/fixtures/families/*.json: real key layouts, narrow networks."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from convert.backbone import Backbone
from convert.backbone_file import read_backbone
from convert.conversion import convert
from runtime.errors import UserError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "families"
NAMES = sorted(p.stem for p in FIXTURES.glob("*.json"))


class Reduce:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


class NarrowResNet(ResNet):
    """torchvision's ResNet with any stem width; torchvision itself fixes it at 64."""

    def __init__(self, depth: int = 50, stem: int = 8, width_per_group: int = 64, groups: int = 1) -> None:
        nn.Module.__init__(self)
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
        block = BasicBlock if depth < 50 else Bottleneck
        self._norm_layer, self.dilation = nn.BatchNorm2d, 1
        self.inplanes, self.groups, self.base_width = stem, groups, width_per_group
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(stem), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        for index, count in enumerate(blocks):
            layer = self._make_layer(block, stem << index, count, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", layer)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Identity()


def random_net(label: str = "q", **arguments: Any) -> ResNet:
    """A narrow ResNet whose content depends on ``label``, no BN at its defaults."""
    torch.manual_seed(sum(map(ord, label)))
    return randomise(NarrowResNet(**arguments))


def randomise(net: ResNet) -> ResNet:
    """Give every BN statistics, scale, shift and counter that are not its defaults; eval mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
            module.num_batches_tracked.fill_(7)
    return net.eval()


def fixture(name: str) -> dict[str, Any]:
    """One family's key layout."""
    return json.loads((FIXTURES / f"{name}.json").read_text())


def build(spec: dict[str, Any], **arguments: Any) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """A checkpoint of layout ``spec`` and, by encoder name, the torchvision state dict that conversion must find."""
    top = {k: argparse.Namespace(lr=0.03, arch="resnet50") if v == "$namespace" else v for k, v in spec["top"].items()}
    states: dict[str, dict[str, torch.Tensor]] = {}
    for net in spec["nets"]:
        state = states.setdefault(net["label"], random_net(net["label"], **arguments).state_dict())
        target = _at(top, net["at"])
        for name, value in state.items():
            if any(d in name for d in net.get("drop", [])) or not any(o in name for o in net.get("only", [""])):
                continue
            target[net["prefix"] + in_layout(name, net.get("layout", "torchvision"))] = value
    for place, tensors in spec["others"].items():
        _at(top, place).update({k: torch.randn([min(n, 16) for n in shape]) for k, shape in tensors.items()})
    return top, {encoder: states[label] for encoder, label in spec["encoders"].items()}


def with_variant(spec: dict[str, Any], variant: list[list[str]]) -> dict[str, Any]:
    """``spec`` with its first network elsewhere."""
    spec = copy.deepcopy(spec)
    for key, value in variant:
        spec["nets"][0][key] = value
    return spec


def save(checkpoint: dict[str, Any], path: Path, form: str = "torch") -> Path:
    """Write ``checkpoint`` as that family's files are written."""
    if form == "torch":
        torch.save(checkpoint, path)
    elif form == "safetensors":
        save_file({k: v.contiguous() for k, v in checkpoint.items()}, path)
    else:
        path.write_bytes(pickle.dumps(_numpy(checkpoint), protocol=2))
    return path


def _numpy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _numpy(v) for k, v in value.items()}
    return np.asarray(value) if isinstance(value, torch.Tensor) else value


def _at(top: dict[str, Any], place: str) -> dict[str, Any]:
    for part in filter(None, place.split("/")):
        top = top.setdefault(part, OrderedDict())
    return top


def in_layout(name: str, layout: str) -> str:
    """A torchvision name in another scheme, by rules written apart from the converter's."""
    if layout == "sequential":
        name = re.sub(r"^layer(\d)", lambda m: str(int(m[1]) + 3), name)
        return re.sub(r"^bn1", "1", re.sub(r"^conv1", "0", name))
    if layout == "block list":
        name = re.sub(r"^layer(\d)", r"\1", name)
        return re.sub(r"^bn1", "0.bn", re.sub(r"^conv1", "0.Conv", name))
    if layout == "huggingface":
        name = re.sub(r"^conv1", "embedder.embedder.convolution", name)
        name = re.sub(r"^bn1", "embedder.embedder.normalization", name)
        name = re.sub(r"^layer(\d)\.(\d+)", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}", name)
        name = re.sub(r"\.conv(\d)", lambda m: f".layer.{int(m[1]) - 1}.convolution", name)
        name = re.sub(r"\.bn(\d)", lambda m: f".layer.{int(m[1]) - 1}.normalization", name)
        return name.replace("downsample.0", "shortcut.convolution").replace("downsample.1", "shortcut.normalization")
    if layout == "detectron2":
        name = name if name.startswith("layer") else f"stem.{name}"
        name = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    if layout == "simclr v2":
        name = re.sub(r"^bn1", "net.0.1.0", re.sub(r"^conv1", "net.0.0", name))
        name = re.sub(r"^layer(\d)\.(\d+)\.", r"net.\1.blocks.\2.", name)
        name = re.sub(r"\.conv(\d)", lambda m: f".net.{2 * int(m[1]) - 2}", name)
        name = re.sub(r"\.bn(\d)", lambda m: f".net.{2 * int(m[1]) - 1}.0", name)
        return name.replace("downsample.0", "projection.shortcut").replace("downsample.1", "projection.bn.0")
    return _caffe2(name, layout) if layout.startswith("caffe2") else name


def _caffe2(name: str, layout: str) -> str:
    fields = {"weight": "gamma", "bias": "beta"}
    if layout == "caffe2 blobs":
        fields = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    parts = name.split(".")
    field = parts.pop()
    is_norm = parts[-1].startswith("bn") or parts[-2:] == ["downsample", "1"]
    suffix = f"_bn_{fields.get(field, field)}" if is_norm else "_w"
    if not parts[0].startswith("layer"):
        return f"res_conv1{suffix}" if is_norm else f"conv1{suffix}"
    branch = "1" if parts[2] == "downsample" else "2" + "abc"[int(parts[2][-1]) - 1]
    return f"res{int(parts[0][-1]) + 1}_{parts[1]}_branch{branch}{suffix}"


def random_resnet(arch: str, seed: int = 0, **arguments: Any) -> torch.nn.Module:
    """A full-size torchvision ResNet whose BN statistics and affine parameters are not the defaults."""
    torch.manual_seed(seed)
    return randomise(torchvision.models.get_model(arch, **arguments))


def official_rule(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the published MoCo converter does: encoder_q only, stem.* for what is in no layer, res = layer + 1."""
    found = {}
    for key, value in state.items():
        if key.startswith("module.encoder_q."):
            name = key.split("encoder_q.")[1]
            name = name if name.startswith("layer") else f"stem.{name}"
            for n in (4, 3, 2, 1):
                name = name.replace(f"layer{n}", f"res{n + 1}")
                name = name.replace(f"bn{n}", f"conv{n}.norm")
            found[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = value.numpy()
    return found


def assert_equal(backbone: Backbone, state: dict[str, torch.Tensor]) -> None:
    """Whether the converted tensors are those of ``state``, a state dict in torchvision's names."""
    expected = {in_layout(k, "detectron2"): v.numpy() for k, v in state.items()}
    expected = {k: v for k, v in expected.items() if k in backbone.tensors or "num_batches" not in k}
    assert set(backbone.tensors) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(array, backbone.tensors[name]), name


def refused(path: Path, match: str | None = None) -> str:
    """The one-line message that both readers give."""
    with pytest.raises(UserError, match=match) as caught:
        convert(path)
    with pytest.raises(UserError):
        read_backbone(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)
