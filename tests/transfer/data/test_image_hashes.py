"""Hashes of images: pHash as imagehash computes it, and the search for near-duplicates against comparing every pair."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from transfer.data.image_hashes import (
    FILE,
    NEAR,
    NONE,
    PIXELS,
    ImageHashes,
    distances,
    grey_levels,
    hash_images,
    phash,
    relations,
)

# imagehash 4.3.2: str(imagehash.phash(picture(seed)))
IMAGEHASH = {
    0: "fc9848e313c4ae3b",
    1: "8ce3d8b83acbc534",
    2: "fc6c8d47db2420da",
    3: "dd79e29cd5ee0011",
    4: "9141a6a6c2857f7b",
}


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A random smooth image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hashes_of(*files: bytes | np.ndarray) -> ImageHashes:
    return hash_images(len(files), lambda index: files[index])


@pytest.mark.parametrize("seed", sorted(IMAGEHASH))
def test_phash_is_that_of_imagehash(seed):
    assert f"{phash(grey_levels(picture(seed))):016x}" == IMAGEHASH[seed]


def test_copies_are_told_apart_by_how_close_they_are():
    image = picture(0)
    others = hashes_of(*(encoded(picture(seed)) for seed in range(1, 6)), encoded(image))
    copies = {
        FILE: [encoded(image)],
        PIXELS: [encoded(image, compress_level=1), encoded(image, "BMP"), encoded(image, "TIFF")],
        NEAR: [
            encoded(image, "JPEG", quality=50),
            encoded(image.resize((80, 60))),
            encoded(image.resize((200, 200))),
            encoded(ImageEnhance.Contrast(image).enhance(0.7)),
            encoded(image.convert("L")),
            encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
            encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 66)), "JPEG"),
        ],
        NONE: [encoded(picture(9)), encoded(image.transpose(Image.Transpose.ROTATE_180))],
    }
    for kind, files in copies.items():
        relation, partner = relations(hashes_of(*files), others, 4)
        assert relation.tolist() == [kind] * len(files)
        assert partner.tolist() == [-1 if kind == NONE else 5] * len(files)


def test_a_photo_that_is_stored_turned_equals_its_upright_copy():
    image = picture(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert relations(hashes_of(turned), hashes_of(encoded(image)), 4)[0].tolist() == [PIXELS]


def test_pixels_without_a_file_equal_those_of_a_file():
    image = picture(2)
    relation, _ = relations(hashes_of(encoded(image)), hashes_of(np.asarray(image)), 4)
    assert relation.tolist() == [PIXELS]


def test_plain_images_are_no_near_duplicates():
    plain = [encoded(Image.new("RGB", (64, 64), (shade,) * 3)) for shade in (10, 20, 30)]
    assert relations(hashes_of(plain[0]), hashes_of(*plain[1:]), 15)[0].tolist() == [NONE]
    assert relations(hashes_of(plain[0]), hashes_of(*plain), 15)[0].tolist() == [FILE]


def test_unreadable_images_are_counted_and_match_nothing_but_themselves():
    broken = [b"no image", encoded(picture(0))[:-200], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
    hashes = hashes_of(*broken, encoded(picture(1)))
    assert hashes.unreadable == 3
    assert relations(hashes, hashes_of(b"another"), 4)[0].tolist() == [NONE] * 4
    assert relations(hashes, hashes_of(broken[1]), 4)[0].tolist() == [NONE, FILE, NONE, NONE]
    assert relations(hashes, hashes_of(), 4)[1].tolist() == [-1] * 4


@pytest.mark.parametrize("distance", [0, 1, 4, 9, 15])
@pytest.mark.parametrize("batch", [1, 50, 1 << 22])
def test_no_near_pair_is_missed(distance, batch, monkeypatch):
    monkeypatch.setattr("transfer.data.image_hashes.PAIRS_AT_ONCE", batch)
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**63, 30, dtype=np.uint64)
    own, other = base[rng.integers(0, 30, 80)], base[rng.integers(0, 30, 300)]
    for hashes in (own, other):  # some bits of each are flipped
        for row in range(len(hashes)):
            for bit in rng.choice(64, rng.integers(0, 12), replace=False):
                hashes[row] ^= np.uint64(1) << np.uint64(bit)
    sets = []
    for looks in (own, other):
        nothing = np.zeros(len(looks), dtype=np.uint64)
        usable = rng.random(len(looks)) < 0.9
        sets.append(ImageHashes(nothing, nothing, looks, looks, usable))
    relation, partner = relations(*sets, distance)
    every = distances(np.repeat(own, len(other)), np.tile(other, len(own))).reshape(len(own), -1)
    near = (every <= distance) & sets[0].usable[:, None] & sets[1].usable[None, :]
    assert ((relation == NEAR) == near.any(axis=1)).all()
    assert near.any()
    assert all(near[row, partner[row]] for row in np.flatnonzero(relation))
    assert every[0, 0] == bin(int(own[0]) ^ int(other[0])).count("1")
