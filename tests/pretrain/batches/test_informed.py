"""Epochs drawn by scores: how often each image occurs, in what order, and with which views."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pretrain.batches.informed import InformedOrder, probabilities
from pretrain.batches.order import BlockOrder, Order

ENDS = np.cumsum([7, 12, 3, 20, 9, 5, 14, 8, 11, 6, 5])


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    steps = order.steps_per_epoch
    return np.concatenate([order.batch(epoch * steps + step) for step in range(steps)])


def informed(shares: np.ndarray, epoch: int = 3, **settings: Any) -> InformedOrder:
    return InformedOrder(at_epoch=epoch, shares=shares, **{"images": 100, "batch_size": 4, "seed": 5, **settings})


def test_probabilities_follow_the_formula() -> None:
    scores = np.array([4.0, 1.0, 0.0, np.nan], np.float32)
    weights = np.array([1.0, 0.5, 0.0, 0.5])  # roots of score / 4; the unseen one has the mean of the seen
    np.testing.assert_allclose(probabilities(scores, 2.0, 0.2), 0.8 * weights / 2 + 0.05, rtol=1e-12)
    np.testing.assert_array_equal(probabilities(np.full(4, np.nan, np.float32), 1, 0.2), np.full(4, 0.25))
    np.testing.assert_array_equal(probabilities(np.zeros(4, np.float32), 1, 0.2), np.full(4, 0.25))
    hot = probabilities(np.array([1e30, 1.0], np.float32), 0.01, 0.0)
    np.testing.assert_array_equal(hot, [1, 0])


def test_equal_shares_are_the_uniform_orders() -> None:
    """To the image: with and without blocks."""
    even = np.full(100, 0.01)
    assert epoch_of(informed(even), 3).tolist() == epoch_of(Order(images=100, batch_size=4, seed=5), 3).tolist()
    blocks = BlockOrder(images=100, batch_size=4, seed=5, block_ends=ENDS)
    assert epoch_of(informed(even, block_ends=ENDS), 3).tolist() == epoch_of(blocks, 3).tolist()


@pytest.mark.parametrize("ends", [None, ENDS], ids=["files", "shards"])
def test_images_occur_in_proportion(ends: np.ndarray | None) -> None:
    """floor or ceil of n times the share in every epoch, and the share itself on average."""
    shares = probabilities(np.random.default_rng(0).exponential(size=100).astype(np.float32), 0.5, 0.2)
    total = np.zeros(100)
    for epoch in range(200):
        counts = np.bincount(epoch_of(informed(shares, epoch, block_ends=ends), epoch), minlength=100)
        assert counts.sum() == 100
        assert (np.abs(counts - 100 * shares) < 1).all()
        total += counts
    assert np.abs(total / 200 - 100 * shares).max() < 0.15
    assert (total >= 0.2 * 200 * 0.7).all()  # the floor


def test_shards_are_read_window_by_window() -> None:
    """At most 8 of 11 blocks are open at a time, as in BlockOrder, however the shares are."""
    shares = probabilities(np.random.default_rng(1).exponential(size=100).astype(np.float32), 0.5, 0.1)
    drawn = epoch_of(informed(shares, block_ends=ENDS), 3)
    block = np.searchsorted(ENDS, drawn, side="right")
    first, last = set(block[:10]), set(block[-3:])
    change = int(np.flatnonzero(~np.isin(block, block[:60]))[0])  # the first image of the second window
    assert len(set(block[:change])) == 8
    assert set(block[:change]).isdisjoint(block[change:])
    assert first <= set(block[:change])
    assert last <= set(block[change:])


def test_ranks_share_a_step() -> None:
    shares = probabilities(np.random.default_rng(2).exponential(size=100).astype(np.float32), 1, 0.2)
    whole = informed(shares)
    halves = [informed(shares, rank=rank, world_size=2) for rank in range(2)]
    for step in range(75, 80):
        assert np.concatenate([half.batch(step) for half in halves]).tolist() == whole.batch(step).tolist()
    with pytest.raises(ValueError, match="epoch 3, not of 0"):
        whole.batch(0)


def test_an_image_drawn_again_has_an_identity_of_its_own() -> None:
    shares = np.full(100, 0.5 / 99)
    shares[17] = 0.5
    order = informed(shares)
    found: Counter[int] = Counter()
    for step in range(75, 100):
        planned = order.batch(step)
        identities = order.identities(step, planned)
        assert (identities % 100 == planned).all()
        found.update(identities.tolist())
    assert max(found.values()) == 1
    assert sum(1 for identity in found if identity % 100 == 17) == 50
    assert order.distinct() == len({identity % 100 for identity in found})
