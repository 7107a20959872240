"""Five surface textures and five silhouettes; a class of the demo is a combination, so that both must be recognised."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Grid = np.ndarray


def _stripes(x: Grid, y: Grid, period: float) -> Grid:
    return np.sin(2 * np.pi * x / period) > 0


def _dots(x: Grid, y: Grid, period: float) -> Grid:
    u, v = (x / period) % 1 - 0.5, (y / period) % 1 - 0.5
    return u**2 + v**2 < 0.09


def _checks(x: Grid, y: Grid, period: float) -> Grid:
    return (np.floor(x / period * 2) + np.floor(y / period * 2)) % 2 > 0


def _waves(x: Grid, y: Grid, period: float) -> Grid:
    return np.sin(2 * np.pi * (y / period + 0.35 * np.sin(2 * np.pi * x / (1.7 * period)))) > 0


def _rings(x: Grid, y: Grid, period: float) -> Grid:
    return np.sin(2 * np.pi * np.hypot(x, y) / period) > 0


TEXTURES: dict[str, Callable[[Grid, Grid, float], Grid]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
    "wavy": _waves,
    "ringed": _rings,
}


def _polar(radius: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    r = radius(angle)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], 1)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    r = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], 1)


def _crescent() -> np.ndarray:
    outer = np.linspace(0.35 * np.pi, 1.65 * np.pi, 40)
    inner = outer[::-1]
    bite = np.stack([0.45 + 0.82 * np.cos(inner), 0.82 * np.sin(inner)], 1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], 1), bite])


def _cross() -> np.ndarray:
    a, b = 0.33, 1.0
    corners = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return np.array(corners, dtype=np.float64)


SILHOUETTES: dict[str, np.ndarray] = {
    "star": _star(),
    "gear": _polar(lambda t: 0.85 + 0.15 * np.sign(np.sin(9 * t))),
    "crescent": _crescent(),
    "cross": _cross(),
    "leaf": _polar(lambda t: 0.35 + 0.65 * np.abs(np.cos(t)) ** 1.5),
}

# every silhouette and every texture occurs in two classes: neither alone identifies the class
CLASSES: dict[str, tuple[str, str]] = {
    "striped_star": ("star", "striped"),
    "dotted_star": ("star", "dotted"),
    "striped_gear": ("gear", "striped"),
    "checked_gear": ("gear", "checked"),
    "dotted_crescent": ("crescent", "dotted"),
    "wavy_crescent": ("crescent", "wavy"),
    "checked_cross": ("cross", "checked"),
    "ringed_cross": ("cross", "ringed"),
    "wavy_leaf": ("leaf", "wavy"),
    "ringed_leaf": ("leaf", "ringed"),
}


TINT = 8.0  # how far a channel may lie from grey


def colour_pair(rng: np.random.Generator, contrast: float = 80.0) -> tuple[np.ndarray, np.ndarray]:
    """Two greyish RGB colours (float, 0-255) whose brightness differs by at least ``contrast``.

    Tints are weak on purpose: if every image had its own colours, instance discrimination could rely on colour alone,
    and the features would not transfer (measured: MoCo's kNN accuracy stayed near chance).
    """
    while True:
        first, second = rng.uniform(20, 235, 2)
        if abs(first - second) >= contrast:
            return first + rng.uniform(-TINT, TINT, 3), second + rng.uniform(-TINT, TINT, 3)


def background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Clutter: smooth noise at three scales, plain shapes and lines. H x W x 3 float32, 0-255."""
    image = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((2, 0.5), (6, 0.3), (20, 0.2)):
        noise = (rng.uniform(70, 185, (cells, cells, 1)) + rng.uniform(-TINT, TINT, (cells, cells, 3))).astype(
            np.float32
        )
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(1, 5))):
        colour = tuple(float(c) for c in rng.uniform(70, 185) + rng.uniform(-TINT, TINT, 3))
        centre = rng.uniform(0, (width, height))
        if rng.random() < 0.5:
            corners = centre + rng.uniform(-0.2, 0.2, (int(rng.integers(3, 6)), 2)) * (width, height)
            cv2.fillPoly(image, [corners.round().astype(np.int32)], colour, cv2.LINE_AA)
        else:
            end = centre + rng.uniform(-0.5, 0.5, 2) * (width, height)
            thickness = int(rng.integers(1, 4))
            cv2.line(image, tuple(map(int, centre)), tuple(map(int, end)), colour, thickness, cv2.LINE_AA)
    return np.clip(image, 0, 255)
