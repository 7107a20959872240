"""Overall progress of a plan with an ETA. A stage counts by its seconds, measured once one of its kind has ended."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from runtime.errors import discard_output
from transfer.planning.stage import Stage

USUAL_SECONDS = {"prepare": 10.0, "pretrain": 120.0, "convert": 5.0, "split": 5.0, "train": 60.0}
BAR = "{l_bar}{bar}| {elapsed} elapsed, {remaining} left{postfix}"
CHECKPOINT = re.compile(r"checkpoint_(\d+)\.pth\.tar")


class PlanProgress:
    """``with PlanProgress(stages) as progress:`` a bar on a terminal, plain lines elsewhere."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._seconds = {stage.name: USUAL_SECONDS[stage.kind] for stage in stages}
        self._seen: set[str] = set()
        self._announced: set[str] = set()
        self._bar: Any = tqdm(total=sum(self._seconds.values()), bar_format=BAR, disable=None)

    def __enter__(self) -> PlanProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """Print one line above the bar. The stages go on where nobody reads it."""
        try:
            tqdm.write(text.rstrip())
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()

    def waiting(self, name: str) -> None:
        """Print once, and show on the bar, that another runner is running a stage."""
        if name not in self._announced:
            self._announced.add(name)
            self.say(f"{name}: waiting, since another runner works on it")
        self._bar.set_postfix_str(f"waiting for another runner: {name}", refresh=False)

    def update(self, running: Collection[str], outcomes: Mapping[str, Any]) -> None:
        """Redraw from the stages that run and those that have ended."""
        if self._bar.disable:  # no terminal: tqdm then has no fields to set
            return
        for name in outcomes.keys() - self._seen:
            self._seen.add(name)
            self._learn(name, outcomes[name].seconds, outcomes)
        shares = {name: share_done(self._stages[name]) for name in running}
        self._bar.total = sum(self._seconds.values())
        self._bar.n = sum(self._seconds[n] for n in outcomes) + sum(self._seconds[n] * s for n, s in shares.items())
        if running:
            shown = ", ".join(f"{name} {share:.0%}" if share else name for name, share in sorted(shares.items()))
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.refresh()

    def _learn(self, name: str, seconds: float, outcomes: Mapping[str, Any]) -> None:
        """Use the seconds a stage took, also for the stages of its kind that have not started."""
        if seconds == 0:  # it was finished before and says nothing about the pace
            self._bar.initial += self._seconds[name]
            return
        self._seconds[name] = seconds
        for other, stage in self._stages.items():
            if other not in outcomes and stage.kind == self._stages[name].kind:
                self._seconds[other] = seconds


def share_done(stage: Stage) -> float:
    """Share of a running stage that is done, by iterations of a training or epochs of a pretraining; 0 when unknown."""
    if stage.kind == "pretrain":
        last = CHECKPOINT.fullmatch(stage.proof.name)
        epochs = [int(m[1]) for p in stage.folder.glob("checkpoint_*.pth.tar") if (m := CHECKPOINT.fullmatch(p.name))]
        return min(1.0, (max(epochs) + 1) / (int(last[1]) + 1)) if last and epochs else 0.0
    total = max_iterations(stage.folder / "config.yaml")
    iteration = last_record(stage.folder / "metrics.json").get("iteration")
    return min(1.0, iteration / total) if total and isinstance(iteration, int) else 0.0


def last_record(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics.json, read from its end; {} when there is none."""
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue  # half-written, or cut by the seek
        if isinstance(value, dict):
            return value
    return {}


def max_iterations(config: Path) -> int:
    """SOLVER.MAX_ITER of a dumped config, read without loading it; 0 when it is absent."""
    match = re.search(r"^\s+MAX_ITER: (\d+)", config.read_text(), re.MULTILINE) if config.is_file() else None
    return int(match[1]) if match else 0
