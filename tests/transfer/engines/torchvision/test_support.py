"""No setting is silently ignored: what the embedded engine does not honour is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import UserError
from tests.transfer.engines.engine_cases import CASCADE, EXTRA_NORM_C4, R18, RETINANET
from transfer.config import default_config, unsupported_keys
from transfer.config.schema import KEYS, PART_OF
from transfer.engines import ENGINES, resolve_engine
from transfer.engines.torchvision.support import CHOICES

C4 = {**EXTRA_NORM_C4, "MODEL.ROI_HEADS.NAME": "Res5ROIHeads"}


def test_plain_config_passes(tiny_config: Callable[..., Any], engine: Any) -> None:
    engine.check(tiny_config())


@pytest.mark.parametrize(
    "key",
    [name for name, key in KEYS.items() if key.embedded == "default only" and isinstance(key.default, bool | str)],
)
def test_default_only_keys_are_refused(key: str, tiny_config: Callable[..., Any], engine: Any) -> None:
    default = KEYS[key].default
    cfg = tiny_config({key: (not default) if isinstance(default, bool) else "SomethingElse"})
    if key in PART_OF:
        engine.check(cfg)
        cfg.merge_from_list([PART_OF[key], True])
    with pytest.raises(UserError, match=f"{PART_OF.get(key, key)}.*engine torchvision"):
        engine.check(cfg)
    assert key in unsupported_keys(cfg)


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_unknown_choices_are_refused(key: str, tiny_config: Callable[..., Any], engine: Any) -> None:
    value = 3 if isinstance(CHOICES[key][-1], int) else "SomethingElse"
    with pytest.raises(UserError, match=f"{key} .*not supported by engine torchvision"):
        engine.check(tiny_config({key: value, **({PART_OF[key]: True} if key in PART_OF else {})}))


def test_choices_are_keys_of_the_schema() -> None:
    assert set(CHOICES) <= set(KEYS)


def test_every_box_loss_is_implemented() -> None:
    from transfer.engines.torchvision.model.boxes import IOU_LOSSES
    from transfer.engines.training.choices import BOX_LOSSES

    assert set(BOX_LOSSES) == {"smooth_l1", *IOU_LOSSES}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL.RESNETS.DEPTH": 18}, "RES2_OUT_CHANNELS must be 64"),
        ({"MODEL.ROI_HEADS.NAME": "Res5ROIHeads"}, "runs on res4"),
        ({"MODEL.ROI_BOX_HEAD.NAME": ""}, "must be FastRCNNConvFCHead"),
        ({"MODEL.ROI_BOX_HEAD.NUM_FC": 0}, "needs NUM_CONV or NUM_FC"),
        (
            {**R18, "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]},
            "DEFORM_ON_PER_STAGE must be False for DEPTH 18",
        ),
        ({**C4, "MODEL.KEYPOINT_ON": True}, "MODEL.KEYPOINT_ON needs MODEL.ROI_HEADS.NAME StandardROIHeads"),
        ({"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}, "CLS_AGNOSTIC_BBOX_REG must be True"),
        ({**CASCADE, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True}, "TRAIN_ON_PRED_BOXES has no effect"),
        ({**CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (0.5, 0.6)}, "as many IOUS as BBOX_REG_WEIGHTS"),
        ({**CASCADE, "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.6]}, "must be the first of MODEL.ROI_BOX_CASCADE_HEAD.IOUS"),
        ({**CASCADE, "MODEL.ROI_HEADS.IOU_LABELS": [0, -1]}, "and IOU_LABELS"),
        ({**CASCADE, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (5.0, 5.0, 5.0, 5.0)}, "BBOX_REG_WEIGHTS has no effect"),
        ({**RETINANET, "MODEL.MASK_ON": True}, "must be False for RetinaNet"),
        ({**RETINANET, "TEST.AUG.ENABLED": True}, "TEST.AUG.ENABLED is not supported .*META_ARCHITECTURE RetinaNet"),
    ],
)
def test_contradictions_are_refused(
    settings: dict[str, Any], message: str, tiny_config: Callable[..., Any], engine: Any
) -> None:
    with pytest.raises(UserError, match=message):
        engine.check(tiny_config(settings))


def test_other_architectures_are_refused_by_name(engine: Any) -> None:
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    with pytest.raises(UserError, match="MODEL.META_ARCHITECTURE 'PanopticFPN'"):
        engine.check(cfg)


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "detectron2" else find(name))
    assert resolve_engine("auto").name == resolve_engine("torchvision").name == "torchvision"
    with pytest.raises(UserError, match="detectron2 is not installed"):
        resolve_engine("detectron2")
    with pytest.raises(UserError, match="unknown engine 'mmdet'"):
        resolve_engine("mmdet")
    assert set(ENGINES) == {"detectron2", "torchvision"}
