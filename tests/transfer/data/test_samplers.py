"""The order of images: Detectron2's streams, resumable at any step."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.data import samplers


def draw(generator, index):
    return int(generator.choice((96, 128, 160))), bool(generator.uniform() < 0.5)


def plan(size, world=1, rank=0, batch=3, workers=2, seed=5, grouped=True):
    flags = np.random.RandomState(0).rand(size) < 0.6 if grouped else None
    indices = samplers.rank_slice(samplers.shuffled_indices(size, seed), rank, world)
    generators = [np.random.RandomState(seed) for seed in samplers.draw_seeds(workers, 1234)]
    return samplers.plan_batches(indices, draw, batch_size=batch, generators=generators, landscape=flags)


def take(iterator, count, start=0):
    return list(itertools.islice(iterator, start, start + count))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 5), st.integers(0, 4), st.booleans(), st.integers(0, 30))
def test_a_plan_can_start_at_any_step(size, world, batch, workers, grouped, start):
    arguments = {"world": world, "batch": batch, "workers": workers, "grouped": grouped}
    assert take(plan(size, **arguments), 4, start) == take(plan(size, **arguments), start + 4)[start:]


def test_every_epoch_shows_every_image_once_over_all_ranks():
    ranks = [take(samplers.rank_slice(samplers.shuffled_indices(12, 3), rank, 4), 9) for rank in range(4)]
    merged = list(itertools.chain.from_iterable(zip(*ranks)))
    for epoch in range(3):
        assert sorted(merged[epoch * 12 : epoch * 12 + 12]) == list(range(12))


def test_groups_hold_one_orientation():
    flags = np.random.RandomState(0).rand(30) < 0.6
    for batch in take(plan(30, batch=4), 40):
        assert len({bool(flags[index]) for index, _ in batch}) == 1


def test_repeat_factors_follow_the_formula():
    # category 0 in 4 of 4 images, 1 in 2, 2 in 1; t = 0.5
    factors = samplers.repeat_factors([{0, 1}, {0}, {0, 1, 2}, {0}], 0.5)
    assert torch.equal(factors, torch.tensor([1.0, 1.0, 2**0.5, 1.0]))
    assert torch.equal(samplers.repeat_factors([{0, 1}, set()], 2.0, square_root=False), torch.tensor([4.0, 1.0]))


def test_repeats_average_to_the_factor():
    factors = torch.tensor([1.0, 2.5, 1.25])
    stream = take(samplers.repeated_indices(factors, 0), 4750)
    counts = np.bincount(stream) / 1000
    assert np.allclose(counts, factors, rtol=0.06)


def test_inference_shares_are_contiguous_and_complete():
    for size in (0, 1, 7, 8):
        shares = [list(samplers.inference_range(size, rank, 3)) for rank in range(3)]
        assert list(itertools.chain.from_iterable(shares)) == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.detectron2
@pytest.mark.parametrize("seed", [0, 7, -1])
def test_streams_equal_detectron2s(seed):
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

    assert take(iter(TrainingSampler(23, seed=seed)), 80) == take(samplers.shuffled_indices(23, seed), 80)
    records = [
        {"annotations": [{"category_id": int(c)} for c in np.random.RandomState(k).randint(0, 9, 4)]} for k in range(23)
    ]
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.4)
    ours = samplers.repeat_factors([{a["category_id"] for a in r["annotations"]} for r in records], 0.4)
    assert torch.equal(ours, theirs)
    assert len(set(ours.tolist())) > 2
    sampler = RepeatFactorTrainingSampler(theirs, seed=seed)
    assert take(iter(sampler), 120) == take(samplers.repeated_indices(ours, seed), 120)
    for rank in range(3):
        assert list(InferenceSampler._get_local_indices(10, 3, rank)) == list(samplers.inference_range(10, rank, 3))
