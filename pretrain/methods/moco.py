"""Momentum Contrast (1911.05722; v2 2003.04297): a queue of keys from a momentum encoder."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import nn

from pretrain.methods.base import Method, spread
from pretrain.methods.dictionaries import Queue
from pretrain.methods.exchange import BatchShuffle
from pretrain.methods.info_nce import info_nce, loss_and_entropy, rank_accuracy
from pretrain.methods.negatives import Loss, negatives_of


class MoCo(Method):
    """MoCo around any encoder whose output has ``dim`` numbers per image.

    In a notebook ``moco(view_1, view_2)`` is the loss of one whole step; call ``backward`` on it and let an optimiser
    over ``moco.trained_parameters()`` step. Attributes: ``encoder_q``, ``encoder_k``, ``queue``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        symmetric: bool = False,
        bn_splits: int = 1,
        negatives: Loss = info_nce,
        warmup_steps: int = 0,
        bf16: bool = False,
    ) -> None:
        """``symmetric`` sums the losses of both directions; ``bn_splits`` is the number of BatchNorm groups of the
        encoder, over which keys are shuffled; ``negatives`` scores q against k and the rows of the queue, after
        ``warmup_steps`` of plain InfoNCE; ``bf16`` computes in bfloat16, the queue stays float32."""
        super().__init__(bf16)
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        self.queue = Queue(queue_size, dim)
        self.momentum, self.temperature, self.symmetric = momentum, temperature, symmetric
        self.chance = (2 if symmetric else 1) * math.log(negatives_of(negatives, queue_size) + 1)
        self.bn_splits = bn_splits
        self.plain = partial(info_nce, bf16=bf16)
        self.negatives = self.plain if negatives is info_nce else negatives
        self.warmup_steps = warmup_steps
        self._new: list[torch.Tensor] = []  # keys of this step, all ranks
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self._informative: list[torch.Tensor] = []  # of the images of this step, by part and direction

    @torch.no_grad()
    def begin_step(self) -> None:
        """Equation 2, theta_k <- m theta_k + (1 - m) theta_q, before the keys are encoded.

        Parameters only, as in the official code: the key encoder's BatchNorm buffers are its own.
        """
        self._new.clear()
        self._informative.clear()
        pairs = zip(self.encoder_k.parameters(), self.encoder_q.parameters())
        keys, queries = zip(*pairs)
        torch._foreach_lerp_(keys, queries, 1 - self.momentum)

    @torch.no_grad()
    def _encode_keys(self, images: torch.Tensor) -> torch.Tensor:
        """Keys of this rank's images (B x D), shuffled over BatchNorm groups while they are encoded."""
        order = BatchShuffle(len(images), self.bn_splits)
        gathered = order.gather(self.embed(self.encoder_k, order.shuffle(images)))
        self._new.append(gathered)
        return order.mine(gathered)

    def _one_way(self, q_view: torch.Tensor, k_view: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        q = self.embed(self.encoder_q, q_view)
        k = self._encode_keys(k_view)
        self._last = (q.detach(), k)
        if self.informed_by is not None:
            loss, entropy = loss_and_entropy(q.detach(), k, self.queue.rows, self.temperature)
            self._informative.append(loss if self.informed_by == "loss" else entropy)
        return self.score(q, k, indices)

    def score(self, q: torch.Tensor, k: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """The loss of queries and keys (B x D each) of the images ``indices`` (B; empty in a notebook)."""
        score = self.plain if self.step < self.warmup_steps else self.negatives
        return score(q, k, self.queue.rows, self.temperature)

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """InfoNCE of the first views against the keys of the second and the queue (Algorithm 1)."""
        first, second = views
        if not self.symmetric:
            return self._one_way(first, second, indices)
        return self._one_way(first, second, indices) + self._one_way(second, first, indices)

    def informative(self) -> torch.Tensor:
        """Plain InfoNCE of each image of the step, or the entropy of its softmax; with ``symmetric`` the mean of both
        directions. Every choice of negatives has the same measure, so that runs can be compared."""
        directions = 2 if self.symmetric else 1
        parts = zip(*[iter(self._informative)] * directions)
        return torch.cat([torch.stack(part).mean(0) for part in parts])

    def end_step(self, refused: torch.Tensor | None = None) -> None:
        """Enqueue the keys of all ranks and of all parts of the step, dequeue as many of the oldest."""
        for keys in self._new:
            self.queue.push(keys, refused)
        self._new.clear()

    def forward(self, q_view: torch.Tensor, k_view: torch.Tensor) -> torch.Tensor:
        """The loss of a whole step, with momentum update and enqueue; both views B x 3 x H x W."""
        self.begin_step()
        none = torch.empty(0)
        loss = self.loss([q_view, k_view], none, none)
        if loss.requires_grad and self.negatives is not self.plain:
            self.queue.rows = self.queue.rows.clone()  # autograd saved the rows for the caller's backward
        self.end_step()
        self.step += 1
        return loss

    def readings(self) -> dict[str, float]:
        """Contrast accuracy against the queue as the loss saw it, and the spread of the keys."""
        assert self._last is not None
        q, k = self._last
        top1, top5 = rank_accuracy(q, k, self.queue.rows)
        return {"acc1": top1, "acc5": top5, "key_spread": spread(k)}

    def trained_parameters(self) -> list[nn.Parameter]:
        """The query encoder's parameters."""
        return list(self.encoder_q.parameters())

    def export_state(self) -> dict[str, torch.Tensor]:
        """The official names: ``module.encoder_q.*``, ``module.encoder_k.*``, ``module.queue`` D x K in float32."""
        state = super().export_state()
        rows = state.pop("module.queue.rows")
        state["module.queue"] = rows.float().T.contiguous()
        state["module.queue_ptr"] = self.queue.position.reshape(1).clone()
        return state

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load an official checkpoint's state or ours."""
        rest = dict(state)
        rows, position = rest.pop("module.queue").T, int(rest.pop("module.queue_ptr"))
        if not 0 <= position < len(rows):
            raise ValueError(f"queue_ptr is {position}, outside the queue of {len(rows)} keys")
        super().import_state({**rest, "module.queue.rows": rows})
        self.queue.position.fill_(position)
