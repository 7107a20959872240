"""A config is frozen when no stage of its backbone is trained."""

from __future__ import annotations

import pytest

from transfer.config import flatten, load_config
from transfer.config.protocol import FROZEN_SETTINGS, last_stage, protocol_of


@pytest.mark.parametrize(
    ("config", "freeze_at", "protocol"),
    [
        ("voc_R50_C4.yaml", 0, "tuned"),
        ("voc_R50_C4.yaml", 3, "tuned"),
        ("voc_R50_C4.yaml", 4, "frozen"),  # res5 belongs to the heads
        ("coco_R50_FPN.yaml", 4, "tuned"),
        ("coco_R50_FPN.yaml", 5, "frozen"),
        ("voc_R50_DC5.yaml", 4, "tuned"),
        ("voc_R50_DC5.yaml", 5, "frozen"),
        ("demo_R18_C4.yaml", 5, "frozen"),
    ],
)
def test_protocol_of_a_config(config: str, freeze_at: int, protocol: str) -> None:
    values = flatten(load_config(config, ["MODEL.BACKBONE.FREEZE_AT", str(freeze_at)]))
    assert protocol_of(values) == protocol
    assert protocol_of({**values, **FROZEN_SETTINGS}) == "frozen"
    assert last_stage(values) == (4 if "C4" in config else 5)


def test_other_backbones_have_no_stages_to_freeze() -> None:
    values = flatten(load_config("coco_R50_FPN.yaml", ["MODEL.BACKBONE.NAME", "build_vit"]))
    assert protocol_of({**values, **FROZEN_SETTINGS}) == "tuned"
