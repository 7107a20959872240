"""What a folder or list holds besides images, and sets in the wrong place: refused or said, never silently read."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.images import open_images
from pretrain.images.listing import HELD_OUT, TRAINING, validation_folder
from pretrain.images.source import ImageSource, require_same_classes
from runtime.errors import UserError


def save(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (grey, grey, grey)).save(path)
    return path


def save_all(root: Path, *names: str) -> Path:
    for name in names:
        save(root / name)
    return root


def write_tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            data = io.BytesIO()
            Image.new("RGB", (20, 20)).save(data, "PNG")
            info = tarfile.TarInfo(name)
            info.size = data.tell()
            data.seek(0)
            tar.addfile(info, data)


def names_of(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def lines_of(source: ImageSource) -> str:
    return "\n".join(finding.line() for finding in source.findings)


@pytest.mark.parametrize("image", ["train/a/1.png", "train/1.png"])
def test_tar_files_beside_images_are_refused_by_name(image: str, tmp_path: Path) -> None:
    save(tmp_path / image)
    write_tar(tmp_path / "train" / "n01440764.tar", "x.png")
    with pytest.raises(UserError, match=rf"n01440764\.tar.*{image.removeprefix('train/')}"):
        open_images(tmp_path, labels=False)


@pytest.mark.parametrize("name", ["val", "Val", "valid", "validation", "val2017", "val_256", "test", "testing", "dev"])
def test_a_held_out_set_without_a_training_set_is_refused(name: str, tmp_path: Path) -> None:
    save_all(tmp_path, "a/1.png", "b/1.png", f"{name}/a/2.png")
    for labels in (True, False):
        with pytest.raises(UserError, match=f"holds the folder {name} but no folder train"):
            open_images(tmp_path, labels=labels)


@pytest.mark.parametrize("name", ["Train", "training", "train2017", "TRAIN", "train_images"])
def test_a_training_set_of_another_name_is_read(name: str, tmp_path: Path) -> None:
    save_all(tmp_path, f"{name}/a/1.png", "Val/a/2.png", "test/a/3.png")
    source = open_images(tmp_path, labels=True)
    assert names_of(source) == ["a/1.png"]
    assert f"training folder: 1, e.g. {name}: the only part of {tmp_path} that is read" in lines_of(source)
    assert validation_folder(tmp_path) == tmp_path / "Val"


def test_two_training_sets_are_refused(tmp_path: Path) -> None:
    save_all(tmp_path, "train2014/1.png", "train2017/1.png")
    with pytest.raises(UserError, match="train2014, train2017"):
        open_images(tmp_path, labels=False)


def test_class_names_that_only_begin_alike_are_classes(tmp_path: Path) -> None:
    words = ("trainer", "valley", "testament", "develop", "valve", "train_station", "evaluator", "test_tube")
    assert not [word for word in words if HELD_OUT.fullmatch(word) or TRAINING.fullmatch(word)]
    save_all(tmp_path, *(f"{word}/1.png" for word in words))
    assert open_images(tmp_path, labels=True).classes == sorted(words)


def test_a_held_out_folder_further_down_is_said(tmp_path: Path) -> None:
    save_all(tmp_path, "images/train/1.png", "images/val/2.png")
    assert "folder named like a held-out set: 1, e.g. images/val" in lines_of(open_images(tmp_path, labels=False))


@pytest.mark.parametrize("junk", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN"])
@pytest.mark.parametrize("at", ["", "cat/"])
def test_hidden_and_junk_folders_are_skipped_and_said(junk: str, at: str, tmp_path: Path) -> None:
    save_all(tmp_path, "cat/1.png", "dog/1.png", f"{at}{junk}/2.png")
    source = open_images(tmp_path, labels=True)
    assert names_of(source) == ["cat/1.png", "dog/1.png"]
    assert source.classes == ["cat", "dog"]
    assert f"entry skipped: 1, e.g. {at}{junk}" in lines_of(source)


def test_other_files_are_counted_by_suffix(tmp_path: Path) -> None:
    save_all(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("cat/2.HEIC", "cat/3.heic", "dog/notes.txt", "dog/README"):
        (tmp_path / name).write_bytes(b"x")
    source = open_images(tmp_path, labels=True)
    (finding,) = source.findings
    assert finding.count == 4
    assert ".heic 2, " in finding.message
    assert ".txt 1" in finding.message
    assert "(none) 1" in finding.message


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    save_all(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "1.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"class folder emu holds no image .*\.heic 1"):
        open_images(tmp_path, labels=True)
    assert len(open_images(tmp_path, labels=False)) == 2


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".avif", ".jp2"])
def test_a_class_of_one_unusual_format_is_read(suffix: str, tmp_path: Path) -> None:
    save_all(tmp_path, "cat/1.png", f"dog/1{suffix}")
    source = open_images(tmp_path, labels=True)
    assert source.classes == ["cat", "dog"]
    assert abs(source.load(1).astype(int) - 90).max() < 9


@pytest.mark.parametrize("head", ["", "# a comment\n", "\n"])
def test_a_byte_order_mark_is_no_part_of_a_list(head: str, tmp_path: Path) -> None:
    save_all(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_text(f"{head}a.png\nb.png\n", encoding="utf-8-sig")
    source = open_images(tmp_path / "list.txt", labels=False)
    assert names_of(source) == ["a.png", "b.png"]
    assert source.load(0).shape == (20, 20, 3)


@pytest.mark.parametrize(("line", "message"), [("b.png\t", "entry 2 .* no class"), ("b.png\t \t", "no class"),
                                               ("\tcat", "entry 2 .* no path")])  # fmt: skip
def test_a_list_entry_that_lacks_a_part_is_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.png\tcat\n{line}\n")
    with pytest.raises(UserError, match=message):
        open_images(tmp_path / "list.txt", labels=True)


def test_an_image_listed_twice_is_said(tmp_path: Path) -> None:
    save_all(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n./a.png\n")
    assert "image listed twice: 1, e.g. a.png" in lines_of(open_images(tmp_path / "list.txt", labels=False))


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("ab", "abz", "only in val: z"),
        ("abc", "ab", "only in train: c"),
        ("ab", "bc", "only in val: c; only in train: a"),
    ],
)
def test_classes_that_differ_are_named(train: str, val: str, message: str, tmp_path: Path) -> None:
    save_all(tmp_path, *(f"train/{c}/1.png" for c in train), *(f"val/{c}/1.png" for c in val))
    sets = open_images(tmp_path, labels=True), open_images(tmp_path / "val", labels=True, split=None)
    with pytest.raises(UserError, match=message):
        require_same_classes(*sets, "DIR")


def test_numbered_classes_may_lack_the_highest(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("val", 2)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{n}.png\t{n}\n" for n in range(count)))
    train, val = (open_images(tmp_path / f"{name}.txt", labels=True) for name in ("train", "val"))
    require_same_classes(train, val, "DIR")
    with pytest.raises(UserError, match="only in val: 2"):
        require_same_classes(val, train, "DIR")


def test_replaced_files_of_the_same_size_change_the_times(tmp_path: Path) -> None:
    file = tmp_path / "a.bmp"
    save(file, 10)
    before = open_images(tmp_path, labels=False)
    size = file.stat().st_size
    save(file, 200)
    assert file.stat().st_size == size
    after = open_images(tmp_path, labels=False)
    assert after.fingerprint == before.fingerprint
    assert after.times_fingerprint != before.times_fingerprint
    assert not np.array_equal(before.load(0), np.full((20, 20, 3), 10))


@pytest.mark.parametrize("name", ["list.txt", "s.tar"])
def test_a_pipe_in_place_of_a_list_or_shard_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        open_images(tmp_path / name if name.endswith("txt") else tmp_path, labels=False)


def test_paths_are_in_the_order_of_their_whole_text(tmp_path: Path) -> None:
    """A folder stands where its slash puts it: after "a b/" and "a.png", before "a0.png"."""
    names = [
        "a/z.png",
        "a/b/1.png",
        "a/b.png",
        "a/b0/2.png",
        "a b/1.png",
        "a-/c/d/e.png",
        "a0/1.png",
        "Z/1.PNG",
        "ü/1.png",
    ]
    save_all(tmp_path, *names)
    source = open_images(tmp_path, labels=True)
    assert names_of(source) == sorted(names)
    assert source.classes == ["Z", "a", "a b", "a-", "a0", "ü"]
    assert [source.classes[source.label(i)] for i in range(len(source))] == [n.split("/")[0] for n in sorted(names)]
    save_all(tmp_path, "a.png", "a0.png", "b.png")
    assert names_of(open_images(tmp_path, labels=False)) == sorted([*names, "a.png", "a0.png", "b.png"])
    with pytest.raises(UserError, match=r"; a\.png is in none"):
        open_images(tmp_path, labels=True)


def test_tar_files_are_found_directly_below_only(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    write_tar(tmp_path / "a" / "x.tar", "y.png")
    assert names_of(open_images(tmp_path, labels=True)) == ["a/1.png"]
    (tmp_path / "b.tar").mkdir()
    with pytest.raises(UserError, match=r"both tar files \(b\.tar\)"):
        open_images(tmp_path, labels=False)


@pytest.mark.parametrize("again", ["./a/b.png", "a//b.png", "c/../a/b.png", "a/./b.png"])
def test_an_image_listed_in_other_words_is_said(again: str, tmp_path: Path) -> None:
    save_all(tmp_path, "a/b.png", "c/d.png")
    (tmp_path / "list.txt").write_text(f"a/b.png\nc/d.png\n{again}\n")
    assert "image listed twice: 1, e.g. a/b.png" in lines_of(open_images(tmp_path / "list.txt", labels=False))
