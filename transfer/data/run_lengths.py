"""COCO's compressed run lengths: how many pixels a text of them covers, without drawing the mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

FIRST_CHARACTER, MORE, SIGN, BITS = 48, 32, 16, 5
LONGEST = 12  # characters of a number that fits 64 bits; a longer one is garbage, and is counted as if it ended there


def counts_of(masks: Iterable[dict[str, Any]]) -> list[bytes]:
    """The compressed run lengths of each mask, which json files hold as text and pycocotools as bytes."""
    return [m["counts"].encode() if isinstance(m["counts"], str) else m["counts"] for m in masks]


def covered_pixels(counts: Sequence[bytes]) -> np.ndarray:
    """Sum of the run lengths of each text (int64): height x width of its mask, unless the text is damaged.

    Numbers are written in base 32, five bits a character, lowest first, bit 5 set where more follow and the sign in
    bit 4 of the last; from the fourth on, a number is the difference to the one two before it (pycocotools,
    maskApi.c). A text that ends inside a number gives -1.
    """
    lengths = np.array([len(text) for text in counts])
    covered = np.zeros(len(counts), dtype=np.int64)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return covered
    digits = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    text_ends = np.cumsum(lengths[filled])
    torn = digits[text_ends - 1] & MORE != 0
    ends = digits & MORE == 0
    ends[text_ends - 1] = True
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    number = np.cumsum(ends) - ends  # index of the number that a character belongs to
    place = np.minimum(np.arange(len(digits)) - starts[number], LONGEST - 1)
    values = np.add.reduceat((digits & (MORE - 1)) << (BITS * place), starts)
    negative = digits[ends] & SIGN != 0
    values -= np.where(negative, np.int64(1) << (BITS * (place[ends] + 1)), 0)
    # the text of a number, its index there, and how many later numbers of the text contain it
    numbers = np.add.reduceat(ends.astype(np.int64), np.concatenate([[0], text_ends[:-1]]))
    first = np.cumsum(numbers) - numbers
    index = np.arange(len(values)) - np.repeat(first, numbers)
    times = np.where(index == 0, 1, (np.repeat(numbers, numbers) - 1 - index) // 2 + 1)
    covered[filled] = np.where(torn, -1, np.add.reduceat(values * times, first))
    return covered
