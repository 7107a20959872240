"""Loads MODEL.WEIGHTS into a model and accounts for every tensor: no part of a backbone stays random unnoticed."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from convert.backbone_file import read_sidecar
from convert.checkpoint import read_checkpoint
from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.engines.weights.names import align, from_caffe2

# what a backbone file must set: the ResNet, and res5 where it is part of the C4 head; the ViT, Swin or ConvNeXt below
# its pyramid, without what only a detector has (relative positions of a ViT, its residual branches, an index)
BACKBONE = re.compile(
    r"^(backbone\.(bottom_up\.)?(stem|res[2-5])\.|roi_heads\.res5\.\d"
    r"|backbone\.net\.(?!.*\.(rel_pos_[hw]|residual\.))"
    r"|backbone\.bottom_up\.(patch_embed|layers|downsample_layers|stages)\.(?!.*\.relative_position_index$))"
)
# what a backbone file may have and a detector leave out
OPTIONAL = re.compile(r"^backbone\.net\.(cls_token|register_tokens|norm\.(weight|bias))$")
# a block of a ViT, Swin or ConvNeXt
NETWORK = re.compile(r"^backbone\.(net\.blocks\.\d+|bottom_up\.(layers\.\d+\.blocks|stages\.\d+)\.\d+)\.")
# end of a name that a backbone file has and the config's network has not -> the setting that would take it
SWITCHES = {
    ".ls1.gamma": "MODEL.VIT.LAYER_SCALE True",
    ".ls2.gamma": "MODEL.VIT.LAYER_SCALE True",
    ".mlp.w12.weight": "MODEL.VIT.FEED_FORWARD swiglu",
    ".attn.qkv.bias": "QKV_BIAS True",
    ".grn.gamma": "MODEL.CONVNEXT.GRN True",
    ".gamma": "MODEL.CONVNEXT.LAYER_SCALE True",
}
POSITIONS, PERIODS = "backbone.net.pos_embed", "backbone.net.rope_embed.periods"  # of a ViT: absolute, rotary
# what a whole detector has besides it, under Detectron2's names
DETECTOR_PARTS = ("proposal_generator.", "roi_heads.box_predictor.")
STATISTICS = (".running_mean", ".running_var")
BLOCK = re.compile(r"(?:^|\.)((res[2-5])\.\d+)\.")  # of a stage


@dataclass
class LoadReport:
    """What happened to the tensors: set in the model, missing in the file, of another shape, unused in the file."""

    set: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def load_weights(model: nn.Module, path: str | Path, *, trained: bool = False) -> LoadReport:
    """Load a backbone or detector file (.pkl, .pth, .safetensors) by Detectron2's rules of matching names.

    Nothing in the file is executed. Raises UserError when a tensor of the backbone is not in the file and when the
    file's backbone has more blocks. ``trained``: the detector is tested, not trained; then every tensor must be in the
    file.
    """
    file, affine_only = read_tensors(path)
    state = model.state_dict()
    matched = align(state, file)
    report = LoadReport(unused=sorted(set(file) - set(matched.values())))
    chosen: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        source = matched.get(name)
        if source is None:
            report.missing.append(name)
        elif file[source].shape != value.shape:
            report.wrong_shape.append(f"{name} {tuple(file[source].shape)} instead of {tuple(value.shape)}")
        else:
            chosen[name] = file[source]
            report.set.append(name)
    absent = [
        name
        for name in report.missing
        if not name.endswith(".num_batches_tracked")
        and not (affine_only and name.endswith(STATISTICS) and name.rsplit(".", 1)[0] + ".weight" in chosen)
    ]
    _refuse_other_positions(path, state, file)
    _refuse_random_backbone(path, report.wrong_shape, absent)
    _refuse_deeper_backbone(path, state, report.unused)
    _refuse_unheld_tensors(path, state, report.unused)
    if trained:
        _refuse_random_detector(path, report.wrong_shape, absent)
    model.load_state_dict(chosen, strict=False)
    logger = get_logger(__name__)
    logger.info("%s: %d of %d tensors of the model set", path, len(report.set), len(state))
    if report.missing or report.wrong_shape:
        fresh = sorted({name.rsplit(".", 1)[0] for name in report.missing if "num_batches" not in name})
        logger.info("new layers: %s", ", ".join([*fresh, *report.wrong_shape]) or "none")
    if not trained and any(name.startswith(DETECTOR_PARTS) for name in file):
        logger.info("%s", kept_and_new(report))
    return report


def kept_and_new(report: LoadReport) -> str:
    """One sentence on a detector as a start: which parts of it are kept whole, and in which layers begin at random."""

    def part(text: str) -> str:
        name = text.split(" ")[0]
        return ".".join(name.split(".")[: 2 if name.startswith("roi_heads.") else 1])

    begin = [*report.wrong_shape, *(name for name in report.missing if not name.endswith(".num_batches_tracked"))]
    new = sorted({part(text) for text in begin})
    kept = sorted({part(name) for name in report.set} - set(new))
    partly = sorted({part(name) for name in report.set} & set(new))
    words = f"a whole detector as a start: kept {', '.join(kept) or 'nothing whole'}"
    words += f"; kept in part {', '.join(partly)}" if partly else ""
    return f"{words}; new {', '.join(new) or 'nothing'}"


def is_detector(path: str | Path) -> bool:
    """Whether a weight file holds a whole detector under Detectron2's names, not only a backbone."""
    names = (name.removeprefix("model.") for name in read_checkpoint(path).tensors)
    return {part for name in names for part in DETECTOR_PARTS if name.startswith(part)} == set(DETECTOR_PARTS)


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Tensors of a weight file under Detectron2's names, and whether it is a Caffe2 file.

    Caffe2 (MSRA, Detectron1) files may come without batch-norm statistics, folded into weight and bias.
    """
    checkpoint = read_checkpoint(path)
    read_sidecar(Path(path))  # raises UserError if the file is not the one that its sidecar describes
    prefix = next((mark + "." for mark in ("model", "blobs") if mark in checkpoint.marks), "")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in checkpoint.tensors.items():
        if name.startswith(prefix):
            array = value.load()
            tensors[name[len(prefix) :]] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    caffe2 = all("." not in name for name in tensors)  # res2_0_branch2a_w: every other layout has dots
    return (from_caffe2(tensors) if caffe2 else tensors), caffe2


def _refuse_other_positions(path: str | Path, model: Container[str], file: Container[str]) -> None:
    """Refuse a ViT with rotary positions where the config has absolute or none, and the reverse, by the keys' names."""
    a_vit = "backbone.net.patch_embed.proj.weight" in model
    if a_vit and PERIODS in file and PERIODS not in model:
        raise UserError(
            f"{path}: its backbone has rotary positions ({PERIODS}) and the config's network has none; set "
            "MODEL.VIT.ROPE True, USE_ABS_POS False and USE_REL_POS False, or choose another backbone"
        )
    if PERIODS in model and PERIODS not in file and POSITIONS in file:
        raise UserError(
            f"{path}: its backbone has a position embedding ({POSITIONS}) and the config's network has rotary "
            "positions; set MODEL.VIT.ROPE False and USE_ABS_POS True, or choose another backbone"
        )


def _refuse_random_backbone(path: str | Path, wrong_shape: list[str], absent: list[str]) -> None:
    wrong = [text for text in wrong_shape if BACKBONE.match(text)]
    if wrong:
        raise UserError(
            f"{path}: its backbone has other shapes than the config asks for ({len(wrong)} tensors, e.g. {wrong[0]}); "
            "check MODEL.RESNETS.DEPTH and widths, or those of MODEL.VIT, SWIN, CONVNEXT, against the file"
        )
    random = [name for name in absent if BACKBONE.match(name)]
    if random:
        raise UserError(
            f"{path}: {len(random)} tensors of the backbone are not in it and would stay random, e.g. {random[0]}; "
            "convert the checkpoint with convert/to_d2.py, or check the MODEL section"
        )


def _refuse_deeper_backbone(path: str | Path, model: Iterable[str], unused: Iterable[str]) -> None:
    """Refuse a deeper backbone, which shapes do not reveal: the first blocks of a ResNet-101 fit a ResNet-50."""
    blocks = {match[1]: match[2] for name in model if (match := BLOCK.search(name))}
    stages = set(blocks.values())
    extra = {match[1] for name in unused if (match := BLOCK.search(name)) and match[2] in stages} - set(blocks)
    if extra:
        raise UserError(
            f"{path}: its backbone is deeper than the config's, {len(extra)} blocks have no place in it, e.g. "
            f"{min(extra)}; check MODEL.RESNETS.DEPTH"
        )


def _refuse_unheld_tensors(path: str | Path, model: Iterable[str], unused: Iterable[str]) -> None:
    """Refuse a ViT, Swin or ConvNeXt with parts that the config's network lacks: it would compute something else."""
    blocks = {match[0] for name in model if (match := NETWORK.match(name))}
    if not blocks:
        return
    lost = [name for name in unused if BACKBONE.match(name) and not OPTIONAL.match(name)]
    if lost:
        deeper = [name for name in lost if (match := NETWORK.match(name)) and match[0] not in blocks]
        switched = [] if deeper else [name for name in lost if name.endswith(tuple(SWITCHES))]
        first = [*deeper, *switched, *lost][0]
        setting = SWITCHES[next(end for end in SWITCHES if first.endswith(end))] if switched else "its depth in MODEL"
        raise UserError(
            f"{path}: {len(lost)} tensors of its backbone have no place in the config's network, e.g. {first}; "
            f"set {setting}, or choose another backbone"
        )


def _refuse_random_detector(path: str | Path, wrong_shape: list[str], absent: list[str]) -> None:
    random = [*absent, *wrong_shape]
    if random:
        raise UserError(
            f"{path}: {len(random)} tensors of the detector are not in it or have another shape, e.g. {random[0]}; "
            "only a trained detector of this config can be tested (model_final.pth); train the backbone first"
        )
