"""Error types of a config: a table with differences to the reference, bars, and box quality where it differs."""

from __future__ import annotations

from collections.abc import Mapping

from transfer.comparison.comparison import ConfigComparison
from transfer.comparison.detection_errors import ErrorTypes
from transfer.comparison.differences import Difference
from transfer.evaluate.error_types import TYPES
from transfer.report.charts import Bars
from transfer.report.csv_rows import bound, number
from transfer.report.escaping import minus_signs
from transfer.report.figures import Figure
from transfer.report.markup import NOTHING, Markup, element, join
from transfer.report.page import Cell, FigureWithTable, Part, Row, paragraph, table
from transfer.report.sentences import shape_sentences


def error_parts(config: ConfigComparison, styles: Mapping[str, int]) -> list[Part]:
    """Heading, table, bars and a sentence; [] without detections."""
    types = config.errors.types if config.errors else None
    if types is None:
        return []
    name = "AP50 gained by correcting each type of error, mean over seeds"
    groups = {kind: {init: weights[kind] for init, weights in types.weights.items()} for kind in TYPES}
    figure = Figure(name, Bars(groups, styles, "AP50 gained by correcting it"), name)
    numbers = FigureWithTable(figure, "Numbers of the error types", _table(types, config.table.name))
    return [element("h3", "Error types"), numbers, _box_quality(config)]


def _table(types: ErrorTypes, config: str) -> Markup:
    rows: list[Row] = []
    for kind in TYPES:
        cells = []
        for init, weights in types.weights.items():
            difference = types.differences.get(init, {}).get(kind)
            cells.append(Cell(join([minus_signs(number(weights[kind])), _difference(difference)]), "num"))
        rows.append([kind, *cells])
    note = ""
    if types.reference is not None:
        note = f"; in brackets the difference to {types.reference} with its single 95 % interval"
    caption = f"AP50 that correcting each type of error would gain (TIDE, t_f = 0.5, t_b = 0.1), mean over seeds{note}"
    return table(["error", *types.weights], rows, caption, within=config)


def _difference(difference: Difference | None) -> Markup:
    """In no colour: a larger weight is not a worse detector, it depends on what else a detector gets wrong."""
    if difference is None:
        return NOTHING
    interval = ""
    if difference.low is not None:
        interval = f", {bound(difference.low)} to {bound(difference.high)}"
    text = minus_signs(f"({number(difference.mean, signed=True)}{interval})")
    return join([" ", element("span", text, class_="even")])


def _box_quality(config: ConfigComparison) -> Markup:
    """Is the gap one of box quality? Said only where the ratio of AP75 to AP50 differs beyond the noise."""
    sentences = shape_sentences(config.box_quality)
    return paragraph(minus_signs(f"AP75 needs better boxes than AP50. {' '.join(sentences)}") if sentences else "")
