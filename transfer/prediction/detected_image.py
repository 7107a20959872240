"""What a detector finds in one image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

from runtime.listing import counted
from transfer.evaluate.detections import Rle


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """N detections, best first.

    ``boxes`` float32 N x 4: x0 y0 x1 y1 in pixels of the image, rotated upright by its EXIF entry. ``scores`` float32
    N. ``classes`` int64 N: positions in ``class_names``. ``runs``: N COCO run-length masks of the image's size, or None
    for a detector without masks. ``keypoints`` float32 N x K x 3 (x, y, score), or None. ``height``, ``width``: of the
    upright image. ``file``: its path, None for an image that was given as pixels.
    """

    file: str | None
    image_id: Any
    height: int
    width: int
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    class_names: Sequence[str]
    runs: Sequence[Rle] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[index] for index in self.classes.tolist()]

    @property
    def masks(self) -> np.ndarray | None:
        """bool N x height x width, decoded at each use; None for a detector without masks."""
        if self.runs is None:
            return None
        masks = list(self._decoded(range(len(self))))
        return np.stack(masks) if masks else np.zeros((0, self.height, self.width), dtype=bool)

    def _decoded(self, rows: Iterable[int]) -> Iterator[np.ndarray]:
        """The masks (bool height x width) of these detections, one at a time; none for a detector without masks."""
        from pycocotools import mask as coco_mask

        for row in rows if self.runs is not None else ():
            yield coco_mask.decode(self.runs[row]).astype(bool)  # type: ignore[index]

    def above(self, score: float) -> DetectedImage:
        """The detections with at least this score."""
        rows = np.flatnonzero(self.scores >= score)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            classes=self.classes[rows],
            runs=None if self.runs is None else [self.runs[row] for row in rows.tolist()],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def draw(self, image: Image.Image) -> Image.Image:
        """The picture of ``image`` (upright) with boxes, names, scores and masks; the best is drawn last, on top."""
        from transfer.evaluate.drawing import Marked, draw

        order = np.argsort(self.scores, kind="stable")
        labels = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist())]
        rows = order.tolist()
        marked = Marked(
            self.boxes[order], [labels[row] for row in rows], self.classes[order].tolist(), self._decoded(rows)
        )
        count = len(self)
        return draw(image, marked, counted(count, "detection", "detections"))
