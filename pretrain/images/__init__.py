"""Sets of images: folders, lists of files, tar shards, caches. ``open_images`` opens any of them."""

from __future__ import annotations

from pathlib import Path

from pretrain.images.files import open_folder, open_list
from pretrain.images.listing import list_folder, training_folder
from pretrain.images.source import ImageSource
from runtime.errors import UserError
from runtime.findings import Finding


def open_images(
    source: str | Path, *, labels: bool, cache: Path | None = None, split: str | None = "train"
) -> ImageSource:
    """Open a set of images.

    source: a folder, a ``.txt`` list of files, a ``.tar`` shard, or shards as ``name-{000..123}.tar``. Where a folder
        has a sub-folder called ``split``, that one is read instead, as in the official code (``Train`` and
        ``training`` are understood). A folder with .tar files is read as shards, any other as all images below it, at
        any depth, in the order of their names. Hidden folders are skipped.
    labels: True asks for class numbers: sub-folders of the folder (sorted), a second tab-separated column of the list,
        or the ``.cls`` members of the shards. UserError when there are none.
    cache: folder written by ``pretrain/cache_images.py`` for the same images, from which the pixels are read. Such a
        folder can also be the source itself, without the original files.
    Raises UserError for a path that does not exist, cannot be read, holds no image, or holds images in two ways.
    """
    from pretrain.images.cache import CachedImages, is_cache

    if is_cache(Path(source)):
        return CachedImages(Path(source), labels=labels)
    opened = _open(str(source), labels, split)
    return opened if cache is None else CachedImages(Path(cache), labels=labels, made_from=opened)


def _open(source: str, labels: bool, split: str | None) -> ImageSource:
    path = Path(source)
    if "{" in path.name or path.suffix == ".tar":
        return _open_shards(source, labels)
    if path.suffix.lower() == ".txt":
        return open_list(path, labels)
    if path.is_dir():
        folder = training_folder(path, split)
        listing = list_folder(folder)
        shards = sorted(folder / name for name in listing.tars)
        if shards and listing.names:
            raise UserError(
                f"{folder} holds both tar files ({shards[0].name}) and image files ({listing.names[0]}): move one of "
                f"them away, or give the tar file itself, {shards[0]} (several: {folder}/{{A,B}}.tar)"
            )
        opened = _open_shards(str(folder), labels) if shards else open_folder(folder, listing, labels)
        if folder.name != (split or folder.name) and folder != path:
            message = f"the only part of {path} that is read, since it has no folder {split}"
            opened.findings.append(Finding("training folder", 1, folder.name, message))
        return opened
    if path.exists():
        raise UserError(f"{path} is not a folder of images, a .txt list of files or a .tar shard")
    raise UserError(f"{path} does not exist; give a folder of images, a .txt list of files or .tar shards")


def _open_shards(spec: str, labels: bool) -> ImageSource:
    from pretrain.images.shards import ShardedImages

    return ShardedImages(spec, labels=labels)
