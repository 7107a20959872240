"""The loader: the same batches whatever the workers, the restarts and the world; bad images replaced and counted."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.batches.loader import build_eval_loader, build_loader, substitutes
from pretrain.images import open_images
from pretrain.views import KINDS, build_views
from pretrain.views.batch import Batch
from runtime.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """48 images of two classes, each of one grey level of its own, some of them tall and some wide."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for index in range(48):
        target = root / f"class{index % 2}" / f"{index:02d}.png"
        target.parent.mkdir(exist_ok=True)
        size = (40, 56, 3) if index % 3 else (56, 40, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(target)
    return root


def batches(folder: Path, *, kind: str = "v2", aug_on: str = "device", **options) -> list[Batch]:
    source = open_images(folder, labels=True)
    views = build_views(kind, image_size=32, aug_on=aug_on)
    options = {"batch_size": 8, "seed": 1, "epochs": 2, **options}
    return list(build_loader(source, views, **options))


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.indices, b.indices), (a.labels, b.labels), (a.params, b.params), *zip(a.images, b.images)]
    return (a.step, a.epoch) == (b.step, b.epoch) and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("aug_on", ["device", "cpu"])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(folder, workers, aug_on):
    alone = batches(folder, aug_on=aug_on)
    many = batches(folder, aug_on=aug_on, workers=workers)
    assert [batch.step for batch in alone] == list(range(12))
    assert len(many) == 12
    assert all(same(a, b) for a, b in zip(alone, many))


def test_a_restart_continues_with_the_same_batches(folder):
    whole = batches(folder)
    for start in (1, 5, 6, 11):
        rest = batches(folder, start_step=start, workers=start % 2)
        assert len(rest) == 12 - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest))


def test_the_images_of_a_step_are_shared_out_over_the_ranks(folder):
    alone = batches(folder)
    for world in (2, 4):
        ranks = [batches(folder, rank=rank, world_size=world) for rank in range(world)]
        for step, whole in enumerate(alone):
            assert torch.equal(torch.cat([rank[step].indices for rank in ranks]), whole.indices)
            assert torch.equal(torch.cat([rank[step].images[1] for rank in ranks]), whole.images[1])


def test_views_differ_between_epochs_and_between_each_other(folder):
    first, second = batches(folder, batch_size=48)
    position = {int(index): row for row, index in enumerate(second.indices)}
    for row, index in enumerate(first.indices.tolist()):
        assert not torch.equal(first.images[0][row], first.images[1][row])
        assert not torch.equal(first.images[0][row], second.images[0][position[index]])


def test_labels_follow_their_images(folder):
    source = open_images(folder, labels=True)
    for batch in batches(folder):
        assert batch.labels.tolist() == [source.label(int(index)) for index in batch.indices]


def test_the_global_random_numbers_are_left_alone(folder):
    def state() -> tuple:
        return (
            random.getstate(),
            torch.get_rng_state().tolist(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
        )

    before = state()
    for workers in (0, 2):
        batches(folder, workers=workers, epochs=1)
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aug_on", ["device", "cpu"])
def test_every_kind_of_views_gives_normalised_images(folder, kind, aug_on):
    views = build_views(kind, image_size=32, aug_on=aug_on)
    batch = next(iter(build_loader(open_images(folder, labels=False), views, batch_size=8, seed=0, epochs=1)))
    assert len(batch.images) == KINDS[kind].views == views.count
    assert all(image.shape == (8, 3, 32, 32) and image.dtype == torch.uint8 for image in batch.images)
    for out in views.on_device(batch, "cpu", torch.float32):
        assert out.shape == (8, 3, 32, 32)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert -2.2 < out.min() < out.max() < 2.7
        assert abs(out.mean()) < 0.6, "uniform noise has about the mean of the normalisation"
    assert (batch.labels == -1).all()


def test_the_eval_loader_shows_every_image_once_in_order(folder):
    source, views = open_images(folder, labels=True), build_views("eval", image_size=32)
    for workers in (0, 2):
        loader = build_eval_loader(source, views, batch_size=10, workers=workers)
        seen = list(loader)
        assert len(loader) == len(seen) == 5
        assert torch.cat([batch.indices for batch in seen]).tolist() == list(range(48))


def test_options_that_make_no_sense_are_refused(folder):
    with pytest.raises(UserError, match="larger than the data set"):
        batches(folder, batch_size=49)
    with pytest.raises(UserError, match="unknown kind of views"):
        build_views("v9")
    with pytest.raises(UserError, match="aug_on"):
        build_views("v2", aug_on="gpu")


# Bad images


@pytest.fixture
def damaged(folder, tmp_path) -> tuple[Path, set[str]]:
    """The same images, four of them damaged in different ways."""
    for path in folder.rglob("*.png"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    damaged_names = {
        "class0/04.png": b"",
        "class0/10.png": b"<html>",
        "class1/05.png": b"\x89PNG\r\n",
        "class1/21.png": b"x" * 99,
    }
    for name, data in damaged_names.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path, set(damaged_names)


def test_bad_images_are_replaced_named_once_and_counted(damaged, caplog):
    folder, damaged_names = damaged
    source, views = open_images(folder, labels=True), build_views("v2", image_size=32, aug_on="device")
    loader = build_loader(source, views, batch_size=8, seed=1, epochs=4, max_bad=0.2)
    with caplog.at_level(logging.WARNING):
        seen = list(loader)
    assert {source.name(index) for index in loader.bad} == damaged_names
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 4
    assert {name for name in damaged_names if any(name in text for text in warnings)} == damaged_names
    shown = torch.cat([batch.indices for batch in seen])
    assert not set(shown.tolist()) & set(loader.bad)
    assert len(shown) == 4 * 48


def test_the_other_images_are_untouched_by_a_replacement(folder, damaged):
    whole, holed = batches(folder), batches(damaged[0], max_bad=10)
    replaced = 0
    for a, b in zip(whole, holed):
        for row in range(8):
            if a.indices[row] == b.indices[row]:
                assert torch.equal(a.images[0][row], b.images[0][row])
            else:
                replaced += 1
    assert replaced == 2 * 4


def test_replacements_are_the_same_for_any_workers_and_restart(damaged):
    whole = batches(damaged[0], max_bad=4)
    assert all(same(a, b) for a, b in zip(whole, batches(damaged[0], max_bad=4, workers=2), strict=True))
    assert all(same(a, b) for a, b in zip(whole[7:], batches(damaged[0], max_bad=4, start_step=7), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [3, 0.07])
def test_too_many_bad_images_stop_the_run(damaged, limit, workers):
    with pytest.raises(UserError, match=r"4 of 48 images cannot be read, more than --max-bad"):
        batches(damaged[0], max_bad=limit, workers=workers, batch_size=48)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_images_ends_with_a_reason(tmp_path, workers):
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    source, views = open_images(tmp_path, labels=False), build_views("eval", image_size=32)
    with pytest.raises(UserError, match="33 images in a row cannot be read.*the file is empty$"):
        list(build_eval_loader(source, views, batch_size=2, max_bad=100, workers=workers))


def test_substitutes_are_uniform_over_the_images():
    drawn = np.array([substitutes(0, epoch, index, 10)[0] for epoch in range(40) for index in range(25)])
    counts = np.bincount(drawn, minlength=10)
    assert counts.min() > 60
    assert counts.max() < 140
    assert substitutes(0, 3, 4, 10) == substitutes(0, 3, 4, 10)
