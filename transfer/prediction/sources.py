"""The images that a command line names: files, folders, patterns, lists, standard input, data sets."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError
from runtime.image_formats import EXTENSIONS

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec

STDIN = "-"
Record = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """``records``: file_name, image_id and ``name``, how its picture is called (a relative path without suffix).

    ``count``: their number, None where it is not known before the end. ``live``: the next one may come much later.
    ``dataset``: the data set that they are of.
    """

    records: Iterator[Record]
    count: int | None
    live: bool = False
    dataset: DatasetSpec | None = None


def find_images(words: Sequence[str]) -> Images:
    """The images that ``words`` name, in that order, numbered from 1; a data set has its own ids and stands alone.

    A word is an image, a folder (everything below it), a pattern with ``*``, ``?`` or ``[``, a list (.txt: a path a
    line, relative to the list), ``-`` for such lines on standard input, or the name of a data set. Raises UserError for
    what does not exist or holds no image; of lines only when they are read, since standard input has no end yet.
    """
    names = [word for word in words if word != STDIN and not os.path.exists(word) and _is_data_set(word)]
    if names:
        if len(words) > 1:
            raise UserError(f"data set {names[0]} has image ids of its own; detect its images alone")
        return _of_data_set(names[0])
    if words.count(STDIN) > 1:
        raise UserError("- (standard input) is given twice")
    parts = [STDIN if word == STDIN else _files_of(word) for word in words]
    found = [part for part in parts if not isinstance(part, str)]
    count = None if STDIN in words else sum(len(part) for part in found)

    def records() -> Iterator[Record]:
        number, new_name = 0, _distinct()
        for part in parts:
            for path, name in _lines(sys.stdin, Path()) if isinstance(part, str) else part:
                number += 1
                yield {"file_name": path, "image_id": number, "name": new_name(os.path.splitext(name)[0])}

    return Images(records(), count, live=STDIN in words)


def _is_data_set(word: str) -> bool:
    from transfer.data.built_in import KINDS, NAMES
    from transfer.data.catalog import SHARE

    share = SHARE.fullmatch(word)
    whole = share["whole"] if share else word
    return whole in NAMES or whole.split(":")[0] in KINDS


def _of_data_set(name: str) -> Images:
    from transfer.data.catalog import get_dataset

    spec = get_dataset(name)
    records = [
        {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        | {"name": _plain(record["image_id"])}
        for record in spec.records()
    ]
    return Images(iter(records), len(records), dataset=spec)


def _plain(image_id: Any) -> str:
    """An id as a file name: a data set's ids may hold slashes and dots."""
    return re.sub(r"[^\w-]+", "_", str(image_id))


def _files_of(word: str) -> list[tuple[str, str]]:
    """(path, name of its picture) of the images that an image, folder, pattern or list stands for."""
    path = Path(word).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() == ".txt" and path.is_file():
        return _in_list(path)
    if path.exists():
        return [(str(path), path.name)]
    if glob.has_magic(word):
        return _matching(str(path))
    raise UserError(f"{word}: no such image, folder, list or data set")


def _in_folder(folder: Path) -> list[tuple[str, str]]:
    from pretrain.images.listing import list_folder

    names = list_folder(folder).names
    if not names:
        raise UserError(f"{folder}: no image in it (suffixes {' '.join(EXTENSIONS)})")
    return [(os.path.join(folder, name), name) for name in names]


def _matching(pattern: str) -> list[tuple[str, str]]:
    """Images and folders that match; other files are left out, since ``*`` matches them too."""
    files: list[tuple[str, str]] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            continue  # ** lists what is in it
        if match.lower().endswith(EXTENSIONS):
            files.append((match, os.path.basename(match)))
    if not files:
        raise UserError(f"{pattern}: no image matches (suffixes {' '.join(EXTENSIONS)})")
    return files


def _in_list(path: Path) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            listed = list(_lines(file, path.parent))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of images ({error})") from error
    if not listed:
        raise UserError(f"{path}: the list names no image")
    return listed


def _lines(lines: Any, folder: Path) -> Iterator[tuple[str, str]]:
    """(path, name) of each line; empty lines and those that begin with ``#`` are left out."""
    for line in lines:
        text = line.rstrip("\r\n")
        if text.strip() and not text.startswith("#"):
            yield str(folder / text), os.path.basename(text)


def _distinct() -> Callable[[str], str]:
    """A function that returns each name once: a repeated one gets a number, ``a``, ``a_2``, ``a_3``."""
    taken: dict[str, int] = {}

    def new(name: str) -> str:
        if name not in taken:
            taken[name] = 1
            return name
        while True:
            taken[name] += 1
            numbered = f"{name}_{taken[name]}"
            if numbered not in taken:
                taken[numbered] = 1
                return numbered

    return new
