"""Where images come from: folders, lists, labels, fingerprints, and files that are not what they seem."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.images import decode, open_images
from pretrain.images.files import BadImage
from pretrain.images.names import Names
from runtime.errors import UserError

RED = np.full((20, 30, 3), (200, 30, 40), np.uint8)


def save(path: Path, pixels: np.ndarray = RED, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """cat/ and dog/ with two images each, one of them deeper."""
    for name in ("dog/b.png", "cat/z.PNG", "cat/deep/er/a.jpg", "dog/a.jpg"):
        save(tmp_path / "set" / name)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def test_class_folders_give_labels_in_sorted_order(folder):
    source = open_images(folder, labels=True)
    assert [source.name(i) for i in range(len(source))] == ["cat/deep/er/a.jpg", "cat/z.PNG", "dog/a.jpg", "dog/b.png"]
    assert source.classes == ["cat", "dog"]
    assert [source.label(i) for i in range(4)] == [0, 0, 1, 1]
    assert source.load(1).shape == (20, 30, 3)
    np.testing.assert_array_equal(source.load(3), RED)


def test_any_folder_works_without_labels(folder):
    save(folder / "loose.png")
    source = open_images(str(folder), labels=False)
    assert len(source) == 5
    assert source.classes is None
    assert source.label(0) == -1


def test_the_train_folder_is_read_as_the_official_code_does(tmp_path):
    save(tmp_path / "train" / "a" / "1.png")
    save(tmp_path / "val" / "a" / "2.png")
    save(tmp_path / "val" / "a" / "3.png")
    assert len(open_images(tmp_path, labels=True)) == 1
    assert len(open_images(tmp_path, labels=True, split="val")) == 2
    assert len(open_images(tmp_path, labels=False, split=None)) == 3


def test_a_list_of_files_keeps_its_order_and_its_labels(folder):
    names = folder.parent / "list.txt"
    names.write_text("set/dog/b.png\tdog\n\n# a comment\nset/cat/z.PNG\tcat\n")
    source = open_images(names, labels=True)
    assert [source.name(i) for i in range(2)] == ["set/dog/b.png", "set/cat/z.PNG"]
    assert source.classes == ["cat", "dog"]
    assert [source.label(i) for i in range(2)] == [1, 0]
    assert open_images(names, labels=False).load(0).shape == (20, 30, 3)


def test_numbered_classes_sort_as_numbers(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{n}.png\t{n}\n" for n in (10, 9, 2)))
    assert open_images(tmp_path / "list.txt", labels=True).classes == ["2", "9", "10"]


def test_the_fingerprint_follows_names_sizes_and_labels(folder):
    before = open_images(folder, labels=False).fingerprint
    assert before == open_images(folder, labels=False).fingerprint
    assert len(before) == 64
    assert before != open_images(folder, labels=True).fingerprint
    (folder / "dog" / "b.png").rename(folder / "dog" / "c.png")
    renamed = open_images(folder, labels=False).fingerprint
    assert renamed != before
    with open(folder / "dog" / "c.png", "ab") as file:
        file.write(b"!")
    assert open_images(folder, labels=False).fingerprint != renamed


def test_names_hold_any_file_name():
    names = ["a", "", "b c/ü.jpg", "x" * 300, os.fsdecode(b"\xff.png")]
    assert list(Names(names)) == names


def empty(tmp_path: Path) -> Path:
    (tmp_path / "nothing").mkdir()
    return tmp_path / "nothing"


def text_file(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text("x")
    return tmp_path / "a.yaml"


def empty_list(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("\n# nothing\n")
    return tmp_path / "a.txt"


def binary_list(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x81")
    return tmp_path / "a.txt"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "no image in .* or its sub-folders"),
        (lambda path: path / "missing", "does not exist"),
        (text_file, "not a folder of images"),
        (empty_list, "lists no file"),
        (binary_list, "cannot read the list"),
    ],
)
def test_a_source_without_images_says_what_to_do(make, words, tmp_path):
    with pytest.raises(UserError, match=words):
        open_images(make(tmp_path), labels=False)


def test_labels_that_are_not_there_are_refused(folder):
    save(folder / "loose.png")
    with pytest.raises(UserError, match=r"one sub-folder per class.*loose\.png"):
        open_images(folder, labels=True)
    (folder.parent / "list.txt").write_text("set/dog/b.png\tdog\nset/cat/z.PNG\n")
    with pytest.raises(UserError, match="entry 2"):
        open_images(folder.parent / "list.txt", labels=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_named(folder):
    (folder / "cat").chmod(0)
    try:
        with pytest.raises(UserError, match="cannot read the folder"):
            open_images(folder, labels=False)
    finally:
        (folder / "cat").chmod(0o755)


# Files that are not what they seem


def jpeg_bytes(**options) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).convert(options.pop("mode", "RGB")).save(data, "JPEG", **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few zero bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def bomb_jpeg() -> bytes:
    """A JPEG whose header claims 60000 x 60000 pixels."""
    data = bytearray(jpeg_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 60000, 60000)
    return bytes(data)


BAD = {
    "empty": (b"", "empty"),
    "truncated jpeg": (jpeg_bytes()[:900], "truncated"),
    "cut in its header": (jpeg_bytes()[:100], ""),
    "truncated png": (png_header(64, 64), ""),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
    "noise": (bytes(range(256)), "not an image"),
    "jpeg bomb": (bomb_jpeg(), "decompression bomb"),
    "png bomb": (png_header(30000, 30000), "decompression bomb"),
}


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(decode, "simplejpeg", None)
    elif decode.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_name_and_reason(kind, decoder, tmp_path):
    data, reason = BAD[kind]
    (tmp_path / "some.jpg").write_bytes(data)
    with pytest.raises(BadImage) as caught:
        open_images(tmp_path, labels=False).load(0)
    assert caught.value.name == "some.jpg"
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_bad_image(folder):
    (folder / "list.txt").write_text("gone.png\n")
    with pytest.raises(BadImage, match=r"gone\.png: No such file"):
        open_images(folder / "list.txt", labels=False).load(0)


def test_a_dangling_link_is_a_bad_image(folder):
    (folder / "dog" / "link.png").symlink_to("nowhere.png")
    source = open_images(folder, labels=False)
    index = [source.name(i) for i in range(len(source))].index("dog/link.png")
    with pytest.raises(BadImage):
        source.load(index)


def test_bad_images_cross_process_borders():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "why")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "why", "a.jpg: why")


def test_unusual_files_are_converted(decoder, tmp_path):
    grey16 = (np.arange(400, dtype=np.uint16) * 160).reshape(20, 20)
    Image.fromarray(grey16).save(tmp_path / "0.png")
    (tmp_path / "1.jpg").write_bytes(jpeg_bytes(mode="CMYK"))
    (tmp_path / "2.jpg").write_bytes(jpeg_bytes(mode="L"))
    Image.fromarray(RED).convert("P").save(tmp_path / "3.png")
    Image.fromarray(RED).convert("RGBA").save(tmp_path / "4.png")
    Image.fromarray(RED).convert("1").save(tmp_path / "5.png")
    (tmp_path / "6.jpg").write_bytes(jpeg_bytes(progressive=True))
    (tmp_path / "7.jpg").write_bytes(png_bytes := io.BytesIO(save(tmp_path / "8.png").read_bytes()).getvalue())
    assert png_bytes[:4] == b"\x89PNG"
    source = open_images(tmp_path, labels=False)
    images = [source.load(index) for index in range(len(source))]
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in images)
    np.testing.assert_array_equal(images[0][:, :, 0], grey16 >> 8)
    plain = np.asarray(Image.open(tmp_path / "1.jpg").convert("RGB"))
    np.testing.assert_array_equal(images[1], plain)
    assert (images[2] == images[2][:, :, :1]).all()
    np.testing.assert_array_equal(images[4], RED)
    np.testing.assert_array_equal(images[7], RED)


def test_a_harmless_warning_of_the_decoder_is_no_bad_image(decoder, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes() + b"trailing bytes of a camera")
    assert open_images(tmp_path, labels=False).load(0).shape == (64, 64, 3)
