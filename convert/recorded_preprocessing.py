"""How images were normalised for the weights in a file: from its sidecar, its family, or assumed with a note."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from convert.backbone import Network
from convert.backbone_file import read_sidecar
from convert.checkpoint import Checkpoint
from convert.families import TABLE
from convert.hub_config import HUB_WEIGHTS
from convert.preprocessing import IMAGENET, MSRA_BGR, Preprocessing, from_config
from convert.recognition import CUSTOM
from runtime.atomic import read_json
from runtime.errors import UserError

HUB_CONFIGS = ("preprocessor_config.json", "config.json")
ASSUMED = (
    "pixel order, mean, std and stride are assumed to be those of ImageNet in RGB; change them with --preprocessing"
)


def preprocessing_of(checkpoint: Checkpoint, family: str, network: Network) -> tuple[Preprocessing, tuple[str, ...]]:
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
        written = _from_yaml(beside) if beside.is_file() else None
        return written or IMAGENET, notes if written else (*notes, ASSUMED)
    if "style='caffe'" in checkpoint.config_text.replace('"', "'").replace(" ", ""):
        return MSRA_BGR, (*notes, "its config says style='caffe': BGR, no std, stride in the 1x1 convolution")
    if row.preprocessing_grouped and getattr(network, "groups", 1) > 1:
        return row.preprocessing_grouped, notes
    usual = row.preprocessing
    if family == "huggingface":
        usual = replace(usual, stride_in_1x1=_transformers_stride(checkpoint))
    return _of_a_hub(checkpoint, usual, notes)


def _of_a_hub(
    checkpoint: Checkpoint, usual: Preprocessing, notes: tuple[str, ...]
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The mean and std in timm's config.json or transformers' preprocessor_config.json beside the weights.

    They are taken for a file that has the hub's own name, which lies in a folder of its own. Beside any other file they
    may belong to another one: if they differ from the ``usual`` ones, a note says so.
    """
    for name in HUB_CONFIGS:
        beside = checkpoint.path.with_name(name)
        recorded = _from_hub(read_json(beside), usual) if beside.is_file() else None
        if recorded is None or recorded == usual:
            continue
        values = f"mean {list(recorded.pixel_mean)}, std {list(recorded.pixel_std)}"
        if checkpoint.path.name.startswith(HUB_WEIGHTS):
            return recorded, (*notes, f"{name} beside it says {values} (RGB, 0..255)")
        return usual, (
            *notes,
            f"{name} in its folder says {values} (RGB, 0..255), which is not used: if it describes these weights, "
            "pass --preprocessing",
        )
    return usual, notes


def _from_hub(content: dict[str, Any], usual: Preprocessing) -> Preprocessing | None:
    nested = content.get("pretrained_cfg")
    fields = {**content, **nested} if isinstance(nested, dict) else content
    mean, std = (fields.get(key, fields.get(f"image_{key}")) for key in ("mean", "std"))
    if not _is_colour(mean) or not _is_colour(std) or not all(0 <= m <= 1 for m in mean):
        return None
    if not all(0 < s <= 1 for s in std):
        return None
    red, green, blue = (round(255 * value, 4) for value in mean)
    spread = [round(255 * value, 4) for value in std]
    return replace(usual, pixel_mean=(red, green, blue), pixel_std=(spread[0], spread[1], spread[2]))


def _is_colour(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)


def _transformers_stride(checkpoint: Checkpoint) -> bool:
    """Whether transformers' config.json puts the stride into the 1x1 convolution; UserError for another network."""
    content = read_json(checkpoint.path.with_name("config.json"))
    if content.get("downsample_in_first_stage") is True or content.get("hidden_act", "relu") != "relu":
        raise UserError(
            f"{checkpoint.path} cannot be converted: config.json beside it sets downsample_in_first_stage or an "
            "activation other than relu, which Detectron2's ResNet cannot do"
        )
    return content.get("downsample_in_bottleneck") is True


def _recorded(checkpoint: Checkpoint) -> Preprocessing | None:
    """The preprocessing in a sidecar of this project, if the file is the one that it describes."""
    content = read_sidecar(checkpoint.path)
    try:
        return from_config(content["config"]) if content else None
    except (KeyError, TypeError, AttributeError):
        return None  # an edited sidecar proves nothing about these weights


def _from_yaml(path: Path) -> Preprocessing | None:
    from runtime.strict_yaml import read_yaml  # PyYAML: only a fine-tuned detector has such a file beside it

    try:
        tree = read_yaml(path, f"config {path}", aliases=True)
        model = tree["MODEL"]
        return from_config(
            {
                "INPUT.FORMAT": tree["INPUT"]["FORMAT"],
                "MODEL.PIXEL_MEAN": model["PIXEL_MEAN"],
                "MODEL.PIXEL_STD": model["PIXEL_STD"],
                "MODEL.RESNETS.STRIDE_IN_1X1": model["RESNETS"]["STRIDE_IN_1X1"],
            }
        )
    except (UserError, KeyError, TypeError):
        return None  # not a complete Detectron2 config
