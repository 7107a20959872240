"""Sums of COCO's compressed run lengths against masks that pycocotools wrote."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask

from transfer.data.run_lengths import covered_pixels


@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 90), st.floats(0, 1), st.integers(1, 40), st.integers(0, 2**31)),
        max_size=6,
    )
)
def test_masks_cover_their_images(masks):
    texts, pixels = [], []
    for height, width, share, scale, seed in masks:
        coarse = np.random.RandomState(seed).rand(height, width) < share
        drawn = coarse.repeat(scale, 0).repeat(scale, 1)
        texts.append(mask.encode(np.asfortranarray(drawn, dtype=np.uint8))["counts"])
        pixels.append(drawn.size)
    assert covered_pixels(texts).tolist() == pixels


def test_damaged_texts_cover_something_else():
    drawn = np.asfortranarray(np.random.RandomState(0).rand(50, 60) < 0.3, dtype=np.uint8)
    text = mask.encode(drawn)["counts"]
    assert covered_pixels([b"", text, b"o", b"o" * 40]).tolist() == [0, 3000, -1, -1]
    assert 3000 not in covered_pixels([text[:-1], text[:7] + b"z" + text[8:], text + b"3"]).tolist()
