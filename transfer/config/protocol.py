"""Whether a config trains the backbone: frozen or tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FROZEN, TUNED = "frozen", "tuned"
PROTOCOLS = (FROZEN, TUNED)
BATCH, IMAGE, CACHED = "batch", "image", "cached"
FEATURES = (BATCH, IMAGE, CACHED)  # ENGINE.FEATURES: how a frozen backbone makes its maps
FREEZE_AT = "MODEL.BACKBONE.FREEZE_AT"
# stem and res2 .. res5. Frozen stages have fixed batch-norm statistics, whatever MODEL.RESNETS.NORM says
FROZEN_SETTINGS: Mapping[str, Any] = {FREEZE_AT: 5}


def protocol_of(values: Mapping[str, Any]) -> str:
    """``frozen`` if no stage of the backbone is trained, otherwise ``tuned``. ``values``: leaf key -> value.

    The last stage is the deepest of MODEL.RESNETS.OUT_FEATURES: where that is res4 (C4), res5 belongs to the region
    heads, and they train it under either protocol.
    """
    if "resnet" not in values["MODEL.BACKBONE.NAME"]:
        return TUNED
    return FROZEN if values[FREEZE_AT] >= last_stage(values) else TUNED


def last_stage(values: Mapping[str, Any]) -> int:
    """The number of the last stage of the backbone: 4 for res4, 1 where it is only the stem."""
    names = values["MODEL.RESNETS.OUT_FEATURES"]
    return max((int(name[-1]) for name in names if name != "stem"), default=1)
