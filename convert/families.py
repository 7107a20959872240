"""The checkpoint families of the field, one row each: where the encoder is, and by which keys the family is known.

Names are canonical: dotted from the top of the file, `module.` and `_orig_mod.` taken off. A row fits a checkpoint when
its default encoder is there, everything in ``has`` is, and nothing in ``lacks`` is. Rows with ``same_keys_as`` cannot
be told from another row by keys (and convert alike); they can be asked for with --family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convert.preprocessing import IMAGENET, Preprocessing

ENCODERS = ("query", "key", "online", "target", "student", "teacher", "ema", "encoder")


@dataclass(frozen=True)
class Place:
    """Where one encoder may be: any one of ``roots`` (``layer4_roots``: where a C4 detector keeps its last stage).

    ``copies`` are places that hold the same tensors again; if their content differs, the choice is the user's.
    """

    roots: tuple[str, ...]
    layout: str = "torchvision"
    layer4_roots: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    title: str
    encoders: Mapping[str, Place]
    default: str = "encoder"
    has: tuple[tuple[str, ...], ...] = ()  # of each tuple one prefix must be there
    lacks: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()  # one of these keys at the top level (Lightning's, say)
    same_keys_as: str = ""
    preprocessing: Preprocessing = IMAGENET
    note: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def _in(*names: str) -> tuple[str, ...]:
    """A name under the usual wrappers of a state dict, or bare."""
    return tuple(f"{w}{n}" for n in names for w in ("state_dict.", "model.", ""))


def _one(*roots: str, layout: str = "torchvision") -> dict[str, Place]:
    return {"encoder": Place(roots, layout)}


LIGHTNING = ("pytorch-lightning_version",)
FLAT = ("", "state_dict", "model", "model_state_dict", "network", "state_dict.model", "state_dict.backbone")

TABLE: dict[str, Family] = {
    "moco": Family(
        "MoCo v1, v2 and this project's checkpoints",
        {"query": Place(_in("encoder_q")), "key": Place(_in("encoder_k"))},
        "query",
        lacks=LIGHTNING,
    ),
    "torchvision": Family(
        "torchvision ResNet, ResNeXt, wide ResNet (V1, V2), with or without fc; supervised runs of this project",
        _one(*FLAT),
        note="also every file that is a bare backbone: Barlow Twins, VICReg, DINO, ssl-transfer, extracted ones",
    ),
}
