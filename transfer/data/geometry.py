"""The steps by which an image and its annotations change together: crop, resize, mirror.

Each step has ``shape`` (the image's height and width after it), ``pixels`` and ``points``. Their arithmetic and its
order are those of Detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

Shape = tuple[int, int]  # height, width


class Crop(NamedTuple):
    """Keeps a window of ``height`` x ``width`` pixels, or what of it lies in the image."""

    top: int
    left: int
    height: int
    width: int

    def shape(self, before: Shape) -> Shape:
        return min(self.height, before[0] - self.top), min(self.width, before[1] - self.left)

    def pixels(self, pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def points(self, points: np.ndarray, before: Shape) -> np.ndarray:
        points[:, 0] -= self.left
        points[:, 1] -= self.top
        return points

    def polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What of each polygon (M x 2, x y) lies in the window, in its coordinates: no, one or several polygons.

        Geometry by shapely, as in fvcore, so that vertices and their order are the same.
        """
        from shapely.geometry import MultiPolygon, Polygon, box
        from shapely.geometry.collection import GeometryCollection

        window = box(self.left, self.top, self.left + self.width, self.top + self.height).buffer(0.0)
        found = []
        for points in polygons:
            shape = Polygon(points).buffer(0.0)  # resolves where the outline crosses itself
            if not shape.is_valid:
                continue
            inside = shape.intersection(window)
            parts = inside.geoms if isinstance(inside, (MultiPolygon, GeometryCollection)) else [inside]
            for part in parts:  # a common edge or corner is a line or a point, and no part of the mask
                if isinstance(part, Polygon) and part.is_valid and not part.is_empty:
                    corners = np.array(part.exterior.coords)[:-1]  # the last point repeats the first
                    found.append(self.points(corners, (0, 0)))
        return found


class Resize(NamedTuple):
    """To ``height`` x ``width`` pixels."""

    height: int
    width: int

    def shape(self, before: Shape) -> Shape:
        return self.height, self.width

    def pixels(self, pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
        single = pixels.ndim == 3 and pixels.shape[2] == 1
        image = Image.fromarray(pixels[:, :, 0] if single else np.ascontiguousarray(pixels))
        resized = np.asarray(image.resize((self.width, self.height), method))
        return resized[:, :, None] if single else resized

    def points(self, points: np.ndarray, before: Shape) -> np.ndarray:
        points[:, 0] *= self.width * 1.0 / before[1]
        points[:, 1] *= self.height * 1.0 / before[0]
        return points


class Mirror(NamedTuple):
    """Exchanges left and right, or top and bottom."""

    horizontal: bool

    def shape(self, before: Shape) -> Shape:
        return before

    def pixels(self, pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
        return pixels[:, ::-1] if self.horizontal else pixels[::-1]

    def points(self, points: np.ndarray, before: Shape) -> np.ndarray:
        axis, length = (0, before[1]) if self.horizontal else (1, before[0])
        points[:, axis] = length - points[:, axis]
        return points


Step = Crop | Resize | Mirror


class Geometry:
    """The steps for one image of ``before`` = (height, width) pixels, applied in order."""

    def __init__(self, steps: Sequence[Step], before: Shape) -> None:
        self.steps = tuple(steps)
        self.shapes = [before]
        for step in steps:
            self.shapes.append(step.shape(self.shapes[-1]))

    @property
    def after(self) -> Shape:
        """Height and width of the result."""
        return self.shapes[-1]

    @property
    def crops(self) -> bool:
        """Whether a part of the image may be cut off."""
        return any(isinstance(step, Crop) for step in self.steps)

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return any(isinstance(step, Mirror) and step.horizontal for step in self.steps)

    def pixels(self, pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
        """``pixels`` (H x W [x C] uint8) after all steps."""
        for step in self.steps:
            pixels = step.pixels(pixels, method)
        return pixels

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (M x 2, x y, changed in place) after all steps; they may lie outside of the image."""
        for step, before in zip(self.steps, self.shapes):
            points = step.points(points, before)
        return points

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N x 4, x0 y0 x1 y1) after all steps, cut at the border of the result."""
        boxes = self.points(boxes.reshape(-1, 2)).reshape(-1, 4)
        for step in self.steps:
            if isinstance(step, Mirror):  # the sides changed places
                axis = 0 if step.horizontal else 1
                boxes[:, [axis, axis + 2]] = boxes[:, [axis + 2, axis]]
        height, width = self.after
        return np.minimum(boxes.clip(min=0), np.array([width, height, width, height]))

    def polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Polygons (M x 2 each, x y, changed in place) after all steps; a crop cuts them, or leaves none."""
        shapes = list(polygons)
        for step, before in zip(self.steps, self.shapes):
            shapes = step.polygons(shapes) if isinstance(step, Crop) else [step.points(p, before) for p in shapes]
        return shapes
