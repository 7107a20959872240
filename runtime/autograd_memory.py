"""The memory that a step will need for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch


def kept_bytes(forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps of ``forward`` until its backward pass, weights included; each storage counts once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # held, so that its number is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = forward()
    del output
    return sum(storage.nbytes() for storage in storages.values())
