"""How the images were normalised for the weights in a file: the sidecar knows, the family says, or a note is due."""

from __future__ import annotations

from convert.architecture import Architecture
from convert.backbone_file import read_sidecar
from convert.checkpoint import Checkpoint
from convert.families import TABLE
from convert.preprocessing import IMAGENET, MSRA_BGR, Preprocessing, from_config
from convert.recognition import CUSTOM

ASSUMED = (
    "pixel order, mean, std and stride place are assumed as for ImageNet in RGB; say otherwise with --preprocessing"
)


def how_seen(checkpoint: Checkpoint, family: str, architecture: Architecture) -> tuple[Preprocessing, tuple[str, ...]]:
    """The preprocessing of the weights, and what the user should be told about it.

    A sidecar of ours settles it. A Detectron2 file says nothing itself; the config.yaml beside a fine-tuned one does.
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
    """What a sidecar of ours says, if the file is the one that it describes."""
    content = read_sidecar(checkpoint.path)
    try:
        return from_config(content["config"]) if content else None
    except (KeyError, TypeError, AttributeError):
        return None  # a sidecar that somebody edited: it says nothing about these weights


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
        return None  # not a whole Detectron2 config: it does not settle the question
