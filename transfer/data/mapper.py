"""One record -> one training or test item: read, crop, resize, flip, transform the annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from PIL import Image

from runtime.errors import UserError
from runtime.image_formats import UNREADABLE, open_image, to_mode
from transfer.data.box_modes import corners
from transfer.data.geometry import Geometry
from transfer.data.keypoints import keypoint_array
from transfer.data.labels import Record
from transfer.data.random_geometry import Draw, RandomGeometry

SMALLEST_SIDE = 1e-5  # pixels; boxes with a shorter side are dropped, as are empty masks
MASK_FORMATS = ("polygon", "bitmask")


def read_image(path: str, image_format: str) -> np.ndarray:
    """H x W x C uint8 pixels in ``image_format`` order (BGR or a PIL mode such as RGB), EXIF rotation applied.

    Pixels of more than 8 bits as in ``runtime.image_formats``. UserError for a file that cannot be read.
    """
    try:
        with open_image(path) as file:
            return pixels_of(file, image_format)
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be read ({error}); replace it or remove it from the data set") from error


def file_state(path: str) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns, by which a replaced file is known; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


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


class DetectionMapper:
    """Maps records to items. The random choices are drawn by ``geometry``, so that they can be replayed without images.

    ``masks``: "" for boxes only, "polygon" (lists of float64 arrays x0 y0 x1 y1 ...) or "bitmask" (bool N x H x W).
    ``keypoints``: ``mirrored_order`` of the keypoints to read; None for a detector without keypoints. ``proposals``:
    how many of a record's proposals are kept, the best; None for a detector that makes its own. ``file_states``:
    whether training items say by what their file would be known as replaced, which costs two looks at the file.
    """

    def __init__(
        self,
        *,
        train: bool,
        image_format: str,
        geometry: RandomGeometry,
        masks: str = "",
        keypoints: Sequence[int] | None = None,
        proposals: int | None = None,
        file_states: bool = False,
    ) -> None:
        if masks not in ("", *MASK_FORMATS):
            raise UserError(f"INPUT.MASK_FORMAT {masks!r} must be polygon or bitmask")
        self.train, self.image_format, self.geometry = train, image_format, geometry
        self.masks, self.keypoints, self.proposals = masks, keypoints, proposals
        self.file_states = train and file_states
        # what is left of an object's mask after a crop has a smaller box than what is left of its box
        self.boxes_from_masks = bool(masks and (geometry.crop or geometry.jitter))

    def __call__(self, record: Record, draw: Draw) -> dict[str, Any]:
        """Item: image (uint8 C x H x W), height, width (original), image_id, file_name, and in training instances.

        instances: boxes float32 N x 4 (x0 y0 x1 y1 in the resized image), classes int64 N, masks (see the class),
        keypoints float32 N x K x 3 (x, y, visibility; all 0 where not labelled or outside the image). With
        ``proposals`` also proposals: boxes float32 P x 4 in the resized image and logits float32 P, best first.
        In training also view: the shortest edge asked for, and whether the image is mirrored; with ``file_states`` also
        file_state of the file that was read, None where it changed meanwhile. Raises UserError naming an unreadable
        image, a size that differs from the annotation, or an unusable mask.
        """
        state = file_state(record["file_name"]) if self.file_states else None
        pixels = read_image(record["file_name"], self.image_format)
        height, width = pixels.shape[:2]
        if (record.get("width", width), record.get("height", height)) != (width, height):
            raise UserError(
                f"image {record['file_name']} is {width} x {height}, its annotation says {record['width']} x "
                f"{record['height']}; correct the annotation"
            )
        item = self.item_of(pixels, draw, name=f"image {record['file_name']}")
        item.update({key: record[key] for key in ("file_name", "image_id") if key in record})
        geometry = self.geometry.of(draw, (height, width))
        if self.proposals is not None:
            boxes, logits = record["proposals"]
            item["proposals"] = _proposals(boxes, logits, geometry, self.proposals)
        if self.train and "annotations" in record:
            item["instances"] = self._instances(record, geometry)
        if self.train:
            item["view"] = draw.short_edge, draw.flip
        if self.file_states:
            item["file_state"] = state if file_state(record["file_name"]) == state else None
        return item

    def item_of(self, pixels: np.ndarray, draw: Draw, *, name: str = "image") -> dict[str, Any]:
        """Image, height and width of an item, from pixels as ``read_image`` returns them.

        Raises UserError, beginning with ``name``, for an image so narrow that nothing of it is left.
        """
        height, width = pixels.shape[:2]
        geometry = self.geometry.of(draw, (height, width))
        if not all(geometry.after):
            limit = f"with its longer side at {self.geometry.max_size} pixels (INPUT.MAX_SIZE)"
            change = "cropped and resized as INPUT.CROP or INPUT.LSJ has it" if geometry.crops else limit
            raise UserError(
                f"{name} is {width} x {height}: {change} nothing of the shorter one is left; crop it or leave it out"
            )
        changed = geometry.pixels(pixels, Image.Resampling.BILINEAR)
        image = torch.as_tensor(np.ascontiguousarray(changed.transpose(2, 0, 1)))
        return {"image": image, "height": height, "width": width}

    def _instances(self, record: Record, geometry: Geometry) -> dict[str, Any]:
        annotations = [a for a in record["annotations"] if a.get("iscrowd", 0) == 0]
        boxes = torch.as_tensor(geometry.boxes(corners(annotations, np.float32))).float()
        classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
        masks, tight = self._masks(annotations, record, geometry, _are_boxes(boxes))
        if tight is not None:
            boxes = tight
        keep = _are_boxes(boxes)
        if isinstance(masks, torch.Tensor):
            keep &= masks.flatten(1).any(dim=1)
        instances: dict[str, Any] = {"boxes": boxes[keep], "classes": classes[keep]}
        if masks is not None:
            instances["masks"] = masks[keep] if isinstance(masks, torch.Tensor) else list(compress(masks, keep))
        if self.keypoints is not None:
            points = [self._keypoints(a, record, geometry) for a in annotations]
            stacked = np.stack(points) if points else np.zeros((0, len(self.keypoints), 3))
            instances["keypoints"] = torch.as_tensor(stacked, dtype=torch.float32)[keep]
        return instances

    def _masks(
        self, annotations: Sequence[dict[str, Any]], record: Record, geometry: Geometry, visible: torch.Tensor
    ) -> tuple[torch.Tensor | list[list[np.ndarray]] | None, torch.Tensor | None]:
        """Masks in the form asked for, and the boxes (float32 N x 4) around them if they replace the annotated ones."""
        if not self.masks:
            return None, None
        if self.masks == "polygon":
            wanted = [self.boxes_from_masks or bool(seen) for seen in visible]
            polygons = [self._polygons(a, record, geometry) if w else [] for a, w in zip(annotations, wanted)]
            return polygons, _boxes_of_polygons(polygons) if self.boxes_from_masks else None
        stack = [torch.from_numpy(self._bitmask(a, record, geometry)) for a in annotations]
        bits = torch.stack(stack) if stack else torch.zeros(0, *geometry.after, dtype=torch.bool)
        return bits, _boxes_of_bitmasks(bits) if self.boxes_from_masks else None

    def _keypoints(self, annotation: dict[str, Any], record: Record, geometry: Geometry) -> np.ndarray:
        assert self.keypoints is not None
        points = keypoint_array(annotation, len(self.keypoints), record["file_name"])
        points[:, :2] = geometry.points(points[:, :2].copy())
        height, width = geometry.after
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= np.array([width, height]))).all(axis=1)
        points[:, 2][~inside] = 0
        if geometry.mirrored:
            points = points[np.asarray(self.keypoints)]
        points[points[:, 2] == 0] = 0
        return points

    def _polygons(self, annotation: dict[str, Any], record: Record, geometry: Geometry) -> list[np.ndarray]:
        shapes = annotation.get("segmentation")
        if not isinstance(shapes, list):
            kind = "no segmentation" if shapes is None else "a run-length mask; set INPUT.MASK_FORMAT bitmask"
            raise UserError(f"image {record['file_name']}: an annotation has {kind}, MODEL.MASK_ON needs polygons")
        points = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in shapes]
        return [p.reshape(-1) for p in geometry.polygons(points)]

    def _bitmask(self, annotation: dict[str, Any], record: Record, geometry: Geometry) -> np.ndarray:
        """H x W bool mask in the changed image: polygons are rasterised there, run-length masks are resized."""
        from pycocotools import mask as coco_mask

        shapes = annotation.get("segmentation")
        if isinstance(shapes, dict):
            try:
                decoded = coco_mask.decode(shapes)
            except (ValueError, TypeError) as error:
                raise UserError(f"image {record['file_name']}: a run-length mask cannot be read ({error})") from error
            mask = geometry.pixels(decoded, Image.Resampling.NEAREST)
        else:
            polygons = [p.tolist() for p in self._polygons(annotation, record, geometry)]
            if not polygons:  # cut off
                return np.zeros(geometry.after, dtype=bool)
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *geometry.after)))
        return np.ascontiguousarray(mask.astype(bool))


def _proposals(boxes: np.ndarray, logits: np.ndarray, geometry: Geometry, most: int) -> dict[str, torch.Tensor]:
    """The best ``most`` proposals of which something is left in the changed image."""
    changed = torch.as_tensor(geometry.boxes(boxes.copy())).float()
    keep = (changed[:, 2:] > changed[:, :2]).all(dim=1)
    return {"boxes": changed[keep][:most], "logits": torch.as_tensor(logits.astype(np.float32))[keep][:most]}


def _are_boxes(boxes: torch.Tensor) -> torch.Tensor:
    """Whether each of ``boxes`` (N x 4) has an area."""
    return ((boxes[:, 2:] - boxes[:, :2]) > SMALLEST_SIDE).all(dim=1)


def _boxes_of_polygons(masks: Sequence[Sequence[np.ndarray]]) -> torch.Tensor:
    """The box around each object's polygons, float32 N x 4; of an object without one, a box of negative size."""
    boxes = torch.zeros(len(masks), 4)
    for box, polygons in zip(boxes, masks):
        points = torch.cat([torch.from_numpy(p).view(-1, 2) for p in polygons] or [torch.zeros(0, 2)]).float()
        box[:2], box[2:] = (points.amin(0), points.amax(0)) if len(points) else (1.0, 0.0)
    return boxes


def _boxes_of_bitmasks(masks: torch.Tensor) -> torch.Tensor:
    """The box around the pixels of each mask (bool N x H x W), float32 N x 4; of an empty mask, zeros."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks):
        columns, rows = torch.where(mask.any(dim=0))[0], torch.where(mask.any(dim=1))[0]
        if len(columns):
            box[:] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    return boxes
