"""Dictionaries of keys: MoCo's queue and the memory bank. (End to end needs none: its keys are the batch.)"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from runtime.host_copies import send


class Queue(nn.Module):
    """First in, first out: the K newest keys as unit rows, K x D (MoCo, section 3.2).

    In memory the queue is K x D, so that a key is one contiguous row; files hold the official D x K. The write position
    (0-dim int64) is on the device, because only the device knows in time whether a step was refused.
    """

    rows: torch.Tensor
    position: torch.Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def push(self, keys: torch.Tensor, refused: torch.Tensor | None = None) -> None:
        """Overwrite the oldest rows with ``keys`` (n x D, n <= K), wrapping around after the last row.

        K is a multiple of the batch, but a run resumed with another batch can start at any row. Where ``refused``
        (0-dim bool on the device) is set, nothing changes.
        """
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.rows)
        if refused is None:
            refused = torch.zeros((), dtype=torch.bool, device=keys.device)
        self.rows.index_copy_(0, places, torch.where(refused, self.rows[places], keys))
        self.position.add_(len(keys) * ~refused).remainder_(len(self.rows))


class MemoryBank(nn.Module):
    """One representation per image of the data set, N x D (1805.01978; MoCo, figure 2b).

    Rows start as U(-1/sqrt(D/3), 1/sqrt(D/3)) and are updated as v <- m v + (1 - m) f, then normalised.
    """

    rows: torch.Tensor

    def __init__(self, images: int, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim / 3)
        self.register_buffer("rows", torch.empty(images, dim).uniform_(-bound, bound))
        self.momentum = momentum

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """Rows of these images: B -> B x D."""
        return self.rows[indices]

    def sample(self, count: int) -> torch.Tensor:
        """``count`` rows drawn uniformly with replacement, shared by the batch: count x D.

        The official code of 1805.01978 draws for each image. One draw per batch has the same distribution for each
        image, and gathers K rows once instead of B times.
        """
        return self.rows[send(torch.randint(len(self.rows), (count,)), self.rows.device)]

    @torch.no_grad()
    def update(self, indices: torch.Tensor, features: torch.Tensor, refused: torch.Tensor | None = None) -> None:
        """Move the rows of these images (B) towards their new features (B x D), unless ``refused`` (see Queue.push)."""
        before = self.rows[indices]
        moved = F.normalize(self.momentum * before + (1 - self.momentum) * features, dim=1)
        self.rows[indices] = moved if refused is None else torch.where(refused, before, moved)
