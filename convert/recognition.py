"""Which family a checkpoint belongs to, and which of its tensors are the backbone: by keys, never by file name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from convert.checkpoint import Checkpoint
from convert.families import TABLE, Family, Place
from convert.lazy_array import LazyArray
from convert.refusals import explain_no_backbone, strange_parts
from convert.rename import LAYOUTS, Layout, Part
from runtime.errors import UserError


@dataclass(frozen=True)
class Encoder:
    """The backbone's tensors in a checkpoint: Part -> canonical name, and how they were found."""

    family: str
    encoder: str
    names: Mapping[Part, str]


def recognise(checkpoint: Checkpoint, family: str = "auto", encoder: str | None = None) -> Encoder:
    """Find the encoder that ``family`` and ``encoder`` name ("auto": the one family whose keys these are).

    Raises UserError where no family fits, two do, the encoder is not there, or two copies of it differ.
    """
    prefixes = _prefixes(checkpoint.tensors)
    if family == "auto":
        family = _only_fit(checkpoint, prefixes)
    row = TABLE[family]
    name = encoder or row.default
    if name not in row.encoders:
        raise UserError(f"family {family} has no encoder {name!r}; it has {', '.join(row.encoders)}")
    place = row.encoders[name]
    names = _take(checkpoint, place, prefixes)
    if names is None:
        wanted = " or ".join(sorted({_show(r) for r in place.roots}))
        raise UserError(
            f"{checkpoint.path} has no {name} encoder of family {family}: nothing under {wanted}. "
            f"{explain_no_backbone(checkpoint)}"
        )
    _compare_copies(checkpoint, place, names, prefixes)
    return Encoder(family, name, names)


def fits(checkpoint: Checkpoint, family: Family, prefixes: set[str]) -> bool:
    """Whether the keys are those of ``family``; ``prefixes`` are all dotted beginnings of the tensors' names."""
    return (
        any(_root_layout(r, family.encoders[family.default], prefixes) for r in family.encoders[family.default].roots)
        and all(any(p in prefixes for p in group) for group in family.has)
        and not any(p in prefixes or p in checkpoint.marks for p in family.lacks)
        and (not family.marks or any(m in checkpoint.marks for m in family.marks))
    )


def _only_fit(checkpoint: Checkpoint, prefixes: set[str]) -> str:
    found = [n for n, f in TABLE.items() if not f.same_keys_as and fits(checkpoint, f, prefixes)]
    if not found:
        raise UserError(f"{checkpoint.path} is of no known family. {explain_no_backbone(checkpoint)}")
    if len(found) > 1:
        raise UserError(
            f"{checkpoint.path} fits {len(found)} families: {' and '.join(found)}; choose with --family {found[0]} "
            f"or --family {found[1]}"
        )
    return found[0]


def _prefixes(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return found


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if root else name


def _show(root: str) -> str:
    return f"{root}.*" if root else "the top level"


def _root_layout(root: str, place: Place, prefixes: set[str]) -> Layout | None:
    """The layout at ``root`` if a ResNet begins there: its stem, or for want of one its first block."""
    layout = LAYOUTS[place.layout]
    stem, block = layout.format(Part(1, 0, 1, "")), layout.format(Part(2, 0, 1, ""))
    return layout if _join(root, stem) in prefixes and _join(root, block) in prefixes else None


def _take(checkpoint: Checkpoint, place: Place, prefixes: set[str]) -> dict[Part, str] | None:
    for root in place.roots:
        if layout := _root_layout(root, place, prefixes):
            names = _under(checkpoint, layout, root)
            for extra in place.layer4_roots:
                names |= {p: n for p, n in _under(checkpoint, layout, extra).items() if p.stage == 5}
            strange_parts(checkpoint, layout, root)
            return names
    return None


def _under(checkpoint: Checkpoint, layout: Layout, root: str) -> dict[Part, str]:
    start = len(root) + 1 if root else 0
    found = {}
    for name in checkpoint.tensors:
        if (not root or name.startswith(f"{root}.")) and (part := layout.parse(name[start:])):
            found[part] = name
    return found


def _compare_copies(checkpoint: Checkpoint, place: Place, names: Mapping[Part, str], prefixes: set[str]) -> None:
    layout = LAYOUTS[place.layout]
    for copy in place.copies:
        twins = _under(checkpoint, layout, copy)
        for part, name in names.items():
            if part in twins and not _same(checkpoint.tensors[name], checkpoint.tensors[twins[part]]):
                raise UserError(
                    f"{checkpoint.path} holds two encoders of different content, {name} and {twins[part]} "
                    "differ; choose one with --prefix"
                )


def _same(a: LazyArray, b: LazyArray) -> bool:
    return a.shape == b.shape and (a.storage is b.storage or np.array_equal(a.load(), b.load(), equal_nan=False))
