"""Charts as inline SVG, drawn with a few shapes: no library, no script, colours from the page's style sheet.

A chart is a value that holds the numbers it draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transfer.report.escaping import minus_signs
from transfer.report.markup import Markup, element, join

WIDTH = 400  # user units; text of 13 units stays readable when a phone scales this to its width
LEFT, RIGHT = 124, 22
LETTER = 8.4  # user units of one letter of that text: an upper bound on the average over a name
COLOURS = 6  # that the style sheet defines
MARKERS_FROM = 40  # a curve with more points is drawn without markers
OUTLINES = {  # corners in units of the marker's size
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
}
MARKS = ("circle", "square", "diamond", "triangle", "cross", "ring")


@dataclass(frozen=True)
class Picture:
    """What a chart is drawn as: its height in user units (the width is ``WIDTH``), shapes, and a description."""

    height: float
    shapes: Sequence[Markup]
    description: str

    def svg(self, title: str, **attributes: str) -> Markup:
        """A responsive picture with a name and a description for screen readers."""
        return element(
            "svg",
            element("title", title),
            *self.shapes,
            **attributes,
            viewBox=f"0 0 {WIDTH} {self.height:.0f}",
            role="img",
            aria_label=f"{title}. {self.description}",
        )


@dataclass(frozen=True)
class Dot:
    """One line of a dot-and-interval plot; ``low`` and ``high`` are None where there is no interval.

    Consecutive dots with the same ``group`` share a panel.
    """

    group: str
    label: str
    value: float
    low: float | None
    high: float | None
    class_: str  # of the style sheet: ahead | behind | even


@dataclass(frozen=True)
class DotIntervals:
    """Differences with their intervals around a line at zero: a panel per group, each with a scale of its own.

    AP50 differs by more than AP, so on one scale the intervals of AP would be too short to read.
    """

    dots: Sequence[Dot]
    unit: str

    def draw(self) -> Picture:
        """Shapes, height and description."""
        parts: list[Markup] = []
        bottom = 0.0
        for group, dots in itertools.groupby(self.dots, key=lambda dot: dot.group):
            shapes, bottom = _panel(group, list(dots), bottom)
            parts += shapes
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 10, self.unit, "middle", "axis"))
        return Picture(bottom + 18, parts, f"{len(self.dots)} differences; the table has the numbers")


def _panel(heading: str, dots: Sequence[Dot], top: float) -> tuple[list[Markup], float]:
    """Heading, rows and axis of one group; returns the shapes and where the next panel begins."""
    row = 22
    numbers = [v for d in dots for v in (d.value, d.low, d.high) if v is not None]
    axis = Axis(min([*numbers, 0.0]), max([*numbers, 0.0]), LEFT, WIDTH - RIGHT)
    first = top + row
    bottom = first + row * len(dots)
    parts = [_text(0, top + 15, heading, class_="heading")]
    parts += [*_vertical_grid(axis, first, bottom), _line(axis(0), first, axis(0), bottom, "zero")]
    for i, dot in enumerate(dots):
        parts += _dot_with_interval(dot, axis, first + row * (i + 0.5))
    return parts, bottom + 26


def _dot_with_interval(dot: Dot, axis: Axis, y: float) -> list[Markup]:
    class_ = dot.class_
    parts = [_text(LEFT - 6, y + 4, shortened(dot.label), "end")]
    if dot.low is not None and dot.high is not None:
        parts.append(_line(axis(dot.low), y, axis(dot.high), y, f"interval {class_}"))
        parts += [_line(axis(v), y - 5, axis(v), y + 5, f"interval {class_}") for v in (dot.low, dot.high)]
    parts.append(_mark("circle" if dot.low is not None else "ring", axis(dot.value), y, class_))
    return parts


@dataclass(frozen=True)
class Lines:
    """Lines of (x, y) points, one per initialisation, with a legend below. ``styles``: number of its colour, marker.

    ``bands``: (x, low, high) around a line, drawn as an area under all lines.
    """

    series: Mapping[str, Sequence[tuple[float, float]]]
    styles: Mapping[str, int]
    unit: str
    bands: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)

    def draw(self) -> Picture:
        """Shapes, height and description."""
        points = [point for line in self.series.values() for point in line]
        left, height = 48, 250
        x = Axis(min(0.0, *(p[0] for p in points)), max(p[0] for p in points), left, WIDTH - RIGHT, 4)
        values = [p[1] for p in points] + [v for band in self.bands.values() for _, *ends in band for v in ends]
        y = Axis(min(values), max(values), height - 44, 10)
        parts = []
        for tick in y.ticks:
            parts.append(_line(left, y(tick), WIDTH - RIGHT, y(tick), "grid"))
            parts.append(_text(left - 6, y(tick) + 4, minus_signs(f"{tick:g}"), "end"))
        parts += [_text(x(tick), height - 26, _thousands(tick), "middle") for tick in x.ticks]
        parts.append(_text((left + WIDTH) / 2, height - 8, self.unit, "middle", "axis"))
        for name, band in self.bands.items():
            edge = [(px, low) for px, low, _ in band] + [(px, high) for px, _, high in reversed(band)]
            outline = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in edge)
            parts.append(element("polygon", points=outline, class_=f"band {_colour(self.styles[name])}"))
        for name, line in self.series.items():
            style = self.styles[name]
            path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in line)
            parts.append(element("polyline", points=path, class_=f"curve {_colour(style)}"))
            if len(line) <= MARKERS_FROM:
                parts += [_mark(marker(style), x(px), y(py), _colour(style), 3.5) for px, py in line]
        shapes, used = _legend(list(self.series), self.styles, height)
        description = f"{len(self.series)} curves: {', '.join(self.series)}"
        return Picture(height + used, [*parts, *shapes], description)


@dataclass(frozen=True)
class Bars:
    """Horizontal bars: a group per label (class, error type), a bar per initialisation."""

    groups: Mapping[str, Mapping[str, float]]
    styles: Mapping[str, int]
    unit: str

    def draw(self) -> Picture:
        """Shapes, height and description."""
        names = list(dict.fromkeys(name for group in self.groups.values() for name in group))
        numbers = [v for group in self.groups.values() for v in group.values()] + [0.0]
        axis = Axis(min(numbers), max(numbers), LEFT, WIDTH - RIGHT)
        thick, gap, y = 9, 8, 8.0
        height = 8 + len(self.groups) * (thick * len(names) + gap)
        parts = _vertical_grid(axis, 4, height)
        paths: dict[str, list[str]] = {name: [] for name in names}  # one shape per initialisation: pages stay small
        for label, group in self.groups.items():
            parts.append(_text(LEFT - 6, y + thick * len(names) / 2 + 4, shortened(label), "end"))
            for name in names:
                if name in group:
                    start, end = sorted((axis(0), axis(group[name])))
                    width = max(end - start, 0.5)
                    paths[name].append(f"M{start:.1f} {y:.0f}h{width:.1f}v{thick - 1}h-{width:.1f}z")
                y += thick
            y += gap
        for name, path in paths.items():
            parts.append(element("path", d="".join(path), class_=f"bar {_colour(self.styles[name])}"))
        parts.append(_line(axis(0), 4, axis(0), height, "zero"))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height + 34, self.unit, "middle", "axis"))
        shapes, used = _legend(names, self.styles, height + 44)
        description = f"{len(self.groups)} groups of bars; the table has the numbers"
        return Picture(height + 44 + used, [*parts, *shapes], description)


Chart = DotIntervals | Lines | Bars


def shortened(name: str, width: float = LEFT - 6) -> str:
    """``name``, or as much of its beginning and end as fits: long names mostly differ at their end."""
    length = int(width / LETTER)
    return name if len(name) <= length else f"{name[: (length - 1) // 2]}…{name[-(length // 2) :]}"


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


def marker(style: int) -> str:
    """The marker of initialisation number ``style``: from the seventh on colours repeat, with other markers."""
    return MARKS[(style + style // len(MARKS)) % len(MARKS)]


def _text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> Markup:
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


def _vertical_grid(axis: Axis, top: float, bottom: float) -> list[Markup]:
    parts = []
    for tick in axis.ticks:
        parts.append(_line(axis(tick), top, axis(tick), bottom, "grid"))
        parts.append(_text(axis(tick), bottom + 16, minus_signs(f"{tick:g}"), "middle"))
    return parts


def _mark(shape: str, x: float, y: float, class_: str, size: float = 4.5) -> Markup:
    """A marker: shape and colour both identify the initialisation, for readers who cannot tell colours apart."""
    if shape in OUTLINES:
        points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in OUTLINES[shape])
        return element("polygon", points=points, class_=f"mark {class_}")
    if shape == "cross":
        diagonals = ((x - size, y - size, x + size, y + size), (x - size, y + size, x + size, y - size))
        return join(_line(*ends, f"stroke {class_}") for ends in diagonals)
    hollow = " hollow" if shape == "ring" else ""
    return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{size:.1f}", class_=f"mark {class_}{hollow}")


def _colour(style: int) -> str:
    return f"c{style % COLOURS}"


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10000 else f"{value:g}"


def _legend(names: Sequence[str], styles: Mapping[str, int], top: float) -> tuple[list[Markup], float]:
    """Marker and name of every initialisation, wrapped; returns the shapes and their height."""
    x, y, parts = 14.0, top + 12, []
    for name in names:
        width = 30 + LETTER * len(name)
        if x + width > WIDTH and x > 14:
            x, y = 14.0, y + 20
        parts += [_mark(marker(styles[name]), x, y - 4, _colour(styles[name])), _text(x + 10, y, name)]
        x += width
    return parts, y - top + 10
