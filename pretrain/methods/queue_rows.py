"""The flags of the methods with a queue, what their sizes must be, and how they are built from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain.methods.row import ModelSettings, SamplingRule, Sizes, option
from runtime.arguments import Bounds, flag, positive, whole
from runtime.errors import UserError
from runtime.findings import Finding

if TYPE_CHECKING:
    from pretrain.methods.base import Method

LONGEST_QUEUE = 1.5  # epochs that a queue may reach back without a word; MoCo's on ImageNet reaches back 0.05
SHARES = (51, 26, 13)  # images per cluster of PCL on ImageNet: 25,000, 50,000 and 100,000 clusters of 1.28 million


@dataclass(frozen=True)
class QueueOptions:
    """Flags of every method with a queue."""

    symmetric: bool = option(False, "moco, pcl: add the loss with the views exchanged")
    sample_by: str = option(
        "uniform", "moco, pcl: draw an epoch's images alike, or by their last loss or uncertainty (uniform)",
        choices=["uniform", "loss", "uncertainty"],
    )  # fmt: skip
    sample_temperature: float = option(
        1.0, "sample-by: weights are scores to the power 1 / this (1.0)", type=float, bounds=Bounds(low=0.01)
    )
    sample_floor: float = option(
        0.2, "sample-by: share of an epoch that is drawn uniformly (0.2)", type=float, bounds=Bounds(high=1)
    )
    sample_momentum: float = option(
        0.5, "sample-by: momentum of an image's score (0.5)", type=float, bounds=Bounds(high=1)
    )


@dataclass(frozen=True)
class MoCoOptions(QueueOptions):
    """Flags of MoCo's choices of negatives."""

    negatives: str = option("queue", "moco: which negatives",
                            choices=["queue", "mochi", "debiased", "hard", "cluster", "active"])  # fmt: skip
    mochi_hardest: int = option(1024, "mochi: negatives to mix from, per query (1024)", type=positive)
    mochi_pairs: int = option(1024, "mochi: mixtures of two negatives (1024)", type=positive)
    mochi_query: int = option(128, "mochi: mixtures of the query and a negative (128)", type=positive)
    mochi_warmup: int = option(10, "mochi: epochs before mixing (10)", type=whole, metavar="EPOCHS")
    class_prior: float = option(
        0.1, "debiased, hard: probability of a false negative (0.1)", type=float, bounds=Bounds(high=1)
    )
    hard_beta: float = option(1.0, "hard: concentration (1.0)", type=float, bounds=Bounds())
    cluster_use: str = option("drop", "cluster: drop the query's own cluster, weigh it down, or use it alone (drop)",
                              choices=["drop", "down", "hard"])  # fmt: skip
    cluster_count: int = option(0, "cluster: clusters of the keys (0: the root of --moco-k)", type=whole, metavar="N")
    cluster_start: int = option(1, "cluster: epochs of plain InfoNCE before (1)", type=whole, metavar="EPOCHS")
    cluster_weight: float = option(
        0.1, "cluster-use down: weight of the own cluster (0.1)", type=float, bounds=Bounds(high=1)
    )
    cluster_momentum: float = option(0.99, "cluster: momentum of a centroid (0.99)", type=float, bounds=Bounds(high=1))
    class_report: bool = option(False, "cluster: refuse images without labels, which the report of dropped pairs needs")
    active_rows: int = option(0, "active: rows of the queue to use, M (0: a quarter)", type=whole, metavar="M")
    active_draw: str = option("top", "active: the rows with the largest expected gradient, or an unbiased sample (top)",
                              choices=["top", "sampled"])  # fmt: skip

    def clusters(self, rows: int) -> int:
        """Number of clusters for a queue of ``rows``."""
        return self.cluster_count or max(2, math.isqrt(rows))


@dataclass(frozen=True)
class PclOptions(QueueOptions):
    """Flags of PCL; --num-cluster is the official code's."""

    num_cluster: str = option(
        "",
        "pcl: clusters of each granularity, as 25000,50000,100000 (1/51, 1/26, 1/13 of the images)",
        metavar="N,N,...",
    )
    pcl_warmup: int = option(20, "pcl: epochs of plain InfoNCE before (20)", type=whole, metavar="EPOCHS")
    pcl_r: int = option(
        16384, "pcl: other prototypes to compare with (16384; all where there are fewer)", type=positive
    )

    def clusters(self, images: int) -> tuple[int, ...]:
        """Number of clusters of each granularity. UserError for a text that is no list of numbers."""
        if not self.num_cluster:
            return tuple(sorted({min(images, max(2, images // share)) for share in SHARES}))
        try:
            counts = tuple(int(text) for text in self.num_cluster.split(","))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 2:
            raise UserError(f"--num-cluster must be whole numbers of 2 or more, as in 100,200, not {self.num_cluster}")
        return counts


def build_moco(model: ModelSettings, options: MoCoOptions, sizes: Sizes) -> Method:
    """MoCo with the negatives that its options name."""
    from pretrain.methods.clusters import ClusterMoCo, Clusters
    from pretrain.methods.moco import MoCo
    from pretrain.methods.negatives import STRATEGIES

    warmup = {"mochi": options.mochi_warmup, "cluster": options.cluster_start}.get(options.negatives, 0)
    settings: dict[str, Any] = {**_queue_settings(model, options), "warmup_steps": warmup * sizes.steps_per_epoch}
    encoder = model.encoder(model.moco_dim)
    if options.negatives == "cluster":
        clusters = Clusters(
            options.clusters(model.moco_k),
            model.moco_dim,
            use=options.cluster_use,
            weight=options.cluster_weight,
            momentum=options.cluster_momentum,
            bf16=model.bf16,
        )
        return ClusterMoCo(encoder, clusters, **settings)
    score = STRATEGIES[options.negatives](
        hardest=options.mochi_hardest,
        pairs=options.mochi_pairs,
        with_query=options.mochi_query,
        class_prior=options.class_prior,
        beta=options.hard_beta,
        active_rows=options.active_rows or max(1, model.moco_k // 4),
        active_sampled=options.active_draw == "sampled",
    )
    return MoCo(encoder, negatives=score, **settings)


def build_pcl(model: ModelSettings, options: PclOptions, sizes: Sizes) -> Method:
    """PCL for the images of the data set."""
    from pretrain.methods.pcl import Pcl

    return Pcl(
        model.encoder(model.moco_dim),
        images=sizes.images,
        clusters=options.clusters(sizes.images),
        steps_per_epoch=sizes.steps_per_epoch,
        others=options.pcl_r,
        warmup_steps=options.pcl_warmup * sizes.steps_per_epoch,
        **_queue_settings(model, options),
    )


def _queue_settings(model: ModelSettings, options: QueueOptions) -> dict[str, Any]:
    return {
        "dim": model.moco_dim,
        "queue_size": model.moco_k,
        "momentum": model.moco_m,
        "temperature": model.moco_t,
        "symmetric": options.symmetric,
        "bn_splits": model.bn_splits,
        "bf16": model.bf16,
    }


def sampling_rule(options: QueueOptions) -> SamplingRule | None:
    """How an epoch's images are drawn; None for all alike."""
    if options.sample_by == "uniform":
        return None
    return SamplingRule(options.sample_by, options.sample_temperature, options.sample_floor, options.sample_momentum)


def check_queue(model: ModelSettings, options: QueueOptions, sizes: Sizes) -> None:
    """The official code's condition: a step's keys overwrite whole parts of the queue."""
    keys = sizes.global_batch * (2 if options.symmetric else 1)
    if model.moco_k < keys:
        raise UserError(f"--moco-k {model.moco_k} is less than the {keys} keys of a step; lower --batch-size")
    if model.moco_k % keys:
        raise UserError(f"--moco-k {model.moco_k} is not a multiple of the {keys} keys of a step")
    if options.sample_by == "uniform":
        _refuse_unused(options, "sample_", "--sample-by uniform", except_for="sample_by")


def check_moco(model: ModelSettings, options: MoCoOptions, sizes: Sizes) -> None:
    """check_queue, and numbers of clusters and rows that the queue has."""
    check_queue(model, options, sizes)
    for strategy, prefix in (("cluster", ("cluster_", "class_report")), ("active", "active_")):
        if options.negatives != strategy:
            _refuse_unused(options, prefix, f"--negatives {options.negatives}")
    clusters = options.clusters(model.moco_k)
    if options.negatives == "cluster" and not 2 <= clusters <= model.moco_k:
        raise UserError(
            f"--cluster-count {clusters}: choose 2 or more, and no more than the {model.moco_k} keys of --moco-k"
        )
    if options.negatives == "cluster" and options.cluster_use != "down" and options.cluster_weight != 0.1:
        raise UserError(
            f"--cluster-weight is for --cluster-use down; --cluster-use {options.cluster_use} does not use it"
        )
    if options.active_rows > model.moco_k:
        raise UserError(f"--active-rows {options.active_rows} is more than the {model.moco_k} keys of --moco-k")


def check_pcl(model: ModelSettings, options: PclOptions, sizes: Sizes) -> None:
    """check_queue, and no more clusters than images."""
    check_queue(model, options, sizes)
    if (most := max(options.clusters(sizes.images))) > sizes.images:
        raise UserError(f"--num-cluster {most} is more than the {sizes.images} images; lower it")


def _refuse_unused(options: QueueOptions, prefix: str | tuple[str, ...], chosen: str, except_for: str = "") -> None:
    """A flag without an effect would let a comparison compare a run with itself."""
    for item in options.__dataclass_fields__.values():
        name = item.name
        if name.startswith(prefix) and name != except_for and getattr(options, name) != item.default:
            raise UserError(f"{flag(name)} has no effect with {chosen}; leave it out, or choose what it belongs to")


def advise_queue(model: ModelSettings, options: QueueOptions, sizes: Sizes) -> list[Finding]:
    """A queue that outlasts an epoch holds earlier keys of every query's own image, as negatives; a choice that starts
    after the end is none."""
    findings = _never_used(options, sizes)
    keys = sizes.global_batch * (2 if options.symmetric else 1)
    if model.moco_k <= LONGEST_QUEUE * sizes.images:
        return findings
    sensible = max(keys, sizes.images // 4 // keys * keys)
    message = (
        f"--moco-k {model.moco_k} reaches back {model.moco_k / sizes.images:.1f} epochs of {sizes.images} images, so "
        f"earlier keys of a query's own image are among its negatives; use --moco-k {sensible} (a quarter of the "
        "images, a multiple of a step's keys)"
    )
    return [*findings, Finding("queue larger than the data set", 1, f"--moco-k {model.moco_k}", message)]


def _never_used(options: QueueOptions, sizes: Sizes) -> list[Finding]:
    """The warm-up of what was asked for, where the run is no longer than that: it is plain MoCo then."""
    name = "pcl_warmup"
    if isinstance(options, MoCoOptions):
        name = {"mochi": "mochi_warmup", "cluster": "cluster_start"}.get(options.negatives, "")
    epochs = getattr(options, name, 0)
    if not 0 < sizes.total_steps <= epochs * sizes.steps_per_epoch:
        return []
    message = f"the run ends before {flag(name)} {epochs} epochs are over, so it is plain MoCo to its end; lower it"
    return [Finding("choice that never starts", 1, f"{flag(name)} {epochs}", message)]
