"""Two versions of the same runs, by two engines, machines or code versions: paired, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from transfer.comparison.intervals import mean, sample_std
from transfer.evaluate.detections import Detections
from transfer.evaluate.headline import PROPOSALS
from transfer.records.run import Run, find_runs

METRICS = (
    *((task, name) for task in ("bbox", "segm") for name in ("AP", "AP50", "AP75")),
    *((PROPOSALS, name) for name in ("AR@100", "AR@1000")),
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
        """What the two differ in besides the engine, e.g. a config key or the data's sha256."""
        a, b = self.first.must_agree, self.second.must_agree
        keys = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
        return [key for key in keys if not key.startswith("engine.")]

    @property
    def table(self) -> str:
        """A plan's name for the config (NAME/INIT/seedN); for runs not made by a plan the config's own name."""
        parts = self.name.split("/")
        return "/".join(parts[:-2]) if len(parts) > 2 else self.first.table


@dataclass(frozen=True)
class MetricPair:
    """One metric of one initialisation in both folders, over the seeds that they share."""

    table: str
    init: str
    task: str
    metric: str
    first: Sequence[float]
    second: Sequence[float]

    @property
    def differences(self) -> list[float]:
        """Second minus first, seed by seed."""
        return [b - a for a, b in zip(self.first, self.second)]

    @property
    def verdict(self) -> str:
        """equal | within the spread | no: whether the mean difference is within the spread over seeds."""
        if not any(self.differences):
            return "equal"
        # one seed has no spread: only equality agrees
        spread = max(sample_std(self.first) or 0.0, sample_std(self.second) or 0.0)
        return "within the spread" if abs(mean(self.differences)) <= spread else "no"


def match(first: str | Path, second: str | Path) -> list[Pair]:
    """Pairs of finished runs of two folders; UserError when a folder has none or a run lacks its partner.

    By the run's place in its folder, not by its config's file: several rows of a plan may share one file.
    """
    roots = (Path(first), Path(second))
    finished = [{r.folder.relative_to(root).as_posix(): r for r in find_runs(root) if r.finished} for root in roots]
    for root, runs in zip(roots, finished):
        if not runs:
            raise UserError(f"{root} has no finished runs (result.json)")
    if unpaired := set(finished[0]) ^ set(finished[1]):
        name = min(unpaired)
        where = second if name in finished[0] else first
        raise UserError(f"{where} lacks {name}, which the other folder has finished; run it there")
    pairs = [(name, run, finished[1][name]) for name, run in sorted(finished[0].items())]
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
        raise UserError(f"{path} is not a detector's final checkpoint: it has no 'model'")
    return {name: torch.as_tensor(value) for name, value in model.items() if torch.as_tensor(value).numel()}


def metric_pairs(pairs: Sequence[Pair]) -> list[MetricPair]:
    """Every metric of ``METRICS`` that all runs of a config and an initialisation have a value for."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.table, pair.first.init), []).append(pair)
    result = []
    for (table, init), group in groups.items():
        for key in METRICS:
            if all(key in run.metrics for pair in group for run in (pair.first, pair.second)):
                values = ([p.first.metrics[key] for p in group], [p.second.metrics[key] for p in group])
                result.append(MetricPair(table, init, *key, *values))
    return result
