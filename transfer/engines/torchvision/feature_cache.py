"""Maps of a frozen backbone on disk: a file for each image and view, in a folder for each backbone and arithmetic."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.atomic import write_json
from runtime.errors import UserError
from runtime.torch_files import load_torch, save_torch

RESERVE = 2 * 2**30  # bytes of the disk that a cache leaves free
CHECK_EVERY = 64  # files between two looks at the free space
SUBFOLDER = "features"  # of OUTPUT_DIR, where ENGINE.FEATURE_FOLDER names no other


class FeatureCache:
    """Stores and reads the maps of one backbone. A view that finds no room on the disk is computed every time.

    ``made_with``: everything that decides the maps beside the image and its view; caches of other values in the same
    ``folder`` are kept apart. Several processes may use one folder.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        text = json.dumps(made_with, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"ENGINE.FEATURE_FOLDER {folder}: cannot be created ({error.strerror}); name another"
            ) from error
        write_json(self.folder / "made_with.json", dict(made_with))
        self._stored, self._full = 0, False

    def load(self, item: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """The maps of an item's image and view; None where they are not there, or not readable."""
        path = self._path(item)
        if not path.is_file():
            return None
        try:
            maps = load_torch(path)
        except UserError:  # damaged, or written by something else: computed and written again
            return None
        values = list(maps.values()) if isinstance(maps, dict) else []
        return maps if values and all(isinstance(m, torch.Tensor) and m.ndim == 4 for m in values) else None

    def store(self, item: Mapping[str, Any], maps: Mapping[str, torch.Tensor]) -> None:
        """Write the maps, whole or not at all; nothing where the disk is nearly full."""
        if self._stored % CHECK_EVERY == 0 and not self._full:
            self._full = shutil.disk_usage(self.folder).free < RESERVE
        if not self._full:
            self._stored += 1
            save_torch({name: value.detach().cpu().contiguous() for name, value in maps.items()}, self._path(item))

    def _path(self, item: Mapping[str, Any]) -> Path:
        """By the image's path, size and time of change, and the view: a replaced image has other maps."""
        status = os.stat(item["file_name"])
        image = f"{os.path.abspath(item['file_name'])} {status.st_size} {status.st_mtime_ns}"
        size, flip = item["view"]
        name = hashlib.sha256(image.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}_{size}{'_mirrored' if flip else ''}.pth"


def views_of_image(sizes: Sequence[int], sampling: str, flip: str) -> int:
    """How many views training makes of an image: sizes, each plain and mirrored."""
    count = sizes[1] - sizes[0] + 1 if sampling == "range" else len(set(sizes))
    return int(count) * (1 if flip == "none" else 2)
