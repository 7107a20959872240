"""Overall progress of a plan, with an ETA: every stage counts by its estimated seconds, running ones by their share."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from transfer.stages import Stage

USUAL_SECONDS = {"prepare": 10.0, "pretrain": 120.0, "convert": 10.0, "split": 5.0, "train": 60.0}
BAR = "{l_bar}{bar}| {elapsed} elapsed, {remaining} left{postfix}"


class PlanProgress:
    """``with PlanProgress(stages) as progress:`` a bar on a terminal, plain lines elsewhere."""

    def __init__(self, stages: Sequence[Stage], seconds: Mapping[str, float] | None = None) -> None:
        seconds = seconds or {}
        self._stages = {stage.name: stage for stage in stages}
        self._weight = {s.name: max(seconds.get(s.name) or USUAL_SECONDS[s.kind], 0.1) for s in stages}
        self._bar: Any = tqdm(total=sum(self._weight.values()), bar_format=BAR, disable=None)
        self._found: set[str] = set()

    def __enter__(self) -> PlanProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        tqdm.write(text.rstrip())

    def waiting(self, name: str) -> None:
        """Show that a stage is being run by another runner."""
        self._bar.set_postfix_str(f"waiting for another runner: {name}", refresh=False)

    def update(self, running: Collection[str], outcomes: Mapping[str, Any]) -> None:
        """Redraw from the stages that run and those that have ended."""
        if self._bar.disable:
            return
        done = sum(self._weight[name] for name in outcomes)
        reused = {name for name, outcome in outcomes.items() if outcome.seconds == 0} - self._found
        self._found |= reused
        self._bar.initial += sum(self._weight[name] for name in reused)  # found finished: says nothing about the pace
        shares = {name: share_done(self._stages[name]) for name in running}
        self._bar.n = done + sum(self._weight[name] * share for name, share in shares.items())
        if running:
            shown = ", ".join(f"{name} {share:.0%}" if share else name for name, share in sorted(shares.items()))
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.refresh()


def share_done(stage: Stage) -> float:
    """How far a running training is: last iteration in its metrics.json over its config's MAX_ITER; 0 when unknown."""
    last = last_record(stage.folder / "metrics.json")
    total = last.get("max_iteration") or max_iterations(stage.folder / "config.yaml")
    iteration = last.get("iteration")
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
            continue  # torn, or cut by the seek
        if isinstance(value, dict):
            return value
    return {}


def max_iterations(config: Path) -> int:
    """SOLVER.MAX_ITER of a dumped config without loading it; 0 when it is not there."""
    match = re.search(r"^\s+MAX_ITER: (\d+)", config.read_text(), re.MULTILINE) if config.is_file() else None
    return int(match[1]) if match else 0
