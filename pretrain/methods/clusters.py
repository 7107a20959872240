"""Negatives by cluster: online spherical k-means over the keys; those of the query's own cluster may be false ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.info_nce import info_nce
from pretrain.methods.moco import MoCo
from runtime.distributed import all_gather_rows
from runtime.host_copies import send

DEAD = 0.1  # share of an average cluster's keys, below which a cluster starts anew at another key


class Clusters(nn.Module):
    """Momentum centroids of the keys, and InfoNCE in which they decide what a row counts.

    Spherical k-means, online: after every step each new key goes to the centroid with the largest cosine, and a
    cluster's sum of keys becomes momentum * sum + (1 - momentum) * sum of the new ones; the centroid is its direction.
    A cluster that gets hardly any keys starts anew at a random key of the step. All of it happens on the device, and
    on every rank alike, from the keys of all ranks.

    A row counts by the cluster of the row and that of the query's key: with ``use`` "drop" rows of the own cluster are
    left out (false-negative cancellation, 2011.11765), with "down" they weigh ``weight``, with "hard" they are the only
    negatives. A query without any negative left has the loss 0.
    """

    sums: torch.Tensor
    load: torch.Tensor

    def __init__(
        self,
        count: int,
        dim: int,
        *,
        use: str = "drop",
        weight: float = 0.1,
        momentum: float = 0.99,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(count, dim))  # sum of keys, in units of a step's keys per cluster
        self.register_buffer("load", torch.ones(count))  # number of keys, where an average cluster has 1
        self.use, self.momentum, self.bf16 = use, momentum, bf16
        inside = {"drop": 0.0, "down": weight, "hard": 1.0}[use]
        self.log_inside = math.log(inside) if inside else -math.inf
        self.log_outside = -math.inf if use == "hard" else 0.0

    def assign(self, vectors: torch.Tensor) -> torch.Tensor:
        """The cluster of each unit vector: n x D -> int64 n."""
        return (vectors @ F.normalize(self.sums, dim=1).to(vectors.dtype).T).argmax(1)

    @torch.no_grad()
    def start(self, rows: torch.Tensor) -> None:
        """Begin at randomly chosen rows (K x D) of the dictionary."""
        self.sums.copy_(rows[send(torch.randperm(len(rows))[: len(self.sums)], rows.device)])
        self.load.fill_(1.0)

    @torch.no_grad()
    def update(self, keys: torch.Tensor, refused: torch.Tensor | None = None) -> None:
        """Move the centroids towards a step's keys (n x D), unless ``refused`` (0-dim bool on the device)."""
        count = len(self.sums)
        scale = count / len(keys)
        # a product with the table of members, because adding rows by index is not deterministic on a GPU
        members = (self.assign(keys)[None] == torch.arange(count, device=keys.device)[:, None]).to(keys.dtype)
        sums = self.momentum * self.sums + (1 - self.momentum) * scale * (members @ keys)
        load = self.momentum * self.load + (1 - self.momentum) * scale * members.sum(1)
        order = torch.randperm(len(keys)).repeat(-(-count // len(keys)))[:count]
        dead = load < DEAD
        sums = torch.where(dead[:, None], keys[send(order, keys.device)], sums)
        load = torch.where(dead, torch.ones_like(load), load)
        if refused is not None:
            sums, load = torch.where(refused, self.sums, sums), torch.where(refused, self.load, load)
        self.sums.copy_(sums)
        self.load.copy_(load)

    def forward(self, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float) -> torch.Tensor:
        """Mean loss; q, k: B x D unit vectors, rows: K x D. The key decides the cluster of its query."""
        with torch.no_grad():
            own, others = self.assign(k), self.assign(rows)
            inside, outside = (
                torch.full((), value, dtype=q.dtype, device=q.device) for value in (self.log_inside, self.log_outside)
            )

        def log_weights(start: int, stop: int) -> torch.Tensor:
            return torch.where(own[:, None] == others[None, start:stop], inside, outside)

        return info_nce(q, k, rows, temperature, self.bf16, log_weights)

    def lowered(self, k: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Which pairs of a query (B) and a row (K) count less than in plain InfoNCE, or not at all: bool B x K."""
        same = self.assign(k)[:, None] == self.assign(rows)[None]
        return ~same if self.use == "hard" else same


class ClusterMoCo(MoCo):
    """MoCo whose negatives are chosen by cluster; plain InfoNCE before ``warmup_steps``, then the clusters start."""

    queue_images: torch.Tensor

    def __init__(self, encoder: nn.Module, clusters: Clusters, *, queue_size: int, **settings: Any) -> None:
        """``settings`` are those of MoCo."""
        super().__init__(encoder, queue_size=queue_size, negatives=clusters, **settings)
        self.clusters = clusters
        self.register_buffer("queue_images", torch.full((queue_size,), -1))  # whose key a row is; -1 not known
        self.started = False
        self._images: list[torch.Tensor] = []  # of the keys of this step, all ranks
        self._last_images: torch.Tensor | None = None

    def begin_step(self) -> None:
        """Equation 2, and the start of the clusters where it is time."""
        super().begin_step()
        self._images.clear()
        if self.step >= self.warmup_steps and not self.started:
            self.clusters.start(self.queue.rows)
            self.started = True

    def score(self, q: torch.Tensor, k: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """See MoCo.score; the images are kept with the keys."""
        known = indices if len(indices) == len(q) else torch.full((len(q),), -1, device=q.device)  # a notebook has none
        self._images.append(all_gather_rows(known))
        self._last_images = known
        return super().score(q, k, indices)

    def end_step(self, refused: torch.Tensor | None = None) -> None:
        """Enqueue the keys with their images, and move the centroids."""
        if self._images:
            images, keys = torch.cat(self._images), torch.cat(self._new)
            places = (self.queue.position + torch.arange(len(images), device=images.device)) % len(self.queue_images)
            kept = images if refused is None else torch.where(refused, self.queue_images[places], images)
            self.queue_images.index_copy_(0, places, kept)
            if self.started:
                self.clusters.update(keys, refused)
        self._images.clear()
        super().end_step(refused)

    def readings(self) -> dict[str, float]:
        """MoCo's; in percent the pairs of query and row whose weight is lowered and, with labels, how many pairs of one
        class there are among these and among all (rows whose image is not known left out)."""
        readings = super().readings()
        if not self.started or self._last is None or self._last_images is None:
            return readings
        lowered = self.clusters.lowered(self._last[1], self.queue.rows)
        readings["dropped"] = 100.0 * lowered.float().mean().item()
        if self.class_of is not None:
            known = (self.queue_images >= 0) & (self._last_images >= 0)[:, None]
            classes = self.class_of[self.queue_images.clamp(min=0)]
            same = self.class_of[self._last_images.clamp(min=0)][:, None] == classes[None]
            for name, pairs in (("dropped_same_class", lowered & known), ("queue_same_class", known)):
                if pairs.any():
                    readings[name] = 100.0 * same[pairs].float().mean().item()
        return readings

    def export_state(self) -> dict[str, torch.Tensor]:
        """The official names only; the clusters are in ``export_extra``."""
        return {name: value for name, value in super().export_state().items() if not _is_extra(name)}

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load MoCo's state; the clusters start anew unless ``import_extra`` follows."""
        extra = {name: value for name, value in self.state_dict().items() if _is_extra(name)}
        super().import_state({**state, **extra})
        self.started = False
        self.queue_images.fill_(-1)

    def export_extra(self) -> dict[str, torch.Tensor]:
        """Sums and loads of the clusters once they have started, and the images of the queue's rows."""
        clusters = {"cluster_sums": self.clusters.sums, "cluster_load": self.clusters.load} if self.started else {}
        return {name: value.clone() for name, value in {"queue_images": self.queue_images, **clusters}.items()}

    def import_extra(self, extra: dict[str, torch.Tensor]) -> None:
        """Load ``export_extra``; RuntimeError where a shape does not fit."""
        if "queue_images" in extra:
            self.queue_images.copy_(_shaped(extra["queue_images"], self.queue_images, "queue_images"))
        if "cluster_sums" in extra:
            self.clusters.sums.copy_(_shaped(extra["cluster_sums"], self.clusters.sums, "cluster_sums"))
            self.clusters.load.copy_(_shaped(extra["cluster_load"], self.clusters.load, "cluster_load"))
            self.started = True


def _is_extra(name: str) -> bool:
    inner = name.removeprefix("module.")
    return inner == "queue_images" or inner.startswith(("clusters.", "negatives."))


def _shaped(value: torch.Tensor, like: torch.Tensor, name: str) -> torch.Tensor:
    if value.shape != like.shape:
        raise RuntimeError(f"{name} has the shape {list(value.shape)}, not {list(like.shape)}")
    return value
