"""COCO's compressed run lengths: the number of pixels they cover, without decoding the mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

FIRST_CHARACTER, MORE, SIGN, BITS = 48, 32, 16, 5
# characters of a number that fits 64 bits; a longer one is damaged, and counts as if it ended there
LONGEST = 12


def counts_of(masks: Iterable[dict[str, Any]]) -> list[bytes]:
    """The compressed run lengths of each mask as bytes; json files hold text, pycocotools gives bytes."""
    return [m["counts"].encode() if isinstance(m["counts"], str) else m["counts"] for m in masks]


def covered_pixels(counts: Sequence[bytes]) -> np.ndarray:
    """Sum of the run lengths of each text (int64): height x width of its mask, unless the text is damaged.

    Each number is written in base 32, five bits per character, lowest first; bit 5 is set if more characters follow,
    and bit 4 of the last one is the sign. From the fourth on, a number is the difference to the run two before it
    (pycocotools, maskApi.c). A text that ends inside a number gives -1.

    All texts are decoded together as arrays: a Python loop over millions of characters would take minutes. The runs
    themselves are not needed for their sum. Runs 1, 3, 5 ... and 2, 4, 6 ... are cumulative sums of the numbers, so a
    number counts once for its own run and once for every later run of the same parity.
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
    # per text the count of numbers; per number its index in the text, and the number of runs that include it (number 0
    # is written before the differences begin and is included in no other run)
    numbers = np.add.reduceat(ends.astype(np.int64), np.concatenate([[0], text_ends[:-1]]))
    first = np.cumsum(numbers) - numbers
    index = np.arange(len(values)) - np.repeat(first, numbers)
    times = np.where(index == 0, 1, (np.repeat(numbers, numbers) - 1 - index) // 2 + 1)
    covered[filled] = np.where(torn, -1, np.add.reduceat(values * times, first))
    return covered
