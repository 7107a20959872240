"""What a negative does to the gradient, drawn on the unit circle: python studies/negatives_picture.py

Writes docs/images/negatives.png: the softmax weights and the step of a query for four choices of negatives.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the repository, not this folder

import numpy as np
from PIL import Image, ImageDraw, ImageFont

T = 0.2
SIDE, SCALE = 330, 2  # pixels of a panel, and of drawing for each pixel of the picture
QUERY, KEY = 90.0, 76.0  # degrees
OWN = np.array([97.0, 112, 60, 126])  # rows of the query's cluster
OTHERS = np.array([20.0, 160, 200, 215, 230, 262, 280, 300, 330, 345])
GREY, DARK, RED, BLUE, GREEN = "#b8b8b8", "#202020", "#c23b22", "#2b6cb0", "#2f855a"


def unit(degrees: np.ndarray | float) -> np.ndarray:
    """Points on the unit circle, ... x 2."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1)


def softmax(counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the key and of the rows (0 where not ``counted``), and the negative gradient for the query (2)."""
    q, k, rows = unit(QUERY), unit(KEY), unit(np.concatenate([OWN, OTHERS]))
    weights = np.exp(np.concatenate([[k @ q], rows @ q]) / T) * np.concatenate([[1.0], counted])
    p = weights / weights.sum()
    return p, ((1 - p[0]) * k - p[1:] @ rows) / T


def panels() -> dict[str, np.ndarray]:
    """Which rows count, by title."""
    every = np.ones(len(OWN) + len(OTHERS))
    own = np.concatenate([np.ones(len(OWN)), np.zeros(len(OTHERS))])
    p, _ = softmax(every)
    top = np.zeros(len(every))
    top[np.argsort(-p[1:])[:3]] = 1
    return {
        "queue: every row": every,
        "cluster drop: not the own cluster": every - own,
        "active: the 3 largest p": top,
        "cluster hard: the own cluster alone": own,
    }


def draw_panel(
    draw: ImageDraw.ImageDraw, left: int, title: str, counted: np.ndarray, font: ImageFont.FreeTypeFont
) -> None:
    """One panel, its left edge at ``left``."""
    side, radius = SIDE * SCALE, 0.34 * SIDE * SCALE
    middle = np.array([left + side / 2, side / 2 + 22 * SCALE])
    place = lambda point: middle + radius * np.asarray(point) * [1, -1]  # noqa: E731
    draw.ellipse([*(middle - radius), *(middle + radius)], outline=GREY, width=SCALE)
    draw.text((left + side / 2, 14 * SCALE), title, DARK, font, anchor="mm")
    p, step = softmax(counted)
    for degrees, weight, on in zip(np.concatenate([OWN, OTHERS]), p[1:], counted):
        size = SCALE * (3 + 26 * np.sqrt(weight))
        centre = place(unit(degrees))
        box = [*(centre - size), *(centre + size)]
        if on:
            draw.ellipse(box, fill=RED)
            draw.text(tuple(place(unit(degrees) * 1.24)), f"{weight:.2f}", RED, font, anchor="mm")
        else:
            draw.ellipse([*(centre - 4 * SCALE), *(centre + 4 * SCALE)], outline=GREY, width=SCALE)
    for degrees, colour, name in ((QUERY, DARK, "q"), (KEY, BLUE, "k")):
        centre = place(unit(degrees))
        draw.ellipse([*(centre - 6 * SCALE), *(centre + 6 * SCALE)], fill=colour)
        draw.text(tuple(place(unit(degrees) * 0.84)), name, colour, font, anchor="mm")
    q = unit(QUERY)
    tangent = step - (step @ q) * q  # what the normalisation of q leaves of the step
    end = place(q + 0.22 * tangent)
    draw.line([tuple(place(q)), tuple(end)], fill=GREEN, width=3 * SCALE)
    along = (end - place(q)) / max(float(np.linalg.norm(end - place(q))), 1e-9)
    across = np.array([-along[1], along[0]])
    head = [end + 9 * SCALE * along, end + 5 * SCALE * across, end - 5 * SCALE * across]
    draw.polygon([tuple(point) for point in head], fill=GREEN)
    pull = f"pull of k {1 - p[0]:.2f} / t;  q turns {'towards' if tangent[0] > 0 else 'away from'} k"
    draw.text((left + side / 2, side + 34 * SCALE), pull, GREEN, font, anchor="mm")


def main() -> None:
    """Draw and save."""
    font = ImageFont.load_default(13 * SCALE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    found = panels()
    size = (SIDE * len(found), SIDE + 54)
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    draw = ImageDraw.Draw(image)
    for place, (title, counted) in enumerate(found.items()):
        draw_panel(draw, place * SIDE * SCALE, title, counted, font)
    image.resize(size, Image.Resampling.LANCZOS).quantize(200).save(ROOT / "docs" / "images" / "negatives.png")


if __name__ == "__main__":
    main()
