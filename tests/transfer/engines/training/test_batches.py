"""What the training feed reads, repeats and keeps in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.transfer.toy_data import coco_content, write_coco
from transfer.engines.torchvision.builder import build_model
from transfer.engines.training import batches as feeding


class Listed(list):  # type: ignore[type-arg]
    """A list that a weak reference can watch."""


def test_the_list_of_records_is_let_go_once_packed(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Callable[..., Any]
) -> None:
    watched = []
    read = feeding.training_records

    def records(cfg: Any) -> list[Any]:
        listed = Listed(read(cfg))
        watched.append(weakref.ref(listed))
        return listed

    monkeypatch.setattr(feeding, "training_records", records)
    feed = feeding.TrainingFeed(tiny_config(), 0, 1, 7)
    assert watched[0]() is None
    assert len(next(feed.streams(7, 0, 0)[0])) == 2


@pytest.fixture
def half_empty(tmp_path: Path) -> dict[str, Any]:
    """DATASETS.TRAIN of eight images, four of which have no annotation, and one only a crowd."""
    content = coco_content(tmp_path / "images")
    ids = [image["id"] for image in content["images"]]
    kept = [a for a in content["annotations"] if a["image_id"] in ids[:4]]
    for annotation in kept:
        if annotation["image_id"] == ids[0]:
            annotation.update(iscrowd=1, segmentation={"size": [48, 64], "counts": [5, 20, 48 * 64 - 25]})
    return {"DATASETS.TRAIN": (write_coco(tmp_path, {**content, "annotations": kept}),)}


def test_images_without_an_annotation_are_dropped_unless_the_config_keeps_them(
    half_empty: dict[str, Any], tiny_config: Callable[..., Any]
) -> None:
    counts = [
        len(feeding.training_records(tiny_config(half_empty, {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": on})))
        for on in (True, False)
    ]
    assert counts == [3, 8]


@pytest.mark.parametrize(("root", "factor"), [(True, 4.0**0.5), (False, 4.0)])
def test_repeat_factors_take_the_root_that_the_config_asks_for(
    root: bool, factor: float, half_empty: dict[str, Any], tiny_config: Callable[..., Any]
) -> None:
    sampler = {
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 4.0,  # of a class that every image has: 4 or its root
        "DATALOADER.REPEAT_SQRT": root,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    }
    feed = feeding.TrainingFeed(tiny_config(half_empty, sampler), 0, 1, 7)
    factors: torch.Tensor = feed.options["repeat_factors"]
    assert float(factors.min()) >= factor - 1e-6
    records = feeding.training_records(tiny_config(half_empty))
    every = [all(c in {a["category_id"] for a in r["annotations"]} for r in records) for c in range(3)]
    if any(every) and not all(every):
        assert float(factors.max()) > factor


def test_the_power_of_a_federated_loss_is_the_configs(tiny_config: Callable[..., Any]) -> None:
    federated = {"MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True}
    for power in (0.5, 1.0):
        cfg = tiny_config(federated, {"MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": power})
        drawn = build_model(cfg).roi_heads.box_predictor.federated
        assert torch.equal(drawn.weights([4, 9, 16]), torch.tensor([4.0, 9.0, 16.0]) ** power)
