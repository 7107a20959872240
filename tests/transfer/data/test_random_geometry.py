"""What training draws for an image: bounds, replay, and settings that no image can have."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UserError
from tests.transfer.data.loaders import loader, make_mapper, take
from tests.transfer.toy_data import write_coco
from transfer.config import default_config
from transfer.data.catalog import get_dataset
from transfer.data.random_geometry import CROPS, LargeScaleJitter, RandomCrop, RandomGeometry
from transfer.engines.training.checks import check_values

PLAIN: Mapping[str, Any] = {"min_sizes": (32,), "max_size": 90, "flip": "horizontal"}
SIZES = {"relative_range": (0.3, 0.6), "relative": (0.5, 1.0), "absolute": (20, 30), "absolute_range": (10, 50)}
side = st.integers(1, 300)


@given(st.sampled_from(CROPS), side, side, st.integers(0, 2**32 - 1))
def test_a_window_lies_in_the_image(kind: str, height: int, width: int, seed: int) -> None:
    crop = RandomCrop(kind, SIZES[kind])
    window = crop.draw(np.random.RandomState(seed), (height, width))
    assert 0 <= window.top <= height - window.height
    assert 0 <= window.left <= width - window.width
    least, most = {
        "relative": (0.5, 1.0),
        "relative_range": (0.3, 1.0),
        "absolute": (20 / height, 20 / height),
        "absolute_range": (10 / height, 50 / height),
    }[kind]
    assert min(least, 1.0) * height - 1 <= window.height <= min(most, 1.0) * height + 1


@given(side, side, st.integers(0, 2**32 - 1))
def test_jitter_fits_the_square_and_keeps_the_shape_of_the_image(height: int, width: int, seed: int) -> None:
    geometry = RandomGeometry(**PLAIN, jitter=LargeScaleJitter(64, 0.1, 2.0))
    draw = geometry.draw(np.random.RandomState(seed), (height, width))
    assert draw.jitter is not None
    steps = geometry.of(draw, (height, width))
    resized = steps.shapes[-2]
    assert max(resized) == round(64 * draw.jitter[0])
    assert abs(resized[0] * width - resized[1] * height) <= max(height, width)  # half a pixel of rounding a side
    assert steps.after == (min(resized[0], 64), min(resized[1], 64))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "option", [{"crop": RandomCrop("relative_range", (0.3, 0.3))}, {"jitter": LargeScaleJitter(40, 0.5, 2.0)}]
)
def test_a_stream_with_crops_can_start_at_any_step(option: dict[str, Any], workers: int, tmp_path: Any) -> None:
    records = get_dataset(write_coco(tmp_path, count=14)).records()
    mapper = make_mapper(**option)
    whole = take(loader(records, mapper=mapper, num_workers=workers), 8)
    late = take(loader(records, mapper=mapper, num_workers=workers, start=5), 3)
    for one, other in zip(whole[5:], late):
        for a, b in zip(one, other):
            assert a["image"].equal(b["image"])
            assert a["instances"]["boxes"].equal(b["instances"]["boxes"])
    assert len({tuple(item["image"].shape) for batch in whole for item in batch}) > 3


def test_an_image_of_which_nothing_is_left_is_named(tmp_path: Any) -> None:
    mapper = make_mapper(jitter=LargeScaleJitter(40, 0.1, 0.1))
    pixels = np.zeros((2, 400, 3), dtype=np.uint8)
    draw = mapper.geometry.draw(np.random.RandomState(0), (2, 400))
    with pytest.raises(UserError, match=r"image 7 is 400 x 2: cropped and resized as INPUT.CROP or INPUT.LSJ"):
        mapper.item_of(pixels, draw, name="image 7")


CROP, JITTER = {"INPUT.CROP.ENABLED": True}, {"INPUT.LSJ.ENABLED": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CROP, **JITTER}, "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED exclude each other"),
        (
            {**CROP, "INPUT.CROP.SIZE": [0.0, 0.5]},
            r"INPUT.CROP.SIZE \[0.0, 0.5\] must be two shares of height and width",
        ),
        ({**CROP, "INPUT.CROP.SIZE": [0.5, 1.5]}, "above 0 and up to 1 for TYPE relative_range"),
        ({**CROP, "INPUT.CROP.SIZE": [0.5]}, "must be two shares"),
        ({**CROP, "INPUT.CROP.TYPE": "absolute"}, "must be two numbers of pixels from 1 for TYPE absolute"),
        (
            {**CROP, "INPUT.CROP.TYPE": "absolute_range", "INPUT.CROP.SIZE": [90, 30]},
            r"must be \[least, most\] for TYPE absolute_range",
        ),
        ({**JITTER, "INPUT.LSJ.SIZE": 0}, "INPUT.LSJ: SIZE 0 must be at least 1"),
        ({**JITTER, "INPUT.LSJ.MIN_SCALE": 0.0}, "0 < MIN_SCALE 0.0 <= MAX_SCALE 2.0"),
        ({**JITTER, "INPUT.LSJ.MIN_SCALE": 3.0}, "0 < MIN_SCALE 3.0 <= MAX_SCALE 2.0"),
    ],
)
def test_settings_that_no_image_can_have_are_named(changes: dict[str, Any], message: str) -> None:
    cfg = default_config()
    for key, value in changes.items():
        cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        check_values(cfg, 1, train=True)


def test_masks_without_shapely_are_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = default_config()
    cfg.INPUT.LSJ.ENABLED = cfg.MODEL.MASK_ON = True
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "shapely" else find(name, *a))
    with pytest.raises(UserError, match="INPUT.LSJ.ENABLED with MODEL.MASK_ON needs shapely to cut polygons"):
        check_values(cfg, 1, train=True)
    cfg.MODEL.MASK_ON = False
    check_values(cfg, 1, train=True)
