"""The CPU stage: crop boxes, resizing and scaled decoding against torchvision on PIL images."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.images import decode
from pretrain.views import crops
from pretrain.views.crops import Crop
from runtime.counter_random import uniforms


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random image with the spectrum of a photo: uint8 height x width x 3."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    layers = sum(gaussian_filter(rng.normal(size=(height, width, 3)), (s, s, 0)) * s * 28 for s in (1, 3, 9, 27))
    return np.clip(120 + layers, 0, 255).astype(np.uint8)


class Held:
    """A picture already decoded."""

    reductions = ()

    def __init__(self, pixels: np.ndarray) -> None:
        self.array = pixels
        self.height, self.width = pixels.shape[:2]

    def pixels(self, reduction: int = 1, scratch=None) -> np.ndarray:
        return self.array


def boxes(height: int, width: int, scale: tuple[float, float], count: int) -> list[Crop]:
    numbers = uniforms(0, 0, np.arange(count), 1, 22)[:, 0].tolist()
    return [
        crops.random_resized_crop(height, width, scale=scale, area_u=u[:10], ratio_u=u[10:20], place_u=u[20:22])
        for u in numbers
    ]


@pytest.mark.parametrize(("height", "width"), [(200, 200), (375, 500), (120, 640), (640, 90)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0)])
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    from scipy.stats import ks_2samp
    from torchvision import transforms

    torch.manual_seed(0)
    image = Image.new("RGB", (width, height))
    theirs = [transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(3000)]
    ours = boxes(height, width, scale, 3000)
    their_table = np.array(theirs)
    our_table = np.array([(box.top, box.left, box.height, box.width) for box in ours])
    for column in range(4):
        assert ks_2samp(our_table[:, column], their_table[:, column], method="asymp").pvalue > 1e-3
    assert (our_table[:, 0] + our_table[:, 2] <= height).all()
    assert (our_table[:, 1] + our_table[:, 3] <= width).all()
    assert our_table[:, :2].min() >= 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [Crop(0, 0, 300, 400), Crop(20, 31, 160, 201), Crop(7, 9, 50, 40), Crop(5, 6, 96, 96)])
def test_a_cut_equals_torchvision_on_pil(box, flip):
    pixels = photo(300, 400)
    out = np.empty((96, 96, 3), np.uint8)
    crops.cut(pixels, Crop(box.top, box.left, box.height, box.width, flip), 96, 1, out)
    from torchvision.transforms import functional as F

    plain = F.resized_crop(Image.fromarray(pixels), box.top, box.left, box.height, box.width, [96, 96])
    gap = np.abs(out - np.asarray(F.hflip(plain) if flip else plain, np.float64))
    assert gap.mean() < 0.1
    assert gap.max() <= 2


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 299), (64, 64), (40, 90), (500, 120)])
def test_the_central_crop_equals_torchvision_on_pil(height, width):
    pixels = photo(height, width)
    out = np.empty((64, 64, 3), np.uint8)
    crops.cut_centre(Held(pixels), 73, 64, out)
    from torchvision import transforms

    plain = transforms.Compose([transforms.Resize(73), transforms.CenterCrop(64)])(Image.fromarray(pixels))
    gap = np.abs(out - np.asarray(plain, np.float64))
    assert gap.mean() < 0.25
    assert gap.max() <= 2


def jpeg(pixels: np.ndarray, **options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=92, **options)
    return data.getvalue()


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """Both ways to decode a JPEG."""
    if request.param == "pillow":
        monkeypatch.setattr(decode, "simplejpeg", None)
    elif decode.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(203, 333), (400, 600)])
def test_scaled_decoding_has_the_size_it_promises(decoder, size, reduction):
    picture = decode.EncodedPicture(jpeg(photo(*size)), "x.jpg")
    assert (picture.height, picture.width) == size
    assert picture.reductions == (8, 4, 2)
    assert picture.pixels(reduction).shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_both_decoders_give_the_same_pixels(options, monkeypatch):
    if decode.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    data = jpeg(photo(203, 333), **options)
    fast = [decode.EncodedPicture(data, "x.jpg").pixels(reduction) for reduction in (1, 2, 4)]
    monkeypatch.setattr(decode, "simplejpeg", None)
    plain = [decode.EncodedPicture(data, "x.jpg").pixels(reduction) for reduction in (1, 2, 4)]
    for a, b in zip(fast, plain):
        assert np.abs(a.astype(int) - b).mean() < 0.05


def test_scaled_decoding_is_used_only_where_no_crop_would_be_enlarged():
    class Big(Held):
        reductions = (8, 4, 2)

    picture = Big(photo(64, 64))
    assert crops.reduction_for(picture, [Crop(0, 0, 1800, 1800), Crop(0, 0, 1600, 900)], 224) == 4
    assert crops.reduction_for(picture, [Crop(0, 0, 1800, 1800), Crop(0, 0, 447, 900)], 224) == 1
    assert crops.reduction_for(picture, [Crop(0, 0, 448, 448)], 224) == 2
    assert crops.reduction_for(picture, [Crop(0, 0, 1792, 1792)], 224) == 8
    assert crops.reduction_for(Held(photo(64, 64)), [Crop(0, 0, 1792, 1792)], 224) == 1


def test_views_of_a_scaled_decoding_keep_the_statistics_of_the_full_one(decoder):
    ours, full, plain = [], [], []
    for seed, box in enumerate(boxes(300, 400, (0.2, 1.0), 24)):
        pixels = photo(300, 400, seed)
        picture = decode.EncodedPicture(jpeg(pixels), "x.jpg")
        reduction = crops.reduction_for(picture, [box], 48)
        assert reduction >= 2
        small, whole = np.empty((2, 48, 48, 3), np.uint8)
        crops.cut(picture.pixels(reduction), box, 48, reduction, small)
        crops.cut(picture.pixels(), box, 48, 1, whole)
        ours.append(np.diff(small.astype(float), axis=1).std())
        full.append(np.diff(whole.astype(float), axis=1).std())
        plain.append(np.abs(small.astype(float) - whole).mean())
    assert np.mean(plain) < 3.0, "half a pixel of the smaller image at most"
    assert abs(np.mean(ours) / np.mean(full) - 1) < 0.05, "neither blurred nor aliased"


def test_a_scratch_buffer_changes_no_pixel(decoder):
    scratch = decode.Scratch()
    for seed, size in enumerate([(40, 60), (100, 120), (30, 30)]):
        picture = decode.EncodedPicture(jpeg(photo(*size, seed)), "x.jpg")
        np.testing.assert_array_equal(picture.pixels(1, scratch), picture.pixels())
        np.testing.assert_array_equal(picture.pixels(2, scratch), picture.pixels(2))


def test_a_mirrored_view_has_the_pixels_of_the_plain_one():
    plain, mirrored = np.empty((2, 64, 64, 3), np.uint8)
    scratch = decode.Scratch()
    for seed, box in enumerate(boxes(300, 400, (0.05, 1.0), 8)):
        pixels = photo(300, 400, seed)
        crops.cut(pixels, box, 64, 1, plain)
        crops.cut(pixels, replace(box, flip=True), 64, 1, mirrored, scratch)
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_flipping_needs_no_opencv(monkeypatch):
    outs = []
    for module in (crops.cv2, None):
        monkeypatch.setattr(crops, "cv2", module)
        outs.append(np.empty((48, 48, 3), np.uint8))
        crops.cut(photo(100, 120), Crop(3, 4, 80, 90, True), 48, 1, outs[-1])
    np.testing.assert_array_equal(*outs)
