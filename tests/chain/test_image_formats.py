"""Which files are opened as images, and what becomes of their pixels: the same in pretraining and fine-tuning."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pretrain.images import open_images
from pretrain.images.decode import BadImage
from runtime.errors import UserError
from runtime.image_formats import EXTENSIONS, ImageError, open_image, open_regular, sample_bits
from transfer.data.mapper import read_image


def both_rooms(file: Path) -> np.ndarray:
    """The pixels of a file by either room, which must agree."""
    pretraining = open_images(file.parent, labels=False).load(0)
    np.testing.assert_array_equal(pretraining, read_image(str(file), "RGB"))
    return pretraining


@pytest.mark.parametrize("largest", [255, 256, 4095, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_keep_their_high_byte_whatever_the_values(suffix: str, largest: int, tmp_path: Path) -> None:
    values = np.linspace(0, largest, 400).astype(np.uint16).reshape(20, 20)
    file = tmp_path / f"a{suffix}"
    if suffix == ".pgm":
        file.write_bytes(b"P5 20 20 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(file)
    np.testing.assert_array_equal(both_rooms(file), np.repeat((values >> 8)[..., None], 3, axis=2))


def test_12_bit_tiff_files_keep_the_highest_8_of_the_bits_they_declare(tmp_path: Path) -> None:
    values = np.arange(0, 4096, 16, dtype=np.int64)  # 256 values, packed two in three bytes
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    entries = [(256, 4, 16), (257, 4, 16), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 4, 16), (279, 4, len(packed))]  # fmt: skip
    directory = len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        directory += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        directory += value.to_bytes(4, "little")
    start = (8 + len(packed)).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(b"II*\0" + start + bytes(packed) + directory + bytes(4))
    np.testing.assert_array_equal(both_rooms(tmp_path / "a.tif")[..., 0].ravel(), values >> 4)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_unknown_scale_are_refused_in_both_rooms(kind: type, tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 400).reshape(20, 20).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"a\.tif: .* scale is unknown"):
        open_images(tmp_path, labels=False).load(0)
    with pytest.raises(UserError, match=r"a\.tif.*scale is unknown"):
        read_image(str(tmp_path / "a.tif"), "BGR")


def test_only_fine_tuning_rotates_by_exif(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 200
    exif = Image.Exif()
    exif[274] = 6  # shown rotated by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert open_images(tmp_path, labels=False).load(0).shape == (20, 40, 3)
    assert read_image(str(tmp_path / "a.png"), "RGB").shape == (40, 20, 3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(x) show\nshowpage\n%%EOF\n"
# formats that Pillow reads and this project does not: one that starts a program, one that does not
FOREIGN = {"eps": POSTSCRIPT, "pcx": b"\x0a\x05\x01\x08" + bytes(8) + bytes(200), "xbm": b"#define a_width 1\n"}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused_and_no_program_starts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Popen", "check_call", "call", "run"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("a program was started"))
    file = tmp_path / "a.jpg"
    file.write_bytes(FOREIGN[kind])
    with pytest.raises(BadImage, match="not an image of a known format"):
        open_images(tmp_path, labels=False).load(0)
    with pytest.raises(UserError, match=r"a\.jpg cannot be read"):
        read_image(str(file), "RGB")


def pipe(file: Path) -> None:
    os.mkfifo(file)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("make", [pipe, device, folder])
def test_only_regular_files_are_opened(make, tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(BadImage, match="not a regular file|[Ii]s a directory"):
        open_images(tmp_path / "list.txt", labels=False).load(0)
    with pytest.raises(UserError, match="not a regular file|[Ii]s a directory"):
        read_image(str(tmp_path / "a.png"), "RGB")


def test_huge_files_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**30 + 1)  # sparse: takes no space
    with pytest.raises(ImageError, match="more than 1 GiB"), open_regular(tmp_path / "a.png"):
        pass


@pytest.mark.parametrize("suffix", [e for e in EXTENSIONS if e not in (".avifs", ".pfm", ".pbm", ".mpo", ".j2c")])
def test_every_listed_suffix_is_read(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), (200, 30, 40), np.uint8)).save(tmp_path / f"a{suffix}")
    source = open_images(tmp_path, labels=False)
    assert abs(source.load(0).astype(int) - (200, 30, 40)).max() < 12
    with open_image(tmp_path / f"a{suffix}") as image:
        assert sample_bits(image) == 8


def test_a_text_chunk_bomb_is_one_reason(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "x" * 70_000_000, zip=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(BadImage, match="Decompressed data too large|text"):
        open_images(tmp_path, labels=False).load(0)
