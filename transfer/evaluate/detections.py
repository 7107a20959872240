"""Detections of one data set as flat arrays: the output of engines, the input of evaluators, a file of a run folder."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import atomic_path
from runtime.errors import UserError
from transfer.data.run_lengths import counts_of, covered_pixels

Rle = dict[str, Any]  # COCO run-length mask: {"size": [height, width], "counts": bytes}
# what reading a damaged .npz can raise (RuntimeError: bits that claim encryption or an unknown compression)
DAMAGED = (EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass
class Detections:
    """N detections over a list of images.

    ``image_ids``: id (int or str) of every image that was processed, including those without a detection.
    ``image_index`` int32 N: position in ``image_ids``. ``category`` int32 N: contiguous class, 0-based.
    ``boxes`` float32 N x 4: x0 y0 x1 y1 in pixels of the original image. ``scores`` float32 N.
    ``masks``: N COCO run-length masks of the original image's size, or None for a detector without masks.
    ``keypoints`` float32 N x K x 3: x, y in pixels of the original image and a score; None without a keypoint branch.
    ``are_proposals``: of a region proposal network alone; scores are its logits, and every category is 0.
    """

    image_ids: list[Any]
    image_index: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: list[Rle] | None = None
    keypoints: np.ndarray | None = None
    are_proposals: bool = False

    def __post_init__(self) -> None:
        self.image_index = np.asarray(self.image_index, dtype=np.int32)
        self.category = np.asarray(self.category, dtype=np.int32)
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        self.scores = np.asarray(self.scores, dtype=np.float32)
        if any(one.ndim != 1 for one in (self.image_index, self.category, self.scores)):
            raise ValueError("detections: image_index, category and scores must be flat lists of N")
        sizes = {len(self.image_index), len(self.category), len(self.boxes), len(self.scores)}
        if self.masks is not None:
            sizes.add(len(self.masks))
        if self.keypoints is not None:
            self.keypoints = np.asarray(self.keypoints, dtype=np.float32)
            if self.keypoints.ndim != 3 or self.keypoints.shape[2] != 3:
                raise ValueError(f"detections: keypoints of shape {self.keypoints.shape}, not N x K x 3")
            sizes.add(len(self.keypoints))
        if len(sizes) != 1:
            raise ValueError(f"detections: arrays of different lengths {sorted(sizes)}")

    def check(self) -> None:
        """Raise ValueError for contents that no detector makes: meaningless numbers, or an error later."""
        index = self.image_index
        if len(index) and (index.min() < 0 or index.max() >= len(self.image_ids)):
            raise ValueError(f"image_index is not within its {len(self.image_ids)} images")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("an image is listed twice")
        if (self.category < 0).any():
            raise ValueError("a category is negative")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes).all()):
            raise ValueError("a score or box is not finite")
        if self.masks:
            # pycocotools compares masks whose runs do not cover their image for ever
            pixels = [height * width for height, width in (mask["size"] for mask in self.masks)]
            if (covered_pixels(counts_of(self.masks)) != np.array(pixels, dtype=np.int64)).any():
                raise ValueError("the run lengths of a mask do not cover its image")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_images(cls, images: Iterable[tuple[Any, ...]]) -> Detections:
        """Join per-image results (image id, boxes n x 4, scores n, categories n, masks n or None), in that order.

        A sixth entry is keypoints n x K x 3. Arrays may be torch tensors on the CPU. Masks are kept if any image has
        them.
        """
        ids: list[Any] = []
        index, boxes, scores, category = [], [], [], []
        points: list[np.ndarray] = []
        masks: list[Rle] | None = None
        for image_id, box, score, label, rles, *more in images:
            points += [np.asarray(part, dtype=np.float32) for part in more]
            ids.append(image_id)
            index.append(np.full(len(score), len(ids) - 1, dtype=np.int32))
            boxes.append(np.asarray(box, dtype=np.float32).reshape(-1, 4))
            scores.append(np.asarray(score, dtype=np.float32))
            category.append(np.asarray(label, dtype=np.int32))
            if rles is not None:
                masks = [*(masks or [])] if masks is None else masks
                masks.extend(rles)

        def joined(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
            return np.concatenate(parts) if parts else np.zeros(shape)

        arrays = (joined(index, (0,)), joined(category, (0,)), joined(boxes, (0, 4)), joined(scores, (0,)))
        return cls(ids, *arrays, masks, np.concatenate(points) if points else None)

    def in_order_of(self, image_ids: Sequence[Any]) -> Detections:
        """The same detections with ``image_ids`` in this order, so that image i is the same in every set of them.

        Rows stay where they are: equal scores keep their order. Raises UserError for detections of other images.
        """
        if self.image_ids == list(image_ids):
            return self
        place = {image_id: i for i, image_id in enumerate(image_ids)}
        if set(self.image_ids) != set(place) or len(self.image_ids) != len(place):
            raise UserError("stored detections are of other images; evaluate the run again")
        moved = np.array([place[image_id] for image_id in self.image_ids], dtype=np.int32)
        return replace(self, image_ids=list(image_ids), image_index=moved[self.image_index])

    def save(self, path: str | Path) -> None:
        """Write one compressed .npz, atomically; run-length counts of all masks become one byte string."""
        arrays: dict[str, np.ndarray] = {
            "image_ids": np.array([str(i) for i in self.image_ids], dtype=np.str_),
            "integer_ids": np.array(all(isinstance(i, int | np.integer) for i in self.image_ids)),
            "image_index": self.image_index,
            "category": self.category,
            "boxes": self.boxes,
            "scores": self.scores,
        }
        if self.masks is not None:
            counts = counts_of(self.masks)
            arrays["mask_sizes"] = np.array([m["size"] for m in self.masks], dtype=np.int32).reshape(-1, 2)
            arrays["mask_lengths"] = np.array([len(c) for c in counts], dtype=np.int32)
            arrays["mask_counts"] = np.frombuffer(b"".join(counts), dtype=np.uint8)
        if self.keypoints is not None:
            arrays["keypoints"] = self.keypoints
        if self.are_proposals:
            arrays["are_proposals"] = np.array(True)
        with atomic_path(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> Detections:
        """Read what ``save`` wrote; raises UserError for a missing or damaged file. Never unpickles."""
        try:
            return cls.read(path)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no detections there; evaluate the run again") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable detections file ({error}); evaluate the run again") from error

    @classmethod
    def read(cls, path: str | Path) -> Detections:
        """Like ``load``, but raises OSError for a file that cannot be read, and ValueError for a damaged one."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            ids: list[Any] = arrays["image_ids"].tolist()
            if bool(arrays["integer_ids"]):
                ids = [int(i) for i in ids]
            masks = _unpack_masks(arrays) if "mask_counts" in arrays else None
            flat = {name: arrays[name] for name in ("image_index", "category", "boxes", "scores")}
            are_proposals = bool(arrays.get("are_proposals", False))
            loaded = cls(ids, **flat, masks=masks, keypoints=arrays.get("keypoints"), are_proposals=are_proposals)
            loaded.check()
            return loaded
        except DAMAGED as error:
            raise ValueError(str(error)) from error


def _unpack_masks(arrays: dict[str, np.ndarray]) -> list[Rle]:
    blob = arrays["mask_counts"].tobytes()
    ends = np.cumsum(arrays["mask_lengths"]).tolist()
    starts = [0, *ends[:-1]]
    sizes = arrays["mask_sizes"].tolist()
    return [{"size": size, "counts": blob[a:b]} for size, a, b in zip(sizes, starts, ends)]
