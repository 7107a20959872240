"""Federated loss (CenterNet2, arXiv:2103.07461, section 4; for LVIS): a step's class loss counts some of the classes.

An image of LVIS is annotated for some classes only: another may be in it without an annotation. The classes of the
sampled regions count, and others drawn by how many images have them, up to a total.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FederatedClasses(nn.Module):
    """Draws the classes of a step. ``wanted``: how many in all; ``power``: exponent on the images of each class."""

    def __init__(self, num_classes: int, wanted: int, power: float) -> None:
        super().__init__()
        self.num_classes, self.wanted, self.power = num_classes, wanted, power

    def weights(self, images: Sequence[int]) -> torch.Tensor:
        """The weight with which each class is drawn, from the number of training images that have it."""
        return torch.tensor(list(images)).float() ** self.power

    def mask(self, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """float K: 1 for the classes of a step. ``classes`` (int64 R) are the regions', K for background.

        Background takes one of the places, as in Detectron2. Draws from torch's generator if places are left. Classes
        in no image are never drawn; Detectron2 fails where fewer have images than there are places.
        """
        present = torch.unique(classes)
        chance = torch.zeros(self.num_classes + 1, device=classes.device)
        chance[: self.num_classes] = weights.float()
        chance[present] = 0
        places = min(self.wanted - len(present), int((chance > 0).sum()))
        mask = torch.zeros(self.num_classes + 1, device=classes.device)
        mask[present] = 1
        if places > 0:
            mask[torch.multinomial(chance, places, replacement=False)] = 1
        return mask[: self.num_classes]
