"""Masks on pictures: the same pixels as a blend of the whole image, without one mask more in memory than needed."""

from __future__ import annotations

import tracemalloc

import numpy as np
from PIL import Image

from transfer.evaluate.drawing import HEADER, MASK_OPACITY, Marked, class_color, draw
from transfer.prediction.detected_image import DetectedImage


def test_masks_are_blended_as_over_the_whole_image():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 500, 3), dtype=np.uint8)
    masks = [rng.random((400, 500)) > 0.7 for _ in range(4)]
    masks[1][:] = False  # an object without a pixel
    masks[2][:, :490] = False  # at the border
    masks[3][:399] = False
    expected = pixels.astype(np.float32)
    for index, mask in enumerate(masks):
        colour = np.array(class_color(index), dtype=np.float32)
        expected = np.where(mask[:, :, None], expected * (1 - MASK_OPACITY) + colour * MASK_OPACITY, expected)
    unseen = np.full((4, 4), -100.0)  # boxes and labels off the picture
    picture = draw(Image.fromarray(pixels), Marked(unseen, [" "] * 4, list(range(4)), masks), "")
    below = np.asarray(picture)[HEADER + 20 :]
    np.testing.assert_array_equal(below, expected.astype(np.uint8)[20:])


def test_a_picture_holds_one_mask_at_a_time():
    from pycocotools import mask as coco_mask

    height, width, count = 1500, 2000, 60
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[700:760, 900:980] = 1
    boxes = np.tile(np.array([[900, 700, 980, 760]], dtype=np.float32), (count, 1))
    found = DetectedImage(
        None, 1, height, width, boxes, np.full(count, 0.9, np.float32), np.zeros(count, np.int64), ["x"],
        [coco_mask.encode(mask)] * count,
    )  # fmt: skip
    image = Image.new("RGB", (width, height))
    tracemalloc.start()
    picture = found.draw(image)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert np.asarray(picture)[HEADER + 730, 940].any()
    assert peak < 150  # MiB: the pixels as float32 take 34, all masks together would take 172 more
