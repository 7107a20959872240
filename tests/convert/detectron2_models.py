"""Detectors of the real Detectron2, and what its checkpointer loads into them."""

from __future__ import annotations

from pathlib import Path

import torch

from convert.backbone_file import write_backbone
from convert.conversion import convert
from tests.convert.checkpoints import random_resnet, save


def detector(base: str, options: list) -> torch.nn.Module:
    """A stock detector on CPU from one of Detectron2's base configs."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(model_zoo.__file__).parent / "configs" / base))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", *options])
    return build_model(cfg)


def loaded_tensors(
    base: str, folder: Path, arch: str = "resnet50", form: str = "pkl", options: list | None = None
) -> int:
    """How many tensors Detectron2's own checkpointer sets, each bit for bit, from a converted ``arch``."""
    from detectron2.checkpoint import DetectionCheckpointer

    backbone = convert(save(random_resnet(arch).state_dict(), folder / "c.pth"), verify=False)
    file = write_backbone(backbone, folder / "out", [form])[0]
    flat = [item for pair in backbone.config.items() for item in pair]
    model = detector(base, flat + (options or []))
    DetectionCheckpointer(model).load(str(file))
    state, found = model.state_dict(), 0
    for name, array in backbone.tensors.items():
        if not name.endswith("num_batches_tracked"):
            target = next(n for n in state if n == name or n.endswith(f".{name}"))
            found += torch.equal(state[target], torch.tensor(array))
    return found
