"""Candidates of a comparison, each in a process of its own, measured in turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

Turns = dict[str, Callable[[], Any]]


class Seconds(NamedTuple):
    """Seconds of one turn, by the clock and of CPU time."""

    wall: float
    cpu: float


class Apart:
    """``Apart(build, *arguments)`` starts a process, builds its turns there by ``build(*arguments)`` and keeps them."""

    def __init__(self, build: Callable[..., Turns], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, answers = context.Pipe()
        self._process = context.Process(target=_serve, args=(answers, build, arguments), daemon=True)
        self._process.start()
        answers.close()

    def measure(self, name: str) -> Seconds:
        """Run the turn ``name`` once."""
        self._pipe.send(name)
        return Seconds(*self._pipe.recv())

    def close(self) -> None:
        """End the process."""
        self._pipe.send("")
        self._process.join()


def measure(turn: Callable[[], Any]) -> Seconds:
    """Seconds of one call in this process, until the GPU has finished its work too."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _serve(answers: Connection, build: Callable[..., Turns], arguments: tuple[Any, ...]) -> None:
    turns = build(*arguments)
    while name := answers.recv():
        answers.send(tuple(measure(turns[name])))
