"""MoCo v3 (2104.02057): no queue, keys of the batch, a predictor on the queries, and a symmetric loss."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.encoders import head_of, replace_head
from pretrain.methods.base import Method, spread
from runtime.distributed import all_gather_rows, rank


def mlp(layers: int, inputs: int, hidden: int, outputs: int, *, last_norm: bool = True) -> nn.Sequential:
    """Linear layers without bias, batch norm and ReLU between them, and a batch norm without affine at the end."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        parts.append(nn.Linear(inputs if layer == 0 else hidden, outputs if last else hidden, bias=False))
        if not last:
            parts += [nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        elif last_norm:
            parts.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*parts)


class MoCoV3(Method):
    """MoCo v3 around a ResNet (two layers in the projector, none normalised in the predictor) or a ViT (three layers).

    ``total_steps``: over which the momentum rises to 1 along half a cosine; 0 keeps it. ``batch``: images of one
    ``loss`` over all ranks. The names of its state are the official ones: base_encoder, momentum_encoder, predictor.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 256,
        hidden: int = 4096,
        momentum: float = 0.99,
        temperature: float = 1.0,
        total_steps: int = 0,
        stop_grad_patches: bool = False,
        batch: int = 256,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16)
        head, vit = head_of(encoder)
        replace_head(encoder, mlp(3 if vit else 2, head.in_features, hidden, dim))
        self.base_encoder = encoder
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = mlp(2, dim, hidden, dim, last_norm=vit)
        if stop_grad_patches:  # section 4.2: a random projection of patches is stabler than a learned one
            self.base_encoder.patch_embed.requires_grad_(False)  # type: ignore[union-attr]
        self.momentum, self.total_steps, self.temperature = momentum, total_steps, temperature
        self.chance = 4 * temperature * math.log(batch)
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @property
    def encoder_q(self) -> nn.Module:  # type: ignore[override]
        """The encoder that is probed and converted."""
        return self.base_encoder

    def momentum_now(self) -> float:
        """Of the current step: 1 - (1 - m) (1 + cos(pi step / steps)) / 2 (section 4.3)."""
        if not self.total_steps:
            return self.momentum
        return 1.0 - (1.0 - self.momentum) * 0.5 * (1.0 + math.cos(math.pi * self.step / self.total_steps))

    @torch.no_grad()
    def begin_step(self) -> None:
        """Move the momentum encoder's parameters towards the base encoder's, before the keys are encoded."""
        keys, queries = zip(*zip(self.momentum_encoder.parameters(), self.base_encoder.parameters()))
        torch._foreach_lerp_(keys, queries, 1.0 - self.momentum_now())

    def _contrast(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Algorithm 1: cross-entropy of B x D queries among the keys of the global batch, times 2 tau."""
        keys = all_gather_rows(k)
        similarities = q @ keys.T
        target = torch.arange(len(q), device=q.device) + rank() * len(q)
        self._last = (similarities.detach(), target, keys)
        return F.cross_entropy(similarities / self.temperature, target) * (2 * self.temperature)

    def _query(self, images: torch.Tensor) -> torch.Tensor:
        with self.precision(images):
            output = self.predictor(self.base_encoder(images))
        return F.normalize(output.float(), dim=1)

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of both directions; keys from the momentum encoder."""
        first, second = views
        q1, q2 = self._query(first), self._query(second)
        with torch.no_grad():
            k1, k2 = self.embed(self.momentum_encoder, first), self.embed(self.momentum_encoder, second)
        return self._contrast(q1, k2) + self._contrast(q2, k1)

    def readings(self) -> dict[str, float]:
        """Percentage of queries whose own key is the nearest (among the 5 nearest) of the batch, and key spread."""
        assert self._last is not None
        similarities, target, keys = self._last
        beaten = (similarities > similarities.gather(1, target[:, None])).sum(1)
        shares = {f"acc{n}": 100.0 * (beaten < n).float().mean().item() for n in (1, 5)}
        return {**shares, "key_spread": spread(keys), "momentum": self.momentum_now()}

    def trained_parameters(self) -> list[nn.Parameter]:
        """Those of base encoder and predictor that learn."""
        return [p for part in (self.base_encoder, self.predictor) for p in part.parameters() if p.requires_grad]
