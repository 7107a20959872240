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
    return {key: _random(key, shape, generator) for key, shape in network_fixture(name)["shapes"].items()}


def _random(key: str, shape: list[int], generator: torch.Generator) -> Tensor:
    if key.endswith("relative_position_index"):
        return torch.randint(0, 4, shape, generator=generator)
    if key.endswith("bias_mask"):  # 1, and 0 for the keys
        return torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(shape[0] // 3)
    if key.endswith("rope_embed.periods"):
        return 1 + 99 * torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator) * 0.2


def of_encoder(tensors: dict[str, Tensor], root: str) -> dict[str, Tensor]:
    """The tensors below ``root``, without it."""
    return {key[len(root) :]: value for key, value in tensors.items() if key.startswith(root)}
