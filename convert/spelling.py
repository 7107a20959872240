"""The names of a transformer's or ConvNeXt's tensors in one maker's spelling, read as the names that Detectron2 uses.

A maker may keep in several tensors what Detectron2 has in one: query, key and value, for example. A :class:`Piece` is
one tensor of a file: which tensor of the network it belongs to, and which part of that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class Piece(NamedTuple):
    """``name``: of the network's tensor, in Detectron2's spelling; ``part``: "" for all of it, else q, k, v ..."""

    name: str
    part: str = ""

    @property
    def is_counter(self) -> bool:
        """Only batch norms have counters."""
        return False


@dataclass(frozen=True)
class Rule:
    """Names of the form ``source`` are those of ``target``: ``{i}``, ``{j}`` are numbers, ``{f}`` is weight or bias."""

    source: str
    target: str
    part: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches names of this form."""

        def group(match: re.Match[str]) -> str:
            return "(?P<f>weight|bias)" if match[1] == "f" else rf"(?P<{match[1]}>0|[1-9]\d{{0,2}})"

        return re.compile(re.sub(r"\\\{(\w)\\\}", group, re.escape(self.source)))

    def read(self, name: str) -> Piece | None:
        """The piece with this name, or None for a name of another form."""
        match = self.pattern.fullmatch(name)
        return Piece(self.target.format(**match.groupdict()), self.part) if match else None


def rules(*pairs: tuple[str, ...]) -> tuple[Rule, ...]:
    """Rules from (source, target) or (source, target, part)."""
    return tuple(Rule(*pair) for pair in pairs)


@dataclass(frozen=True)
class Spelling:
    """How one maker names the tensors of a kind of ``network``.

    ``begin``: groups of names; a network of this spelling has all names of one group, by which it is found. ``inside``:
    beginnings of names that only the network uses; a name there that no rule reads is a part that Detectron2's network
    does not have. ``refused``: words in names -> the part that they show, which Detectron2's network does not have
    either. ``ignored``: words in names of what is computed anew, and not learned. ``unless``: groups of names; where
    all names of one are there, the network is of another spelling that has the names of ``begin`` too. ``rotary``: the
    network has DINOv3's rotary positions and no bias on keys, which none of its tensors shows.
    """

    name: str
    network: str
    rules: tuple[Rule, ...]
    begin: tuple[tuple[str, ...], ...]
    inside: tuple[str, ...]
    refused: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    unless: tuple[tuple[str, ...], ...] = ()
    rotary: bool = False

    def parse(self, name: str) -> Piece | None:
        """The piece with this name, or None if it is not a tensor of this network."""
        return next((piece for rule in self.rules if (piece := rule.read(name))), None)

    def strange(self, name: str) -> str | None:
        """What a name that no rule reads shows of the network, if Detectron2's does not have it; else None."""
        if any(word in name for word in self.ignored):
            return None
        known = next((kind for word, kind in self.refused.items() if f".{word}" in f".{name}"), None)
        return known or ("another kind of block" if name.startswith(self.inside) else None)

    def is_whole(self, pieces: Iterable[Piece]) -> bool:
        """Whether the pieces are those of a network, not of its first layers only."""
        return len({piece.name for piece in pieces}) > 2 * max(map(len, self.begin))
