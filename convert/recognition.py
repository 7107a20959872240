"""Which family a checkpoint belongs to, and which of its tensors are the backbone: by its keys, not its file name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checkpoint import IN_MODULES, WRAPPERS, Checkpoint
from convert.families import TABLE
from convert.family import Family, Place
from convert.layouts import LAYOUTS, AnyLayout, AnyPart
from convert.refusals import KINDS, explain_no_backbone, find_networks, refuse_strange_parts
from runtime.errors import UserError
from runtime.listing import listed

MAX_ENCODERS = 16  # of one file; comparing each costs a pass over its tensors
SWAPPED = (
    ". mmengine's EMAHook swaps the two on saving: in its files state_dict holds the average and ema_state_dict the "
    "trained weights"
)
CUSTOM = "custom"  # the family of a ResNet that --prefix names


@dataclass(frozen=True)
class Encoder:
    """The backbone's tensors in a checkpoint: part -> canonical name, with their family, encoder and spelling."""

    family: str
    encoder: str
    names: Mapping[AnyPart, str]
    layout: AnyLayout


def recognise(
    checkpoint: Checkpoint, family: str = "auto", encoder: str | None = None, prefix: str | None = None
) -> Encoder:
    """Find the encoder that ``family`` and ``encoder`` name; "auto" takes the only family that fits the keys.

    ``prefix`` names a ResNet directly instead. Raises UserError if no family or more than one fits, or if the encoder
    is missing or occurs twice with different tensors.
    """
    prefixes = key_prefixes(checkpoint.tensors)
    if prefix is not None:
        return _at_prefix(checkpoint, prefix, prefixes)
    chosen = family != "auto" or encoder is not None
    if family == "auto":
        family = _only_fit(checkpoint, prefixes)
    row = TABLE[family]
    if row.refused:
        raise UserError(f"{checkpoint.path} cannot be converted: {row.refused}")
    if encoder is not None and encoder not in row.encoders:
        raise UserError(f"family {family} has no encoder {encoder!r}; it has {', '.join(row.encoders)}")
    name = encoder or row.default or _only_encoder(checkpoint, row, prefixes)
    names = _take(checkpoint, row.encoders[name], prefixes)
    if names is None:
        expected = listed([*dict.fromkeys(_show(r) for r in row.encoders[name].roots)], 4)
        raise UserError(
            f"{checkpoint.path} has no {name} encoder of family {family}: it would be under {expected}. "
            f"{explain_no_backbone(checkpoint)}"
        )
    if not chosen:
        refuse_second_encoder(checkpoint, row, name, names)
    return Encoder(family, name, names, LAYOUTS[row.encoders[name].layout])


def refuse_second_encoder(checkpoint: Checkpoint, row: Family, chosen: str, names: Mapping[Any, str]) -> None:
    """Raise UserError if a whole network of other content lies where ``row`` does not expect one: an average, say.

    Nothing in the keys says which of the two the user wants, and the numbers of both look plausible.
    """
    known = {
        (place.layout, root)
        for place in row.encoders.values()
        for root in (*place.roots, *place.layer4_roots, *place.copies)
    }
    others = [place for place in find_networks(checkpoint) if place not in known]
    if len(others) > MAX_ENCODERS:
        raise UserError(
            f"{checkpoint.path} holds {len(others)} networks: take one with --prefix, e.g. {others[0][1]!r}"
        )
    for layout, root in others:
        second = _under(checkpoint, LAYOUTS[layout], root)
        if not LAYOUTS[layout].is_whole(second) or set(second.values()) <= set(names.values()):
            continue
        part = _differ(checkpoint, names, second)
        kinds = [KINDS[LAYOUTS[name].network] for name in (row.encoders[chosen].layout, layout)]
        if part is None and kinds[0] == kinds[1]:
            continue
        what = "encoders with different tensors" if kinds[0] == kinds[1] else f"networks, a {kinds[0]} and a {kinds[1]}"
        examples = (next(iter(n.values())) if part is None else n[part] for n in (names, second))
        first, other = (checkpoint.source_names[name] for name in examples)
        hint = SWAPPED if root.startswith("ema_state_dict") else ""
        raise UserError(
            f"{checkpoint.path} holds two {what} ({first} and {other}): choose with --encoder {chosen} or "
            f"--prefix '{root}'{hint}"
        )


def fits(checkpoint: Checkpoint, family: Family, prefixes: set[str]) -> bool:
    """Whether the keys fit ``family``; ``prefixes`` are all dotted prefixes of the tensors' names."""
    known = prefixes | checkpoint.marks
    return (
        bool(_roots(family.main, prefixes))
        and all(any(p in known for p in group) for group in family.has)
        and not any(p in known for p in family.lacks)
    )


def _only_fit(checkpoint: Checkpoint, prefixes: set[str]) -> str:
    fitting = [n for n, f in TABLE.items() if not f.same_keys_as and fits(checkpoint, f, prefixes)]
    if not fitting:
        raise UserError(f"{checkpoint.path} belongs to no known family. {explain_no_backbone(checkpoint)}")
    if len(fitting) > 1:
        flags = " or ".join(f"--family {name}" for name in fitting)
        raise UserError(f"{checkpoint.path} fits {len(fitting)} families, {' and '.join(fitting)}: choose with {flags}")
    return fitting[0]


def _only_encoder(checkpoint: Checkpoint, row: Family, prefixes: set[str]) -> str:
    """The encoder of a row without a default: the one that is present, or any of several with equal tensors."""
    present = [n for n, place in row.encoders.items() if _roots(place, prefixes)]
    if len(present) < 2:
        return present[0] if present else next(iter(row.encoders))
    first, second = (_take(checkpoint, row.encoders[n], prefixes) or {} for n in present[:2])
    if _differ(checkpoint, first, second):
        flags = " or ".join(f"--encoder {n}" for n in present)
        raise UserError(f"{checkpoint.path} holds two encoders with different tensors: choose with {flags}")
    return present[0]


def _at_prefix(checkpoint: Checkpoint, prefix: str, prefixes: set[str]) -> Encoder:
    root = ".".join(p for p in prefix.strip(".").split(".") if p not in (*WRAPPERS, *IN_MODULES))
    for layout in LAYOUTS:
        if names := _take(checkpoint, Place((root,), layout), prefixes):
            return Encoder(CUSTOM, prefix, names, LAYOUTS[layout])
    raise UserError(f"{checkpoint.path} has no backbone under prefix {prefix!r}. {explain_no_backbone(checkpoint)}")


def key_prefixes(names: Iterable[str]) -> set[str]:
    """Every dotted prefix of the names, including the names themselves."""
    prefixes: set[str] = set()
    for name in names:
        parts = name.split(".")
        prefixes.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return prefixes


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if root else name


def _show(root: str) -> str:
    return f"{root}.*" if root else "the top level"


def _roots(place: Place, prefixes: set[str]) -> list[str]:
    """The roots of ``place`` where a network begins, by the names of its first tensors."""
    layout = LAYOUTS[place.layout]

    def has(root: str, groups: Iterable[tuple[str, ...]]) -> bool:
        return any(all(_join(root, name) in prefixes for name in group) for group in groups)

    return [root for root in dict.fromkeys(place.roots) if has(root, layout.begin) and not has(root, layout.unless)]


def _take(checkpoint: Checkpoint, place: Place, prefixes: set[str]) -> dict[Any, str] | None:
    layout, roots = LAYOUTS[place.layout], _roots(place, prefixes)
    if not roots:
        return None
    refuse_strange_parts(checkpoint, layout, roots[0])
    names = _under(checkpoint, layout, roots[0])
    for extra in place.layer4_roots:
        names = {p: n for p, n in _under(checkpoint, layout, extra).items() if p.stage == 5} | names
    for other in [*roots[1:], *place.copies]:
        copy = _under(checkpoint, layout, other)
        if part := _differ(checkpoint, names, copy):
            first, second = (checkpoint.source_names[n[part]] for n in (names, copy))
            raise UserError(
                f"{checkpoint.path} holds two encoders with different tensors ({first} and {second}): choose with "
                f"--prefix '{roots[0]}' or --prefix '{other}'"
            )
    return names


def _under(checkpoint: Checkpoint, layout: AnyLayout, root: str) -> dict[Any, str]:
    start = len(root) + 1 if root else 0
    names: dict[Any, str] = {}
    for name in checkpoint.tensors:
        if (not root or name.startswith(f"{root}.")) and (part := layout.parse(name[start:])):
            if _differ(checkpoint, {part: names.get(part, name)}, {part: name}):
                first, second = (checkpoint.source_names[n] for n in (names[part], name))
                raise UserError(
                    f"{checkpoint.path} has two tensors for one place in the network, {first} and {second}, and they "
                    "differ: keep the one that is meant"
                )
            names[part] = name
    return names


def _differ(checkpoint: Checkpoint, names: Mapping[Any, str], others: Mapping[Any, str]) -> Any:
    """The first tensor that both have with different content, or None."""
    for part in names:
        if part in others and not part.is_counter:
            a, b = checkpoint.tensors[names[part]], checkpoint.tensors[others[part]]
            if not (a.is_float and b.is_float):
                continue  # not weights; the converter refuses them by name where it needs them
            if a.shape != b.shape or (a.storage is not b.storage and not np.array_equal(a.load(), b.load())):
                return part
    return None
