"""Settings that cannot work together, each refused in one line before anything is built or written."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

from pretrain.settings.options import OURS
from pretrain.settings.recipes import OFFICIAL
from runtime.errors import UserError

# what may differ between a run and its continuation without changing a single number
FREE = {"workers", "print_freq"}
# options that other methods than theirs would ignore, and a comparison would then compare a run with itself
OWNERS = {"symmetric": "moco", "negatives": "moco", "share_encoder": "end_to_end", "instdisc_form": "instdisc"}


def check_settings(args: Namespace) -> None:
    """Refuse what no data set could make right."""
    from pretrain.encoders import ARCHITECTURES

    for name, method in OWNERS.items():
        if args.method != method and getattr(args, name) != OURS[name]:
            raise UserError(
                f"--{name.replace('_', '-')} is for --method {method}; --method {args.method} has no use for it"
            )
    if args.arch not in ARCHITECTURES:
        raise UserError(f"unknown encoder -a {args.arch}; choose one of {', '.join(ARCHITECTURES)}")
    if args.image_size < 8:
        raise UserError(f"--image-size {args.image_size} is too small for a ResNet; use 32 or more")
    if not 0 <= args.moco_m <= 1:
        raise UserError(f"--moco-m {args.moco_m} is not between 0 and 1")
    if not args.moco_t > 0:
        raise UserError(f"--moco-t {args.moco_t} is not positive")
    if not 0 < args.lr < math.inf:
        raise UserError(f"--lr {args.lr} is not a positive number")
    for name in ("momentum", "weight_decay", "warmup_epochs", "lr_gamma", "bank_momentum", "hard_beta", "max_bad"):
        if not 0 <= getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} is not a number from 0 up")
    if args.schedule_factors is not None and len(args.schedule_factors) != len(args.schedule):
        raise UserError("--schedule-factors needs one factor for each epoch of --schedule")
    if not 0 <= args.class_prior < 1:
        raise UserError(f"--class-prior {args.class_prior} is not in [0, 1)")


def check_sizes(args: Namespace, *, images: int, global_batch: int, ranks: int) -> None:
    """Refuse a batch, a queue or groups that do not fit each other or the ``images`` of the data set."""
    if global_batch > images:
        raise UserError(f"--batch-size {global_batch} is larger than the data set ({images} images); lower it")
    if global_batch % (ranks * args.accumulate):
        raise UserError(
            f"a batch of {global_batch} cannot be split over {ranks} process(es) x --accumulate {args.accumulate}"
        )
    part = global_batch // ranks // args.accumulate
    if part % args.bn_splits or part // args.bn_splits < 2:
        raise UserError(
            f"--bn-splits {args.bn_splits} does not divide {part} images per process and part into groups of 2 or more"
        )
    if args.method == "moco":
        keys = global_batch * (2 if args.symmetric else 1)
        if args.moco_k < keys:
            raise UserError(f"--moco-k {args.moco_k} is less than the {keys} keys of a step; lower --batch-size")
        if args.moco_k % keys:
            raise UserError(f"--moco-k {args.moco_k} is not a multiple of the {keys} keys of a step")


def deciding(args: Namespace, *, fingerprint: str, ranks: int) -> dict[str, Any]:
    """Every setting that decides the result, the data and the number of processes: what a resume must not change."""
    keys = sorted((OURS.keys() | OFFICIAL.keys()) - FREE)
    return {**{key: getattr(args, key) for key in keys}, "data": fingerprint, "world_size": ranks}
