"""Findings about pixels, and about images that are in two sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.images import open_images
from pretrain.images.inspection import inspect_pixels, shared_images


def photo(seed: int) -> Image.Image:
    """A smooth random picture of 96 x 80 pixels."""
    rough = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """train/ with 8 pictures and val/ with 4 others."""
    for name, seeds in (("train", range(8)), ("val", range(8, 12))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            photo(seed).save(tmp_path / name / f"{seed}.jpg", quality=95)
    return tmp_path / "train", tmp_path / "val"


def shared(sets: tuple[Path, Path]) -> list:
    return shared_images(*(open_images(folder, labels=False, split=None) for folder in sets))


def test_different_pictures_are_no_finding(sets: tuple[Path, Path]) -> None:
    assert shared(sets) == []


def test_equal_files_are_found(sets: tuple[Path, Path]) -> None:
    train, val = sets
    shutil.copy(train / "3.jpg", val / "other.jpg")
    (finding,) = shared(sets)
    assert (finding.count, finding.example) == (1, "other.jpg = 3.jpg")
    assert "1 equal files, 0 near-duplicates of 5" in finding.message


@pytest.mark.parametrize("change", ["smaller", "compressed", "png"])
def test_near_duplicates_are_found(sets: tuple[Path, Path], change: str) -> None:
    _, val = sets
    if change == "smaller":
        photo(3).resize((60, 50)).save(val / "z.jpg")
    elif change == "compressed":
        photo(3).save(val / "z.jpg", quality=40)
    else:
        photo(3).save(val / "z.png")
    (finding,) = shared(sets)
    assert (finding.count, finding.example) == (1, "z.jpg = 3.jpg" if change != "png" else "z.png = 3.jpg")
    assert "0 equal files, 1 near-duplicates" in finding.message


def test_flat_and_unreadable_images_equal_none(sets: tuple[Path, Path]) -> None:
    for folder, grey in zip(sets, (90, 91)):
        Image.new("RGB", (40, 40), (grey, grey, grey)).save(folder / f"flat_{folder.name}.png")
        (folder / f"{folder.name}.png").write_bytes(b"no image")
        (folder / "empty.png").write_bytes(b"")
    assert shared(sets) == []


@pytest.mark.parametrize(("largest", "words"), [(4095, "becomes 15; they are nearly black"), (65535, "becomes 255")])
def test_deep_images_are_said_with_what_becomes_of_them(largest: int, words: str, tmp_path: Path) -> None:
    values = np.linspace(0, largest, 400).astype(np.uint16).reshape(20, 20)
    for number in range(2):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    photo(0).save(tmp_path / "z.jpg")
    (finding,) = inspect_pixels(open_images(tmp_path, labels=False))
    assert (finding.count, finding.example) == (2, "0.png")
    assert finding.message.endswith(words) or words + ":" in finding.message


def test_rotated_images_are_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo(0).save(tmp_path / "a.jpg", exif=exif)
    photo(1).save(tmp_path / "b.jpg")
    (finding,) = inspect_pixels(open_images(tmp_path, labels=False))
    assert (finding.count, finding.example) == (1, "a.jpg")
    assert "fine-tuning rotates" in finding.message
