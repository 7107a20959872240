"""Precise batch norm (arXiv:2105.07576, section 3): statistics over many batches, the same on all ranks.

Running statistics are moving averages over the last batches of training, taken while the weights still changed. Precise
statistics are those of one fixed model over many batches. The running variance of torch is the unbiased one of each
batch; to combine batches of different sizes its correction is undone, and means and mean squares are averaged with
weights in proportion to the number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from runtime.allocator import return_freed_memory
from runtime.distributed import rank_count
from transfer.data.loader import draw_base_seed

BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm


class PopulationStatistics:
    """Mean and variance over all batches of one batch norm, from the statistics and size of each batch."""

    def __init__(self, layer: BatchNorm) -> None:
        self.layer, self.momentum, self.elements = layer, layer.momentum, 0
        self.mean = torch.zeros_like(layer.running_mean)  # type: ignore[arg-type]
        self.square = torch.zeros_like(layer.running_var)  # type: ignore[arg-type]
        layer.momentum = 1.0  # the running statistics are then those of the last batch alone
        self.hook = layer.register_forward_hook(self._add)

    def _add(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        batch = inputs[0].numel() // inputs[0].shape[1]
        self.elements += batch
        mean, var = self.layer.running_mean, self.layer.running_var
        assert mean is not None
        assert var is not None
        square = mean.square() + var * ((batch - 1) / batch)  # E[x^2]: undo the n / (n - 1) of the unbiased variance
        self.mean += (mean - self.mean) * (batch / self.elements)
        self.square += (square - self.square) * (batch / self.elements)

    def finish(self) -> None:
        """Set the layer's statistics to those of all batches of all ranks."""
        self.hook.remove()
        self.layer.momentum = self.momentum
        if not self.elements:
            return
        mean, square = _averaged(self.mean, self.square)
        with torch.no_grad():
            self.layer.running_mean.copy_(mean)  # type: ignore[union-attr]
            self.layer.running_var.copy_(square - mean.square())  # type: ignore[union-attr]


class PreciseBatchNorm:
    """Replaces running statistics by those of ``iterations`` fresh batches of its own stream.

    ``stream()`` opens the stream at ``position``, the number of batches taken from it so far, part of the checkpoint.
    """

    def __init__(
        self, model: nn.Module, stream: Callable[[], Iterator[Any]], *, iterations: int, position: int = 0
    ) -> None:
        self.model, self.iterations, self.position = model, iterations, position
        self._open = stream
        self._batches: Iterator[Any] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Measure and set the statistics. The model must be in training mode; its weights do not change."""
        layers = [m for m in self.model.modules() if isinstance(m, BatchNorm) and m.training]
        if not layers:
            return
        if self._batches is None:
            if self.position == 0:
                # Detectron2 builds a DataLoader iterator here, which draws once before the heads sample regions
                draw_base_seed()
            self._batches = self._open()
        measured = [PopulationStatistics(layer) for layer in layers]
        for _ in range(self.iterations):
            self.model(next(self._batches))
            return_freed_memory()
        for statistics in measured:
            statistics.finish()
        self.position += self.iterations


def _averaged(mean: torch.Tensor, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second moments averaged over ranks.

    Otherwise each rank would keep the statistics of its own batches, and only those of one rank would be in the
    checkpoint (fvcore issue 152). Moments of the ranks can be averaged, variances cannot.
    """
    if rank_count() == 1:
        return mean, square
    moments = torch.cat([mean, square])
    dist.all_reduce(moments)
    moments /= rank_count()
    first, second = moments.split(len(mean))
    return first, second
