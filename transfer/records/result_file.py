"""result.json, which a finished or failed run leaves for the comparison, and history.json, kept while it runs."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import sha256_file, write_json
from runtime.errors import UserError
from runtime.provenance import hardware, provenance
from transfer.config import config_sha256, flatten, recipe
from transfer.config.protocol import protocol_of
from transfer.data.catalog import get_dataset
from transfer.data.set_findings import finding_records
from transfer.records.fields import is_history, result_problem

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from transfer.data.catalog import DatasetSpec
    from transfer.engines.protocol import Engine, TrainSummary

SCHEMA = 1
RESULT = "result.json"
HISTORY = "history.json"


@dataclass
class History:
    """Evaluations during training and the seconds trained, kept in history.json across resumptions."""

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    train_seconds: float = 0.0

    @classmethod
    def load(cls, folder: Path, resume: bool) -> History:
        """The history of a resumed run, or an empty one."""
        path = folder / HISTORY
        if not resume or not path.exists():
            return cls(path)
        try:
            content = json.loads(path.read_text())
            if not is_history(content["history"]):
                raise ValueError("history is not a list of evaluations")
            return cls(path, content["history"], float(content["train_seconds"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it, the run can still be resumed") from error

    def add(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after ``iteration`` steps; a repeated one replaces the earlier one."""
        self.entries = [e for e in self.entries if e["iteration"] != iteration]
        self.entries.append({"iteration": iteration, "metrics": dict(metrics)})
        self.entries.sort(key=lambda e: e["iteration"])
        self.save()

    @property
    def iterations(self) -> list[int]:
        """Finished iterations at each evaluation."""
        return [entry["iteration"] for entry in self.entries]

    def cut(self, done: int) -> None:
        """Forget evaluations after ``done`` iterations, where a resumed run continues: it makes them again."""
        self.entries = [entry for entry in self.entries if entry["iteration"] <= done]

    def save(self) -> None:
        """Write history.json."""
        write_json(self.path, {"train_seconds": self.train_seconds, "history": self.entries})


def run_header(
    cfg: CfgNode,
    config_name: str,
    init: Mapping[str, Any],
    engine: Engine,
    *,
    world_size: int,
    changes: list[dict[str, Any]],
) -> dict[str, Any]:
    """The part of a result that is known before training: config, init, seed, engine, data sets, provenance.

    ``changes``: deciding settings that were changed on a resume, [{"iteration": int, "changed": {key: [old, new]}}].
    """
    train, test = ([get_dataset(name) for name in cfg.DATASETS[part]] for part in ("TRAIN", "TEST"))
    return {
        "schema": SCHEMA,
        "status": "failed",
        "error": None,
        "config": describe_config(cfg, config_name),
        "protocol": protocol_of(flatten(cfg)),
        "init": dict(init),
        "seed": cfg.SEED,
        "engine": describe_engine(engine),
        "world_size": world_size,
        "changes": changes,
        "datasets": {part.lower(): describe_sets(cfg, part) for part in ("TRAIN", "TEST")},
        "findings": finding_records(train, test),
        "provenance": provenance(),
    }


def describe_sets(cfg: CfgNode, part: str) -> list[dict[str, Any]]:
    """The entries of DATASETS.TRAIN or TEST; a detector that is given proposals has the digest of their files, too."""
    files = cfg.DATASETS[f"PROPOSAL_FILES_{part}"] if cfg.MODEL.LOAD_PROPOSALS else ()
    entries = [describe_dataset(get_dataset(name)) for name in cfg.DATASETS[part]]
    return [{**one, "proposals": sha256_file(file)} for one, file in zip(entries, files)] if files else entries


def describe_config(cfg: CfgNode, name: str) -> dict[str, Any]:
    """The entry of a config: its name, and the digest and values of what two runs must share."""
    return {"name": name, "sha256": config_sha256(cfg), "flat": recipe(cfg)}


def describe_engine(engine: Engine) -> dict[str, Any]:
    """The entry of an engine: its name and the versions of what it runs on."""
    return {"name": engine.name, "versions": engine.versions()}


def describe_dataset(spec: DatasetSpec) -> dict[str, Any]:
    """The entry of a data set: its name, the digest of its annotations, its number of images, and of those watched."""
    images, watched = len(spec.summary.image_ids), len(spec.summary.watched)
    return {"name": spec.name, "sha256": spec.sha256(), "images": images, "images_watched": watched}


def write_finished(
    folder: Path,
    header: Mapping[str, Any],
    *,
    summary: TrainSummary,
    history: History,
    by_dataset: Mapping[str, Any],
    evaluators: list[str],
    evaluate_seconds: float,
    detections: list[str],
) -> dict[str, Any]:
    """Write result.json of a finished run and return it; ``metrics`` are those of the first test set."""
    result = {
        **header,
        "status": "finished",
        "evaluator": "+".join(dict.fromkeys(evaluators)),
        "iterations": summary.iterations,
        "backbone_sha256": summary.backbone_sha256,  # of a frozen backbone, the same at the start and at the end
        "metrics": next(iter(by_dataset.values()), {}),
        "metrics_by_dataset": dict(by_dataset),
        "history": history.entries,
        "seconds": {"train": history.train_seconds, "evaluate": evaluate_seconds},
        "seconds_per_iteration": summary.seconds_per_iteration,
        "detections": detections,
        "peak_memory_mb": max(summary.peak_memory_mb, peak_memory_mb()),
        "hardware": hardware(),
    }
    write_json(folder / RESULT, result)
    return result


def write_failed(folder: Path, header: Mapping[str, Any], error: str) -> None:
    """Write result.json of a run that ended with an error, so that a report can say why a number is missing."""
    write_json(folder / RESULT, {**header, "status": "failed", "error": error, "hardware": hardware()})


def read_result(folder: Path, needs: Iterable[str] = ()) -> dict[str, Any] | None:
    """The result.json of a run folder, or None. Raises UserError if it is damaged, malformed or lacks ``needs``."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        json.dumps(
            content, ensure_ascii=False
        ).encode()  # ValueError for half a surrogate pair, which no report can hold
        if content["schema"] != SCHEMA:
            raise UserError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}")
        if problem := result_problem(content, needs):
            raise ValueError(problem)
        return content
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a result ({error}); remove it and run again") from error


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
