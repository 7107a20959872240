"""Fixtures of the pretraining tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with 3 classes of 11 and 3 JPEGs of 48x40 pixels: stripes whose direction is the class."""
    root = tmp_path_factory.mktemp("tiny_images")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    for split, count in (("train", 11), ("val", 3)):
        for label, wave in enumerate((rows, columns, rows + columns)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                stripes = 127 + 100 * np.sin(wave / 3 + rng.uniform(0, 6))
                pixels = stripes[..., None] * rng.uniform(0.4, 1, 3) + rng.normal(0, 9, (40, 48, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    return root
