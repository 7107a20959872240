"""What a user asks for on the command line: data, initialisations, hours; checked before anything is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.pasteable import pasteable
from transfer.comparison.verdicts import MARGIN
from transfer.fine_tuning.initialisation import DETECTOR_FILE
from transfer.fine_tuning.weight_addresses import web_address
from transfer.planning.placeholders import NAME, check_one_line

RANDOM = "random"  # the initialisation that every plan has
SUPERVISED = "supervised"  # a name that makes an initialisation the reference
OUTPUT = "runs/own"


@dataclass(frozen=True)
class Request:
    """``inits``: name -> file of weights. ``hours``: None where time does not matter. ``margin`` in points of AP."""

    data: tuple[str, ...]
    test: tuple[str, ...]
    inits: Mapping[str, str]
    output: Path
    hours: float | None = None
    margin: float = MARGIN
    words: tuple[str, ...] = field(default=(), compare=False)  # the command line, for the head of the plan

    @classmethod
    def of(cls, args: argparse.Namespace, words: Sequence[str]) -> Request:
        """The request of a parsed command line. Raises UserError for what cannot be run."""
        if not args.test:
            raise UserError(
                "--data needs --test, images that no training sees; transfer/splits.py holds a part of a set out"
            )
        if args.hours is not None and not 0 < args.hours < 10_000:
            raise UserError(f"--hours {args.hours:g}: give a number above 0")
        inits = _inits(args.init)
        if not inits:
            raise UserError("--data needs at least one --init NAME=FILE: weights to compare with random initialisation")
        for name in (*args.data, *args.test):
            check_one_line(name, "--data and --test")
        return cls(
            tuple(args.data),
            tuple(args.test),
            inits,
            Path(args.output or OUTPUT),
            args.hours,
            MARGIN if args.margin is None else args.margin,
            tuple(words),
        )

    @property
    def names(self) -> list[str]:
        """All initialisations, in the order of the table."""
        return [RANDOM, *self.inits]

    @property
    def plan_path(self) -> Path:
        """Where the plan is written."""
        return self.output / "plan.yaml"

    @property
    def command(self) -> str:
        """The command line as it was typed."""
        return pasteable("transfer/measure_gap.py", self.words)

    def as_record(self) -> dict[str, Any]:
        """What decides the plan, in JSON form."""
        return {
            "data": list(self.data),
            "test": list(self.test),
            "init": [f"{name}={file}" for name, file in self.inits.items()],
            "hours": self.hours,
            "margin": self.margin,
        }


def _inits(given: Sequence[str]) -> dict[str, str]:
    inits: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise UserError(f"--init {text}: write NAME=FILE, for example --init mine=checkpoint.pth")
        if not NAME.fullmatch(name):
            raise UserError(f"--init {text}: {name!r} is not a valid name; use letters, digits and ._+-")
        if name == RANDOM:
            raise UserError(f"--init {text}: random initialisation is always compared; give the file another name")
        if name in inits:
            raise UserError(f"--init {name} is given twice; give each file a name of its own")
        inits[name] = _weights(name, check_one_line(file, "--init"))
    return inits


def _weights(name: str, file: str) -> str:
    if web_address(file) is not None:
        raise UserError(f"--init {name}={file}: nothing is downloaded here; download it and give the file")
    path = Path(file).expanduser()
    if path.is_dir() and (path / DETECTOR_FILE).is_file():
        path /= DETECTOR_FILE
    if not path.is_file():
        raise UserError(f"--init {name}={file}: no such file")
    return str(path)
