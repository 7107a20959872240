"""The same run made twice: by two engines, on two machines or by two versions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from transfer.comparison.intervals import mean, sample_std
from transfer.evaluate.detections import Detections
from transfer.records.run import Run, find_runs

SHOWN = ("AP", "AP50", "AP75")
COLUMNS = (
    "config",
    "init",
    "seed",
    "task",
    "metric",
    "first",
    "second",
    "difference",
    "max_weight_difference",
    "max_detection_difference",
)


@dataclass(frozen=True)
class Pair:
    """Two runs with the same name: the same place in their two folders, e.g. voc_R50_C4/moco/seed0."""

    name: str
    first: Run
    second: Run
    weights: float  # largest |difference| of any tensor of the two final checkpoints; inf when names or shapes differ
    detections: float  # the same of boxes (pixels) and scores; inf when images, classes or masks differ

    @property
    def differs_in(self) -> list[str]:
        """What besides the engine the two were not equal in, e.g. a config key or the data's sha256."""
        a, b = self.first.must_agree, self.second.must_agree
        keys = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
        return [key for key in keys if not key.startswith("engine.")]


def match(first: str | Path, second: str | Path) -> list[Pair]:
    """Pairs of finished runs of two folders; UserError when a folder has none or a run lacks its partner.

    By the run's place in its folder, not by its config's file: several rows of a plan may share one file.
    """
    roots = (Path(first), Path(second))
    found = [{r.folder.relative_to(root).as_posix(): r for r in find_runs(root) if r.finished} for root in roots]
    for root, runs in zip(roots, found):
        if not runs:
            raise UserError(f"{root} has no finished runs (result.json)")
    if lonely := set(found[0]) ^ set(found[1]):
        name = min(lonely)
        where = second if name in found[0] else first
        raise UserError(f"{where} lacks {name}, which the other folder has finished; run it there")
    pairs = [(name, run, found[1][name]) for name, run in sorted(found[0].items())]
    return [Pair(*pair, weight_difference(*pair[1:]), detection_difference(*pair[1:])) for pair in pairs]


def weight_difference(first: Run, second: Run) -> float:
    """Largest |difference| between the tensors of two model_final.pth; inf when they do not have the same tensors."""
    models = [_model(run.folder / "model_final.pth") for run in (first, second)]
    if {k: v.shape for k, v in models[0].items()} != {k: v.shape for k, v in models[1].items()}:
        return float("inf")
    return max(float((models[0][name].double() - models[1][name].double()).abs().max()) for name in models[0])


def detection_difference(first: Run, second: Run) -> float:
    """Largest |difference| of boxes and scores of the stored detections; inf when they are not of the same objects."""
    files = [run.detections for run in (first, second)]
    if files[0] is None or files[1] is None:
        missing = first if files[0] is None else second
        raise UserError(f"{missing.folder} lacks its detections_0.npz; run it again")
    a, b = Detections.load(files[0]), Detections.load(files[1])
    if a.image_ids != b.image_ids or len(a.scores) != len(b.scores):
        return float("inf")
    if not (np.array_equal(a.image_index, b.image_index) and np.array_equal(a.category, b.category)):
        return float("inf")
    if a.masks != b.masks:
        return float("inf")
    if not len(a.scores):
        return 0.0
    return float(max(np.abs(a.boxes - b.boxes).max(), np.abs(a.scores - b.scores).max()))


def _model(path: Path) -> dict[str, torch.Tensor]:
    content = load_torch(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"{path} is no final checkpoint of a detector (no 'model' in it)")
    return {name: torch.as_tensor(value) for name, value in model.items() if torch.as_tensor(value).numel()}


def report(pairs: Sequence[Pair]) -> tuple[str, str, bool]:
    """Markdown, CSV, and whether every metric's mean difference is within the spread over seeds."""
    names = [_engine(run) for run in (pairs[0].first, pairs[0].second)]
    lines = [f"First: {names[0]}. Second: {names[1]}.", ""]
    lines += ["| config | init | metric | first | second | mean difference | largest | agree |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    agree = True
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((_table(pair), pair.first.init), []).append(pair)
    for (table, init), group in groups.items():
        for task, metric in _metrics(group):
            verdict, cells = _row(group, (task, metric))
            agree &= verdict != "no"
            lines.append(f"| {table} | {init} | {task} {metric} | {' | '.join(cells)} | {verdict} |")
    lines += ["", "| run | largest difference of any weight | of any box or score |", "| --- | ---: | ---: |"]
    lines += [f"| {p.name} | {p.weights:.3g} | {p.detections:.3g} |" for p in pairs]
    other = sorted({key for pair in pairs for key in pair.differs_in})
    lines += ["", f"Besides the engine they differ in: {', '.join(other) or 'nothing'}."]
    return "\n".join(lines), _csv(pairs), agree


def _table(pair: Pair) -> str:
    """A plan's name for the config (NAME/INIT/seedN); for runs not made by a plan the config's own name."""
    parts = pair.name.split("/")
    return "/".join(parts[:-2]) if len(parts) > 2 else pair.first.table


def _engine(run: Run) -> str:
    engine = run.record["engine"]
    return f"{engine['name']} ({', '.join(f'{k} {v}' for k, v in engine['versions'].items())})"


def _metrics(group: Sequence[Pair]) -> list[tuple[str, str]]:
    """(task, metric) that every run of the group has a value for."""
    common = set.intersection(*(set(run.metrics) for pair in group for run in (pair.first, pair.second)))
    return [(task, name) for task in ("bbox", "segm") for name in SHOWN if (task, name) in common]


def _row(group: Sequence[Pair], key: tuple[str, str]) -> tuple[str, list[str]]:
    first, second = [p.first.metrics[key] for p in group], [p.second.metrics[key] for p in group]
    differences = [b - a for a, b in zip(first, second)]
    # one seed has no spread to hide in: only equality agrees
    spread = max(sample_std(first) or 0.0, sample_std(second) or 0.0)
    verdict = "equal" if not any(differences) else "within the spread" if abs(mean(differences)) <= spread else "no"
    cells = [_mean_std(first), _mean_std(second), f"{mean(differences):+.4f}", f"{max(map(abs, differences)):.4f}"]
    return verdict, cells


def _mean_std(values: Sequence[float]) -> str:
    spread = sample_std(values)
    return f"{mean(values):.4f}" + (f" ± {spread:.4f} (n={len(values)})" if spread is not None else " (n=1)")


def _csv(pairs: Sequence[Pair]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        for key in sorted(set(pair.first.metrics) & set(pair.second.metrics)):
            a, b = pair.first.metrics[key], pair.second.metrics[key]
            one = pair.first
            writer.writerow(
                [
                    _table(pair),
                    one.init,
                    one.seed,
                    *key,
                    repr(a),
                    repr(b),
                    repr(b - a),
                    repr(pair.weights),
                    repr(pair.detections),
                ]
            )
    return out.getvalue()
