"""Prototypical Contrastive Learning (2005.04966): MoCo's loss, and that of each query against cluster centres."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F

from pretrain.methods.moco import MoCo
from runtime.distributed import rank, rank_count
from runtime.host_copies import send

ITERATIONS = 20  # of k-means, as in the official code
SMOOTHING = 10  # alpha of equation 12


@dataclass
class Prototypes:
    """One clustering of the data set: unit centres (k x D), the cluster of each image (N), concentrations (k)."""

    centres: torch.Tensor
    assigned: torch.Tensor
    concentration: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All three, in the order of the fields."""
        return self.centres, self.assigned, self.concentration


def k_means(features: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm of scipy from the centres ``start`` (k x D): centres, and the nearest one of each row (N).

    A centre without rows stays where it is.
    """
    from scipy.cluster.vq import kmeans2, vq

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(features, start, iter=ITERATIONS, minit="matrix")
    return centres, vq(features, centres)[0].astype(np.int64)


def concentrations(features: np.ndarray, centres: np.ndarray, assigned: np.ndarray, temperature: float) -> np.ndarray:
    """Equation 12, phi = sum of distances to the centre / (n log(n + alpha)) for a cluster of n images: float64 k.

    As in the official code: a cluster of fewer than two images has the largest of all, the values are clipped to their
    10th and 90th percentile, and scaled to the mean ``temperature``.
    """
    distance = np.linalg.norm(features.astype(np.float64) - centres[assigned], axis=1)
    count = np.bincount(assigned, minlength=len(centres))
    total = np.bincount(assigned, distance, minlength=len(centres))
    phi = total / (np.maximum(count, 1) * np.log(count + SMOOTHING))
    phi[count < 2] = phi[count >= 2].max(initial=0.0)
    phi = phi.clip(*np.percentile(phi, (10, 90)))
    mean = phi.mean()
    usable = mean > 0 and phi.min() > 1e-6 * mean  # not so where features coincide, and a softmax would overflow
    return temperature * phi / mean if usable else np.full(len(centres), temperature)


class Pcl(MoCo):
    """ProtoNCE (equation 11): InfoNCE over the queue, plus the mean over granularities of the cross-entropy of a query
    among the centres, with a temperature for each centre.

    The E-step, k-means of the key encoder's features of all images, comes before each epoch after ``warmup_steps`` of
    plain InfoNCE. A query's own centre is compared with ``others`` random ones (all where there are no more).
    """

    def __init__(
        self, encoder: nn.Module, *, images: int, clusters: tuple[int, ...], steps_per_epoch: int, others: int = 16384,
        dim: int = 128, queue_size: int = 65536, warmup_steps: int = 0, **settings: Any,
    ) -> None:  # fmt: skip
        """``images`` of the data set; ``settings`` are those of MoCo."""
        super().__init__(encoder, dim=dim, queue_size=queue_size, **settings)
        self.images, self.clusters, self.dim, self.others = images, clusters, dim, others
        self.pcl_warmup, self.steps_per_epoch = warmup_steps, steps_per_epoch
        self.prototypes: list[Prototypes] = []
        compared = sum(math.log(min(k - 1, others) + 1) for k in clusters) / len(clusters)
        self.chance += (2 if self.symmetric else 1) * compared

    def score(self, q: torch.Tensor, k: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """See MoCo.score, with the prototypes once there are some."""
        loss = super().score(q, k, indices)
        if not self.prototypes or self.step < self.pcl_warmup:
            return loss
        return loss + torch.stack([self._against(q, indices, p) for p in self.prototypes]).mean()

    def _against(self, q: torch.Tensor, indices: torch.Tensor, prototypes: Prototypes) -> torch.Tensor:
        centres, assigned, concentration = prototypes.tensors()
        own = assigned[indices]
        if len(centres) > self.others + 1:
            chosen = send(torch.randperm(len(centres))[: self.others], q.device)
        else:
            chosen = torch.arange(len(centres), device=q.device)
        positive = (q * centres[own]).sum(1, keepdim=True) / concentration[own][:, None]
        negative = q @ centres[chosen].T / concentration[chosen]
        negative = negative.masked_fill(own[:, None] == chosen[None], -math.inf)
        logits = torch.cat([positive, negative], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))

    def wants_features(self) -> bool:
        """Before each epoch after the warm-up, and where a file was resumed that holds no clusters."""
        return self.step >= self.pcl_warmup and (self.step % self.steps_per_epoch == 0 or not self.prototypes)

    def learn_features(self, features: np.ndarray | None, seed: int) -> None:
        """The E-step on rank 0, from k random images; the other ranks receive its result."""
        device, found = self.queue.rows.device, []
        for turn, count in enumerate(self.clusters):
            shapes = (torch.empty(count, self.dim), torch.empty(self.images, dtype=torch.int64), torch.empty(count))
            tensors = [tensor.to(device) for tensor in shapes]
            if rank() == 0:
                assert features is not None
                first = np.random.default_rng([seed, turn]).choice(len(features), count, replace=False)
                centres, assigned = k_means(features, features[first])
                phi = concentrations(features, centres, assigned, self.temperature)
                values = (F.normalize(torch.from_numpy(centres), dim=1), torch.from_numpy(assigned),
                          torch.from_numpy(phi))  # fmt: skip
                tensors = [value.to(device, tensor.dtype) for value, tensor in zip(values, tensors)]
            if rank_count() > 1:
                for tensor in tensors:
                    distributed.broadcast(tensor, 0)
            found.append(Prototypes(*tensors))
        self.prototypes = found

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load MoCo's or an official PCL's state; there are no prototypes until ``import_extra`` or the next E-step."""
        super().import_state(state)
        self.prototypes = []

    def export_extra(self) -> dict[str, torch.Tensor]:
        """The clusters that the current epoch uses."""
        names = ("centres", "assigned", "concentration")
        return {
            f"{name}_{turn}": tensor.clone()
            for turn, prototypes in enumerate(self.prototypes)
            for name, tensor in zip(names, prototypes.tensors())
        }

    def import_extra(self, extra: dict[str, torch.Tensor]) -> None:
        """Load ``export_extra``. Clusters of another number, or of other images, are left for the next E-step."""
        device = self.queue.rows.device
        found = [
            Prototypes(*(extra[f"{name}_{turn}"].to(device) for name in ("centres", "assigned", "concentration")))
            for turn in range(len(extra) // 3)
        ]
        shapes = [(tuple(p.centres.shape), len(p.assigned), len(p.concentration)) for p in found]
        if shapes == [((count, self.dim), self.images, count) for count in self.clusters]:
            self.prototypes = found
