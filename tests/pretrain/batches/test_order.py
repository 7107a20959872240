"""The order of images: a bijection, uniform, the same set of images per step whatever the world size."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.batches.order import Order, Sequential, shuffled
from runtime.counter_random import hash64, mix64, uniforms
from runtime.errors import UserError


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1])
def test_a_shuffle_is_a_permutation(key):
    """Every size up to 70, so on both sides of the powers of 4 at which the network grows, and some larger ones."""
    for n in (*range(1, 71), 255, 256, 257, 700, 1023, 1025):
        assert sorted(shuffled(np.arange(n), n, key=key)) == list(range(n))


def test_a_shuffle_of_a_billion_images_needs_no_list():
    n = 10**9
    some = shuffled(np.arange(10**9 - 5000, n), n, key=7)
    assert len(set(some.tolist())) == 5000
    assert some.min() >= 0
    assert some.max() < n
    assert abs(some.mean() / n - 0.5) < 0.02


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 16])
def test_every_image_is_equally_likely_at_every_position(n):
    from scipy.stats import chi2

    keys = 1200
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), shuffled(np.arange(n), n, key=key)] += 1
    statistic = ((counts - keys / n) ** 2 / (keys / n)).sum()
    assert statistic < chi2.ppf(1 - 1e-4, (n - 1) ** 2)


def test_neighbours_are_unrelated():
    from scipy.stats import chi2

    n, keys = 11, 2500
    pairs = np.zeros((n, n))
    for key in range(keys):
        first, second = shuffled(np.array([4, 5]), n, key=key)
        pairs[first, second] += 1
    expected = keys / (n * (n - 1))
    off = pairs[~np.eye(n, dtype=bool)]
    assert ((off - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, n * (n - 1) - 1)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_images_of_a_step_do_not_depend_on_the_world_size(world):
    alone = Order(images=100, batch_size=16, seed=3)
    ranks = [Order(images=100, batch_size=16, seed=3, rank=rank, world_size=world) for rank in range(world)]
    for step in (0, 5, 6, 17):
        together = np.concatenate([rank.batch(step) for rank in ranks])
        np.testing.assert_array_equal(together, alone.batch(step))


def test_each_epoch_shows_every_image_at_most_once_and_in_another_order():
    order = Order(images=50, batch_size=8, seed=0)
    assert order.steps_per_epoch == 6
    epochs = [np.concatenate([order.batch(6 * epoch + step) for step in range(6)]) for epoch in range(4)]
    assert all(len(set(epoch.tolist())) == 48 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    left_out = [tuple(sorted(set(range(50)) - set(epoch.tolist()))) for epoch in epochs]
    assert len(set(left_out)) > 1, "the images left out must differ between epochs"


def test_another_seed_is_another_order():
    assert not np.array_equal(
        Order(images=64, batch_size=64, seed=0).batch(0), Order(images=64, batch_size=64, seed=1).batch(0)
    )


def test_sequential_covers_every_image_once_in_order():
    order = Sequential(images=23, batch_size=5)
    seen = [order.batch(step) for step in range(order.steps_per_epoch)]
    assert np.concatenate(seen).tolist() == list(range(23))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"images": 3, "batch_size": 4, "seed": 0}, "larger than the data set"),
        ({"images": 30, "batch_size": 4, "seed": 0, "world_size": 3}, "multiple of 3"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(kwargs, words):
    with pytest.raises(UserError, match=words):
        Order(**kwargs)


def test_mix64_is_splitmix64():
    # the first outputs of SplitMix64 seeded with 1234567, as published with its reference implementation
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * golden
    assert mix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_parts_are_ordered_and_independent():
    assert hash64(1, 2)[0] != hash64(2, 1)[0]
    assert hash64(-1)[0] != hash64(1)[0]
    assert len(np.unique(hash64(0, np.arange(10**5)))) == 10**5


def test_uniforms_depend_on_their_image_alone_and_are_uniform():
    from scipy.stats import chi2

    u = uniforms(5, 2, np.arange(4000), 2, 8)
    np.testing.assert_array_equal(uniforms(5, 2, np.array([17]), 2, 8)[0], u[17])
    assert 0 <= u.min() <= u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - u.size / 64) ** 2 / (u.size / 64)).sum() < chi2.ppf(1 - 1e-4, 63)
    flat = u.reshape(4000, -1)
    correlation = np.corrcoef(flat.T) - np.eye(16)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 5 / np.sqrt(4000)
