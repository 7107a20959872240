"""What lies beside the weights: objects, tensors of other types, other files, and other ways to store them."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.conversion import convert
from runtime.atomic import sha256_file
from runtime.errors import UserError
from tests.convert.checkpoints import Reduce, assert_equal, in_layout, random_net, save

STATE = random_net("s", depth=18, stem=64).state_dict()


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    layers: tuple[int, ...] = (1, 2)


class HistoryBuffer:
    """As mmengine's: pickled by its class with a state that calls ``getattr`` on the class."""

    def __init__(self) -> None:
        self.statistics = {"min": Reduce(getattr, HistoryBuffer, "min"), "mean": Reduce(getattr, HistoryBuffer, "mean")}

    def min(self) -> None:
        raise AssertionError("the converter called it")

    mean = min

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("the converter imported it")


OBJECTS = {
    "mmengine's message hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
    "partial": functools.partial(torch.nn.functional.relu, inplace=True),
    "module": torch.nn.ReLU(),
    "dataclass": Settings(),
    "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 3),
    "numpy scalar": np.float64(1.5),
    "random state": np.random.default_rng(0).bit_generator.state,
    "set": {1, "two", frozenset({3})},
    "range": range(3),
    "complex": 1j,
    "strings": np.array(["a", "bc"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "dtype": torch.float8_e4m3fn,
    "keys": {(1, 2): 3, 4: 5, None: 6, b"k": 7},
}


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_the_weights_are_not_imported(name: str, form: str, tmp_path, monkeypatch) -> None:
    content = {"state_dict": STATE, "other": OBJECTS[name]}
    path = tmp_path / "c.pth"
    if form == "pickle":
        content["state_dict"] = {k: v.numpy() for k, v in STATE.items()}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    monkeypatch.delattr(f"{__name__}.Settings", raising=False)
    monkeypatch.setattr(pickle, "loads", None)
    assert_equal(convert(path, verify=False), STATE)


OTHER_TENSORS = {
    "float8": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    "uint16": lambda: torch.zeros(3).to(torch.uint16),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "parameter": lambda: torch.nn.Parameter(torch.ones(3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHER_TENSORS)
def test_tensors_of_other_types_beside_the_weights(name: str, tmp_path) -> None:
    path = save({"state_dict": STATE, "other": OTHER_TENSORS[name]()}, tmp_path / "c.pth")
    assert_equal(convert(path, verify=False), STATE)
    needed = save({**STATE, "layer1.0.conv1.weight": OTHER_TENSORS[name]()}, tmp_path / "d.pth")
    with pytest.raises(UserError):
        convert(needed)


def test_tensors_of_other_types_in_safetensors(tmp_path) -> None:
    for name in ("float8", "uint16"):
        save_file({**STATE, "other": OTHER_TENSORS[name]()}, tmp_path / "c.safetensors")
        assert_equal(convert(tmp_path / "c.safetensors", verify=False), STATE)
        weight = STATE["layer1.0.conv1.weight"].to(OTHER_TENSORS[name]().dtype)
        save_file({**STATE, "layer1.0.conv1.weight": weight}, tmp_path / "d.safetensors")
        with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight holds .*, not floating point weights"):
            convert(tmp_path / "d.safetensors")


@pytest.mark.parametrize("content", [[STATE], (STATE, 7), [{"state_dict": STATE}, None], ("name", STATE, [1, 2])])
def test_a_list_with_one_dict_is_that_dict(content: Any, tmp_path) -> None:
    assert_equal(convert(save(content, tmp_path / "c.pth"), verify=False), STATE)


def test_a_list_of_two_needs_a_choice(tmp_path) -> None:
    path = save([STATE, random_net("other", depth=18, stem=64).state_dict()], tmp_path / "c.pth")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"There is a ResNet at 0\.\*, 1\.\*: take it with --prefix '0'"):
        convert(path)
    assert_equal(convert(path, prefix="0", verify=False), STATE)


@pytest.mark.parametrize("prefix", ["features.", "encoder.", "f.", "", "net.trunk."])
def test_a_sequential_resnet_is_found_under_any_prefix(prefix: str, tmp_path) -> None:
    path = save({f"{prefix}{in_layout(k, 'sequential')}": v for k, v in STATE.items()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=f"There is a ResNet at .*: take it with --prefix '{prefix.rstrip('.')}'"):
        convert(path)
    assert_equal(convert(path, prefix=prefix, verify=False), STATE)


def test_a_vgg_is_still_one(tmp_path) -> None:
    path = save({"features.0.weight": torch.zeros(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="VGG or AlexNet"):
        convert(path)


def test_activation_checkpointing_and_fsdp_names(tmp_path) -> None:
    state = {
        f"_fsdp_wrapped_module.{k.replace('.conv', '._checkpoint_wrapped_module.conv')}": v for k, v in STATE.items()
    }
    assert_equal(convert(save(state, tmp_path / "c.pth"), verify=False), STATE)


def shards(folder: Path) -> dict[str, Any]:
    """STATE in two safetensors files, and their index."""
    names = list(STATE)
    parts = {"model-1-of-2.safetensors": names[:50], "model-2-of-2.safetensors": names[50:]}
    for file, part in parts.items():
        save_file({name: STATE[name] for name in part}, folder / file)
    return {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}


def test_sharded_safetensors(tmp_path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    content = shards(tmp_path)
    index.write_text(json.dumps(content))
    backbone = convert(index)
    assert_equal(backbone, STATE)
    assert backbone.source_sha256 != sha256_file(index)
    first = tmp_path / "model-1-of-2.safetensors"
    changed = {name: tensor + 1 for name, tensor in STATE.items() if content["weight_map"][name] == first.name}
    save_file(changed, first)
    assert convert(index).source_sha256 != backbone.source_sha256
    first.unlink()
    with pytest.raises(UserError, match=r"shard model-1-of-2\.safetensors cannot be read: No such file"):
        convert(index)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "sub/x", "", "other.index.json", ".."])
def test_a_shard_lies_beside_its_index(file: str, tmp_path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv1.weight": file}}))
    with pytest.raises(UserError):
        convert(index)


def test_a_shard_is_not_an_index(tmp_path) -> None:
    for name, other in (("a.index.json", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"conv1.weight": other}}))
    with pytest.raises(UserError, match="shard b cannot be read"):
        convert(tmp_path / "a.index.json")


def test_an_index_that_promises_too_much(tmp_path) -> None:
    content = shards(tmp_path)
    content["weight_map"] |= {f"more.{i}": "model-1-of-2.safetensors" for i in range(5)}
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lack tensors .*: more\.0, more\.1, more\.2 and 2 more"):
        convert(tmp_path / "i.json")


def test_a_distributed_checkpoint_is_told_how(tmp_path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(UserError, match="format_utils dcp_to_torch"):
        convert(tmp_path)


def test_values_that_no_trained_network_has(tmp_path) -> None:
    negative = {**STATE, "bn1.running_var": STATE["bn1.running_var"] - 10}
    with pytest.raises(UserError, match=r"bn1\.running_var holds negative numbers"):
        convert(save(negative, tmp_path / "c.pth"), verify=False)
    zeros = {k: v * 0 if v.ndim == 4 else v for k, v in STATE.items()}
    with pytest.raises(UserError, match="all its convolutions are 0"):
        convert(save(zeros, tmp_path / "c.pth"), verify=False)
    few = {k: v * 0 if "layer4.1.conv" in k else v for k, v in STATE.items()}
    (note,) = convert(save(few, tmp_path / "c.pth")).notes
    assert note == "2 of its convolutions are 0: layer4.1.conv1.weight, layer4.1.conv2.weight"
    fresh = {
        k: torch.zeros_like(v) if "mean" in k else torch.ones_like(v) if "var" in k else v for k, v in STATE.items()
    }
    (note,) = convert(save(fresh, tmp_path / "c.pth")).notes
    assert "statistics are those of an untrained network" in note
    assert convert(save(STATE, tmp_path / "c.pth")).notes == ()


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
USUAL = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"architecture": "resnet18", "pretrained_cfg": HALF}),
        ("config.json", {"architecture": "resnet18", **HALF}),
        ("preprocessor_config.json", {"image_mean": HALF["mean"], "image_std": HALF["std"]}),
    ],
)
def test_the_mean_of_a_hub_is_used(name: str, content: dict, tmp_path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    backbone = convert(tmp_path / "pytorch_model.bin", verify=False)
    assert backbone.config["MODEL.PIXEL_MEAN"] == [127.5, 127.5, 127.5]
    assert backbone.config["MODEL.PIXEL_STD"] == [127.5, 127.5, 127.5]
    assert f"{name} beside it says mean [127.5" in backbone.notes[0]
    torch.save(STATE, tmp_path / "other.pth")
    backbone = convert(tmp_path / "other.pth", verify=False)
    assert backbone.config["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert "is not used: if it describes these weights, pass --preprocessing" in backbone.notes[0]


@pytest.mark.parametrize(
    "content", [{"pretrained_cfg": USUAL}, {"mean": "x"}, {"mean": [1], "std": [2]}, {}, {"mean": [9, 9, 9]}]
)
def test_a_config_that_says_nothing_new_is_no_note(content: dict, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    backbone = convert(tmp_path / "pytorch_model.bin", verify=False)
    assert backbone.config["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert backbone.notes == ()


def test_stride_of_a_transformers_config(tmp_path) -> None:
    save_file({in_layout(k, "huggingface"): v for k, v in STATE.items()}, tmp_path / "model.safetensors")
    for content, expected in (({}, False), ({"downsample_in_bottleneck": True}, True)):
        (tmp_path / "config.json").write_text(json.dumps(content))
        backbone = convert(tmp_path / "model.safetensors")
        assert backbone.config["MODEL.RESNETS.STRIDE_IN_1X1"] == expected
    for content in ({"downsample_in_first_stage": True}, {"hidden_act": "gelu"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="Detectron2's ResNet cannot do"):
            convert(tmp_path / "model.safetensors")
