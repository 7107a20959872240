"""What is below a folder of images: the images, and what is not one of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UserError
from runtime.findings import Finding
from runtime.image_formats import EXTENSIONS, suffix_of
from runtime.listing import listed

# what file managers, network drives and archivers leave behind; hidden folders are skipped as well
JUNK = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
_IMAGES = frozenset(EXTENSIONS)  # each is one dot and what follows it
_ENDING = r"([ _-]?(set|split|data|images?))?[ _-]?\d*"  # val2017, train_images, test-set
TRAINING = re.compile(f"train(ing)?{_ENDING}")
VALIDATION = re.compile(f"val(id|idation)?{_ENDING}")
HELD_OUT = re.compile(f"{VALIDATION.pattern}|(test|testing|dev|eval|evaluation){_ENDING}")


@dataclass
class Listing:
    """The images below a folder, in the order of their names.

    names: relative to it, with forward slashes. counts: images below each folder directly below it that has any, in
    the order of the names. skipped: {suffix: number} of other files. junk: hidden and known junk entries. folders:
    those directly below. tars: entries directly below that end in .tar. held_out: folders further down whose names are
    those of a validation or test set.
    """

    names: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    example: str = ""
    junk: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    tars: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    def skipped_text(self) -> str:
        """``.heic 12, .txt 1``: the files that are not images, by suffix."""
        return listed([f"{suffix} {count}" for suffix, count in self.skipped.most_common()])

    def findings(self) -> list[Finding]:
        """What the owner of the folder should know."""
        findings = []
        if self.skipped:
            message = f"not read as images, by suffix: {self.skipped_text()}"
            findings.append(Finding("file skipped", self.skipped.total(), self.example, message))
        if self.junk:
            message = "hidden, or left by a file manager; not read and not a class"
            findings.append(Finding("entry skipped", len(self.junk), self.junk[0], message))
        if self.held_out:
            message = "its images are trained on; if they are a test set, name the training folder instead"
            findings.append(Finding("folder named like a held-out set", len(self.held_out), self.held_out[0], message))
        return findings


def list_folder(folder: Path) -> Listing:
    """Every image below ``folder``, at any depth. UserError where a folder cannot be read."""
    listing = Listing()
    _walk(folder, "", listing)
    listing.folders.sort()
    return listing


def _walk(folder: str | Path, prefix: str, listing: Listing) -> None:
    """Append what is below ``folder``, sorted level by level, a folder by its name with the slash: so the paths come
    out in the order of the sorted list of all, without sorting that list."""
    images: list[str] = []
    folders: dict[str, str] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:  # for every file of a set: the common case costs one comparison after another
                name = entry.name
                if entry.is_dir():
                    if not _is_other_folder(name, prefix, listing):
                        folders[name + "/"] = entry.path
                elif name[name.rfind(".") :].lower() in _IMAGES and name[0] != ".":
                    images.append(name)
                else:
                    _note_other_file(name, prefix, listing)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not folders:
        images.sort()
        listing.names += [prefix + name for name in images]
        return
    for name in sorted([*images, *folders]):
        if name not in folders:
            listing.names.append(prefix + name)
            continue
        before = len(listing.names)
        _walk(folders[name], prefix + name, listing)
        if not prefix and len(listing.names) > before:
            listing.counts[name[:-1]] = len(listing.names) - before


def _is_other_folder(name: str, prefix: str, listing: Listing) -> bool:
    """Whether a folder is junk; notes that, and what else is to be known of it."""
    if not prefix and name.endswith(".tar"):
        listing.tars.append(name)
    if _is_junk(name):
        listing.junk.append(prefix + name)
        return True
    if not prefix:
        listing.folders.append(name)
    elif HELD_OUT.fullmatch(name.lower()):
        listing.held_out.append(prefix + name)
    return False


def _note_other_file(name: str, prefix: str, listing: Listing) -> None:
    if not prefix and name.endswith(".tar"):
        listing.tars.append(name)
    if _is_junk(name):
        if name.lower().endswith(EXTENSIONS):
            listing.junk.append(prefix + name)
    else:
        listing.skipped[suffix_of(name)] += 1
        listing.example = listing.example or prefix + name


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def is_junk(path: str) -> bool:
    """Whether a relative path with forward slashes has a hidden or known junk part."""
    return any(_is_junk(part) for part in path.split("/") if part not in (".", ".."))


def training_folder(folder: Path, split: str | None) -> Path:
    """``folder/split`` where it exists, else the one sub-folder that is named like a training set, else ``folder``.

    Raises UserError where a validation or test set would be trained on, or two sub-folders could be meant.
    """
    if not split or (folder / split).is_dir():
        return folder / split if split else folder
    if split != "train":
        return folder
    names = _sub_folders(folder)
    training = [name for name in names if TRAINING.fullmatch(name.lower())]
    if len(training) == 1:
        return folder / training[0]
    if training:
        raise UserError(f"{folder} holds {listed(training)}; name the one to train on, {folder}/{training[0]}")
    if held_out := [name for name in names if HELD_OUT.fullmatch(name.lower())]:
        raise UserError(
            f"{folder} holds the folder {held_out[0]} but no folder train: the held-out images would be trained on; "
            f"move the others to {folder}/train, or, if {held_out[0]} is a class, all folders to {folder}/train"
        )
    return folder


def validation_folder(folder: Path) -> Path:
    """``folder/val``, or where that does not exist the one sub-folder that is named like a validation set."""
    names = [name for name in _sub_folders(folder) if VALIDATION.fullmatch(name.lower())]
    return folder / (names[0] if len(names) == 1 and "val" not in names else "val")


def _sub_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []  # the caller names what cannot be read
