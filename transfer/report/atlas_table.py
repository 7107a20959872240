"""The table of all published rows: values, gaps with noise bars, and the source of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.literature.noise import Noise, noise_of_difference
from transfer.literature.rows import Group, PublishedRow, Reference, group_key, row_name
from transfer.literature.setups import Detector, detector_parts, protocol_family
from transfer.report.escaping import minus_signs
from transfer.report.markup import Markup, element, join

BOX, MASK = ("APbb", "AP"), ("APmk",)
HEAD = (  # (heading, whether it sorts by number)
    ("Initialisation", False),
    ("Data", False),
    ("Detector", False),
    ("Box AP", True),
    ("Gap to supervised", True),
    ("Mask AP", True),
    ("Mask gap", True),
    ("Schedule", False),
    ("Protocol", False),
    ("Year", True),
    ("Other values", False),
    ("Source", False),
)
CAPTION = "Values in per cent, gaps in points with the 95 % noise of their trials (* typical noise of single runs)"
LOW, HIGH = -6.0, 6.0  # points that a noise bar spans; what lies outside is drawn at its end
WIDTH, HEIGHT = 96, 14  # of a noise bar, in pixels
ARXIV, GITHUB = re.compile(r"arXiv (\d{4}\.\d{5})"), re.compile(r"^([\w.-]+/[\w.-]+?)(?:@[\w~]+)?(?=[ @]|$)")
SHORT = {"4conv1fc-SyncBN heads": "4conv1fc"}


@dataclass(frozen=True)
class Gap:
    """A like-for-like gap of one metric, with the noise of its trials when that is known."""

    text: str  # +2.4
    value: float
    reference: Reference
    noise: Noise | None

    @property
    def state(self) -> str:
        """ahead, behind, within-noise, or no-interval when the noise is unknown."""
        if self.noise is None:
            return "no-interval"
        if self.noise.contains(self.value):
            return "within-noise"
        return "ahead" if self.value > 0 else "behind"


def gap_of(row: PublishedRow, names: Sequence[str]) -> Gap | None:
    """The gap of the first metric of ``names`` that the row has; None where nothing like-for-like exists."""
    metric = next((name for name in names if name in row["metrics"]), None)
    group = Group(*group_key(row), (row,))
    reference = group.reference(row, metric) if metric else None
    difference = group.gap(row, metric) if metric else None
    if metric is None or reference is None or difference is None:
        return None
    noise = noise_of_difference(row, reference.row, metric)
    return Gap(f"{difference:+.1f}" if difference else "0.0", float(difference), reference, noise)


def short_dataset(name: str) -> str:
    """The data set's name without its training and test sets, which the list of data sets gives."""
    return re.sub(r" \([^)]*(?:->|train: )[^)]*\)", "", name)


def published_table(rows: Sequence[PublishedRow], anchors: Mapping[str, str]) -> Markup:
    """The table, sortable and filterable by the page's script; ``anchors`` maps a protocol to its description."""
    head = [
        element("th", heading, scope="col", class_=None if numeric else "left", data_sort=None if numeric else "text")
        for heading, numeric in HEAD
    ]
    body = element(
        "table",
        element("caption", element("span", CAPTION)),
        element("thead", element("tr", *head)),
        element("tbody", *(_line(i, row, anchors) for i, row in enumerate(rows))),
        id="results",
    )
    return element("div", body, class_="scroll results", tabindex=0, role="region", aria_label="Published results")


def _line(number: int, row: PublishedRow, anchors: Mapping[str, str]) -> Markup:
    parts = detector_parts(row["detector"])
    protocol = element("a", protocol_family(row), href=f"#{anchors[row['protocol']]}")
    return element(
        "tr",
        element("th", row_name(row), _note(row), scope="row"),
        element("td", short_dataset(row["dataset"]), class_="left"),
        element("td", row["detector"], class_="left"),
        *_value_and_gap(row, BOX),
        *_value_and_gap(row, MASK),
        element("td", row["schedule"], class_="left"),
        element("td", protocol, class_="left nowrap"),
        element("td", row["year"]),
        element("td", _others(row), class_="left"),
        element("td", _source(row["source"]), class_="left"),
        id=f"r{number}",
        data_family=parts.architecture or "Classifier",
        data_backbone=backbone_family(parts),
    )


def backbone_family(parts: Detector) -> str:
    """R50, ViT-B, Swin-T ... without the variants of one size."""
    return parts.backbone or "other"


def _note(row: PublishedRow) -> Markup | None:
    return element("span", row["notes"], class_="remark") if row.get("notes") else None


def _value_and_gap(row: PublishedRow, names: Sequence[str]) -> list[Markup]:
    metric = next((name for name in names if name in row["metrics"]), None)
    if metric is None:
        return [element("td"), element("td")]
    gap = gap_of(row, names)
    shown = _gap(gap) if gap else join([])
    sorted_by = f"{gap.value:g}" if gap else None
    return [element("td", row["metrics"][metric]), element("td", shown, class_="gap", data_value=sorted_by)]


def _gap(gap: Gap) -> Markup:
    words: list[Any] = [element("span", minus_signs(gap.text), class_=f"{gap.state} nowrap")]
    if gap.noise:
        words.append(element("span", f" ± {gap.noise.half_width:.2f}{'*' if gap.noise.typical else ''}", class_="soft"))
    if gap.state == "within-noise":
        words.append(element("span", " within noise", class_="mark-words"))
    if gap.reference.note:
        words.append(element("span", f" vs {gap.reference.note}", class_="other-source"))
    return join([*words, _bar(gap) if gap.noise else None])


def _bar(gap: Gap) -> Markup:
    """The gap (a tick) and its noise (a bar) on a scale with a line at zero; the numbers stand next to it."""
    half = gap.noise.half_width if gap.noise else 0.0
    left, right, middle = (_x(value) for value in (gap.value - half, gap.value + half, gap.value))
    y = HEIGHT / 2
    return element(
        "svg",
        element("line", class_="grid", x1=_x(0), x2=_x(0), y1=0, y2=HEIGHT),
        element("line", class_=f"interval {gap.state}", x1=left, x2=right, y1=y, y2=y),
        element("line", class_="zero", x1=middle, x2=middle, y1=y - 5, y2=y + 5),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        aria_hidden="true",
    )


def _x(value: float) -> float:
    return round((min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW) * (WIDTH - 8) + 4, 1)


def _others(row: PublishedRow) -> str:
    shown = {next((name for name in names if name in row["metrics"]), None) for names in (BOX, MASK)}
    names = [name for name in row["metrics"] if name not in shown]
    trials = [f"{row['n_trials']} trials"] if row.get("n_trials") else []
    return ", ".join([f"{name.replace('_', ' ')} {row['metrics'][name]}" for name in names] + trials)


def _source(source: str) -> Markup:
    """The source as text, with a link where its name contains an arXiv number or a repository."""
    paper, repository = ARXIV.search(source), GITHUB.match(source)
    if repository:
        return element("a", source, href=f"https://github.com/{repository[1]}")
    return element("a", source, href=f"https://arxiv.org/abs/{paper[1]}") if paper else join([source])
