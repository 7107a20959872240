"""One fine-tuning run, from a complete config to result.json, in one of its processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import sha256_file, write_json, write_text
from runtime.errors import UserError
from runtime.logs import get_logger, setup_logging
from runtime.provenance import provenance
from runtime.run_folder import RunLock
from runtime.stop import StopSignal
from transfer.config import dump_config
from transfer.config.expectations import failed_expectations
from transfer.data.catalog import get_dataset
from transfer.data.set_findings import finding_records
from transfer.engines.protocol import Engine, TrainSummary
from transfer.engines.training.choices import finds_proposals
from transfer.engines.weights.checkpoints import SETTINGS_KEY, load_latest
from transfer.evaluate import Metrics, evaluate, evaluator_id
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.data_watch import DataWatch
from transfer.fine_tuning.preparation import FINAL_WEIGHTS, refuse_used_folder
from transfer.fine_tuning.watching import log_pictures, shown_in_wandb
from transfer.records import result_file as results
from transfer.records.classes import write_classes
from transfer.records.deciding_settings import RunSettings, run_settings

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

log = get_logger("run")


@dataclass(frozen=True)
class Job:
    """Everything a run needs. ``cfg`` is complete and frozen; ``init`` is the entry of result.json."""

    cfg: CfgNode
    config_name: str
    folder: Path
    init: Mapping[str, Any]
    engine: Engine
    evaluator: str
    resume: bool
    allow_change: tuple[str, ...] = ()
    rank: int = 0
    world_size: int = 1
    wandb: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def evaluators(self, datasets: Iterable[str]) -> list[str]:
        """The id of the evaluator of each of these data sets."""
        proposals = finds_proposals(self.cfg)
        return [evaluator_id(get_dataset(name), self.evaluator, proposals=proposals) for name in datasets]

    def metrics(self, dataset: str, detections: Detections) -> Metrics:
        """Metrics of a data set's detections by task."""
        sigmas = self.cfg.TEST.KEYPOINT_OKS_SIGMAS
        return evaluate(get_dataset(dataset), detections, evaluator=self.evaluator, sigmas=sigmas)[0]


def train_and_evaluate(job: Job) -> int:
    """Train, detect, evaluate and write result.json; returns the exit code (143 and the like when stopped).

    Raises UserError for a folder that already holds a run. When training or the final evaluation fails, result.json
    records why before the error is raised.
    """
    refuse_used_folder(job.folder, resume=job.resume)
    with _lock(job):
        setup_logging(job.folder, job.rank)
        settings, done = settings_to_continue(job)
        watch = _watch(job)
        header: dict[str, Any] = {}
        if job.is_main:
            write_text(job.folder / "config.yaml", dump_config(job.cfg))
            write_classes(job.folder, get_dataset(job.cfg.DATASETS.TRAIN[0]))
            header = results.run_header(
                job.cfg,
                job.config_name,
                job.init,
                job.engine,
                world_size=job.world_size,
                changes=settings.changes,
            )
        history = results.History.load(job.folder, job.resume)
        history.cut(done)
        try:
            shown = shown_in_wandb(job.folder, header) if job.wandb and job.is_main else contextlib.nullcontext()
            with shown as session:
                with StopSignal() as stop:
                    summary = _train(job, history, stop, settings, watch)
                    if summary.stopped:
                        log.info("stopped after %d iterations; --resume continues", summary.iterations)
                        return stop.exit_code
                return _finish(job, header, summary, history, watch, session)
        except (UserError, FloatingPointError) as error:
            if job.is_main:
                with contextlib.suppress(UserError):  # on a full disk, the first error is the one to report
                    results.write_failed(job.folder, header, str(error))
            raise error if isinstance(error, UserError) else UserError(str(error)) from error


def _watch(job: Job, parts: Sequence[str] = ("TRAIN", "TEST")) -> DataWatch | None:
    """Of the data sets of these ``parts``, in the process that writes the results; None in the others."""
    if not job.is_main:
        return None
    datasets, given = job.cfg.DATASETS, job.cfg.MODEL.LOAD_PROPOSALS
    proposals = [file for part in parts for file in datasets[f"PROPOSAL_FILES_{part}"]] if given else []
    return DataWatch((get_dataset(name) for part in parts for name in datasets[part]), proposals)


def _train(
    job: Job, history: results.History, stop: StopSignal, settings: RunSettings, watch: DataWatch | None
) -> TrainSummary:
    before = history.train_seconds
    summary = job.engine.train(
        job.cfg,
        job.folder,
        resume=job.resume,
        stop=stop,
        after_eval=lambda iteration, detections: _in_training(job, history, watch, iteration, detections),
        settings=settings.entry(),
        evaluated=history.iterations,
    )
    history.train_seconds = before + summary.seconds
    if job.is_main:
        history.save()
    return summary


def settings_to_continue(job: Job) -> tuple[RunSettings, int]:
    """What decides the result, compared with the checkpoint that the run resumes, and the finished iterations there.

    Raises UserError for a difference that is not in ``allow_change``. Nothing of the run has been overwritten by then.
    """
    evaluators = job.evaluators(job.cfg.DATASETS.TEST)
    settings = run_settings(job.cfg, job.init, job.engine.name, job.world_size, evaluators)
    latest = load_latest(job.folder, warn=False) if job.resume else None  # the engine warns when it loads it
    if latest is None:
        return settings, 0
    name, content = latest
    last = content.get("iteration")
    done = last + 1 if isinstance(last, int) else 0
    settings.continue_from(content.get(SETTINGS_KEY), job.folder / name, done, job.allow_change)
    return settings, done


def _lock(job: Job) -> contextlib.AbstractContextManager[Any]:
    return RunLock(job.folder) if job.is_main else contextlib.nullcontext()


def _in_training(
    job: Job, history: results.History, watch: DataWatch | None, iteration: int, by_name: Mapping[str, Detections]
) -> dict[str, float]:
    """Evaluate the detections of an intermediate model; its scalars go to metrics.json."""
    by_dataset = {name: job.metrics(name, detections) for name, detections in by_name.items()}
    if watch is not None:
        watch.check()
        history.add(iteration, next(iter(by_dataset.values()), {}))
        for name, detections in by_name.items():
            log_pictures(job.folder, iteration, get_dataset(name), detections)
    return _scalars(by_dataset)


def _scalars(by_dataset: Mapping[str, Metrics]) -> dict[str, float]:
    """Metrics by TASK/METRIC, with several test sets by SET/TASK/METRIC."""
    several = len(by_dataset) > 1
    return {
        f"{name}/{task}/{key}" if several else f"{task}/{key}": value
        for name, metrics in by_dataset.items()
        for task, values in metrics.items()
        for key, value in values.items()
    }


def _finish(
    job: Job,
    header: Mapping[str, Any],
    summary: TrainSummary,
    history: results.History,
    watch: DataWatch | None,
    session: Any,
) -> int:
    began = time.perf_counter()
    by_dataset, names = detect_and_evaluate(job, job.folder / FINAL_WEIGHTS)
    if watch is None:
        return 0
    watch.check()
    changed = watch.findings()
    for one in changed:
        log.warning("data set %s: %s: %d, e.g. %s: %s", *one.values())
    history.add(summary.iterations, next(iter(by_dataset.values()), {}))
    result = results.write_finished(
        job.folder,
        {**header, "findings": [*header["findings"], *changed]},
        summary=summary,
        history=history,
        by_dataset=by_dataset,
        evaluators=job.evaluators(by_dataset),
        evaluate_seconds=time.perf_counter() - began,
        detections=names,
    )
    if session is not None:
        session.summary.update(_scalars(by_dataset))
    log.info("%s", metrics_table(by_dataset))
    log.info("wrote %s", job.folder / results.RESULT)
    return _check_expectations(job, result["metrics"])


def detect_and_evaluate(job: Job, weights: Path, prefix: str = "detections") -> tuple[dict[str, Any], list[str]]:
    """Detections of every test set into ``<prefix>_<k>.npz``; returns metrics by data set and the file names."""
    by_dataset: dict[str, Any] = {}
    names: list[str] = []
    for index, name in enumerate(job.cfg.DATASETS.TEST):
        detections = job.engine.detect(job.cfg, weights, name)
        if job.is_main:
            names.append(f"{prefix}_{index}.npz")
            detections.save(job.folder / names[-1])
            by_dataset[name] = job.metrics(name, detections)
    return by_dataset, names


def evaluate_only(job: Job, weights: Path) -> int:
    """--eval-only: detect with ``weights``, print metrics, write evaluation.json; result.json does not change."""
    with _lock(job):
        setup_logging(job.folder, job.rank)
        watch = _watch(job, ("TEST",))
        by_dataset, _ = detect_and_evaluate(job, weights, prefix="evaluation")
        if watch is None:
            return 0
        watch.check()
        record: dict[str, Any] = {
            "weights": str(weights),
            "weights_sha256": sha256_file(weights),
            "config": results.describe_config(job.cfg, job.config_name),
            "engine": results.describe_engine(job.engine),
            "datasets": results.describe_sets(job.cfg, "TEST"),
            "metrics_by_dataset": by_dataset,
            "provenance": provenance(),
        }
        record["evaluators"] = job.evaluators(by_dataset)
        record["findings"] = finding_records((), [get_dataset(name) for name in by_dataset])
        record["findings"] += watch.findings()
        write_json(job.folder / "evaluation.json", record)
        log.info("%s", metrics_table(by_dataset))
        return _check_expectations(job, next(iter(by_dataset.values()), {}))


def _check_expectations(job: Job, metrics: Mapping[str, Any]) -> int:
    failures = failed_expectations(job.cfg.TEST.EXPECTED_RESULTS, metrics)
    for failure in failures:
        log.error("%s", failure)
    return 1 if failures else 0


def metrics_table(by_dataset: Mapping[str, Any]) -> str:
    """The summary metrics of each data set and task as lines of text; per-class values are left to result.json."""
    lines = []
    for name, metrics in by_dataset.items():
        for task, values in metrics.items():
            summary = "  ".join(f"{k} {v:.2f}" for k, v in values.items() if not k.startswith("AP-"))
            lines.append(f"{name} {task}: {summary}")
    return "\n".join(lines)
