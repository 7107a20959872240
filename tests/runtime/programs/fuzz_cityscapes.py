"""Mutated polygons and maps of objects of Cityscapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.runtime.programs.fuzz_data import Bytes, DataKind, Mutate, edited
from tests.transfer.cityscapes_data import SIZE, random_detections, write_cityscapes
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate

BASE = "aachen_000000_000019"
PIECES = [b'"', b"[", b"{", b"}", b",", b"9" * 400, b"1e999", b"NaN", b"-", b"\xff", b"[" * 3000]


def polygons(folder: Path, mutated: Mutate) -> Bytes:
    """The polygons of one image of two."""
    write_cityscapes(folder, images=2)
    path = next(folder.rglob(f"{BASE}_gtFine_polygons.json"))
    base = json.loads(path.read_bytes())
    return st.one_of(edited(base), mutated(json.dumps(base).encode(), PIECES))


def maps(folder: Path, mutated: Mutate) -> Bytes:
    """The map of objects of one image of two."""
    write_cityscapes(folder, images=2)
    return mutated(next(folder.rglob(f"{BASE}_gtFine_instanceIds.png")).read_bytes(), [b"IDAT", b"\xff" * 4, b"\0"])


def read(path: Path) -> None:
    """As a training and an evaluation do."""
    get_dataset.cache_clear()
    truth = path.parents[1]
    spec = get_dataset(f"cityscapes:{truth}:{truth.parents[1] / 'leftImg8bit' / truth.name}")
    spec.records(masks=True)
    spec.check_image_sizes()
    whole = {image_id: np.zeros(SIZE[::-1], np.uint16) for image_id in spec.summary.image_ids}
    evaluate(spec, random_detections(whole, np.random.RandomState(0)))


FILES = "gtFine/train/aachen"
CITYSCAPES_KINDS: dict[str, DataKind] = {
    "cityscapes": (polygons, f"{FILES}/{BASE}_gtFine_polygons.json", read),
    "cityscapes-maps": (maps, f"{FILES}/{BASE}_gtFine_instanceIds.png", read),
}
