"""The batched colour stage against torchvision's PIL operations, one operation and one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from pretrain.views import cpu_colour, device_colour
from pretrain.views.device_colour import ORDERS, Column

NEUTRAL = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]  # the columns, with the blur's sigma in the place of its taps
SIGMA = 6
STAGES = ["batched", "opencv", "one by one"]


def photo(seed: int, size: int = 80) -> np.ndarray:
    """A smooth random colour image with edges and fine texture: uint8 size x size x 3."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(size, size, 3)), (7, 7, 0)) * 900
    fine = gaussian_filter(rng.normal(size=(size, size, 3)), (0.7, 0.7, 0.3)) * 25
    edge = np.where(np.add.outer(np.arange(size), np.arange(size)) % 37 < 15, 40, 0)[..., None]
    return np.clip(110 + smooth + fine + edge, 0, 255).astype(np.uint8)


def table(rows: list[list[float]]) -> torch.Tensor:
    """Parameter table of rows that end in sigma; nothing is solarized."""
    values = np.array(rows, np.float64)
    taps, no = device_colour.blur_taps(values[:, SIGMA]), np.zeros((len(values), 1))
    return torch.from_numpy(np.hstack([values[:, :SIGMA], taps, no])).float()


def run(stage: str, images: list[np.ndarray], rows: list[list[float]], monkeypatch, grey_first=False) -> np.ndarray:
    """Augment by one of the implementations: float N x H x W x 3 in grey levels of 0 to 255."""
    params = table(rows)
    if stage == "batched":
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255).contiguous()
        return device_colour.augment(x, params, grey_first=grey_first).permute(0, 2, 3, 1).numpy() * 255
    if stage == "opencv" and not cpu_colour.AVAILABLE:
        pytest.skip("OpenCV is not installed")
    if stage == "one by one":
        monkeypatch.setattr(cpu_colour, "cv2", None)
    out = [image.copy() for image in images]
    for image, row in zip(out, params):
        cpu_colour.augment(image, row, grey_first=grey_first)
    return np.stack(out).astype(np.float64)


def pil_grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def pil_augment(pixels: np.ndarray, row: list[float], grey_first: bool = False) -> np.ndarray:
    """The official operations in PIL with the same parameters."""
    from torchvision.transforms import functional as F

    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    image = Image.fromarray(pixels)
    if grey_first and row[Column.GREY]:
        image = pil_grey(image)
    for operation in ORDERS[int(row[Column.ORDER])]:
        image = adjust[operation](image, row[operation])
    if not grey_first and row[Column.GREY]:
        image = pil_grey(image)
    if row[SIGMA]:
        image = image.filter(ImageFilter.GaussianBlur(row[SIGMA]))
    return np.asarray(image, np.float64)


SINGLE = [
    (Column.BRIGHTNESS, [0.6, 0.83, 1.4], 0.6),
    (Column.CONTRAST, [0.6, 0.9, 1.4], 0.9),
    (Column.SATURATION, [0.6, 1.1, 1.4], 0.9),
    (Column.HUE, [-0.4, -0.1, 0.03, 0.1, 0.4], 1.8),
    (Column.GREY, [1.0], 0.6),
    (SIGMA, [0.1, 0.3, 0.5, 1.0, 1.5, 2.0], 1.0),
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("column", "values", "tolerance"), SINGLE, ids=lambda value: getattr(value, "name", "blur"))
def test_each_operation_equals_pil(stage, column, values, tolerance, monkeypatch):
    rows = [[*NEUTRAL] for _ in values]
    for row, value in zip(rows, values):
        row[column] = value
    images = [photo(seed) for seed in range(len(values))]
    ours = run(stage, images, rows, monkeypatch)
    for image, row, result in zip(images, rows, ours):
        assert np.abs(result - pil_augment(image, row)).mean() < tolerance, row


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("grey_first", [False, True])
def test_whole_chain_equals_pil_with_the_same_parameters(stage, grey_first, monkeypatch):
    rng = np.random.default_rng(3)
    images = [photo(seed) for seed in range(24)]
    rows = [
        [*rng.uniform(0.6, 1.4, 3), rng.uniform(-0.1, 0.1), float(order), float(order % 5 == 0), [0, 0.7, 2][order % 3]]
        for order in range(24)
    ]
    ours = run(stage, images, rows, monkeypatch, grey_first)
    gaps = [np.abs(out - pil_augment(im, row, grey_first)).mean() for im, row, out in zip(images, rows, ours)]
    assert np.mean(gaps) < 1.7
    assert np.max(gaps) < 2.6


def test_a_batch_equals_its_images_alone():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((5, 3, 40, 40), np.float32))
    params = table([[1.2, 0.7, 1.3, 0.05, order * 5, order % 2, order / 3] for order in range(5)])
    together = device_colour.augment(x.clone(), params)
    alone = torch.cat([device_colour.augment(x[i : i + 1].clone(), params[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_neutral_parameters_change_nothing():
    x = torch.rand(3, 3, 33, 47)
    assert torch.equal(device_colour.augment(x.clone(), table([NEUTRAL] * 3)), x)


def test_hue_by_a_whole_turn_is_the_identity_and_keeps_value_and_chroma():
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(device_colour.shift_hue(x, torch.tensor([0.0, 1.0, -1.0, 2.0])), x, rtol=0, atol=1e-5)
    turned = device_colour.shift_hue(x, torch.full((4,), 0.3))
    torch.testing.assert_close(turned.amax(1), x.amax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.amin(1), x.amin(1), rtol=0, atol=1e-6)


def full_taps(sigma: list[float]) -> np.ndarray:
    half = device_colour.blur_taps(np.array(sigma))
    return np.concatenate([half[:, :0:-1], half], axis=1)


def test_blur_taps_have_the_variance_asked_for():
    sigma = [0.0, 0.1, 0.5, 1.0, 2.0]
    taps = full_taps(sigma)
    np.testing.assert_allclose(taps.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose((taps * np.arange(-6, 7) ** 2).sum(1), np.square(sigma), atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (32, 32), (33, 75), (64, 40)])
def test_separable_equals_a_plain_convolution(height, width):
    rng = np.random.default_rng(1)
    x = rng.random((3, 3, height, width), np.float32)
    taps = full_taps([0.4, 1.1, 2.0])
    ours = device_colour.separable(torch.from_numpy(x), torch.from_numpy(taps).float())
    for image, kernel, result in zip(x, taps, ours.numpy()):
        from scipy.ndimage import convolve1d

        plain = convolve1d(convolve1d(image, kernel, axis=1, mode="nearest"), kernel, axis=2, mode="nearest")
        np.testing.assert_allclose(result, plain, atol=2e-6)


def test_finish_normalises_to_the_layout_and_type_asked_for():
    pixels = torch.randint(0, 256, (3, 8, 10, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    out = device_colour.finish(pixels, None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    from torchvision.transforms import functional as F

    plain = F.normalize(pixels.float() / 255, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    torch.testing.assert_close(out.float(), plain, rtol=0.01, atol=0.01)
