"""What a set of images is like, from a sample: unusual pixels, and images that another set holds as well."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from pretrain.images.decode import BadImage, EncodedPicture
from pretrain.images.source import ImageSource, evenly
from runtime.findings import Finding
from runtime.image_formats import UNREADABLE, identify, sample_bits

SAMPLE = 64  # images looked at for unusual pixels
COMPARED = 500  # images of the other set that are looked for
THUMBNAIL = 24  # pixels: side at which images are compared
DECODED = 10_000  # images of a set that is also searched for near-duplicates, at about 1 ms each
ALIKE = 0.995  # correlation of the thumbnails of two near-duplicates


def inspect_pixels(source: ImageSource) -> list[Finding]:
    """Whether the images have more than 8 bits, or are stored rotated; looks at ``SAMPLE`` of them."""
    looked, deep, rotated = 0, [], []
    largest = 0
    for name, image in _opened(source, evenly(len(source), SAMPLE)):
        looked += 1
        try:
            bits = sample_bits(image)
            if bits > 8:
                deep.append(name)
                largest = max(largest, int(np.asarray(image).max(initial=0)) >> (bits - 8))
            elif image.format != "PNG" and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                rotated.append(name)  # Pillow decodes a whole PNG to find an orientation, which hardly any has
        except UNREADABLE:
            continue  # the loader names it when it is shown
    findings = []
    if deep:
        dark = "; they are nearly black: scale the values to the whole range first" if largest < 64 else ""
        message = (
            f"of {looked} looked at; the highest 8 bits of a value are kept, so the largest becomes {largest}{dark}"
        )
        findings.append(Finding("image of more than 8 bits", len(deep), deep[0], message))
    if rotated:
        message = f"of {looked} looked at; pretraining reads the pixels as stored, fine-tuning rotates them"
        findings.append(Finding("image with an EXIF rotation", len(rotated), rotated[0], message))
    return findings


def _opened(source: ImageSource, indices: np.ndarray) -> Iterator[tuple[str, Image.Image]]:
    for index in indices.tolist():
        try:
            picture = source.picture(index)
            if not isinstance(picture, EncodedPicture):
                return  # decoded already; the findings of its files are those of the cache
            yield picture.name, identify(io.BytesIO(picture.data))
        except (BadImage, *UNREADABLE):
            continue


def shared_images(train: ImageSource, val: ImageSource) -> list[Finding]:
    """Whether images of ``val`` are in ``train`` too; looks for at most ``COMPARED`` of them.

    Equal files are found by their size and then their content. In a set of at most ``DECODED`` images near-duplicates
    are found as well: the same picture at another size, or compressed again.
    """
    chosen = evenly(len(val), COMPARED)
    pairs = _equal_files(train, val, chosen)
    exact = len(pairs)
    if len(train) <= DECODED:
        pairs = {**_similar_pictures(train, val, chosen), **pairs}
    if not pairs:
        return []
    index, twin = next(iter(pairs.items()))
    kinds = f"{exact} equal files, {len(pairs) - exact} near-duplicates"
    message = f"{kinds} of {len(chosen)} looked for; a probe on them measures memory, so take them out of one set"
    return [
        Finding("validation image in the training set", len(pairs), f"{val.name(index)} = {train.name(twin)}", message)
    ]


def _equal_files(train: ImageSource, val: ImageSource, chosen: np.ndarray) -> dict[int, int]:
    """{index in val: index in train} of files with the same bytes."""
    sizes, other = train.byte_sizes(), val.byte_sizes()
    if sizes is None or other is None:
        return {}
    candidates = np.flatnonzero(np.isin(sizes, other[chosen]))
    candidates = candidates[evenly(len(candidates), 4 * COMPARED)]  # reading more would delay the start by minutes
    wanted = chosen[np.isin(other[chosen], sizes[candidates])]
    hashes = {_content(train, index): index for index in candidates.tolist()}
    twins = {index: hashes.get(_content(val, index), -1) for index in wanted.tolist()}
    return {index: twin for index, twin in twins.items() if twin >= 0}


def _content(source: ImageSource, index: int) -> bytes:
    """sha256 of an image's file; of its place where it cannot be read, so that it equals no other."""
    try:
        picture = source.picture(index)
    except BadImage:
        return f"{id(source)} {index}".encode()
    return hashlib.sha256(getattr(picture, "data", b"") or f"{id(source)} {index}".encode()).digest()


def _similar_pictures(train: ImageSource, val: ImageSource, chosen: np.ndarray) -> dict[int, int]:
    """{index in val: index in train} of pictures that look the same."""
    known, asked = _thumbnails(train, np.arange(len(train))), _thumbnails(val, chosen)
    if not len(known) or not len(asked):
        return {}
    likeness = asked @ known.T
    nearest = likeness.argmax(1)
    alike = likeness[np.arange(len(asked)), nearest] >= ALIKE
    return {int(chosen[row]): int(nearest[row]) for row in np.flatnonzero(alike)}


def _thumbnails(source: ImageSource, indices: np.ndarray) -> np.ndarray:
    """float32 n x (3 THUMBNAIL^2): each a small copy with mean 0 and length 1; zeros for a flat or unreadable image."""
    rows = np.zeros((len(indices), 3 * THUMBNAIL**2), np.float32)
    for row, index in zip(rows, indices.tolist()):
        try:
            picture = source.picture(index)
            shorter = min(picture.height, picture.width)
            pixels = picture.pixels(next((r for r in picture.reductions if shorter >= 2 * THUMBNAIL * r), 1))
        except BadImage:
            continue
        small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        values = np.asarray(small, np.float32).ravel()
        values -= values.mean()
        length = float(np.linalg.norm(values))
        if length > len(values) ** 0.5:  # a standard deviation of more than one grey level
            row[:] = values / length
    return rows
