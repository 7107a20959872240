"""Twenty steps of the detector that a plan will train, to know what it costs on this machine before hours are spent."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic import read_json
from runtime.errors import UserError
from runtime.logs import last_error
from runtime.stop import StopSignal
from transfer.planning.command_settings import override_words
from transfer.planning.launchers import Launcher
from transfer.planning.lr_search import split_names
from transfer.planning.own_data.schedule import Pace
from transfer.planning.runner import POLL_SECONDS
from transfer.planning.slurm.stage_commands import SHARED_SCRIPTS

STEPS = 20
STATISTICS = 5  # batches for batch norm's statistics
TEST_IMAGES = 40


def probe(
    config: str, overrides: Mapping[str, Any], train: Sequence[str], test: Sequence[str], test_images: int, folder: Path
) -> Pace:
    """Train ``STEPS`` steps from random weights into ``folder``, test on some images, and return what it took.

    The folder is removed afterwards. Raises UserError when the training fails, with its reason.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.perf_counter()
    names = override_words({"DATASETS.TRAIN": tuple(test)})
    share = min(1.0, TEST_IMAGES / test_images)
    split = ["transfer/splits.py", "--config-file", config, "--output", str(folder / "test"), "--fit", f"{share:.9g}"]
    _run([*split, *names], folder / "split.log")
    part = split_names(folder / "test", "TEST", "fit")
    settings = {
        **overrides,
        "DATASETS.TRAIN": tuple(train),
        part[0]: part[1],
        "SOLVER.MAX_ITER": STEPS,
        "SOLVER.STEPS": (),
        "SOLVER.WARMUP_ITERS": STEPS,
        "TEST.EVAL_PERIOD": 0,
        "TEST.PRECISE_BN.NUM_ITER": STATISTICS,
        "SEED": 0,
        "OUTPUT_DIR": str(folder / "run"),
    }
    started, used = time.perf_counter(), _children_seconds()
    command = [SHARED_SCRIPTS["train"], "--config-file", config, "--init", "random", *override_words(settings)]
    _run(command, folder / "train.log")
    whole, used = time.perf_counter() - started, _children_seconds() - used
    result = read_json(folder / "run" / "result.json")
    step, seconds = float(result["seconds_per_iteration"]), result["seconds"]
    tested = max(1, sum(int(one["images"]) for one in result["datasets"]["test"]))
    statistics = max(0.0, float(seconds["train"]) - STEPS * step) / STATISTICS
    shutil.rmtree(folder, ignore_errors=True)
    return Pace(
        start=max(0.0, whole - float(seconds["train"]) - float(seconds["evaluate"])),
        step=step,
        statistics=statistics,
        test_image=float(seconds["evaluate"]) / tested,
        memory_mb=float(result["peak_memory_mb"]),
        spent=time.perf_counter() - began,
        cores=used / max(whole, 1e-9),
    )


def _children_seconds() -> float:
    """CPU seconds of the processes that this one has started and that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run(command: list[str], log: Path) -> None:
    """Run a stage's command; a signal ends it too, and leaves with the exit code of the signal."""
    with open(log, "wb") as file, StopSignal() as stop:
        words = Launcher().command("train", command, log.parent)
        child = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        while child.poll() is None and not stop.requested:
            time.sleep(POLL_SECONDS)
        if stop.requested:
            child.terminate()
            child.wait()
            sys.exit(stop.exit_code)
    if child.returncode:
        raise UserError(f"a training of {STEPS} steps failed: {last_error(log)} (log {log})")
