"""Whole views against the official pipelines: the same parameters drawn as often, the same statistics of the result."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from pretrain.batches.loader import build_loader
from pretrain.images import open_images
from pretrain.views import KINDS, MEAN, STD, build_views
from pretrain.views.device_colour import COLUMNS, TAPS, Column

SIZE = 64


def photo(seed: int) -> np.ndarray:
    """A random colour image with the spectrum of a photo, of varying size: uint8 H x W x 3."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    shape = (110 + 13 * (seed % 5), 120 + 11 * (seed % 7))
    grey = sum(gaussian_filter(rng.normal(size=shape), s) * s * 28 for s in (0.6, 2, 6, 18))[..., None]
    colour = sum(gaussian_filter(rng.normal(size=(*shape, 3)), (s, s, 0)) * s * 24 for s in (4, 16))
    return np.clip(118 + grey + colour, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for seed in range(24):
        Image.fromarray(photo(seed)).save(root / f"{seed:02d}.png")
    return root


class Blur:
    """PIL's Gaussian blur with sigma uniform in [0.1, 2], as the MoCo v2 paper states it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def official_pipeline(kind: str) -> Callable[[Image.Image], torch.Tensor]:
    """The transforms of the official code for a kind of views."""
    from torchvision import transforms as T

    jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    before_flip = {
        "v1": [
            T.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            T.RandomGrayscale(p=0.2),
            T.ColorJitter(0.4, 0.4, 0.4, 0.4),
        ],
        "v2": [
            T.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            jitter,
            T.RandomGrayscale(p=0.2),
            T.RandomApply([Blur()], p=0.5),
        ],
        "cifar": [T.RandomResizedCrop(SIZE), jitter, T.RandomGrayscale(p=0.2)],
        "supervised": [T.RandomResizedCrop(SIZE)],
    }
    return T.Compose([*before_flip[kind], T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def statistics(views: torch.Tensor) -> np.ndarray:
    """Numbers that augmentation changes, per view: N x 3 x H x W in [0, 1] -> N x 10."""
    grey = views.mean(1)
    laplacian = (
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    columns = [
        *views.mean((2, 3)).T,
        grey.flatten(1).std(1),
        (views.amax(1) - views.amin(1)).mean((1, 2)),
        laplacian.abs().mean((1, 2)),
        (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean((1, 2)),
        (grey[:, :, : SIZE // 2].mean((1, 2)) - grey[:, :, SIZE // 2 :].mean((1, 2))).abs(),
        (views < 0.01).float().mean((1, 2, 3)),
        (views > 0.99).float().mean((1, 2, 3)),
    ]
    return torch.stack(columns, 1).numpy()


def ours(folder, kind: str, aug_on: str, epochs: int) -> np.ndarray:
    views = build_views(kind, image_size=SIZE, aug_on=aug_on)
    loader = build_loader(open_images(folder, labels=False), views, batch_size=24, seed=5, epochs=epochs)
    scale = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    made = [out * scale[0] + scale[1] for batch in loader for out in views.on_device(batch, "cpu")]
    return statistics(torch.cat(made))


@pytest.mark.parametrize("aug_on", ["device", "cpu"])
@pytest.mark.parametrize("kind", ["v1", "v2", "cifar", "supervised"])
def test_views_have_the_statistics_of_the_official_pipeline(folder, kind, aug_on):
    epochs = 15
    random.seed(0)
    torch.manual_seed(0)
    pipeline = official_pipeline(kind)
    images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    repeats = epochs * KINDS[kind].views
    scale = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    theirs = statistics(torch.stack([pipeline(image) for image in images * repeats]) * scale[0] + scale[1])
    mine = ours(folder, kind, aug_on, epochs)
    assert mine.shape == theirs.shape
    spread = np.sqrt(mine.var(0) / len(mine) + theirs.var(0) / len(theirs)) + 1e-9
    z = (mine.mean(0) - theirs.mean(0)) / spread
    assert np.abs(z).max() < 3.9, z.round(2)


def test_the_central_crop_is_the_official_one(folder):
    views = build_views("eval", image_size=SIZE)
    loader = build_loader(open_images(folder, labels=False), views, batch_size=24, seed=5, epochs=1)
    batch = next(iter(loader))
    from torchvision import transforms as T

    resized = [T.Resize(round(SIZE * 256 / 224)), T.CenterCrop(SIZE)]
    pipeline = T.Compose([*resized, T.ToTensor(), T.Normalize(MEAN, STD)])
    paths = sorted(folder.glob("*.png"))
    plain = torch.stack([pipeline(Image.open(paths[index])) for index in batch.indices])
    gap = (views.on_device(batch, "cpu")[0] - plain).abs() * 255 * 0.225
    assert gap.mean() < 0.3
    assert gap.max() < 3


def test_a_whole_image_of_the_right_size_is_shown_as_it_is(tmp_path):
    """The CIFAR demo's probe neither enlarges nor crops its 32 px images; another size is brought to 32 px."""
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (32, 32, 3)), ("b.png", (48, 64, 3))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / name)
    views = build_views("whole", image_size=32)
    batch = next(iter(build_loader(open_images(tmp_path, labels=False), views, batch_size=2, seed=0, epochs=1)))
    pixels = {int(index): image for index, image in zip(batch.indices, batch.images[0])}
    assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(tmp_path / "a.png")))
    from torchvision import transforms as T

    small = T.CenterCrop(32)(T.Resize(32)(Image.open(tmp_path / "b.png")))
    assert np.abs(pixels[1].permute(1, 2, 0).numpy().astype(int) - np.asarray(small).astype(int)).max() <= 1


def test_parameters_are_drawn_as_often_and_as_strong_as_the_recipe_says():
    from scipy.stats import kstest

    views = build_views("v2", image_size=SIZE, aug_on="device")
    table = views.params(views.draw(0, 0, np.arange(5000))).numpy()
    assert table.shape == (2, 5000, COLUMNS)
    assert not np.allclose(table[0], table[1])
    for rows in table:
        jittered = rows[:, Column.BRIGHTNESS] != 1.0
        assert abs(jittered.mean() - 0.8) < 0.02
        for column in (Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION):
            assert kstest(rows[jittered, column], "uniform", (0.6, 0.8)).pvalue > 1e-3
        assert kstest(rows[jittered, Column.HUE], "uniform", (-0.1, 0.2)).pvalue > 1e-3
        assert (rows[~jittered, Column.HUE] == 0).all()
        assert np.bincount(rows[:, Column.ORDER].astype(int), minlength=24).min() > 150
        assert abs(rows[:, Column.GREY].mean() - 0.2) < 0.02
        blurred = rows[:, Column.TAPS] < 1.0
        assert abs(blurred.mean() - 0.5) < 0.03
        taps = rows[blurred, TAPS].astype(np.float64)
        sigma = np.sqrt(2 * (taps * np.arange(taps.shape[1]) ** 2).sum(1))
        assert kstest(sigma, "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_v1_jitters_always_and_never_blurs():
    views = build_views("v1", image_size=SIZE, aug_on="device")
    table = views.params(views.draw(0, 0, np.arange(500))).numpy()
    assert (table[..., Column.BRIGHTNESS] != 1.0).all()
    assert (table[..., Column.TAPS] == 1.0).all()
    assert np.abs(table[..., Column.HUE]).max() > 0.35


def test_a_row_can_be_varied():
    assert build_views("v2", image_size=SIZE, views=3).count == 3
    assert build_views("v2", image_size=SIZE, scale=(0.5, 1.0)).kind.scale == (0.5, 1.0)
    assert build_views("eval", image_size=SIZE, scale=(0.5, 1.0)).kind.scale is None
