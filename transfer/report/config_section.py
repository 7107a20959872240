"""One config's part of the page: tables and plots of its differences, error types, curves and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.comparison.comparison import ConfigComparison, Failure
from transfer.comparison.curves import Curves, history
from transfer.report.charts import Bars, Dot, DotIntervals, Lines
from transfer.report.csv_rows import (
    MAIN,
    ROLES,
    SINGLE_INTERVALS,
    SIZES,
    ConfigRows,
    CsvRow,
    interval,
    interval_methods,
    mean_caption,
    title,
    unbounded,
    verdict_class,
)
from transfer.report.error_section import error_parts
from transfer.report.escaping import minus_signs
from transfer.report.example_images import example_parts
from transfer.report.figures import Figure
from transfer.report.markup import NOTHING, Markup, element, join
from transfer.report.page import Cell, FigureWithTable, Part, Row, Section, alarm, details, paragraph, table
from transfer.report.sentences import protocol_sentences, spread_sentence

Parts = list[Part]
MOST_DOTS = 60
SOURCES = ("pretraining run", "fine-tuning seed", "rest")  # of variance, as variance.Components has them
MOST_CLASSES = 24  # in the plot; of more, the ends with the largest and smallest differences


class CsvCells:
    """Numbers of the page: each is a field of gap.csv, and names its line and column there."""

    def __init__(self, rows: Sequence[CsvRow]) -> None:
        self._line = {id(row): i for i, row in enumerate(rows)}

    def cell(self, row: CsvRow | None, column: str) -> Markup:
        """One number of gap.csv."""
        if row is None or not row[column]:
            return NOTHING
        return element("span", minus_signs(row[column]), data_csv=f"{self._line[id(row)]}.{column}")

    def value(self, row: CsvRow | None) -> Markup:
        """Mean and spread."""
        if row is None:
            return NOTHING
        return join([self.cell(row, "mean"), *((" ± ", self.cell(row, "std")) if row["std"] else ())])

    def gap(self, row: CsvRow | None, role: str) -> Markup:
        """A coloured difference in brackets; sign and title say the same without colour."""
        if row is None or not row[f"vs_{role}"]:
            return NOTHING
        over = f" {row[f'vs_{role}_over']}" if row[f"vs_{role}_over"] else ""
        words = row[f"vs_{role}_verdict_text"] or None
        cell = self.cell(row, f"vs_{role}")
        return element("span", "(", cell, over, ")", title=words, class_=verdict_class(row, role))


def config_section(config: ConfigComparison, rows: ConfigRows, number: int, cells: CsvCells) -> Section:
    """Tables and plots of one config: what is not like for like before any number, the classes last."""
    name, anchor = config.table.name, f"config{number}"
    styles = {init: i for i, init in enumerate(config.table.inits)}  # the same colours in all pictures of a config
    others: Parts = [
        _failed_runs(config.failures, name),
        *_curve_parts(config, styles),
        *_detection_parts(config, styles),
    ]
    if not rows.rows:
        return Section(anchor, name, [paragraph("No finished run."), *others])
    sentences = [paragraph(text) for text in protocol_sentences(config.table)]
    parts: Parts = [*_alarms(config), *sentences, values_table(rows, cells, name)]
    for role in ROLES:
        parts += difference_parts(rows, role, cells, name)
    parts += [paragraph(SINGLE_INTERVALS, "soft"), *_spread_parts(config), *others, *class_parts(rows, styles)]
    return Section(anchor, name, parts)


def difference_parts(rows: ConfigRows, role: str, cells: CsvCells, config: str) -> Parts:
    """The differences to one reference: a panel per metric with its table, and folded those by object size."""
    numbers = differences_table(rows, role, MAIN, cells, config)
    parts: Parts = []
    if figure := dots_figure(rows, role):
        parts = [FigureWithTable(figure, f"Numbers: {figure.name}", numbers)]
    elif numbers:
        parts = [numbers]
    if sizes := differences_table(rows, role, SIZES, cells, f"{config}, by object size and frequency"):
        reference = next(row[f"vs_{role}_init"] for row in rows.rows if row[f"vs_{role}_init"])
        parts.append(details(f"By object size and frequency, difference to {reference}, {config}", sizes))
    return parts


def _spread_parts(config: ConfigComparison) -> Parts:
    """Where the spread of every initialisation comes from."""
    items = [element("li", minus_signs(spread_sentence(spread))) for spread in config.spreads]
    if not items:
        return []
    return [element("h3", "Where the spread comes from"), *_variance_figure(config), element("ul", *items)]


def _variance_figure(config: ConfigComparison) -> list[Figure]:
    """The variance components of every initialisation whose pretraining was repeated; [] without any."""
    groups = {}
    for spread in config.spreads:
        one = spread.components
        if one.pretraining and one.seed and one.residual:
            values = (one.pretraining.value, one.seed.value, one.residual.value)
            groups[spread.init] = dict(zip(SOURCES, values))
    if not groups:
        return []
    name = "Variance of a run by its source"
    chart = Bars(
        groups, {source: i for i, source in enumerate(SOURCES)}, f"variance of {_headline(config)}, squared points"
    )
    return [Figure(name, chart, f"{name}; an estimate below 0 is drawn as 0")]


def _alarms(config: ConfigComparison) -> list[Markup]:
    return [
        alarm("Not like for like: ", element("strong", allowed.key), f" differs ({allowed.by_init}).")
        for allowed in config.table.allowed
    ]


def _failed_runs(failures: Sequence[Failure], config: str) -> Markup:
    if not failures:
        return NOTHING
    body = [[failure.run, failure.error] for failure in failures]
    return table(["run", "why there is no number"], body, "Runs without a number", words=True, within=config)


def _curve_parts(config: ConfigComparison, styles: Mapping[str, int]) -> Parts:
    """Learning curves and the iterations at which their order changes."""
    curves = config.curves
    if not curves.by_init:
        return []
    name = f"{_headline(config)} against iterations, mean over seeds"
    bands = curve_bands(config)
    caption = f"{name}; the band goes from the lowest to the highest run" if bands else name
    figure = Figure(name, Lines(curves.by_init, styles, "iteration", bands), caption)
    return [element("h3", "Learning curves"), figure, paragraph(order_text(curves, "iteration"))]


def _headline(config: ConfigComparison) -> str:
    return config.table.headline[1] if config.table.headline else ""


def curve_bands(config: ConfigComparison) -> dict[str, list[tuple[float, float, float]]]:
    """(iteration, lowest, highest value of a run) along every curve; none for an initialisation with one run."""
    bands: dict[str, list[tuple[float, float, float]]] = {}
    if config.table.headline is None:
        return bands
    for init, curve in config.curves.by_init.items():
        runs = [run for run in config.table.runs if run.init == init and run.finished]
        histories = [history(run, *config.table.headline) for run in runs]
        histories = [values for values in histories if values]  # the runs that the mean is over
        if len(histories) > 1:
            values = [(x, [one[int(x)] for one in histories]) for x, _ in curve]
            bands[init] = [(x, min(ends), max(ends)) for x, ends in values]
    return bands


def order_text(curves: Curves, unit: str) -> str:
    """The changes of order that the seeds show; curves that cross within their intervals do not count."""
    if not curves.tested:
        return "No pair of curves has two common seeds, so no change of order can be shown."
    changes = [
        f"{one.winner} overtakes {one.loser} with these weights: behind at {one.behind_at}, ahead at {one.ahead_at} "
        f"({unit})."
        for one in curves.order_changes
    ]
    return " ".join(
        changes or ["The seeds show no change of order: 95 % intervals for all curves of the report together."]
    )


def _detection_parts(config: ConfigComparison, styles: Mapping[str, int]) -> Parts:
    """What is computed from stored detections, and why some runs are left out of it."""
    if config.errors is None:
        return []
    parts: Parts = [*error_parts(config, styles), *example_parts(config, styles)]
    parts += [paragraph(f"{n} runs: {reason}.", "soft") for reason, n in config.errors.problems.items()]
    return parts


def values_table(rows: ConfigRows, cells: CsvCells, config: str) -> Markup:
    """Mean, spread and difference to supervised (or to random without it), as in the papers."""
    columns, role = rows.columns(MAIN), rows.role()
    body: list[Row] = []
    for init in rows.inits:
        values = [rows.get(init, *column) for column in columns]
        numbers = [Cell(join([cells.value(row), " ", cells.gap(row, role)]), "num") for row in values]
        body.append([init, rows.n(init, columns), *numbers])
    reference = next((row[f"vs_{role}_init"] for row in rows.rows if row[f"vs_{role}_init"]), None)
    note = f"in brackets the difference to {reference}" if reference else "no difference to a reference"
    head = ["init", "n", *(title(*column) for column in columns)]
    return table(head, body, f"{mean_caption(rows)}; {note}", within=config)


def differences_table(rows: ConfigRows, role: str, names: Sequence[str], cells: CsvCells, within: str) -> Markup:
    """The differences to one reference in the metrics ``names``, with verdict and interval."""
    body: list[Row] = []
    reference, shown = "", []
    for init in rows.inits:
        for column in rows.columns(names):
            row = rows.get(init, *column)
            if row is None or not row[f"vs_{role}"]:
                continue
            reference = row[f"vs_{role}_init"]
            shown.append(row)
            low, high = (cells.cell(row, f"vs_{role}_{end}") for end in ("low", "high"))
            body.append(
                [
                    f"{init}, {title(*column)}",
                    Cell(cells.cell(row, f"vs_{role}"), "num"),
                    Cell(row[f"vs_{role}_verdict_text"], f"left {verdict_class(row, role)}"),
                    Cell(
                        join(["[", low, ", ", high, "]", unbounded(row, role)]) if interval(row, role) else "none",
                        "num",
                    ),
                    row[f"vs_{role}_n"],
                ]
            )
    if not body:
        return NOTHING
    head: list[str | Cell] = ["comparison", "difference", Cell("verdict", "left"), "95 % interval", "n"]
    return table(head, body, f"Difference to {reference} ({interval_methods(shown, role)})", within=within)


def dots_figure(rows: ConfigRows, role: str) -> Figure | None:
    """The differences of the main metrics as dots with intervals; None when there are none."""
    dots, reference, over_images = [], "", False
    for column in rows.columns(MAIN):
        for init in plotted(rows, role):
            row = rows.get(init, *column)
            if row is not None and row[f"vs_{role}"]:
                reference = row[f"vs_{role}_init"]
                over_images |= "over images" in row[f"vs_{role}_interval"]
                low, high = (float(text) if (text := row[f"vs_{role}_{end}"]) else None for end in ("low", "high"))
                dots.append(Dot(title(*column), init, float(row[f"vs_{role}"]), low, high, verdict_class(row, role)))
    if not dots:
        return None
    name = f"Differences to {reference}"
    kind = " with 95 % intervals" if any(dot.low is not None for dot in dots) else " (no interval)"
    kind += ", of single runs over the test images" if over_images else ""
    return Figure(name, DotIntervals(dots[:MOST_DOTS], f"difference to {reference}, points"), name + kind)


def plotted(rows: ConfigRows, role: str) -> list[str]:
    """Initialisations drawn against a reference.

    Random initialisation is far behind the supervised one: its difference would set the scale and make the others
    unreadable, and the plot of differences to random shows the same distance.
    """
    random = {row["vs_random_init"] for row in rows.rows}
    return [i for i in rows.inits if i not in random] if role == "supervised" and len(rows.inits) > 2 else rows.inits


def class_parts(rows: ConfigRows, styles: Mapping[str, int]) -> Parts:
    """Per-class differences, largest first; the middle of a long list is left out, and gap.csv has all of it."""
    role = rows.role()
    task = next((task for task in ("bbox", "segm") if rows.classes(task)), "bbox")
    groups: dict[str, dict[str, float]] = {}
    for metric in rows.classes(task):
        by_init = {i: r for i in plotted(rows, role) if (r := rows.get(i, task, metric)) and r[f"vs_{role}"]}
        if by_init:
            groups[metric.removeprefix("AP-")] = {i: float(r[f"vs_{role}"]) for i, r in by_init.items()}
    if not groups:
        return []
    order = sorted(groups, key=lambda name: -max(groups[name].values()))
    half = MOST_CLASSES // 2
    shown = order if len(order) <= MOST_CLASSES else order[:half] + order[-half:]
    reference = next(r[f"vs_{role}_init"] for r in rows.rows if r[f"vs_{role}_init"])
    name = f"AP per class, difference to {reference}"
    if len(shown) < len(order):
        name += f" (the {half} largest and {half} smallest of {len(order)}; gap.csv has all)"
    chart = Bars({k: groups[k] for k in shown}, styles, f"difference to {reference}, AP")
    return [element("h3", "Classes"), Figure(name, chart, name)]
