"""The interface of a method, as the training loop uses it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Method(nn.Module):
    """A pretext task around ``encoder_q``.

    One step is ``begin_step``, one or more ``loss`` with backward (gradient accumulation), the optimiser, ``end_step``.
    A method changes its dictionary in ``end_step`` only, so that a refused step leaves the dictionary unchanged.
    """

    step = 0  # number of the current step, set by the loop
    chance = math.inf  # the loss where every key is as similar as the positive; infinite without negatives
    encoder_q: nn.Module
    informed_by: str | None = None  # what ``informative`` returns, "loss" or "uncertainty", set by the run
    class_of: torch.Tensor | None = None  # class number of each image of the data set, where a report wants it

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
        """Numbers about the last ``loss`` for the log. The host waits for the device, so only logged steps call it."""
        return {}

    def informative(self) -> torch.Tensor:
        """How informative each image of the last step was (B, 0 or more), for a method with ``informed_by``."""
        raise TypeError(f"{type(self).__name__} does not say how informative an image is")

    def wants_features(self) -> bool:
        """Whether ``learn_features`` must be called before the current step."""
        return False

    def learn_features(self, features: np.ndarray | None, seed: int) -> None:
        """Take the unit features (N x D) of all images from the key encoder; None on all ranks but the first."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser updates, in the order of the state dict."""
        return [p for p in self.parameters() if p.requires_grad]

    def precision(self, images: torch.Tensor) -> AbstractContextManager[object]:
        """Autocast to bfloat16 where the method was built with ``bf16``."""
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def embed(self, encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors in float32: B x 3 x H x W -> B x D."""
        with self.precision(images):
            output = encoder(images)
        return F.normalize(output.float(), dim=1)

    def export_state(self) -> dict[str, torch.Tensor]:
        """State under the names of the checkpoint file, prefixed with ``module.``, contiguous (not channels_last)."""
        return {f"module.{name}": value.contiguous() for name, value in self.state_dict().items()}

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load a state of ``export_state``; RuntimeError names what is missing or does not fit."""
        self.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})

    def export_extra(self) -> dict[str, torch.Tensor]:
        """State that an exact resume needs beside ``export_state``, whose names are those of the official code."""
        return {}

    def import_extra(self, extra: dict[str, torch.Tensor]) -> None:
        """Load what ``export_extra`` returned, after ``import_state``; empty from a file that has none."""


def spread(features: torch.Tensor) -> float:
    """Mean over dimensions of the std over the batch, times sqrt(D): about 1 for unit vectors in all directions,
    0 when all features of the batch (B x D) are the same."""
    return (features.detach().float().std(0).mean() * features.shape[1] ** 0.5).item()
