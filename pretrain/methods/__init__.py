"""The pretext tasks: a file and a row of ``METHODS`` each. No other file of pretraining knows a method by its name.

``--help`` reads this table, so the files of the methods, which need torch, are imported where a method is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.methods.queue_rows import (
    MoCoOptions,
    PclOptions,
    advise_queue,
    build_moco,
    build_pcl,
    check_moco,
    check_pcl,
    sampling_rule,
)
from pretrain.methods.row import MethodRow, ModelSettings, NoOptions, Sizes, option
from runtime.arguments import Bounds, positive
from runtime.errors import UserError

if TYPE_CHECKING:
    from pretrain.methods.base import Method


@dataclass(frozen=True)
class BankOptions:
    """Flags of every memory bank."""

    bank_momentum: float = option(
        0.5, "memory_bank, instdisc: momentum of the stored representations (0.5)", type=float, bounds=Bounds()
    )


@dataclass(frozen=True)
class InstDiscOptions(BankOptions):
    """Flags of instance discrimination."""

    instdisc_form: str = option("nce", "instdisc: loss (nce)", choices=["nce", "softmax"])


@dataclass(frozen=True)
class EndToEndOptions:
    """Flags of the end-to-end dictionary."""

    share_encoder: bool = option(False, "end_to_end: one encoder for queries and keys")


def _bank(model: ModelSettings, options: BankOptions, sizes: Sizes) -> Method:
    from pretrain.methods.memory_bank import BankMethod

    return BankMethod(
        model.encoder(model.moco_dim),
        images=sizes.images,
        dim=model.moco_dim,
        negatives=model.moco_k,
        momentum=options.bank_momentum,
        temperature=model.moco_t,
        form=options.instdisc_form if isinstance(options, InstDiscOptions) else "infonce",
        bf16=model.bf16,
    )


def _end_to_end(model: ModelSettings, options: EndToEndOptions, sizes: Sizes) -> Method:
    from pretrain.methods.in_batch import EndToEnd

    return EndToEnd(
        model.encoder(model.moco_dim),
        temperature=model.moco_t,
        bn_splits=model.bn_splits,
        share=options.share_encoder,
        batch=sizes.global_batch // sizes.parts,
        bf16=model.bf16,
    )


def _invaspread(model: ModelSettings, options: NoOptions, sizes: Sizes) -> Method:
    from pretrain.methods.in_batch import InvariantSpreading

    return InvariantSpreading(
        model.encoder(model.moco_dim),
        temperature=model.moco_t,
        batch=sizes.global_batch // sizes.parts,
        bf16=model.bf16,
    )


@dataclass(frozen=True)
class MoCoV3Options:
    """Flags of MoCo v3."""

    moco_mlp_dim: int = option(
        4096, "moco_v3: width of the hidden layers of projector and predictor (4096)", type=positive
    )
    moco_m_cos: bool = option(False, "moco_v3: raise the momentum to 1 along half a cosine")
    stop_grad_conv1: bool = option(False, "moco_v3: keep the random patch projection of a ViT")


def _moco_v3(model: ModelSettings, options: MoCoV3Options, sizes: Sizes) -> Method:
    from pretrain.methods.moco_v3 import MoCoV3

    return MoCoV3(
        model.encoder(model.moco_dim),
        dim=model.moco_dim,
        hidden=options.moco_mlp_dim,
        momentum=model.moco_m,
        temperature=model.moco_t,
        total_steps=sizes.total_steps if options.moco_m_cos else 0,
        stop_grad_patches=options.stop_grad_conv1,
        batch=sizes.global_batch // sizes.parts,
        bf16=model.bf16,
    )


def _check_moco_v3(model: ModelSettings, options: MoCoV3Options, sizes: Sizes) -> None:
    vit = model.arch.startswith("vit_")
    for flags, why in (
        (["--mlp"] * model.mlp, "has a projector of its own"),
        (["--bn-splits"] * (model.bn_splits > 1), "does not shuffle its keys"),
        (["--stop-grad-conv1"] * (options.stop_grad_conv1 and not vit), "has patches with a ViT only"),
    ):
        if flags:
            raise UserError(f"{flags[0]} is not for --method moco_v3, which {why}; leave it out")
    if model.arch.startswith("vit_conv") and options.stop_grad_conv1:
        raise UserError("--stop-grad-conv1 keeps a patch projection; -a vit_conv_* learns convolutions instead")


def _supervised(model: ModelSettings, options: NoOptions, sizes: Sizes) -> Method:
    from pretrain.methods.supervised import Supervised

    return Supervised(model.encoder(sizes.classes), bf16=model.bf16)


METHODS: dict[str, MethodRow] = {
    "moco": MethodRow(
        "moco_v1",
        build_moco,
        MoCoOptions,
        check_sizes=check_moco,
        advise=advise_queue,
        encodings=lambda options: 2 if options.symmetric else 1,
        sampling=sampling_rule,
        class_report=lambda options: {"cluster": "needed" if options.class_report else "wanted"}.get(options.negatives),
    ),
    "pcl": MethodRow(
        "pcl",
        build_pcl,
        PclOptions,
        check_sizes=check_pcl,
        advise=advise_queue,
        encodings=lambda options: 2 if options.symmetric else 1,
        sampling=sampling_rule,
    ),
    "memory_bank": MethodRow("memory_bank", _bank, BankOptions, crops=1),
    "instdisc": MethodRow("instdisc", _bank, InstDiscOptions, crops=1),
    "end_to_end": MethodRow("end_to_end", _end_to_end, EndToEndOptions, encodings=lambda options: 2),
    "invaspread": MethodRow("invaspread", _invaspread, views="v1_grey_last", encodings=lambda options: 2),
    "moco_v3": MethodRow(
        "moco_v3",
        _moco_v3,
        MoCoV3Options,
        views="v3",
        check_sizes=_check_moco_v3,
        encodings=lambda options: 2,
        vits=True,
        rate_of_256=True,
    ),
    "supervised": MethodRow("supervised", _supervised, crops=1, views="supervised", labels=True, vits=True),
}


def option_defaults() -> dict[str, object]:
    """{name: default} of the options of all methods."""
    return {name: default for row in METHODS.values() for name, default in row.defaults().items()}


def owners(name: str) -> list[str]:
    """The methods that have the option ``name``."""
    return [method for method, row in METHODS.items() if name in row.defaults()]
