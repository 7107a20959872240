"""One record -> one training or test item: read, resize the shortest edge, flip, transform the annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from runtime.errors import UserError
from runtime.image_formats import UNREADABLE, open_image, to_mode
from transfer.data.box_modes import corners
from transfer.data.keypoints import keypoint_array
from transfer.data.labels import Record

SMALLEST_SIDE = 1e-5  # pixels; boxes with a shorter side are dropped, as are empty masks
FLIPS = ("horizontal", "vertical", "none")
SIZE_SAMPLINGS = ("choice", "range")
MASK_FORMATS = ("polygon", "bitmask")


class Draw(NamedTuple):
    """The random choices for one image: the shortest edge asked for (0: keep the size), and whether to flip."""

    short_edge: int
    flip: bool


def read_image(path: str, image_format: str) -> np.ndarray:
    """H x W x C uint8 pixels in ``image_format`` order (BGR or a PIL mode such as RGB), EXIF rotation applied.

    Pixels of more than 8 bits as in ``runtime.image_formats``. UserError for a file that cannot be read.
    """
    try:
        with open_image(path) as file:
            return pixels_of(file, image_format)
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be read ({error}); replace it or remove it from the data set") from error


def pixels_of(image: Image.Image, image_format: str) -> np.ndarray:
    """The pixels of an opened image as ``read_image`` returns them; raises one of ``UNREADABLE``."""
    pixels = np.asarray(to_mode(image, "RGB" if image_format == "BGR" else image_format, upright=True))
    if image_format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def given_pixels(image: Any, image_format: str) -> np.ndarray:
    """Pixels as ``read_image`` returns them, of a PIL image or a uint8 array H x W [x 3] in RGB order.

    Raises UserError for anything else: a guess at another scale or order of channels would be wrong unnoticed.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise UserError(
                f"image: an array of {image.dtype} {' x '.join(map(str, image.shape))}; give uint8 pixels, height x "
                "width x 3 in RGB order, or height x width"
            )
        if not image.size:
            raise UserError("image: an array without pixels")
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise UserError(f"image: a {type(image).__name__}; give a path, a PIL image or a uint8 array in RGB order")
    try:
        return pixels_of(image, image_format)
    except UNREADABLE as error:
        raise UserError(f"image: its pixels cannot be used ({error})") from error


def resized_shape(height: int, width: int, short_edge: int, longest: int) -> tuple[int, int]:
    """(height, width) after the shortest edge becomes ``short_edge`` unless the longest would exceed ``longest``."""
    scale = short_edge * 1.0 / min(height, width)
    new_h, new_w = (short_edge * 1.0, scale * width) if height < width else (scale * height, short_edge * 1.0)
    if max(new_h, new_w) > longest:
        shrink = longest * 1.0 / max(new_h, new_w)
        new_h, new_w = new_h * shrink, new_w * shrink
    return int(new_h + 0.5), int(new_w + 0.5)


class DetectionMapper:
    """Maps records to items. ``draw`` makes the random choices separately, so that they can be replayed without images.

    ``masks``: "" for boxes only, "polygon" (lists of float64 arrays x0 y0 x1 y1 ...) or "bitmask" (bool N x H x W).
    ``keypoints``: ``mirrored_order`` of the keypoints to read; None for a detector without keypoints.
    """

    def __init__(
        self,
        *,
        train: bool,
        image_format: str,
        min_sizes: Sequence[int],
        max_size: int,
        sampling: str = "choice",
        flip: str = "none",
        masks: str = "",
        keypoints: Sequence[int] | None = None,
    ) -> None:
        if flip not in FLIPS or sampling not in SIZE_SAMPLINGS or masks not in ("", *MASK_FORMATS):
            raise UserError(
                f"INPUT: RANDOM_FLIP {flip!r} must be one of {FLIPS}, MIN_SIZE_TRAIN_SAMPLING {sampling!r} choice or "
                f"range, MASK_FORMAT {masks!r} polygon or bitmask"
            )
        if sampling == "range" and len(min_sizes) != 2:
            raise UserError(f"INPUT.MIN_SIZE_TRAIN {tuple(min_sizes)} must be (low, high) when sampled as a range")
        self.train, self.image_format = train, image_format
        self.min_sizes, self.max_size, self.sampling = tuple(min_sizes), max_size, sampling
        self.flip, self.masks, self.keypoints = flip, masks, keypoints

    def draw(self, generator: np.random.RandomState) -> Draw:
        """The choices for the next training image, with Detectron2's calls in its order."""
        if self.sampling == "range":
            size = generator.randint(self.min_sizes[0], self.min_sizes[1] + 1)
        else:
            size = generator.choice(self.min_sizes)
        flip = self.flip != "none" and bool(generator.uniform(0.0, 1.0) < 0.5)
        return Draw(int(size), flip)

    def test_draw(self) -> Draw:
        """The fixed choice at test time: the first size, no flip."""
        return Draw(int(self.min_sizes[0]), False)

    def __call__(self, record: Record, draw: Draw) -> dict[str, Any]:
        """Item: image (uint8 C x H x W), height, width (original), image_id, file_name, and in training instances.

        instances: boxes float32 N x 4 (x0 y0 x1 y1 in the resized image), classes int64 N, masks (see the class),
        keypoints float32 N x K x 3 (x, y, visibility; all 0 where not labelled or outside the image).
        Raises UserError naming an unreadable image, a size that differs from the annotation, or an unusable mask.
        """
        pixels = read_image(record["file_name"], self.image_format)
        height, width = pixels.shape[:2]
        if (record.get("width", width), record.get("height", height)) != (width, height):
            raise UserError(
                f"image {record['file_name']} is {width} x {height}, its annotation says {record['width']} x "
                f"{record['height']}; correct the annotation"
            )
        item = self.item_of(pixels, draw, name=f"image {record['file_name']}")
        item.update({key: record[key] for key in ("file_name", "image_id") if key in record})
        if self.train and "annotations" in record:
            item["instances"] = self._instances(record, draw, (height, width), tuple(item["image"].shape[1:]))
        return item

    def item_of(self, pixels: np.ndarray, draw: Draw, *, name: str = "image") -> dict[str, Any]:
        """Image, height and width of an item, from pixels as ``read_image`` returns them.

        Raises UserError, beginning with ``name``, for an image so narrow that nothing of it is left.
        """
        height, width = pixels.shape[:2]
        if draw.short_edge and not all(resized_shape(height, width, draw.short_edge, self.max_size)):
            raise UserError(
                f"{name} is {width} x {height}: with its longer side at {self.max_size} pixels (INPUT.MAX_SIZE) "
                "nothing of the shorter one is left; crop it or leave it out"
            )
        resized = self._resize(pixels, draw, Image.Resampling.BILINEAR)
        image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": image, "height": height, "width": width}

    def _resize(self, pixels: np.ndarray, draw: Draw, method: Image.Resampling) -> np.ndarray:
        """``pixels`` (H x W [x C] uint8) after resize and flip."""
        if draw.short_edge:
            height, width = resized_shape(pixels.shape[0], pixels.shape[1], draw.short_edge, self.max_size)
            single = pixels.ndim == 3 and pixels.shape[2] == 1
            image = Image.fromarray(pixels[:, :, 0] if single else np.ascontiguousarray(pixels))
            pixels = np.asarray(image.resize((width, height), method))
            pixels = pixels[:, :, None] if single else pixels
        if draw.flip:
            pixels = pixels[:, ::-1] if self.flip == "horizontal" else pixels[::-1]
        return pixels

    def _instances(self, record: Record, draw: Draw, before: tuple[int, int], after: tuple[int, ...]) -> dict[str, Any]:
        annotations = [a for a in record["annotations"] if a.get("iscrowd", 0) == 0]
        boxes = self._move(corners(annotations, np.float32).reshape(-1, 2), draw, before, after).reshape(-1, 4)
        if draw.flip:  # mirroring exchanged left and right, or top and bottom
            axis = 0 if self.flip == "horizontal" else 1
            boxes[:, [axis, axis + 2]] = boxes[:, [axis + 2, axis]]
        limit = np.array([after[1], after[0], after[1], after[0]])
        tensor = torch.as_tensor(np.minimum(boxes.clip(min=0), limit)).float()
        keep = ((tensor[:, 2:] - tensor[:, :2]) > SMALLEST_SIDE).all(dim=1)
        classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
        instances: dict[str, Any] = {}
        if self.masks == "polygon":
            visible = [a for a, k in zip(annotations, keep) if k]
            instances["masks"] = [self._polygons(a, record, draw, before, after) for a in visible]
        elif self.masks == "bitmask":
            stack = [torch.from_numpy(self._bitmask(a, record, draw, before, after)) for a in annotations]
            bits = torch.stack(stack) if stack else torch.zeros(0, *after[:2], dtype=torch.bool)
            keep &= bits.flatten(1).any(dim=1)
            instances["masks"] = bits[keep]
        if self.keypoints is not None:
            points = [self._keypoints(a, record, draw, before, after) for a in annotations]
            stacked = np.stack(points) if points else np.zeros((0, len(self.keypoints), 3))
            instances["keypoints"] = torch.as_tensor(stacked, dtype=torch.float32)[keep]
        return {"boxes": tensor[keep], "classes": classes[keep], **instances}

    def _move(self, points: np.ndarray, draw: Draw, before: tuple[int, int], after: tuple[int, ...]) -> np.ndarray:
        """Points (M x 2, x y, float64, changed in place) from the original to the resized, flipped image."""
        if draw.short_edge:
            points[:, 0] *= after[1] * 1.0 / before[1]
            points[:, 1] *= after[0] * 1.0 / before[0]
        if draw.flip:
            axis, length = (0, after[1]) if self.flip == "horizontal" else (1, after[0])
            points[:, axis] = length - points[:, axis]
        return points

    def _keypoints(
        self, annotation: dict[str, Any], record: Record, draw: Draw, before: tuple[int, int], after: tuple[int, ...]
    ) -> np.ndarray:
        assert self.keypoints is not None
        points = keypoint_array(annotation, len(self.keypoints), record["file_name"])
        points[:, :2] = self._move(points[:, :2].copy(), draw, before, after)
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= np.array([after[1], after[0]]))).all(axis=1)
        points[:, 2][~inside] = 0
        if draw.flip and self.flip == "horizontal":
            points = points[np.asarray(self.keypoints)]
        points[points[:, 2] == 0] = 0
        return points

    def _polygons(
        self, annotation: dict[str, Any], record: Record, draw: Draw, before: tuple[int, int], after: tuple[int, ...]
    ) -> list[np.ndarray]:
        shapes = annotation.get("segmentation")
        if not isinstance(shapes, list):
            kind = "no segmentation" if shapes is None else "a run-length mask; set INPUT.MASK_FORMAT bitmask"
            raise UserError(f"image {record['file_name']}: an annotation has {kind}, MODEL.MASK_ON needs polygons")
        points = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in shapes]
        return [self._move(p, draw, before, after).reshape(-1) for p in points]

    def _bitmask(
        self, annotation: dict[str, Any], record: Record, draw: Draw, before: tuple[int, int], after: tuple[int, ...]
    ) -> np.ndarray:
        """H x W bool mask in the resized image: polygons are rasterised there, run-length masks are resized."""
        from pycocotools import mask as coco_mask

        shapes = annotation.get("segmentation")
        if isinstance(shapes, dict):
            try:
                decoded = coco_mask.decode(shapes)
            except (ValueError, TypeError) as error:
                raise UserError(f"image {record['file_name']}: a run-length mask cannot be read ({error})") from error
            mask = self._resize(decoded, draw, Image.Resampling.NEAREST)
        else:
            polygons = [p.tolist() for p in self._polygons(annotation, record, draw, before, after)]
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *after[:2])))
        return np.ascontiguousarray(mask.astype(bool))
