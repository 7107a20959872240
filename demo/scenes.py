"""Composes an image: objects of random size, rotation, colour and light on clutter, later ones in front."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from demo.textures import CLASSES, SILHOUETTES, TEXTURES, background, colour_pair

CLASS_NAMES = list(CLASSES)
MAX_TURN = 0.5  # radians: objects are nearly upright, like most in photographs
MIN_VISIBLE = 0.5  # a placement that leaves less of another object visible is drawn again


@dataclass
class DrawnObject:
    """One object of a scene: class index, its visible pixels (H x W bool) and how much of it is visible (0-1)."""

    category: int
    mask: np.ndarray
    visible: float


@dataclass
class Scene:
    """``image`` H x W x 3 uint8 RGB and its objects, back to front."""

    image: np.ndarray
    objects: list[DrawnObject]


def _silhouette(
    name: str, radius: float, centre: np.ndarray, rng: np.random.Generator, size: tuple[int, int]
) -> np.ndarray:
    turn, stretch = rng.uniform(-MAX_TURN, MAX_TURN), rng.uniform(0.75, 1.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = (SILHOUETTES[name] * (1.0, stretch)) @ rotation.T * radius + centre
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _surface(
    name: str, radius: float, centre: np.ndarray, rng: np.random.Generator, size: tuple[int, int]
) -> np.ndarray:
    turn = rng.uniform(-MAX_TURN, MAX_TURN)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    pattern = TEXTURES[name](u, v, max(6.0, radius * rng.uniform(0.45, 0.75)))
    dark, light = colour_pair(rng)
    surface = np.where(pattern[..., None], light, dark)
    shade = 1 + 0.3 * (x * np.cos(turn + 1) + y * np.sin(turn + 1)) / max(radius, 1)  # one-sided light
    return np.clip(surface * shade[..., None], 0, 255)


def draw_scene(
    height: int, width: int, categories: list[int], radii: tuple[float, float], rng: np.random.Generator
) -> Scene:
    """Draw one object per category, its radius (pixels) from ``radii``; objects without room are left out."""
    canvas = background(height, width, rng)
    placed: list[tuple[int, np.ndarray]] = []  # category, whole silhouette; back to front
    visible: list[np.ndarray] = []
    for category in categories:
        shape, texture = CLASSES[CLASS_NAMES[category]]
        for _ in range(12):
            # small objects are as frequent as large ones on a log scale, as in photographs
            radius = float(np.exp(rng.uniform(*np.log(radii))))
            margin = np.minimum(0.6 * radius, 0.45 * np.array([width, height]))  # at most a corner is cut off
            centre = rng.uniform(margin, np.array([width, height]) - margin)
            mask = _silhouette(shape, radius, centre, rng, (height, width))
            left = [v & ~mask for v in visible]
            hidden = any(n.sum() < MIN_VISIBLE * whole.sum() for n, (_, whole) in zip(left, placed))
            if mask.sum() >= 60 and not hidden:
                break
        else:
            continue
        soft = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
        canvas = canvas * (1 - soft) + _surface(texture, radius, centre, rng, (height, width)) * soft
        visible = left + [mask]
        placed.append((category, mask))
    canvas = canvas * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20) + rng.normal(0, rng.uniform(1, 6), canvas.shape)
    objects = [DrawnObject(c, v, float(v.sum() / whole.sum())) for (c, whole), v in zip(placed, visible)]
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), objects)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO polygons [x0, y0, x1, y1, ...] around the parts of a mask, at least 3 points each; specks are left out."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # contours run through pixel centres; COCO's coordinates have the first pixel's centre at 0.5
    parts = [cv2.approxPolyDP(c, 0.6, True).reshape(-1, 2) + 0.5 for c in contours if cv2.contourArea(c) >= 8]
    return [part.reshape(-1).astype(float).tolist() for part in parts if len(part) >= 3]


def box_xyxy(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of a mask in pixel edges: x0, y0 inclusive, x1, y1 exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
