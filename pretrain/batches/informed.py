"""An epoch whose images are drawn in proportion to how informative they were: scores, probabilities, order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pretrain.batches.order import Order, shuffled
from runtime.counter_random import hash64

WINDOW = 8  # blocks (tar shards) whose images are shuffled among themselves, as in BlockOrder
_OFFSET = 0x5EED  # names the random offset of an epoch's draw


def probabilities(scores: np.ndarray, temperature: float, floor: float) -> np.ndarray:
    """The share of an epoch that each image gets: float64 n, with the sum 1.

    scores: n, 0 or more, NaN for an image that was not seen yet, which gets the mean weight of those that were. A
    weight is score ** (1 / temperature); ``floor`` of an epoch is spread evenly, so that an image is shown at least
    about ``floor`` times an epoch.
    """
    seen = ~np.isnan(scores)
    largest = np.max(scores, where=seen, initial=0.0)
    if not largest > 0:
        return np.full(len(scores), 1 / len(scores))
    weights = np.where(seen, np.maximum(scores, 0) / np.float64(largest), 0) ** (1 / temperature)
    weights[~seen] = weights[seen].mean()
    return (1 - floor) * weights / weights.sum() + floor / len(scores)


@dataclass(frozen=True, kw_only=True)
class InformedOrder(Order):
    """The order of one epoch, a pure function of (seed, epoch, ``shares``).

    shares: see ``probabilities``. block_ends: end of each block of images that are read together, None for none.

    As many images are drawn as there are, systematically: the distribution function is read at n evenly spaced places
    with one random offset. So an image with the share s is drawn floor(n s) or ceil(n s) times, each exactly once where
    all shares are alike: then this is the order of ``Order``, or of ``BlockOrder``. With blocks the function runs over
    them in the shuffled order of the epoch, and draws are shuffled within the windows of blocks, as there: a block of
    informative images fills more of its window.
    """

    at_epoch: int
    shares: np.ndarray
    block_ends: np.ndarray | None = None
    identity: np.ndarray = field(init=False, repr=False)  # n, image + n * (how often it was drawn before): int64
    window_ends: np.ndarray = field(init=False, repr=False)  # end of each window in ``identity``

    def __post_init__(self) -> None:
        super().__post_init__()
        n, key = self.images, int(hash64(self.seed, self.at_epoch)[0])
        ends = np.array([n]) if self.block_ends is None else np.asarray(self.block_ends)
        starts = np.concatenate([[0], ends[:-1]])
        blocks = shuffled(np.arange(len(ends)), len(ends), key=key) if len(ends) > 1 else np.arange(1)
        arranged = np.concatenate([np.arange(starts[block], ends[block]) for block in blocks])
        offset = (float(hash64(self.seed, self.at_epoch, _OFFSET)[0] >> np.uint64(11)) + 0.5) * 2.0**-53
        # Draw t reads the function at (t + offset) / n, so draws below cdf * n - offset belong to images up to here.
        edges = np.ceil(np.cumsum(self.shares[arranged]) * n - offset).clip(0, n).astype(np.int64)
        edges[-1] = n
        edges = np.maximum.accumulate(edges)
        counts = np.diff(edges, prepend=0)
        before = np.arange(n) - np.repeat(edges - counts, counts)
        object.__setattr__(self, "identity", np.repeat(arranged, counts) + n * before)
        last = np.minimum(np.arange(WINDOW, len(blocks) + WINDOW, WINDOW), len(blocks)) - 1
        object.__setattr__(self, "window_ends", edges[np.cumsum((ends - starts)[blocks])[last] - 1])

    def identities(self, step: int, planned: np.ndarray) -> np.ndarray:
        """See Order.identities: an image drawn again in an epoch has other views than the first time."""
        return self._drawn(self._positions(step))

    def distinct(self) -> int:
        """Number of images that the epoch shows."""
        return int((self.identity < self.images).sum())

    def _indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        if epoch != self.at_epoch:
            raise ValueError(f"this is the order of epoch {self.at_epoch}, not of {epoch}")
        return self._drawn(positions) % self.images

    def _drawn(self, positions: np.ndarray) -> np.ndarray:
        key = int(hash64(self.seed, self.at_epoch)[0])
        which = np.searchsorted(self.window_ends, positions, side="right")
        out = np.empty_like(positions)
        for window in np.unique(which):
            first = int(self.window_ends[window - 1]) if window else 0
            rows = which == window
            of_window = key if self.block_ends is None else int(hash64(key, int(window) + 1)[0])
            out[rows] = first + shuffled(positions[rows] - first, int(self.window_ends[window]) - first, key=of_window)
        return self.identity[out]
