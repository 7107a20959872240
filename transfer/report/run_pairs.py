"""Markdown and CSV of two versions of the same runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from transfer.comparison.intervals import mean, sample_std
from transfer.comparison.run_pairs import MetricPair, Pair, metric_pairs
from transfer.records.run import Run
from transfer.report.escaping import csv_text, markdown_text

COLUMNS = (
    *("config", "init", "seed", "task", "metric", "first", "second", "difference"),
    *("max_weight_difference", "max_detection_difference"),
)


def pairs_markdown(pairs: Sequence[Pair]) -> str:
    """Both engines, every metric with its verdict, the largest differences of each run, and what else differs."""
    engines = [markdown_text(_engine(run)) for run in (pairs[0].first, pairs[0].second)]
    lines = [
        f"First: {engines[0]}. Second: {engines[1]}.",
        "",
        "| config | init | metric | first | second | mean difference | largest | agree |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(_metric_line(metric) for metric in metric_pairs(pairs)),
        "",
        "| run | largest difference of any weight | of any box or score |",
        "| --- | ---: | ---: |",
        *(f"| {markdown_text(p.name)} | {p.weights:.3g} | {p.detections:.3g} |" for p in pairs),
    ]
    other = sorted({key for pair in pairs for key in pair.differs_in})
    lines += ["", f"Besides the engine they differ in: {markdown_text(', '.join(other) or 'nothing')}."]
    return "\n".join(lines)


def pairs_csv(pairs: Sequence[Pair]) -> str:
    """Every metric of every pair, per class too."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        for task, metric in sorted(set(pair.first.metrics) & set(pair.second.metrics)):
            first, second = pair.first.metrics[task, metric], pair.second.metrics[task, metric]
            names = (pair.table, pair.first.init, str(pair.first.seed), task, metric)
            numbers = (first, second, second - first, pair.weights, pair.detections)
            writer.writerow([*map(csv_text, names), *map(repr, numbers)])
    return out.getvalue()


def _engine(run: Run) -> str:
    engine = run.record["engine"]
    return f"{engine['name']} ({', '.join(f'{k} {v}' for k, v in engine['versions'].items())})"


def _metric_line(pair: MetricPair) -> str:
    names = [pair.table, pair.init, f"{pair.task} {pair.metric}"]
    differences = [f"{mean(pair.differences):+.4f}", f"{max(map(abs, pair.differences)):.4f}"]
    cells = [*map(markdown_text, names), _mean_std(pair.first), _mean_std(pair.second), *differences, pair.verdict]
    return f"| {' | '.join(cells)} |"


def _mean_std(values: Sequence[float]) -> str:
    spread = sample_std(values)
    return f"{mean(values):.4f}" + (f" ± {spread:.4f} (n={len(values)})" if spread is not None else " (n=1)")
