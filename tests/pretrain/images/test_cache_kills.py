"""The image cache, made by a command that is killed at random moments: the same files, and nothing left beside them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.images import cache as image_cache
from runtime.repository import REPOSITORY
from tests import lives

SCRIPT = REPOSITORY / "pretrain" / "cache_images.py"
KILLS = 25
FILES = (image_cache.PIXELS, image_cache.SIZES, image_cache.SUMMARY)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 images of a few thousand pixels, three of them unreadable."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    for index in range(120):
        path = folder / f"class{index % 3}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % 40 == 39:
            path.write_bytes(b"<html>")
        else:
            Image.fromarray(rng.integers(0, 256, (120 + index % 7, 160, 3), np.uint8)).save(path)
    return folder


@pytest.mark.slow
def test_25_kills_leave_no_trace(images: Path, tmp_path: Path) -> None:
    """Every second kill is of the main process alone; each life has another number of workers."""
    log, whole = tmp_path / "log.txt", tmp_path / "whole"

    def words(cache: Path, workers: int) -> list[str]:
        return [str(images), str(cache), "--max-bad", "10", "--shorter-side", "100", "-j", str(workers)]

    seconds = lives.whole_life(SCRIPT, words(whole, 1), log)
    expected = {name: (whole / name).read_bytes() for name in FILES}

    def assert_same(cache: Path) -> None:
        assert {name: (cache / name).read_bytes() for name in FILES} == expected
        assert {path.name for path in cache.iterdir()} == {".lock", *FILES}

    rng, kills, cache = random.Random(0), 0, tmp_path / "cache0"
    while kills < KILLS:
        after = rng.random() * seconds / 2
        started = lives.cut_short(SCRIPT, words(cache, kills % 3), log, after, group=bool(kills % 2))
        if started is not None:
            kills += 1
            assert lives.alive_after(started) == []
            continue
        assert_same(cache)
        cache = tmp_path / f"cache{kills}"
    lives.whole_life(SCRIPT, words(cache, 1), log)
    assert_same(cache)
