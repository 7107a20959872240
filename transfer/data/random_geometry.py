"""What training draws for an image: a crop, its size, whether it is mirrored; replayed without reading images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime.errors import UserError
from transfer.data.geometry import Crop, Geometry, Mirror, Resize, Shape, Step

FLIPS = ("horizontal", "vertical", "none")
SIZE_SAMPLINGS = ("choice", "range")
CROPS = ("relative_range", "relative", "absolute", "absolute_range")


class Draw(NamedTuple):
    """The random choices for one image.

    ``short_edge``: the shortest edge asked for (0: keep the size); ``window``: kept of the image before it is resized;
    ``jitter``: scale and offset of ``LargeScaleJitter``, instead of the two.
    """

    short_edge: int
    flip: bool
    window: Crop | None = None
    jitter: tuple[float, float] | None = None


class RandomCrop(NamedTuple):
    """Detectron2's ``RandomCrop``: a window of the size that ``kind`` makes of ``size``, anywhere in the image.

    relative: these shares of height and width; relative_range: shares between these and 1; absolute: this height and
    width in pixels; absolute_range: height and width, each between these two.
    """

    kind: str
    size: tuple[float, float]

    def draw(self, generator: np.random.RandomState, image: Shape) -> Crop:
        """The window for an image of this height and width, with Detectron2's calls in its order."""
        height, width = self._window(generator, image)
        top, left = (generator.randint(side - part + 1) for side, part in zip(image, (height, width)))
        return Crop(int(top), int(left), height, width)

    def _window(self, generator: np.random.RandomState, image: Shape) -> Shape:
        if self.kind == "absolute":
            return min(int(self.size[0]), image[0]), min(int(self.size[1]), image[1])
        if self.kind == "absolute_range":
            low, high = (int(side) for side in self.size)
            drawn = [generator.randint(min(side, low), min(side, high) + 1) for side in image]
            return int(drawn[0]), int(drawn[1])
        share = self.size
        if self.kind == "relative_range":
            least = np.asarray(share, dtype=np.float32)
            share = tuple(least + generator.rand(2) * (1 - least))
        return int(image[0] * share[0] + 0.5), int(image[1] * share[1] + 0.5)

    def check(self) -> None:
        """Raises UserError for a kind or a size that no image can have."""
        relative = self.kind.startswith("relative")
        if self.kind not in CROPS:
            raise UserError(f"INPUT.CROP.TYPE {self.kind!r} must be one of {', '.join(CROPS)}")
        if len(self.size) != 2 or not all(0 < side <= 1 if relative else side >= 1 for side in self.size):
            wanted = "shares of height and width above 0 and up to 1" if relative else "numbers of pixels from 1"
            raise UserError(f"INPUT.CROP.SIZE {list(self.size)} must be two {wanted} for TYPE {self.kind}")
        if self.kind == "absolute_range" and self.size[0] > self.size[1]:
            raise UserError(f"INPUT.CROP.SIZE {list(self.size)} must be [least, most] for TYPE absolute_range")


class LargeScaleJitter(NamedTuple):
    """Large-scale jitter (arXiv:2012.07177) as ViTDet has it: mirror, scale, and cut a square of ``side`` pixels.

    The image is resized to fit a square of ``side`` times a scale between ``low`` and ``high``. What exceeds ``side``
    pixels is cut off at a random offset; a smaller image is not padded.
    """

    side: int
    low: float
    high: float

    def draw(self, generator: np.random.RandomState) -> tuple[float, float]:
        """Scale, and the offset as a share of what is cut off."""
        return float(generator.uniform(self.low, self.high)), float(generator.uniform(0.0, 1.0))

    def steps(self, image: Shape, drawn: tuple[float, float]) -> list[Step]:
        """Resize and crop for an image of this height and width."""
        scale, offset = drawn
        target = self.side * scale
        ratio = min(target / image[0], target / image[1])
        resized = int(np.round(image[0] * ratio)), int(np.round(image[1] * ratio))
        top, left = (int(np.round(max(side - self.side, 0) * offset)) for side in resized)
        return [Resize(*resized), Crop(top, left, self.side, self.side)]

    def check(self) -> None:
        """Raises UserError for a side or scales that cannot be."""
        if self.side < 1 or not 0 < self.low <= self.high:
            raise UserError(
                f"INPUT.LSJ: SIZE {self.side} must be at least 1 and 0 < MIN_SCALE {self.low} <= MAX_SCALE {self.high}"
            )


def resized_shape(height: int, width: int, short_edge: int, longest: int) -> Shape:
    """(height, width) after the shortest edge becomes ``short_edge`` unless the longest would exceed ``longest``."""
    scale = short_edge * 1.0 / min(height, width)
    new_h, new_w = (short_edge * 1.0, scale * width) if height < width else (scale * height, short_edge * 1.0)
    if max(new_h, new_w) > longest:
        shrink = longest * 1.0 / max(new_h, new_w)
        new_h, new_w = new_h * shrink, new_w * shrink
    return int(new_h + 0.5), int(new_w + 0.5)


class RandomGeometry:
    """Draws for images, and makes the geometry of a draw. ``crop`` and ``jitter`` are for training, one or neither."""

    def __init__(
        self,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        sampling: str = "choice",
        flip: str = "none",
        crop: RandomCrop | None = None,
        jitter: LargeScaleJitter | None = None,
    ) -> None:
        if flip not in FLIPS or sampling not in SIZE_SAMPLINGS:
            raise UserError(
                f"INPUT: RANDOM_FLIP {flip!r} must be one of {FLIPS}, MIN_SIZE_TRAIN_SAMPLING {sampling!r} one of "
                f"{SIZE_SAMPLINGS}"
            )
        if sampling == "range" and len(min_sizes) != 2:
            raise UserError(f"INPUT.MIN_SIZE_TRAIN {tuple(min_sizes)} must be (low, high) when sampled as a range")
        if crop and jitter:
            raise UserError("INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED exclude each other; set one of them to False")
        for option in (crop, jitter):
            if option:
                option.check()
        self.min_sizes, self.max_size, self.sampling, self.flip = tuple(min_sizes), max_size, sampling, flip
        self.crop, self.jitter = crop, jitter

    def draw(self, generator: np.random.RandomState, image: Shape) -> Draw:
        """The choices for a training image of this height and width, with Detectron2's calls in its order."""
        if self.jitter:
            flip = self._flip(generator)
            return Draw(0, flip, jitter=self.jitter.draw(generator))
        window = self.crop.draw(generator, image) if self.crop else None
        if self.sampling == "range":
            size = generator.randint(self.min_sizes[0], self.min_sizes[1] + 1)
        else:
            size = generator.choice(self.min_sizes)
        return Draw(int(size), self._flip(generator), window)

    def _flip(self, generator: np.random.RandomState) -> bool:
        return self.flip != "none" and bool(generator.uniform(0.0, 1.0) < 0.5)

    def test_draw(self) -> Draw:
        """The fixed choice at test time: the first size, no flip."""
        return Draw(int(self.min_sizes[0]), False)

    def of(self, draw: Draw, image: Shape) -> Geometry:
        """The steps for an image of this height and width. The result may have no pixels."""
        mirror: list[Step] = [Mirror(self.flip == "horizontal")] if draw.flip else []
        if draw.jitter:
            assert self.jitter is not None
            return Geometry([*mirror, *self.jitter.steps(image, draw.jitter)], image)
        steps: list[Step] = [draw.window] if draw.window else []
        if draw.short_edge and all(size := draw.window.shape(image) if draw.window else image):
            steps.append(Resize(*resized_shape(*size, draw.short_edge, self.max_size)))
        return Geometry([*steps, *mirror], image)
