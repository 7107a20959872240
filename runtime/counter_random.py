"""Random numbers as a pure function of their purpose: (seed, epoch, image, view, slot).

A counter-based generator in the sense of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): no
state is carried from one draw to the next, so neither the number of loader workers nor a restart can change a draw.
The mixing function is the SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014), vectorised over a batch.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser, element by element: uint64 array -> uint64 array (a bijection of the 64-bit integers)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash64(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers and integer arrays (broadcast together, their order matters) to uint64."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        word = np.asarray(int(part) & _MASK, np.uint64) if isinstance(part, int) else part.astype(np.uint64)
        state = mix64((state + np.uint64(_GOLDEN)) ^ word)
    return state


def uniforms(seed: int, epoch: int, indices: np.ndarray, views: int, slots: int) -> np.ndarray:
    """Uniform numbers in [0, 1): float64, N x views x slots for N image indices.

    Slot k of view v of an image has the same value whatever else is drawn; see ``pretrain.views.Slot``.
    """
    index = np.asarray(indices, np.int64).reshape(-1, 1, 1)
    stream = hash64(seed, epoch, index, np.arange(views).reshape(1, -1, 1))
    counter = np.arange(1, slots + 1, dtype=np.uint64).reshape(1, 1, -1)
    bits = mix64(stream + counter * np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
