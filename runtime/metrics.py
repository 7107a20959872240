"""Training metrics: metrics.json in Detectron2's JSON-lines form, and TensorBoard events."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class MetricsWriter:
    """Appends one JSON line per call to ``folder/metrics.json`` and mirrors the scalars to TensorBoard events.

    ``first`` is the first iteration that will be written: what an interrupted run wrote from there on is dropped, in
    metrics.json by truncation, in TensorBoard by its marker of a restart. None drops nothing.
    """

    def __init__(self, folder: str | Path, tensorboard: bool = True, first: int | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if first is not None:
            cut_metrics(self.folder / "metrics.json", first)
        self._end_torn_line()
        self._file = open(self.folder / "metrics.json", "a")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder), purge_step=first)

    def _end_torn_line(self) -> None:
        # a killed run can leave half a line: end it, so that the next record starts on its own line
        path = self.folder / "metrics.json"
        if path.exists() and path.stat().st_size:
            with open(path, "rb+") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def write(self, iteration: int, **scalars: float) -> None:
        """Record scalars of one iteration; a non-finite value is null in the file."""
        clean = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        self._file.write(json.dumps({"iteration": iteration, **clean}) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in scalars.items():
                self._board.add_scalar(key, value, iteration)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def cut_metrics(path: Path, first: int) -> None:
    """Truncate a metrics.json before its first record of iteration ``first`` or later, or its torn last line.

    In place, since a writer may already have the file open for appending. A log of an earlier version can hold an
    iteration twice; what follows the cut repeats what precedes it, and goes too.
    """
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        position = 0
        for line in file:
            record = _parsed(line)
            if not line.endswith(b"\n") or (record is not None and record["iteration"] >= first):
                file.truncate(position)
                return
            position += len(line)


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    """The record of one line; None for a torn line."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("iteration"), int) else None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Records of a metrics.json in order of iteration.

    An iteration can have several records (losses, evaluation): the last wins, key by key. A torn line is skipped.
    """
    merged: dict[int, dict[str, Any]] = {}
    for line in Path(path).read_text().splitlines():
        if (record := _parsed(line)) is not None:
            merged.setdefault(record["iteration"], {}).update(record)
    return [merged[i] for i in sorted(merged)]
