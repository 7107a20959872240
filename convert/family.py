"""One row of the table of families: where its encoders are, and which keys identify it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convert.preprocessing import IMAGENET, Preprocessing


@dataclass(frozen=True)
class Place:
    """Where one encoder may be: under any of ``roots``, in the names of ``layout``.

    ``layer4_roots``: where a C4 detector keeps its last stage. ``copies``: where the same tensors may occur a second
    time. If two places hold different tensors, the user must choose.
    """

    roots: tuple[str, ...]
    layout: str = "torchvision"
    layer4_roots: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One row of the table. ``default`` is the encoder to convert; "" means the user chooses if there are several."""

    title: str
    encoders: Mapping[str, Place]
    default: str = "encoder"
    has: tuple[tuple[str, ...], ...] = ()  # one prefix or top-level key of each group must be present
    lacks: tuple[str, ...] = ()
    same_keys_as: str = ""
    preprocessing: Preprocessing = IMAGENET
    preprocessing_grouped: Preprocessing | None = None  # of the family's ResNeXts, where they differ
    note: str = ""
    heads: Mapping[int, int] = field(default_factory=dict)  # of its transformers by width, where they are unusual
    refused: str = ""  # why no checkpoint of this family can be converted

    @property
    def main(self) -> Place:
        """The place that identifies the family."""
        return self.encoders[self.default or next(iter(self.encoders))]


def in_wrappers(*names: str) -> tuple[str, ...]:
    """Names under the usual wrappers of a state dict, and without one."""
    return tuple(f"{w}{n}" for n in names for w in ("state_dict.", "model.", ""))


# where a bare state dict may be; many families release such a backbone
FLAT = ("", "state_dict", "model", "model_state_dict", "network", "state_dict.model", "state_dict.backbone.model")
