"""Charts as inline SVG, drawn with a few shapes: no library, no script, colours from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH = 400  # user units; text of 13 units stays readable when a phone scales this to its width
LEFT, RIGHT = 124, 22
LETTER = 8.4  # user units that a letter of that text takes at the most, on average over a name
OUTLINES = {  # corners in units of the marker's size
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
}
MARKS = ("circle", "square", "diamond", "triangle", "cross", "ring")


@dataclass(frozen=True)
class Dot:
    """One line of a dot-and-interval plot; ``low`` and ``high`` are None where there is no interval.

    Neighbours with the same ``group`` stand under one heading.
    """

    group: str
    label: str
    value: float
    low: float | None
    high: float | None
    kind: str  # ahead | behind | within noise | no interval


def svg(height: float, body: str, title: str, description: str) -> str:
    """A responsive picture with a name and a description for screen readers."""
    label = html.escape(f"{title}. {description}", True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">'
        f"<title>{html.escape(title)}</title>{body}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start", cls: str = "") -> str:
    """Escaped text at a place."""
    cls = f' class="{cls}"' if cls else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{cls}>{html.escape(words)}</text>'


def shortened(name: str, width: float = LEFT - 6) -> str:
    """``name``, or as much of its beginning and end as fits: what tells two long names apart is mostly at their end."""
    room = int(width / LETTER)
    return name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[-(room // 2) :]}"


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.75)  # rather a tick more than empty space
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


class Axis:
    """A linear map from values to user units."""

    def __init__(self, low: float, high: float, start: float, end: float, count: int = 5) -> None:
        self.ticks = ticks(low, high, count)
        self._low, self._high = self.ticks[0], self.ticks[-1]
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        span = (self._high - self._low) or 1.0
        return self._start + (value - self._low) / span * (self._end - self._start)


def _tick_text(value: float) -> str:
    return f"{value:g}"


def marker(style: int) -> str:
    """The marker of the initialisation number ``style``: from the seventh on colours repeat, with other markers."""
    return MARKS[(style + style // len(MARKS)) % len(MARKS)]


def mark(shape: str, x: float, y: float, cls: str, size: float = 4.5) -> str:
    """A marker: shape and colour both tell the initialisation."""
    if shape in OUTLINES:
        points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in OUTLINES[shape])
        return f'<polygon points="{points}" class="mark {cls}"/>'
    s = size
    if shape == "cross":
        return line(x - s, y - s, x + s, y + s, f"stroke {cls}") + line(x - s, y + s, x + s, y - s, f"stroke {cls}")
    hollow = " hollow" if shape == "ring" else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}" class="mark {cls}{hollow}"/>'


def dot_intervals(dots: Sequence[Dot], title: str, unit: str) -> str:
    """Differences with their intervals around a line at zero, one line of the picture per comparison."""
    values = [v for d in dots for v in (d.value, d.low, d.high) if v is not None] + [0.0]
    axis = Axis(min(values), max(values), LEFT, WIDTH - RIGHT)
    row, top, places, headings = 22, 8, [], []
    bottom = float(top)
    for i, dot in enumerate(dots):
        if dot.group != (dots[i - 1].group if i else ""):
            headings.append(text(0, bottom + row * 0.5 + 4, dot.group, cls="heading"))
            bottom += row
        places.append(bottom + row * 0.5)
        bottom += row
    parts = [
        line(axis(t), top, axis(t), bottom, "grid") + text(axis(t), bottom + 16, _tick_text(t), "middle")
        for t in axis.ticks
    ]
    parts += [line(axis(0), top, axis(0), bottom, "zero"), *headings]
    for y, dot in zip(places, dots):
        cls = dot.kind.replace(" ", "-")
        parts.append(text(LEFT - 6, y + 4, shortened(dot.label), "end"))
        if dot.low is not None and dot.high is not None:
            parts.append(line(axis(dot.low), y, axis(dot.high), y, f"interval {cls}"))
            parts += [line(axis(v), y - 5, axis(v), y + 5, f"interval {cls}") for v in (dot.low, dot.high)]
        parts.append(mark("circle" if dot.low is not None else "ring", axis(dot.value), y, cls))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 34, unit, "middle", "axis"))
    return svg(bottom + 42, "".join(parts), title, f"{len(dots)} differences; the table has the numbers")


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]], styles: Mapping[str, int], title: str, unit: str
) -> str:
    """Lines of (x, y) points, one per initialisation, with a legend below."""
    points = [p for line_points in series.values() for p in line_points]
    left, height = 48, 250
    x = Axis(min(0.0, *(p[0] for p in points)), max(p[0] for p in points), left, WIDTH - RIGHT, 4)
    y = Axis(min(p[1] for p in points), max(p[1] for p in points), height - 44, 10)
    parts = [
        line(left, y(t), WIDTH - RIGHT, y(t), "grid") + text(left - 6, y(t) + 4, _tick_text(t), "end") for t in y.ticks
    ]
    parts += [text(x(t), height - 26, _thousands(t), "middle") for t in x.ticks]
    parts.append(text((left + WIDTH) / 2, height - 8, unit, "middle", "axis"))
    for name, line_points in series.items():
        style = styles[name]
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in line_points)
        parts.append(f'<polyline points="{path}" class="curve c{style % 6}"/>')
        if len(line_points) <= 40:
            parts += [mark(marker(style), x(px), y(py), f"c{style % 6}", 3.5) for px, py in line_points]
    body, used = legend(list(series), styles, height)
    return svg(height + used, "".join(parts) + body, title, f"{len(series)} curves: {', '.join(series)}")


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10000 else f"{value:g}"


def legend(names: Sequence[str], styles: Mapping[str, int], top: float) -> tuple[str, float]:
    """Marker and name of every initialisation, wrapped; returns the shapes and their height."""
    x, y, parts = 14.0, top + 12, []
    for name in names:
        width = 30 + LETTER * len(name)
        if x + width > WIDTH and x > 14:
            x, y = 14.0, y + 20
        parts.append(mark(marker(styles[name]), x, y - 4, f"c{styles[name] % 6}") + text(x + 10, y, name))
        x += width
    return "".join(parts), y - top + 10


def bars(values: Mapping[str, Mapping[str, float]], styles: Mapping[str, int], title: str, unit: str) -> str:
    """Horizontal bars: a group per label (class, error type), a bar per initialisation."""
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    numbers = [v for group in values.values() for v in group.values()] + [0.0]
    axis = Axis(min(numbers), max(numbers), LEFT, WIDTH - RIGHT)
    thick, gap, y = 9, 8, 8.0
    height = 8 + len(values) * (thick * len(names) + gap)
    parts = [
        line(axis(t), 4, axis(t), height, "grid") + text(axis(t), height + 16, _tick_text(t), "middle")
        for t in axis.ticks
    ]
    paths: dict[str, list[str]] = {name: [] for name in names}  # one shape per initialisation: pages stay small
    for label, group in values.items():
        parts.append(text(LEFT - 6, y + thick * len(names) / 2 + 4, shortened(label), "end"))
        for name in names:
            if name in group:
                start, end = sorted((axis(0), axis(group[name])))
                width = max(end - start, 0.5)
                paths[name].append(f"M{start:.1f} {y:.0f}h{width:.1f}v{thick - 1}h-{width:.1f}z")
            y += thick
        y += gap
    parts += [f'<path d="{"".join(path)}" class="bar c{styles[name] % 6}"/>' for name, path in paths.items()]
    parts.append(line(axis(0), 4, axis(0), height, "zero"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height + 34, unit, "middle", "axis"))
    body, used = legend(names, styles, height + 44)
    return svg(
        height + 44 + used, "".join(parts) + body, title, f"{len(values)} groups of bars; the table has the numbers"
    )
