"""The names of a ResNet's tensors in every common scheme, and conversion between any two.

A tensor is a :class:`Part`: stage, block, convolution, and which of its tensors. A :class:`Layout` writes a Part as a
name and reads it back, from one table of templates, so that every renaming is a bijection by construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

SHORTCUT = 0  # the number of the projection beside convolutions 1, 2, 3
BN_FIELDS = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"  # kept if present; a frozen BN has none


class Part(NamedTuple):
    """One tensor: ``stage`` 1 is the stem, 2..5 are res2..res5; ``field`` "" is the convolution, else its BN's."""

    stage: int
    block: int
    conv: int
    field: str

    @property
    def is_counter(self) -> bool:
        """Whether it is BN's batch counter, which no forward pass in eval mode reads."""
        return self.field == COUNTER


# placeholder -> {value in a Part: text in the name}
_STAGES = {"res": {2: "2", 3: "3", 4: "4", 5: "5"}, "layer": {2: "1", 3: "2", 4: "3", 5: "4"}}
_STAGES["zero"] = {2: "0", 3: "1", 4: "2", 5: "3"}
_STAGES["child"] = {2: "4", 3: "5", 4: "6", 5: "7"}  # of nn.Sequential(conv1, bn1, relu, maxpool, layer1, ...)
_CONVS = {
    "k": {1: "1", 2: "2", 3: "3"},
    "abc": {1: "a", 2: "b", 3: "c"},
    "zero_k": {1: "0", 2: "1", 3: "2"},
    "even": {1: "0", 2: "2", 3: "4"},
    "odd": {1: "1", 2: "3", 3: "5"},
}
_FIELDS = {
    "bn": {f: f for f in (*BN_FIELDS, COUNTER)},
    "msra": dict(zip((*BN_FIELDS, COUNTER), ("gamma", "beta", "running_mean", "running_var", COUNTER))),
    "blob": dict(zip((*BN_FIELDS, COUNTER), ("s", "b", "rm", "riv", COUNTER))),
}
_VALUES: dict[str, dict] = {**_STAGES, **_CONVS, **_FIELDS}


# part of the name of a tensor inside a stage -> what it shows about its block
STRANGE = {
    "downsample.2.": "a pooled shortcut (ResNet-D)",
    ".se.": "squeeze-and-excitation",
    ".attn.": "attention",
    ".mixing_conv.": "selective kernels",
    ".bias": "a convolution with bias (BN folded in, or none)",
}


@dataclass(frozen=True)
class Layout:
    """One naming scheme. ``templates``: stem conv, stem BN, block conv, block BN, shortcut conv, shortcut BN."""

    name: str
    templates: tuple[str, ...]

    network = "resnet"
    unless: tuple[tuple[str, ...], ...] = ()

    @property
    def begin(self) -> tuple[tuple[str, ...], ...]:
        """The names by which a network in this scheme is found: its stem and its first block's first convolution."""
        return (tuple(self.format(Part(stage, 0, 1, "")) for stage in (1, 2)),)

    @property
    def inside(self) -> tuple[str, ...]:
        """The beginnings of names that only the ResNet itself may use; Caffe2's flat names have none."""
        stem = [self.format(Part(1, 0, 1, field)) for field in ("", "weight")]
        stages = [self.format(Part(stage, 0, 1, "")) for stage in (2, 3, 4, 5)]
        if "." not in stages[0]:
            return ()
        return tuple([n.rsplit(".", 1)[0] + "." for n in stem] + [n.split(".0.")[0] + "." for n in stages])

    def strange(self, name: str) -> str | None:
        """What a name that ``parse`` does not read shows of the block that it is in; None outside of the network."""
        if not name.startswith(self.inside):
            return None
        return next((kind for piece, kind in STRANGE.items() if piece in name), "another kind of block")

    def is_whole(self, parts: Iterable[Part]) -> bool:
        """Whether the parts are of all stages."""
        return {part.stage for part in parts} == {1, 2, 3, 4, 5}

    def parse(self, name: str) -> Part | None:
        """The Part with this name, or None if it is not a tensor of this network."""
        for index, pattern in enumerate(_patterns(self)):
            if match := pattern.fullmatch(name):
                groups = {p: _decode(p, text) for p, text in match.groupdict().items()}
                stage = next((v for p, v in groups.items() if p in _STAGES), 1)
                conv = next((v for p, v in groups.items() if p in _CONVS), SHORTCUT if index >= 4 else 1)
                return Part(
                    stage, groups.get("block", 0), conv, next((v for p, v in groups.items() if p in _FIELDS), "")
                )
        return None

    def format(self, part: Part) -> str:
        """The name of ``part`` in this scheme."""
        index = (0 if part.stage == 1 else 4 if part.conv == SHORTCUT else 2) + bool(part.field)
        values = {p: table.get(part.stage) for p, table in _STAGES.items()}
        values |= {p: table.get(part.conv) for p, table in _CONVS.items()}
        values |= {p: table.get(part.field) for p, table in _FIELDS.items()}
        return self.templates[index].format(block=part.block, **values)


def _decode(placeholder: str, text: str) -> Any:
    if placeholder == "block":
        return int(text)
    return next(value for value, written in _VALUES[placeholder].items() if written == text)


_COMPILED: dict[str, list[re.Pattern[str]]] = {}


def _patterns(layout: Layout) -> list[re.Pattern[str]]:
    if layout.name not in _COMPILED:
        _COMPILED[layout.name] = [re.compile(_regex(t)) for t in layout.templates]
    return _COMPILED[layout.name]


def _regex(template: str) -> str:
    def group(match: re.Match[str]) -> str:
        placeholder = match[1]
        choices = r"0|[1-9]\d{0,2}" if placeholder == "block" else "|".join(_VALUES[placeholder].values())
        return f"(?P<{placeholder}>{choices})"

    return re.sub(r"\\\{(\w+)\\\}", group, re.escape(template))


def _blocks(block: str, conv: str, norm: str, shortcut: str, shortcut_norm: str) -> tuple[str, str, str, str]:
    return (block + conv, block + norm, block + shortcut, block + shortcut_norm)


_TV = ("conv{k}.weight", "bn{k}.{bn}", "downsample.0.weight", "downsample.1.{bn}")
_V2 = "net.{even}.weight", "net.{odd}.0.{bn}", "projection.shortcut.weight", "projection.bn.0.{bn}"
_C2 = "branch2{abc}_w", "branch2{abc}_bn_", "branch1_w", "branch1_bn_"

TORCHVISION = Layout("torchvision", ("conv1.weight", "bn1.{bn}", *_blocks("layer{layer}.{block}.", *_TV)))
DETECTRON2 = Layout(
    "detectron2",
    (
        "stem.conv1.weight",
        "stem.conv1.norm.{bn}",
        *_blocks("res{res}.{block}.", "conv{k}.weight", "conv{k}.norm.{bn}", "shortcut.weight", "shortcut.norm.{bn}"),
    ),
)
# nn.Sequential(*list(resnet.children())[:-1]), as lightly's examples build their backbone
SEQUENTIAL = Layout("sequential", ("0.weight", "1.{bn}", *_blocks("{child}.{block}.", *_TV)))
# a ModuleList of stem and four stages, as obow trains
BLOCK_LIST = Layout("block list", ("0.Conv.weight", "0.bn.{bn}", *_blocks("{layer}.{block}.", *_TV)))
# SimCLR v2's TensorFlow weights in the common PyTorch port
SIMCLR2 = Layout("simclr v2", ("net.0.0.weight", "net.0.1.0.{bn}", *_blocks("net.{layer}.blocks.{block}.", *_V2)))
# Caffe2 blobs: the MSRA models of Detectron2's zoo, and the shorter BN suffixes of Detectron and obow
MSRA = Layout(
    "caffe2",
    (
        "conv1_w",
        "res_conv1_bn_{msra}",
        *(f"res{{res}}_{{block}}_{t}{'{msra}' if t.endswith('_') else ''}" for t in _C2),
    ),
)
BLOBS = Layout(
    "caffe2 blobs",
    (
        "conv1_w",
        "res_conv1_bn_{blob}",
        *(f"res{{res}}_{{block}}_{t}{'{blob}' if t.endswith('_') else ''}" for t in _C2),
    ),
)
# transformers' ResNetModel
_HF_CONV, _HF_NORM = "convolution.weight", "normalization.{bn}"
_HF = f"layer.{{zero_k}}.{_HF_CONV}", f"layer.{{zero_k}}.{_HF_NORM}", f"shortcut.{_HF_CONV}", f"shortcut.{_HF_NORM}"
HUGGINGFACE = Layout(
    "huggingface",
    (
        f"embedder.embedder.{_HF_CONV}",
        f"embedder.embedder.{_HF_NORM}",
        *_blocks("encoder.stages.{zero}.layers.{block}.", *_HF),
    ),
)
RESNET_LAYOUTS = (TORCHVISION, DETECTRON2, SEQUENTIAL, BLOCK_LIST, SIMCLR2, HUGGINGFACE, MSRA, BLOBS)
