"""The report's parts that need stored detections: error types per initialisation, and example images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from runtime.atomic import read_json, sha256_file, write_json
from transfer.comparison.gap import Table
from transfer.comparison.image_bootstrap import load_detections
from transfer.comparison.intervals import mean, paired_t
from transfer.evaluate.error_types import TYPES, error_types
from transfer.records.run import Run
from transfer.report import charts as plots
from transfer.report.example_images import examples_html
from transfer.report.page import escape, figure, table
from transfer.report.tables import number

CACHE = "error_types.json"


def detection_sections(tables: Sequence[Table], *, examples: bool = True) -> dict[str, str]:
    """Table name -> HTML made from the detections of its runs; a table whose detections are gone gets a sentence.

    ``examples``: with images of the data set.
    """
    found = {}
    for one in tqdm(tables, desc="error types and examples", disable=None):
        weights, problems = _weights(one)
        parts = [_error_html(one, weights)] if weights else []
        if examples:
            parts.append(examples_html(one))
        parts += [f'<p class="soft">{escape(f"{n} runs: {why}.")}</p>' for why, n in problems.items()]
        found[one.name] = "".join(parts)
    return found


def _weights(one: Table) -> tuple[dict[str, dict[int, dict[str, Any]]], dict[str, int]]:
    """{init: {seed: error types}} and why some runs have none."""
    weights: dict[str, dict[int, dict[str, Any]]] = {}
    problems: dict[str, int] = {}
    for run in one.runs:
        if run.detections is None:
            continue
        found = run_error_types(run)
        if isinstance(found, str):
            problems[found] = problems.get(found, 0) + 1
        else:
            weights.setdefault(run.init, {})[run.seed] = found
    return weights, problems


def run_error_types(run: Run) -> dict[str, Any] | str:
    """Error types of one run, kept beside its detections and made again when those or the data change."""
    path = run.detections
    if path is None:
        return "no stored detections"
    made_from = {"detections": sha256_file(path), "data": run.record["datasets"]["test"][0]["sha256"]}
    kept = read_json(run.folder / CACHE)
    if kept.get("made_from") == made_from:
        return kept
    loaded = load_detections(run)
    if isinstance(loaded, str):
        return loaded
    spec, detections = loaded
    by_id = {record["image_id"]: record for record in spec.records()}
    if set(by_id) != set(detections.image_ids):
        return "stored detections are of other images"
    found = error_types([by_id[i] for i in detections.image_ids], detections)
    result = {"made_from": made_from, "AP50": found.ap50, "weight": found.weight, "count": found.count}
    write_json(run.folder / CACHE, result)
    return result


def _error_html(one: Table, weights: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Mean weight of each error type, and its paired difference to the reference."""
    reference = next((one.references[r] for r in ("supervised", "random") if one.references.get(r) in weights), None)
    rows = []
    for name in TYPES:
        cells = []
        for init, by_seed in weights.items():
            own = {seed: found["weight"][name] for seed, found in by_seed.items()}
            cells.append(
                f'<td class="num">{number(mean(list(own.values())))}{_gap(own, weights, reference, init, name)}</td>'
            )
        rows.append([name, *cells])
    styles = {init: i for i, init in enumerate(one.inits)}
    groups = {t: {i: mean([f["weight"][t] for f in s.values()]) for i, s in weights.items()} for t in TYPES}
    note = f"; in brackets the difference to {reference}, * where its 95 % interval excludes 0" if reference else ""
    caption = f"AP50 that correcting each type of error would gain (TIDE, t_f = 0.5, t_b = 0.1), mean over seeds{note}"
    heading = "<h3>Error types</h3>"
    name = "AP50 gained by correcting each type of error, mean over seeds"
    picture = figure(plots.bars(groups, styles, name, "AP50 gained by correcting it"), name)
    return heading + table(["error", *map(escape, weights)], rows, caption) + picture + _localisation(one)


def _gap(
    own: Mapping[int, float],
    weights: Mapping[str, Mapping[int, Mapping[str, Any]]],
    reference: str | None,
    init: str,
    name: str,
) -> str:
    if reference is None or init == reference:
        return ""
    other = weights[reference]
    paired = [value - other[seed]["weight"][name] for seed, value in own.items() if seed in other]
    if not paired:
        return ""
    # fewer errors are better: the colours are those of the difference in AP
    verdict = {"ahead": "behind", "behind": "ahead"}.get(paired_t(paired).verdict, "within-noise")
    star = "" if verdict == "within-noise" else " *"
    return f' <span class="{verdict}">({number(mean(paired), signed=True)}{star})</span>'


def _localisation(one: Table) -> str:
    """Is the gap about placing boxes? AP75 needs better boxes than AP50, so their gaps are set side by side."""
    said = []
    for role, reference in one.references.items():
        for init in one.inits:
            gaps = [
                row.differences[role].mean
                for metric in ("AP50", "AP75")
                if (row := one.row(init, "bbox", metric)) and role in row.differences
            ]
            if role == "supervised" and len(gaps) == 2 and init not in one.references.values():
                larger = "AP75" if gaps[1] > gaps[0] else "AP50"
                said.append(
                    f"{init} against {reference}: {number(gaps[0], True)} AP50, {number(gaps[1], True)} AP75; "
                    f"{larger} fares better."
                )
    if not said:
        return ""
    return f"<p>AP75 asks for better boxes than AP50. {escape(' '.join(said))}</p>"
