"""Fingerprints of large sets, of which a sample of the files stands for all, and those of earlier versions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from pretrain.images import fingerprints, open_images
from pretrain.images.files import ImageFiles
from pretrain.images.fingerprints import SAMPLED, Fingerprints
from pretrain.images.names import Names
from pretrain.images.source import ImageSource

FILES = [f"{top}/{number:02d}.jpg" for top in ("cat", "dog") for number in range(20)]
SAMPLE = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 files of two classes that hold as many bytes as their place in the order."""
    for size, name in enumerate(FILES):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(size, size))
    return tmp_path / "set"


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "SAMPLE", SAMPLE)


def own(source: ImageSource) -> Fingerprints:
    return Fingerprints(source.fingerprint, source.files_fingerprint, source.times_fingerprint)


def of_earlier_versions(labels: bool) -> Fingerprints:
    """Written out, as version 0.1.0 hashed the files of ``folder``."""
    numbers = np.arange(40, dtype=np.int64).tobytes()
    files = hashlib.sha256(b"".join(name.encode() + b"\0" for name in FILES) + numbers).hexdigest()
    classes = np.repeat([0, 1], 20).astype(np.int64).tobytes()
    images = hashlib.sha256(files.encode() + b"\0" + classes).hexdigest() if labels else files
    return Fingerprints(images, files, hashlib.sha256(numbers).hexdigest())


@pytest.mark.parametrize("labels", [True, False])
def test_all_files_of_a_small_set_count(labels: bool, folder: Path) -> None:
    source = open_images(folder, labels=labels)
    assert own(source) == source.whole_fingerprints() == of_earlier_versions(labels)
    assert source.fingerprints_like(SAMPLED) == own(source)  # a set has no other kind


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("labels", [True, False])
def test_a_large_set_has_both_kinds(labels: bool, folder: Path) -> None:
    source = open_images(folder, labels=labels)
    assert all(one.startswith(SAMPLED) for one in own(source))
    assert source.fingerprints_like(source.fingerprint) == own(source)
    assert source.fingerprints_like("ab" * 32) == source.whole_fingerprints() == of_earlier_versions(labels)
    assert (own(source).images == own(source).files) is not labels


@pytest.mark.usefixtures("small_sample")
def test_names_of_all_and_states_of_a_sample_count(folder: Path) -> None:
    """Exactly ``SAMPLE`` files are noticed when they are replaced, any when it comes, goes or is renamed."""
    before = own(open_images(folder, labels=False))
    sizes = times = 0
    for name in FILES:
        path = folder / name
        data, state = path.read_bytes(), path.stat()
        path.rename(path.with_name("new.jpg"))
        assert own(open_images(folder, labels=False)).files != before.files
        path.with_name("new.jpg").rename(path)
        path.write_bytes(data + b"!")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        now = own(open_images(folder, labels=False))
        sizes += now.files != before.files
        assert now.times == before.times
        path.write_bytes(data)
        now = own(open_images(folder, labels=False))
        times += now.times != before.times
        assert now.files == before.files
        path.unlink()
        assert own(open_images(folder, labels=False)).files != before.files
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (sizes, times) == (SAMPLE, SAMPLE)
    (folder / "dog" / "99.jpg").write_bytes(b"")
    assert own(open_images(folder, labels=False)).files != before.files


@pytest.mark.usefixtures("small_sample")
def test_other_names_choose_other_files() -> None:
    """A fixed place in the order would always leave out the same files of a set with as many images in every class."""
    chosen = {tuple(fingerprints._sample(hashlib.sha256(bytes([k])).digest(), 40)) for k in range(99)}
    assert len(chosen) == 99
    assert all(list(rows) == sorted(set(rows)) and len(rows) == SAMPLE for rows in chosen)
    assert {row for rows in chosen for row in rows} == set(range(40))


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("listed", [True, False])
def test_only_the_sample_is_asked_when_a_set_is_opened(
    listed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    state = fingerprints._state
    monkeypatch.setattr(fingerprints, "_state", lambda path: (asked.append(path), state(path))[1])
    (folder.parent / "list.txt").write_text("".join(f"set/{name}\n" for name in FILES))
    source = open_images(folder.parent / "list.txt" if listed else folder, labels=False)
    assert len(asked) == SAMPLE
    np.testing.assert_array_equal(source.byte_sizes(), np.arange(40))
    source.byte_sizes()
    assert len(asked) == SAMPLE + 40  # of validation images, once


def test_what_cannot_be_found_has_no_size(folder: Path) -> None:
    (folder / "cat" / "00.jpg").unlink()
    (folder / "cat" / "00.jpg").symlink_to("nowhere")
    assert open_images(folder, labels=True).byte_sizes().tolist() == [-1, *range(1, 40)]
    (folder / "list.txt").write_text("cat/01.jpg\nnot\0here.jpg\nor/here.jpg\n")
    source = open_images(folder / "list.txt", labels=False)
    assert source.byte_sizes().tolist() == [1, -1, -1]
    assert [source.name(index) for index in range(3)] == ["cat/01.jpg", "not\0here.jpg", "or/here.jpg"]


def test_names_are_hashed_as_they_are_stored() -> None:
    assert Names(["a", "ü/b"]).text == "a\0ü/b\0".encode()
    assert Names([]).text == b""
    assert list(Names(["a\0b", ""])) == ["a\0b", ""]
    assert isinstance(Names(["a\0b"])._ends[0], np.int64)


@pytest.mark.usefixtures("small_sample")
def test_fingerprints_of_all_files_are_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_images(folder, labels=True)
    assert isinstance(source, ImageFiles)
    first = source.whole_fingerprints()
    monkeypatch.setattr(fingerprints, "_state", None)
    assert source.whole_fingerprints() == first
