"""Shared memory that the loader's workers write batches to and the main process reads them from, reused in turn.

A fresh piece of shared memory per batch costs page faults in both processes, a third of the time of a batch that comes
from the cache, and is limited by /dev/shm (64 MB in a container). One anonymous mapping, inherited by forked workers,
has neither problem. A slot is reused only when every tensor on it has been freed, so the caller may keep a batch for as
long as it likes: where no slot is free, the loader falls back to fresh memory.

Only the main process takes and frees slots, and a slot's number travels with the key that asks for its batch. So no
lock is needed: a worker writes to a slot between the two, and need not know whether it is free.
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

# A RingSlot crosses processes without its ring, which is found by this number. Weak: a finished loader frees its ring.
_numbers = itertools.count()
_rings: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()
_PAGE = 4096


class Ring:
    """``slots`` pieces of shared memory of ``size`` bytes each; only forked processes see the same memory."""

    def __init__(self, slots: int, size: int) -> None:
        self._stride = -(-size // _PAGE) * _PAGE
        self._memory = mmap.mmap(-1, max(1, slots) * self._stride)  # shared and anonymous; pages come when touched
        self._free = deque(range(slots))
        self.number = next(_numbers)
        _rings[self.number] = self

    def take(self) -> int:
        """A free slot, or -1. In the main process only."""
        return self._free.popleft() if self._free else -1

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """The slot's memory as a uint8 array of ``shape``, for a worker to write to."""
        return np.frombuffer(self._memory, np.uint8, math.prod(shape), slot * self._stride).reshape(shape)

    def lend(self, slot: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The slot's memory as a uint8 tensor; the slot is free again when no tensor on this memory is left.

        Every tensor and view keeps the array alive through its storage, so the end of the array is the end of them all.
        """
        array = self.array(slot, shape)
        weakref.finalize(array, self._free.append, slot).atexit = False
        return torch.from_numpy(array)


@dataclass(frozen=True)
class RingSlot:
    """The place of a batch in a ring: what a worker sends instead of the pixels."""

    ring: int
    slot: int
    shape: tuple[int, ...]

    def open(self) -> torch.Tensor:
        """The uint8 tensor, in the main process; once per slot taken."""
        return _rings[self.ring].lend(self.slot, self.shape)
