"""The command line of a training of seconds."""

from __future__ import annotations

from pathlib import Path

TINY = {
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "8",
    "MODEL.ROI_HEADS.NUM_CLASSES": "3",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "10",
    "INPUT.MIN_SIZE_TRAIN": "(32,)",
    "INPUT.MIN_SIZE_TEST": "32",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.STEPS": "()",
    "TEST.PRECISE_BN.ENABLED": "False",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
}


def arguments(data: str, folder: Path, *flags: str, **opts: str) -> list[str]:
    """train_net.py on ``data`` into ``folder``; ``opts`` are config keys with __ for the point."""
    pairs = {**TINY, "DATASETS.TRAIN": f"('{data}',)", "DATASETS.TEST": f"('{data}',)", "OUTPUT_DIR": str(folder)}
    pairs.update({k.replace("__", "."): v for k, v in opts.items()})
    if not any(f in flags for f in ("--init", "--eval-only")):
        flags = (*flags, "--init", "random")
    head = ["transfer/train_net.py", "--config-file", "demo_R18_FPN.yaml", "--engine", "torchvision", *flags]
    return [*head, *(x for pair in pairs.items() for x in pair)]


def write_resnet18(path: Path) -> Path:
    """A backbone of random ResNet-18 weights, converted from torchvision's model."""
    import torch
    from torchvision.models import resnet18

    from convert.backbone_file import write_backbone
    from convert.conversion import convert

    torch.manual_seed(1)
    checkpoint = path.with_suffix(".pth")
    torch.save(resnet18().state_dict(), checkpoint)
    write_backbone(convert(checkpoint), path)
    return path
