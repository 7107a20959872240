"""What the loop asks of a method; each method is one small file that answers."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn import functional as F


class Method(nn.Module):
    """A pretext task around ``encoder_q``.

    One step is ``begin_step``, one or more ``loss`` + backward (gradient accumulation), the optimiser, ``end_step``:
    what changes a dictionary waits for ``end_step``, so that a step that is refused leaves it as it was.
    """

    step = 0  # number of the running step, which the loop sets
    chance = math.inf  # the loss while all of the dictionary is as similar as the positive; infinite without negatives
    encoder_q: nn.Module

    def __init__(self, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16

    def begin_step(self) -> None:
        """Before the first ``loss`` of a step."""

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of ``views`` (each B x 3 x H x W, normalised) of the images ``indices`` (B), ``labels`` (B)."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def end_step(self, refused: torch.Tensor | None = None) -> None:
        """After the optimiser's update: commit the new keys, unless ``refused`` (0-dim bool on the device)."""

    def readings(self) -> dict[str, float]:
        """Numbers about the last ``loss`` for the log; they wait for the device, so they are asked for rarely."""
        return {}

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser updates, in the order of the state dict."""
        return [p for p in self.parameters() if p.requires_grad]

    def precision(self, images: torch.Tensor) -> AbstractContextManager[object]:
        """Autocast to bfloat16 if the method was built so."""
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def embed(self, encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors in float32: B x 3 x H x W -> B x D."""
        with self.precision(images):
            output = encoder(images)
        return F.normalize(output.float(), dim=1)

    def export_state(self) -> dict[str, torch.Tensor]:
        """State under the names of the checkpoint file, ``module.`` in front, in plain (not channels_last) memory."""
        return {f"module.{name}": value.contiguous() for name, value in self.state_dict().items()}

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load what ``export_state`` gave; RuntimeError names what is missing or does not fit."""
        self.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def spread(features: torch.Tensor) -> float:
    """Mean over dimensions of the std over the batch, times sqrt(D): about 1 for unit vectors in all directions,
    0 when all features of the batch (B x D) are the same."""
    return (features.detach().float().std(0).mean() * features.shape[1] ** 0.5).item()
