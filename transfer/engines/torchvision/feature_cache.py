"""Maps of a frozen backbone on disk: a file for each image and view, in a folder for each backbone and arithmetic."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.atomic import write_json
from runtime.errors import UserError
from runtime.torch_files import load_torch, save_torch
from transfer.engines.torchvision.feature_folder import MARK

RESERVE = 2 * 2**30  # bytes of the disk that a cache leaves free
CHECK_EVERY = 64  # files between two looks at the free space


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
        _refuse_folder(self.folder / MARK)
        write_json(self.folder / MARK, dict(made_with))
        self._stored, self._full = 0, False

    def load(self, item: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """The maps of an item's image and view; None where they are not there, or not readable."""
        path = self._path(item)
        if path is None or not path.is_file():
            return None
        try:
            content = load_torch(path)
            maps: dict[str, torch.Tensor] = content["maps"]
            sound = content["size"] == _size(item) and content["crc32"] == _crc32(maps)
        except (UserError, KeyError, TypeError, AttributeError, RuntimeError):
            return None  # damaged, or written by something else: computed and written again
        return maps if sound else None

    def store(self, item: Mapping[str, Any], maps: Mapping[str, torch.Tensor]) -> None:
        """Write the maps, whole or not at all; nothing where the disk is nearly full."""
        path = self._path(item)
        if path is None:
            return
        if self._stored % CHECK_EVERY == 0 and not self._full:
            self._full = shutil.disk_usage(self.folder).free < RESERVE
        if not self._full:
            self._stored += 1
            kept = {name: value.detach().cpu().contiguous() for name, value in maps.items()}
            _refuse_folder(path)
            save_torch({"maps": kept, "size": _size(item), "crc32": _crc32(kept)}, path)

    def _path(self, item: Mapping[str, Any]) -> Path | None:
        """By the image's path, size and time of change, and the view: a replaced image has other maps.

        Size and time are those with which it was read: by now, another image may lie there. None for one that changed
        while it was read, whose maps are of neither.
        """
        if item["file_state"] is None:
            return None
        size, modified = item["file_state"]
        image = f"{os.path.abspath(item['file_name'])} {size} {modified}"
        edge, flip = item["view"]
        name = hashlib.sha256(image.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}_{edge}{'_mirrored' if flip else ''}.pth"


def _refuse_folder(path: Path) -> None:
    """Raise UserError for a folder in the place of a file of the cache."""
    if path.is_dir():
        raise UserError(f"ENGINE.FEATURE_FOLDER: {path} is a folder, where the cache has a file; remove it")


def _size(item: Mapping[str, Any]) -> list[int]:
    """Height and width of the view: the file name says the shortest edge that was asked for only."""
    return [int(side) for side in item["image"].shape[1:]]


def _crc32(maps: Mapping[str, torch.Tensor]) -> int:
    """Checksum of names, types, shapes and values: torch reads a file whose bits have changed without a word."""
    total = 0
    for name, value in sorted(maps.items()):
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def views_of_image(sizes: Sequence[int], sampling: str, flip: str) -> int:
    """How many views training makes of an image: sizes, each plain and mirrored."""
    count = sizes[1] - sizes[0] + 1 if sampling == "range" else len(set(sizes))
    return int(count) * (1 if flip == "none" else 2)
