"""Properties over all architectures, subsets of keys and orders of prefixes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.architecture import BLOCKS, Architecture, infer
from convert.checkpoint import Checkpoint, _add
from convert.families import TABLE
from convert.lazy_array import LazyArray, Storage
from convert.recognition import recognise
from convert.rename import COUNTER, RESNET_LAYOUTS, Part
from runtime.errors import UserError
from tests.convert.checkpoints import NAMES, fixture, in_layout

LAYOUTS = {layout.name: layout for layout in RESNET_LAYOUTS}
architectures = st.builds(
    lambda depth, stem, groups, width, out: (
        Architecture(depth, stem * 8, out * 8, groups * width, groups) if depth >= 50 else Architecture(depth, res2=64)
    ),
    st.sampled_from(sorted(BLOCKS)),
    st.integers(1, 32),
    st.sampled_from([1, 2, 32, 64]),
    st.sampled_from([4, 8, 64, 128]),
    st.integers(1, 64),
)


def parts_of(architecture: Architecture) -> dict[Part, tuple[int, ...]]:
    parts = dict(architecture.parts())
    return parts | {p._replace(field=COUNTER): () for p in parts if p.field == "bias"}


@settings(max_examples=25, database=None)
@given(architectures, st.sampled_from(sorted(LAYOUTS)))
def test_every_renaming_is_a_bijection(architecture: Architecture, name: str) -> None:
    layout, parts = LAYOUTS[name], parts_of(architecture)
    names = {part: layout.format(part) for part in parts}
    assert len(set(names.values())) == len(parts)
    assert all(layout.parse(text) == part for part, text in names.items())


@settings(max_examples=25, database=None)
@given(architectures)
def test_shapes_say_the_architecture(architecture: Architecture) -> None:
    assert infer(parts_of(architecture)) == architecture


@cache
def moco_tensors() -> dict[str, tuple[int, ...]]:
    shapes = parts_of(Architecture(50, 8, 32, 8))
    return {LAYOUTS["torchvision"].format(p): shape for p, shape in shapes.items()}


def lazy(shape: tuple[int, ...]) -> LazyArray:
    return LazyArray(Storage("float32", 1 << 40, bytes), 0, shape, (1,) * len(shape))


def as_checkpoint(names: dict[str, tuple[int, ...]]) -> Checkpoint:
    checkpoint = Checkpoint(Path("c.pth"))
    for name, shape in names.items():
        _add(checkpoint, lazy(shape), name)
    return checkpoint


@settings(max_examples=40, database=None)
@given(st.sets(st.sampled_from(sorted(n for n in moco_tensors() if COUNTER not in n)), min_size=1))
def test_any_subset_of_keys_removed_is_refused(removed: set[str]) -> None:
    names = {f"state_dict.encoder_q.{n}": shape for n, shape in moco_tensors().items() if n not in removed}
    with pytest.raises(UserError):
        checkpoint = as_checkpoint(names)
        found = recognise(checkpoint)
        infer({p: checkpoint.tensors[n].shape for p, n in found.names.items()})


WRAPPERS = st.lists(st.sampled_from(["module", "_orig_mod"]), max_size=4)


@settings(max_examples=60, database=None)
@given(st.sampled_from(NAMES), WRAPPERS, WRAPPERS, WRAPPERS)
def test_any_order_of_prefixes_is_recognised(name: str, before: list, between: list, inside: list) -> None:
    """DistributedDataParallel and torch.compile wrap whole models, encoders, and single blocks, in any order."""
    spec = fixture(name)
    if any("caffe2" in net.get("layout", "") for net in spec["nets"]):
        return  # Caffe2's names are no module paths
    names: dict[str, tuple[int, ...]] = {}
    for net in spec["nets"]:
        for key, shape in moco_tensors().items():
            if any(d in key for d in net.get("drop", [])) or not any(o in key for o in net.get("only", [""])):
                continue
            head, _, tail = in_layout(key, net.get("layout", "torchvision")).partition(".")
            path = [*net["at"].split("/"), *before, *net["prefix"].split("."), *between, head, *inside, tail]
            names[".".join(filter(None, path))] = shape
    for place, tensors in spec["others"].items():
        names |= {".".join(filter(None, [*place.split("/"), *before, key])): tuple(s) for key, s in tensors.items()}
    checkpoint = as_checkpoint(names)
    checkpoint.marks = frozenset(spec["top"])
    for tensor in checkpoint.tensors.values():
        object.__setattr__(tensor, "storage", SHARED)
    assert recognise(checkpoint).family == spec.get("auto", spec["family"])
    assert spec["family"] in TABLE


SHARED = Storage("float32", 1 << 40, bytes)  # copies of one encoder share their bytes
