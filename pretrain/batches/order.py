"""Which image at which step: a pure function of (seed, step, world), with no list of the data set in memory.

The shuffle of an epoch is a keyed bijection of [0, n): a Feistel network (Luby and Rackoff, 1988) on the smallest even
number of bits that holds n, applied again until the result is below n (cycle walking; Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002). Position p of an epoch costs the same for 10 images and for 10**9, so a resume needs
only the step: there is no permutation to store and no generator to advance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.counter_random import hash64
from runtime.errors import UserError

_ROUNDS = 8


def shuffled(positions: np.ndarray, n: int, *, key: int) -> np.ndarray:
    """Image index at each position of the shuffle ``key`` of n images: int64 array -> int64 array of the same shape."""
    half = max(1, ((max(n, 2) - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    out = np.asarray(positions, np.int64).astype(np.uint64)
    todo = np.arange(out.size)
    flat = out.reshape(-1)
    # The network permutes [0, 4**half), which is larger than [0, n). Walking the cycle of an index until it is back
    # below n permutes [0, n): the cycle starts below n, so it returns there, and no two cycles meet. At most 4
    # candidates per index on average, since 4**half < 4 n.
    while todo.size:
        left, right = flat[todo] >> shift, flat[todo] & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (hash64(key, turn, right) & mask)  # invertible whatever the hash is
        flat[todo] = (left << shift) | right
        todo = todo[flat[todo] >= np.uint64(n)]
    return flat.reshape(out.shape).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The image indices of every step.

    The global batch of step s holds positions [s B, (s+1) B) of its epoch's shuffle (s counted within the epoch), and
    rank r of W takes the r-th contiguous part of it: the set of images of a step does not depend on the world size.

    images: number of images n. batch_size: global batch B, over all ranks. The n mod B images at the end of an epoch's
    shuffle are left out; they are other images in each epoch.
    """

    images: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise UserError(
                f"batch size {self.batch_size} is the global batch and cannot be split evenly over "
                f"{self.world_size} processes; choose a multiple of {self.world_size}"
            )
        if self.batch_size > self.images:
            raise UserError(
                f"batch size {self.batch_size} is larger than the data set ({self.images} images); "
                f"lower --batch-size or give more images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data."""
        return self.images // self.batch_size

    @property
    def rows(self) -> int:
        """Images of this rank per step."""
        return self.batch_size // self.world_size

    def epoch(self, step: int) -> int:
        """Epoch (from 0) that global step ``step`` belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """This rank's image indices at ``step`` (counted from 0 over all epochs): int64, B / world_size."""
        return self._indices(self.epoch(step), self._positions(step))

    def identities(self, step: int, planned: np.ndarray) -> np.ndarray:
        """By what the views of the images ``planned`` at ``step`` are drawn: their numbers, where each occurs once."""
        return planned

    def _positions(self, step: int) -> np.ndarray:
        """Positions in the epoch of this rank's images at ``step``."""
        first = step % self.steps_per_epoch * self.batch_size + self.rank * self.rows
        return np.arange(first, first + self.rows)

    def _indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Image index at each position of an epoch."""
        return shuffled(positions, self.images, key=int(hash64(self.seed, epoch)[0]))


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """Every image once, in order, for probes. The last batch may be smaller."""

    images: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the one pass."""
        return -(-self.images // self.batch_size)

    @property
    def rows(self) -> int:
        """Images per step, at most."""
        return self.batch_size

    def epoch(self, step: int) -> int:
        """Always 0: there is one pass."""
        return 0

    def batch(self, step: int) -> np.ndarray:
        """Image indices of batch ``step``: int64, at most batch_size."""
        return np.arange(step * self.batch_size, min((step + 1) * self.batch_size, self.images))

    def identities(self, step: int, planned: np.ndarray) -> np.ndarray:
        """See Order.identities."""
        return planned


@dataclass(frozen=True, kw_only=True)
class BlockOrder(Order):
    """An order that keeps a window of blocks (tar shards) together, so that they can be streamed.

    Each epoch shuffles the blocks, then all images of ``window`` consecutive blocks among themselves; an epoch's images
    are those of its first window, then its second, and so on. Still a pure function of the step, and with no more
    memory than one number per block.

    block_ends: end of each block in the numbering of the images.
    """

    block_ends: np.ndarray
    window: int = 8

    def _indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        key = int(hash64(self.seed, epoch)[0])
        starts = np.concatenate([[0], self.block_ends[:-1]])
        blocks = shuffled(np.arange(len(starts)), len(starts), key=key)
        ends = np.cumsum((self.block_ends - starts)[blocks])  # by position in the epoch
        last = np.minimum(np.arange(self.window, len(blocks) + self.window, self.window), len(blocks)) - 1
        window_ends = ends[last]
        out = np.empty_like(positions)
        which = np.searchsorted(window_ends, positions, side="right")
        for window in np.unique(which):
            first = int(window_ends[window - 1]) if window else 0
            rows = which == window
            moved = shuffled(
                positions[rows] - first, int(window_ends[window]) - first, key=int(hash64(key, int(window) + 1)[0])
            )
            block = np.searchsorted(ends, moved + first, side="right")
            before = np.where(block > 0, ends[block - 1], 0)
            out[rows] = starts[blocks[block]] + (moved + first - before)
        return out
