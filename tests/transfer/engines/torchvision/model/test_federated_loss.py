"""The federated loss against Detectron2 and against its definition in float64, and where its counts come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from transfer.data.catalog import get_dataset
from transfer.engines.torchvision.model.box_head import FastRCNNOutputLayers
from transfer.engines.torchvision.model.federated_loss import FederatedClasses
from transfer.engines.torchvision.model.instances import Regions
from transfer.engines.torchvision.support import check_support

CLASSES = 30
IMAGES = [3 * k % 17 for k in range(CLASSES)]  # two classes are in no image
FEDERATED = {
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 2,
}


def predictor(wanted: int = 10) -> FastRCNNOutputLayers:
    torch.manual_seed(0)
    federated = FederatedClasses(CLASSES, wanted, 0.5)
    layers = FastRCNNOutputLayers(8, num_classes=CLASSES, sigmoid=True, federated=federated)
    layers.count_images(IMAGES)
    return layers


def a_step(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features 12 x 8 and classes of the regions, some of them background."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, CLASSES + 1, (12,), generator=generator)
    classes[:4] = CLASSES
    return torch.randn(12, 8, generator=generator), classes


def class_loss(layers: FastRCNNOutputLayers, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    logits, deltas = layers(features)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(len(classes), 1)
    region = Regions(boxes=boxes, classes=classes, gt_boxes=boxes, gt_index=torch.zeros_like(classes))
    return layers.losses(logits, deltas, [region])["loss_cls"]


@pytest.mark.parametrize("wanted", [10, 3, 200])
@pytest.mark.parametrize("seed", range(4))
def test_only_the_drawn_classes_count(seed: int, wanted: int) -> None:
    layers = predictor(wanted)
    features, classes = a_step(seed)
    torch.manual_seed(seed)
    mask = layers.federated.mask(classes, layers.fed_loss_cls_weights).numpy().astype(bool)
    torch.manual_seed(seed)
    loss = class_loss(layers, features, classes)
    with torch.no_grad():
        logits = layers(features)[0].double().numpy()[:, :-1]
    target = np.eye(CLASSES + 1)[classes.numpy()][:, :-1]
    terms = np.logaddexp(0, logits) - logits * target
    assert loss.item() == pytest.approx(terms[:, mask].sum() / len(classes), rel=1e-6)
    present = set(classes.tolist()) - {CLASSES}
    assert present <= set(np.flatnonzero(mask))
    assert all(IMAGES[k] or k in present for k in np.flatnonzero(mask))
    others = sum(1 for k in range(CLASSES) if IMAGES[k] and k not in present)
    assert mask.sum() == len(present) + max(0, min(wanted - len(set(classes.tolist())), others))


def test_a_class_is_drawn_by_the_root_of_its_images() -> None:
    federated = FederatedClasses(4, 1, 0.5)
    torch.manual_seed(0)
    nothing = torch.zeros(0, dtype=torch.int64)
    weights = federated.weights([0, 1, 4, 25])
    share = sum(federated.mask(nothing, weights) for _ in range(4000)) / 4000
    assert torch.allclose(share, torch.tensor([0.0, 1 / 8, 2 / 8, 5 / 8]), atol=0.03)


def test_the_counts_are_those_of_the_training_images(
    tiny_config: Callable[..., Any], engine: Any, tmp_path: Path
) -> None:
    cfg = tiny_config({**FEDERATED, "SOLVER.MAX_ITER": 2})
    check_support(cfg)
    engine.train(cfg, tmp_path)
    stored = load_torch(tmp_path / "model_final.pth")["model"]["roi_heads.box_predictor.fed_loss_cls_weights"]
    records = [r for r in get_dataset(cfg.DATASETS.TRAIN[0]).records() if r["annotations"]]
    counts = [sum(any(a["category_id"] == k for a in r["annotations"]) for r in records) for k in range(3)]
    assert np.array_equal(stored, np.sqrt(np.array(counts, dtype=np.float32)))
    assert len(set(counts)) > 1
    assert engine.detect(cfg, tmp_path / "model_final.pth", cfg.DATASETS.TEST[0]) is not None


def test_it_needs_a_loss_by_class(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="USE_FED_LOSS needs USE_SIGMOID_CE True"):
        check_support(tiny_config({"MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True}))


@pytest.mark.detectron2
@pytest.mark.parametrize("wanted", [10, 3, 25])
@pytest.mark.parametrize("seed", range(4))
def test_loss_equals_detectron2s(seed: int, wanted: int) -> None:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers as Theirs

    torch.manual_seed(0)
    theirs = Theirs(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
        num_classes=CLASSES,
        use_fed_loss=True,
        use_sigmoid_ce=True,
        get_fed_loss_cls_weights=lambda: torch.tensor(IMAGES).float() ** 0.5,
        fed_loss_num_classes=wanted,
    )
    ours = predictor(wanted)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    features, classes = a_step(seed)
    torch.manual_seed(seed)
    expected = theirs.sigmoid_cross_entropy_loss(theirs(features)[0], classes)
    expected.backward()
    torch.manual_seed(seed)
    loss = class_loss(ours, features, classes)
    loss.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(ours.cls_score.weight.grad, theirs.cls_score.weight.grad)
