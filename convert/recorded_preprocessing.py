"""How images were normalised for the weights in a file: from its sidecar, its family, or assumed with a note."""

from __future__ import annotations

from convert.architecture import Architecture
from convert.backbone_file import read_sidecar
from convert.checkpoint import Checkpoint
from convert.families import TABLE
from convert.preprocessing import IMAGENET, MSRA_BGR, Preprocessing, from_config
from convert.recognition import CUSTOM

ASSUMED = (
    "pixel order, mean, std and stride are assumed to be those of ImageNet in RGB; change them with --preprocessing"
)


def preprocessing_of(
    checkpoint: Checkpoint, family: str, architecture: Architecture
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The preprocessing of the weights, and notes on it for the user.

    A sidecar of this project decides. A Detectron2 file does not record it; the config.yaml beside a fine-tuned one
    does.
    """
    if recorded := _recorded(checkpoint):
        return recorded, ()
    if family == CUSTOM:
        return IMAGENET, (ASSUMED,)
    row = TABLE[family]
    notes = (row.note,) if row.note else ()
    if family.startswith("detectron2"):
        beside = checkpoint.path.with_name("config.yaml")
        written = _from_yaml(beside.read_text()) if beside.exists() else None
        return written or IMAGENET, notes if written else (*notes, ASSUMED)
    if "style='caffe'" in checkpoint.config_text.replace('"', "'").replace(" ", ""):
        return MSRA_BGR, (*notes, "its config says style='caffe': BGR, no std, stride in the 1x1 convolution")
    if row.preprocessing_grouped and architecture.groups > 1:
        return row.preprocessing_grouped, notes
    return row.preprocessing, notes


def _recorded(checkpoint: Checkpoint) -> Preprocessing | None:
    """The preprocessing in a sidecar of this project, if the file is the one that it describes."""
    content = read_sidecar(checkpoint.path)
    try:
        return from_config(content["config"]) if content else None
    except (KeyError, TypeError, AttributeError):
        return None  # an edited sidecar proves nothing about these weights


def _from_yaml(text: str) -> Preprocessing | None:
    import yaml  # only a fine-tuned detector has one beside it

    try:
        tree = yaml.safe_load(text)
        model = tree["MODEL"]
        return from_config(
            {
                "INPUT.FORMAT": tree["INPUT"]["FORMAT"],
                "MODEL.PIXEL_MEAN": model["PIXEL_MEAN"],
                "MODEL.PIXEL_STD": model["PIXEL_STD"],
                "MODEL.RESNETS.STRIDE_IN_1X1": model["RESNETS"]["STRIDE_IN_1X1"],
            }
        )
    except (yaml.YAMLError, KeyError, TypeError):
        return None  # not a complete Detectron2 config
