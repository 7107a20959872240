"""Subsets of the training images: one for all runs, or one for each fine-tuning seed, said in the name of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# of a folder below "splits", as a plan with ``subset_seeds: true`` names it
SUBSET = re.compile(r"/splits/[^:]*-subset(\d+)/")
KEYS = ("DATASETS.TRAIN", "datasets.train.sha256")  # what differs between subsets, of what runs must agree in


def subset_suffix(seed: int) -> str:
    """The end of the name of the folder of a seed's own subset."""
    return f"-subset{seed}"


def subset_of(flat: Mapping[str, Any]) -> int | None:
    """The seed of the subset that a run was trained on; None for data that is no seed's own.

    ``flat``: the run's config, leaf key -> value.
    """
    names = flat.get("DATASETS.TRAIN") or []
    found = {match[1] if (match := SUBSET.search(f"/{name}")) else None for name in map(str, names)}
    number = found.pop() if len(found) == 1 else None
    return None if number is None else int(number)
