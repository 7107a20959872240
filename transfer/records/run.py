"""One finished or failed run, read from its result.json, and everything two compared runs must agree on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.findings import Finding
from transfer.config import RUN_KEYS
from transfer.records.result_file import RESULT, read_result

RENAMED = re.compile(r"\.old\d+$")
LATER_KEYS = ("world_size", "protocol")  # must agree too, but runs of earlier versions did not record them
PRETRAINING = re.compile(r"pretrain\d+")  # CONFIG/INIT/pretrainN/seedM: which of several pretraining runs


@dataclass(frozen=True)
class Run:
    """A training run. ``metrics`` maps (task, metric) to a value x100; undefined values are absent."""

    folder: Path
    table: str
    init: str
    seed: int
    status: str  # finished | failed | missing
    error: str | None = None
    metrics: Mapping[tuple[str, str], float] = field(default_factory=dict)
    must_agree: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)  # the whole result.json, for the report
    pretraining: str = ""  # "pretrainN" where the initialisation was pretrained several times

    @property
    def name(self) -> str:
        """Initialisation, pretraining run and seed."""
        pretraining = f", {self.pretraining.replace('pretrain', 'pretraining ')}" if self.pretraining else ""
        return f"{self.init}{pretraining}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it has metrics."""
        return self.status == "finished"

    @property
    def detections(self) -> Path | None:
        """Stored detections of the first test set, or None when there are none or the file is gone."""
        names = self.record.get("detections") or []
        path = self.folder / str(names[0]) if names else None
        return path if path is not None and path.is_file() else None


def read_run(folder: Path, *, table: str | None = None, init: str | None = None, seed: int | None = None) -> Run:
    """The run in ``folder``. Names given by a plan replace those in the file; without a result it is "missing".

    A result.json that is damaged, of another schema or without what a comparison needs is a failed run with that
    reason: the report names it, and the other runs are compared.
    """
    pretraining = folder.parent.name if PRETRAINING.fullmatch(folder.parent.name) else ""
    parent = folder.parent.parent if pretraining else folder.parent
    by_folder = re.fullmatch(r"seed(\d{1,15})", folder.name)
    names = table or parent.parent.name, init or parent.name
    number = seed if seed is not None else int(by_folder[1]) if by_folder else -1
    try:
        record = read_result(folder)
        if record is None:
            return Run(folder, *names, number, "missing", "not run yet", pretraining=pretraining)
        return replace(_run_of(folder, record, table, init, seed), pretraining=pretraining)
    except UserError as error:
        return Run(folder, *names, number, "failed", str(error), pretraining=pretraining)


def _run_of(folder: Path, record: Mapping[str, Any], table: str | None, init: str | None, seed: int | None) -> Run:
    """The run of a result.json. Raises UserError if it lacks what a comparison needs."""
    try:
        finished = record["status"] == "finished"
        return Run(
            folder,
            table or record["config"]["name"],
            init or record["init"]["name"],
            int(record["seed"]) if seed is None else seed,
            "finished" if finished else "failed",
            None if finished else str(record.get("error") or "unknown error"),
            flat_metrics(record["metrics"]) if finished else {},
            must_agree(record) if finished else {},
            record,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / RESULT} lacks what a comparison needs ({problem}); run it again") from error


def findings_of(run: Run) -> list[tuple[str, Finding]]:
    """(data set, finding) of a run's data; empty for a run of a version that recorded none."""
    fields = ("kind", "count", "example", "message")
    return [
        (str(one["dataset"]), Finding(**{key: one[key] for key in fields})) for one in run.record.get("findings") or []
    ]


def flat_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """{(task, metric): value}; null, NaN and pycocotools' -1 (nothing to measure) are left out."""
    flat = {}
    for task, values in metrics.items():
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
                flat[task, name] = float(value)
    return flat


def must_agree(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that must be equal in two results for the runs to differ only in initialisation and seed."""
    agree: dict[str, Any] = {k: v for k, v in record["config"]["flat"].items() if k not in RUN_KEYS}
    agree["evaluator"] = record["evaluator"]
    agree["iterations"] = record["iterations"]
    agree.update({key: record[key] for key in LATER_KEYS if key in record})
    agree["engine.name"] = record["engine"]["name"]
    agree.update({f"engine.versions.{k}": v for k, v in record["engine"]["versions"].items()})
    for part, sets in record["datasets"].items():
        agree[f"datasets.{part}.sha256"] = [one["sha256"] for one in sets]
        agree[f"datasets.{part}.images"] = [one.get("images") for one in sets]
        if any("proposals" in one for one in sets):
            agree[f"datasets.{part}.proposals"] = [one.get("proposals") for one in sets]
    return agree


def find_runs(root: Path) -> Iterator[Run]:
    """The run of every result.json under ``root``, in order of path.

    Runs that --redo renamed (seed0.old1) and those of a learning-rate search are left out. An initialisation may be
    called X.old1.
    """
    for path in sorted(root.rglob(RESULT)):
        parts = path.relative_to(root).parts
        if not RENAMED.search(path.parent.name) and "lr_search" not in parts:
            yield read_run(path.parent)
