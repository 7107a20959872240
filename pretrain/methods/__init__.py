"""The table of methods: name -> how one is built from the command line's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help reads this table: nothing heavy is imported for it
    from argparse import Namespace

    from pretrain.methods.base import Method


@dataclass(frozen=True)
class Sizes:
    """What the data and the world decide: images and classes of the data set, the global batch, steps per epoch."""

    images: int
    classes: int
    global_batch: int
    steps_per_epoch: int


@dataclass(frozen=True)
class MethodRow:
    """One method: its default recipe, whether it needs labels, and ``build(settings, sizes)``."""

    recipe: str
    build: Callable[[Namespace, Sizes], Method]
    labels: bool = False


def _encoder(args: Namespace, outputs: int, bn_splits: int = 1) -> Any:
    from pretrain.encoders import build_encoder

    return build_encoder(args.arch, outputs=outputs, mlp=args.mlp, stem=args.stem, bn_splits=bn_splits)


def _moco(args: Namespace, sizes: Sizes) -> Method:
    from pretrain.methods.moco import MoCo
    from pretrain.methods.negatives import STRATEGIES

    score = STRATEGIES[args.negatives](
        hardest=args.mochi_hardest,
        pairs=args.mochi_pairs,
        with_query=args.mochi_query,
        class_prior=args.class_prior,
        beta=args.hard_beta,
    )
    return MoCo(
        _encoder(args, args.moco_dim, args.bn_splits),
        dim=args.moco_dim,
        queue_size=args.moco_k,
        momentum=args.moco_m,
        temperature=args.moco_t,
        symmetric=args.symmetric,
        bn_splits=args.bn_splits,
        negatives=score,
        warmup_steps=args.mochi_warmup * sizes.steps_per_epoch if args.negatives == "mochi" else 0,
        bf16=args.precision == "bf16",
    )


def _bank(form: str) -> Callable[[Namespace, Sizes], Method]:
    def build(args: Namespace, sizes: Sizes) -> Method:
        from pretrain.methods.memory_bank import BankMethod

        return BankMethod(
            _encoder(args, args.moco_dim, args.bn_splits),
            images=sizes.images,
            dim=args.moco_dim,
            negatives=args.moco_k,
            momentum=args.bank_momentum,
            temperature=args.moco_t,
            form=form or args.instdisc_form,
            bf16=args.precision == "bf16",
        )

    return build


def _end_to_end(args: Namespace, sizes: Sizes) -> Method:
    from pretrain.methods.in_batch import EndToEnd

    return EndToEnd(
        _encoder(args, args.moco_dim, args.bn_splits),
        temperature=args.moco_t,
        bn_splits=args.bn_splits,
        share=args.share_encoder,
        batch=sizes.global_batch // args.accumulate,
        bf16=args.precision == "bf16",
    )


def _invaspread(args: Namespace, sizes: Sizes) -> Method:
    from pretrain.methods.in_batch import InvariantSpreading

    return InvariantSpreading(
        _encoder(args, args.moco_dim, args.bn_splits),
        temperature=args.moco_t,
        batch=sizes.global_batch // args.accumulate,
        bf16=args.precision == "bf16",
    )


def _supervised(args: Namespace, sizes: Sizes) -> Method:
    from pretrain.methods.supervised import Supervised

    return Supervised(_encoder(args, sizes.classes, args.bn_splits), bf16=args.precision == "bf16")


METHODS: dict[str, MethodRow] = {
    "moco": MethodRow("moco_v1", _moco),
    "memory_bank": MethodRow("memory_bank", _bank("infonce")),
    "end_to_end": MethodRow("end_to_end", _end_to_end),
    "instdisc": MethodRow("instdisc", _bank("")),
    "invaspread": MethodRow("invaspread", _invaspread),
    "supervised": MethodRow("supervised", _supervised, labels=True),
}
