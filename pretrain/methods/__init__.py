"""The pretext tasks: a file and a row of ``METHODS`` each. No other file of pretraining knows a method by its name.

``--help`` reads this table, so the files of the methods, which need torch, are imported where a method is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.methods.row import MethodRow, ModelSettings, NoOptions, Sizes, option
from runtime.arguments import Bounds, positive, whole
from runtime.errors import UserError
from runtime.findings import Finding

if TYPE_CHECKING:
    from pretrain.methods.base import Method


LONGEST_QUEUE = 1.5  # epochs that a queue may reach back without a word; MoCo's on ImageNet reaches back 0.05


@dataclass(frozen=True)
class MoCoOptions:
    """Flags of MoCo and of its choices of negatives."""

    symmetric: bool = option(False, "moco: add the loss with the views exchanged")
    negatives: str = option("queue", "moco: which negatives", choices=["queue", "mochi", "debiased", "hard"])
    mochi_hardest: int = option(1024, "mochi: negatives to mix from, per query (1024)", type=positive)
    mochi_pairs: int = option(1024, "mochi: mixtures of two negatives (1024)", type=positive)
    mochi_query: int = option(128, "mochi: mixtures of the query and a negative (128)", type=positive)
    mochi_warmup: int = option(10, "mochi: epochs before mixing (10)", type=whole, metavar="EPOCHS")
    class_prior: float = option(
        0.1, "debiased, hard: probability of a false negative (0.1)", type=float, bounds=Bounds(high=1)
    )
    hard_beta: float = option(1.0, "hard: concentration (1.0)", type=float, bounds=Bounds())


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


def _moco(model: ModelSettings, options: MoCoOptions, sizes: Sizes) -> Method:
    from pretrain.methods.moco import MoCo
    from pretrain.methods.negatives import STRATEGIES

    score = STRATEGIES[options.negatives](
        hardest=options.mochi_hardest,
        pairs=options.mochi_pairs,
        with_query=options.mochi_query,
        class_prior=options.class_prior,
        beta=options.hard_beta,
    )
    return MoCo(
        model.encoder(model.moco_dim),
        dim=model.moco_dim,
        queue_size=model.moco_k,
        momentum=model.moco_m,
        temperature=model.moco_t,
        symmetric=options.symmetric,
        bn_splits=model.bn_splits,
        negatives=score,
        warmup_steps=options.mochi_warmup * sizes.steps_per_epoch if options.negatives == "mochi" else 0,
        bf16=model.bf16,
    )


def _check_queue(model: ModelSettings, options: MoCoOptions, sizes: Sizes) -> None:
    """The official code's condition: a step's keys overwrite whole parts of the queue."""
    keys = sizes.global_batch * (2 if options.symmetric else 1)
    if model.moco_k < keys:
        raise UserError(f"--moco-k {model.moco_k} is less than the {keys} keys of a step; lower --batch-size")
    if model.moco_k % keys:
        raise UserError(f"--moco-k {model.moco_k} is not a multiple of the {keys} keys of a step")


def _advise_queue(model: ModelSettings, options: MoCoOptions, sizes: Sizes) -> list[Finding]:
    """A queue that outlasts an epoch holds earlier keys of every query's own image, as negatives."""
    keys = sizes.global_batch * (2 if options.symmetric else 1)
    if model.moco_k <= LONGEST_QUEUE * sizes.images:
        return []
    sensible = max(keys, sizes.images // 4 // keys * keys)
    message = (
        f"--moco-k {model.moco_k} reaches back {model.moco_k / sizes.images:.1f} epochs of {sizes.images} images, so "
        f"earlier keys of a query's own image are among its negatives; use --moco-k {sensible} (a quarter of the "
        "images, a multiple of a step's keys)"
    )
    return [Finding("queue larger than the data set", 1, f"--moco-k {model.moco_k}", message)]


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


def _supervised(model: ModelSettings, options: NoOptions, sizes: Sizes) -> Method:
    from pretrain.methods.supervised import Supervised

    return Supervised(model.encoder(sizes.classes), bf16=model.bf16)


METHODS: dict[str, MethodRow] = {
    "moco": MethodRow(
        "moco_v1",
        _moco,
        MoCoOptions,
        check_sizes=_check_queue,
        advise=_advise_queue,
        encodings=lambda options: 2 if options.symmetric else 1,
    ),
    "memory_bank": MethodRow("memory_bank", _bank, BankOptions, crops=1),
    "instdisc": MethodRow("instdisc", _bank, InstDiscOptions, crops=1),
    "end_to_end": MethodRow("end_to_end", _end_to_end, EndToEndOptions, encodings=lambda options: 2),
    "invaspread": MethodRow("invaspread", _invaspread, views="v1_grey_last", encodings=lambda options: 2),
    "supervised": MethodRow("supervised", _supervised, crops=1, views="supervised", labels=True),
}


def option_defaults() -> dict[str, object]:
    """{name: default} of the options of all methods."""
    return {name: default for row in METHODS.values() for name, default in row.defaults().items()}


def owners(name: str) -> list[str]:
    """The methods that have the option ``name``."""
    return [method for method, row in METHODS.items() if name in row.defaults()]
