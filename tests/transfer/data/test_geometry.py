"""Steps on images and annotations against fvcore's transforms, which Detectron2 uses."""

from __future__ import annotations

from typing import Any

import fvcore.transforms.transform as T
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.data.geometry import Crop, Geometry, Mirror, Resize, Step

NEAREST = Image.Resampling.NEAREST
sides = st.integers(4, 40)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], list[Step], list[Any]]:
    """An image's shape, crops and mirrors of it, and fvcore's transforms that do the same."""
    shape = before = draw(sides), draw(sides)
    steps: list[Step] = []
    theirs: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            steps.append(Mirror(draw(st.booleans())))
            theirs.append(T.HFlipTransform(before[1]) if steps[-1].horizontal else T.VFlipTransform(before[0]))
        else:
            top, left = draw(st.integers(0, before[0] - 1)), draw(st.integers(0, before[1] - 1))
            steps.append(Crop(top, left, draw(sides), draw(sides)))
            theirs.append(T.CropTransform(left, top, steps[-1].width, steps[-1].height))
        before = steps[-1].shape(before)
    return shape, steps, theirs


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_crops_and_mirrors_equal_fvcores(case: tuple[Any, list[Step], list[Any]], seed: int) -> None:
    shape, steps, theirs = case
    rng = np.random.default_rng(seed)
    geometry, transforms = Geometry(steps, shape), T.TransformList(theirs)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(geometry.pixels(pixels, NEAREST), transforms.apply_image(pixels))
    assert geometry.after == transforms.apply_image(pixels).shape[:2]
    points = rng.uniform(-2, 42, (9, 2))
    assert np.array_equal(geometry.points(points.copy()), transforms.apply_coords(points.copy()))
    corners = np.sort(rng.uniform(0, min(shape), (5, 2, 2)), axis=1).reshape(5, 4)
    height, width = geometry.after
    expected = np.minimum(transforms.apply_box(corners.copy()).clip(min=0), [width, height, width, height])
    assert np.array_equal(geometry.boxes(corners.copy()), expected)
    polygons = [rng.uniform(0, 40, (n, 2)) for n in (3, 5, 8)]  # also such that cross themselves
    ours = geometry.polygons([p.copy() for p in polygons])
    others = transforms.apply_polygons([p.copy() for p in polygons])
    assert [p.tolist() for p in ours] == [p.tolist() for p in others]


@pytest.mark.parametrize(
    ("polygon", "parts"),
    [
        ([[0, 0], [4, 0], [4, 4], [0, 4]], 0),  # outside
        ([[6, 6], [10, 6], [10, 10], [6, 10]], 1),  # a corner is inside
        ([[0, 0], [8, 0], [8, 8], [0, 8]], 0),  # touches at a corner only
        (
            [[9, 7], [40, 7], [40, 12], [9, 12], [9, 10], [38, 10], [38, 9], [9, 9]],
            2,
        ),  # two arms; what joins them is cut off
    ],
)
def test_a_crop_keeps_none_one_or_two_parts_of_a_polygon(polygon: list[list[float]], parts: int) -> None:
    window = Crop(8, 8, 20, 20)
    found = window.polygons([np.array(polygon, dtype=np.float64)])
    assert len(found) == parts
    assert all((p >= 0).all() and (p <= 20).all() for p in found)


def test_a_resize_follows_the_shape_that_the_crop_left() -> None:
    geometry = Geometry([Crop(2, 4, 10, 20), Resize(30, 40)], (12, 24))
    assert geometry.after == (30, 40)
    assert geometry.points(np.array([[4.0, 2.0], [24.0, 12.0]])).tolist() == [[0.0, 0.0], [40.0, 30.0]]
    assert geometry.boxes(np.array([[0.0, 0.0, 14.0, 7.0]])).tolist() == [[0.0, 0.0, 20.0, 15.0]]
