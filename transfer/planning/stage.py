"""A stage of a plan: one command, what it waits for, and the file that shows that it has finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One command of a plan. ``late`` returns arguments that are known only after the stages in ``needs`` have run."""

    name: str
    kind: str  # prepare | pretrain | convert | split | train
    argv: tuple[str, ...]  # script of this repository, then its arguments
    folder: Path  # where it writes
    proof: Path  # the file that exists once the stage has finished
    needs: tuple[str, ...] = ()  # must have finished
    after: tuple[str, ...] = ()  # must have ended; a failure counts as an answer (a learning rate that diverges)
    late: Callable[[], tuple[str, ...]] = field(default=tuple, compare=False)
    weights: Path | None = None  # backbone a training starts from
    seed: int | None = None
    cell: Cell | None = None

    def command(self) -> tuple[str, ...]:
        """The whole command, late arguments included. Raises UserError when what they are read from is missing."""
        return (*self.argv, *self.late())


@dataclass(frozen=True)
class Cell:
    """Where one number of the table comes from."""

    table: str
    config: str
    init: str
    seed: int
    folder: Path
    is_search: bool = False  # a run of a learning-rate search, which no table shows


def with_needs(stages: Sequence[Stage], names: Iterable[str]) -> list[Stage]:
    """The ``stages`` of these names and everything that they wait for, in their order."""
    by_name = {stage.name: stage for stage in stages}
    wanted, keep = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        if name not in keep:
            keep.add(name)
            wanted += (*by_name[name].needs, *by_name[name].after)
    return [stage for stage in stages if stage.name in keep]
