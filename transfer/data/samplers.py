"""Which images form which training step: Detectron2's order, as a pure function of seeds and step.

Detectron2 runs its sampler in every loader worker and draws augmentations from the worker's generator, so its stream
depends on the number of workers and cannot be continued after a restart. Here the same stream is planned in one
place, from generators with the same seeds, without reading an image: a plan can start at any step, and loader workers
have no state.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Key = tuple[int, Any]  # index of the record, what the mapper drew for it


def shuffled_indices(size: int, seed: int) -> Iterator[int]:
    """Endless epochs of 0..size-1, each a permutation drawn from one generator with ``seed`` (may be negative)."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def repeated_indices(factors: torch.Tensor, seed: int) -> Iterator[int]:
    """Endless epochs in which image i appears floor(factors[i]) times, and once more with the fractional probability.

    LVIS (arXiv:1908.03195), appendix B.2; the rounding is drawn anew in every epoch.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    # one ``rand`` and one ``randperm`` per epoch from the same generator, in Detectron2's order
    whole = torch.trunc(factors)
    while True:
        extra = torch.rand(len(factors), generator=generator) < factors - whole
        indices = torch.repeat_interleave(torch.arange(len(factors)), (whole + extra).long())
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


def repeat_factors(categories: Sequence[set[int]], threshold: float, square_root: bool = True) -> torch.Tensor:
    """Repeat factor of each image from the categories of all: the maximum over its c of max(1, sqrt(t / f(c))).

    f(c) is the share of images with category c; without ``square_root`` the ratio itself is taken.
    """
    images_with = Counter(itertools.chain.from_iterable(categories))
    factor = {
        c: max(1.0, math.sqrt(threshold / (n / len(categories))) if square_root else threshold / (n / len(categories)))
        for c, n in images_with.items()
    }
    return torch.tensor([max((factor[c] for c in image), default=1.0) for image in categories], dtype=torch.float32)


def rank_slice(indices: Iterator[int], rank: int, world: int) -> Iterator[int]:
    """Every ``world``-th index, starting with number ``rank``."""
    return itertools.islice(indices, rank, None, world)


def inference_range(size: int, rank: int, world: int) -> range:
    """The contiguous share of 0..size-1 that a rank evaluates; shares differ by at most one image."""
    share, left = divmod(size, world)
    begin = rank * share + min(rank, left)
    return range(begin, begin + share + (rank < left))


def draw_seeds(num_workers: int, seed: int) -> list[int]:
    """Seeds of the augmentation generators: Detectron2's, for its ``num_workers`` loader processes.

    With workers, ``seed`` is the base seed that a torch DataLoader would have drawn. torch gives worker k the seed
    seed + k, and Detectron2's ``worker_init_reset_seed`` seeds numpy with (seed + k) mod 2^31 + k. Without workers,
    augmentations are drawn in the main process, whose ``seed`` is SEED + rank.
    """
    if num_workers == 0:
        return [seed % 2**32]
    return [(seed + k) % 2**31 + k for k in range(num_workers)]


def plan_batches(
    indices: Iterator[int],
    draw: Callable[[np.random.RandomState, int], Any],
    *,
    batch_size: int,
    generators: Sequence[np.random.RandomState],
    landscape: np.ndarray | None,
) -> Iterator[list[Key]]:
    """An endless stream of batches of keys (index, draw).

    ``generators``: those of the augmentations, one per virtual worker (see ``draw_seeds``); ``draw(generator, index)``
    makes the random choices for one image, when its batch is asked for. ``landscape`` (bool per record, width > height)
    groups batches by orientation; None takes images as they come.
    """
    if landscape is None:  # each worker loads whole batches, in turn
        for generator in itertools.cycle(generators):
            yield [(index, draw(generator, index)) for index in itertools.islice(indices, batch_size)]
        return
    # a batch is delivered when its orientation has enough images. Choices are drawn when an image arrives, not when its
    # batch is full: that is when Detectron2's worker maps it
    waiting: tuple[list[Key], list[Key]] = ([], [])
    for worker, index in _arrivals(indices, len(generators), batch_size):
        bucket = waiting[bool(landscape[index])]
        bucket.append((index, draw(generators[worker], index)))
        if len(bucket) == batch_size:
            yield bucket[:]
            bucket.clear()


def _arrivals(indices: Iterator[int], workers: int, chunk: int) -> Iterator[tuple[int, int]]:
    """(worker, image index) in the order in which images leave Detectron2's loader before they are grouped.

    Of W workers, number k reads chunks k, k + W, k + 2W ... of the stream, each of ``chunk`` images (the batch size),
    and the loader takes one image from each worker in turn.
    """
    while True:
        block = list(itertools.islice(indices, workers * chunk))
        for position in range(chunk):
            for worker in range(workers):
                yield worker, block[worker * chunk + position]
