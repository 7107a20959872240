"""What the schema says of one key."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Support = Literal[
    "used",  # by the embedded engine, as Detectron2 uses it
    "default only",  # by the embedded engine; any other value is an error that names the key
    "no effect",  # accepted: it does not change the result
    "other model",  # belongs to another architecture: read, without effect; selecting that architecture is an error
    "own",  # this project's key, for the embedded engine; engine detectron2 refuses any value but the default
    "added",  # this project's key, for both engines; Detectron2 has the feature, but no key for it
]


class Key(NamedTuple):
    """One leaf of the configuration tree."""

    default: Any
    embedded: Support
    meaning: str
