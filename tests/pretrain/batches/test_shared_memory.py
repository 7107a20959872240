"""The loader's shared memory: a slot is reused only when no tensor on it is left."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.batches.loader import build_loader
from pretrain.batches.shared_memory import Ring, RingSlot
from pretrain.images import open_images
from pretrain.views import build_views


def test_a_slot_is_free_again_when_the_last_tensor_on_it_is_gone():
    ring = Ring(2, 100)
    first, second = ring.take(), ring.take()
    assert {first, second} == {0, 1}
    assert ring.take() == -1
    whole = ring.lend(first, (10, 10))
    part = whole[3].view(2, 5)
    del whole
    gc.collect()
    assert ring.take() == -1, "a view still sees the memory"
    del part
    assert ring.take() == first


def test_slots_do_not_overlap_and_children_write_to_them():
    ring = Ring(3, 5000)
    shape = (50, 100)
    child = os.fork()
    if child == 0:
        for slot in range(3):
            ring.array(slot, shape)[...] = slot + 1
        os._exit(0)
    os.waitpid(child, 0)
    for slot in range(3):
        assert (ring.lend(slot, shape) == slot + 1).all()


def test_a_slot_finds_its_ring():
    rings = [Ring(1, 10), Ring(1, 10)]
    rings[1].array(0, (10,))[:] = 7
    assert (RingSlot(rings[1].number, 0, (10,)).open() == 7).all()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(16):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{index:02d}.png")
    return tmp_path


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_batches_stay_what_they_are_for_as_long_as_they_are_kept(folder, keep):
    source, views = open_images(folder, labels=False), build_views("v2", image_size=32, aug_on="device")
    options = {"batch_size": 4, "seed": 0, "epochs": 5}
    alone = [batch.images[1].clone() for batch in build_loader(source, views, **options)]
    kept: list[tuple[int, torch.Tensor]] = []
    for batch in build_loader(source, views, workers=2, **options):
        assert torch.equal(batch.images[1], alone[batch.step])
        kept = [*kept, (batch.step, batch.images[1][2])][-keep:] if keep else []
        assert all(torch.equal(image, alone[step][2]) for step, image in kept)
    assert len(alone) == 20
