"""Checkpoints of transformers and ConvNeXts from tests/fixtures/networks/*.json: the makers' names, small networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "networks"
NETWORKS = sorted(file.stem for file in FIXTURES.glob("*.json"))


def network_fixture(name: str) -> dict[str, Any]:
    """family, source, encoders (name -> root) and shapes."""
    content: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return content


def random_tensors(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of a fixture's names and shapes; of two encoders, those of ``seed`` 0 differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randint(0, 4, shape, generator=generator)
        if key.endswith("relative_position_index")
        else torch.randn(shape, generator=generator) * 0.2
        for key, shape in network_fixture(name)["shapes"].items()
    }


def of_encoder(tensors: dict[str, Tensor], root: str) -> dict[str, Tensor]:
    """The tensors below ``root``, without it."""
    return {key[len(root) :]: value for key, value in tensors.items() if key.startswith(root)}
