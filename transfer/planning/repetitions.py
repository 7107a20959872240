"""How often a plan repeats everything: fine-tuning seeds, fixed or added until decided, and pretraining seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.listing import listed
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.verdicts import MARGIN
from transfer.planning.fields import Fields

REPETITIONS = "repetitions"
MOST_REPETITIONS = 1000
UNTIL_KEYS = ("until", "margin", "max", "min")
DEFAULT_MOST = 10
SEED_LIMIT = 2**31  # what every generator takes


@dataclass(frozen=True)
class Repetitions:
    """Seeds as they are used, i.e. with --seed-offset added."""

    seeds: tuple[int, ...]  # with ``stopping`` those to begin with
    pretrain_seeds: tuple[int, ...]  # empty: every initialisation is pretrained once, with the seed in its argv
    margin: float  # points of AP within which two initialisations count as equivalent
    stopping: SequentialPlan | None = None
    of_everything: bool = False  # the run of each pretraining seed is fine-tuned with the seed in the same place only


def read_repetitions(fields: Fields, offset: int) -> Repetitions:
    """``seeds`` and ``pretrain_seeds``, or ``repetitions`` in place of both, and ``margin``. Raises UserError."""
    if REPETITIONS in fields:
        return _of_everything(fields, offset)
    pretrain_seeds = _shifted(fields, "pretrain_seeds", offset) if "pretrain_seeds" in fields else ()
    margin = _margin(fields, MARGIN)
    if not isinstance(fields.value.get("seeds"), dict):
        return Repetitions(_shifted(fields, "seeds", offset), pretrain_seeds, margin)
    rule = Fields(fields.value["seeds"], f"{fields.where}: seeds", UNTIL_KEYS)
    if rule.need("until", str) != "decided":
        raise UserError(f"{rule.where}: until must be decided, not {rule.value['until']!r}")
    if len(pretrain_seeds) > 1:
        raise UserError(
            f"{rule.where}: until: decided compares weights, so it cannot be combined with several pretrain_seeds; "
            "give a list of seeds"
        )
    if "margin" in rule and "margin" in fields and _margin(rule, margin) != margin:
        raise UserError(f"{rule.where}: margin is {_margin(rule, margin):g} here and {margin:g} in the plan; give one")
    margin = _margin(rule, margin)
    least, most = rule.get("min", int, 2), rule.get("max", int, DEFAULT_MOST)
    if not 2 <= least <= most:
        raise UserError(f"{rule.where}: must be 2 <= min <= max, not min: {least}, max: {most}")
    stopping = SequentialPlan(least, most, margin)
    seeds = tuple(range(offset, offset + least))
    check_seeds([offset, offset + most - 1], f"{rule.where}: seeds")
    return Repetitions(seeds, pretrain_seeds, margin, stopping)


def _of_everything(fields: Fields, offset: int) -> Repetitions:
    """``repetitions``: a list of seeds, or their number."""
    if also := [key for key in ("seeds", "pretrain_seeds") if key in fields]:
        raise UserError(
            f"{fields.where}: {REPETITIONS} stands for seeds and pretrain_seeds; remove {also[0]}, or {REPETITIONS}"
        )
    number = fields.value[REPETITIONS]
    if isinstance(number, int) and not isinstance(number, bool):
        if not 2 <= number <= MOST_REPETITIONS:
            raise UserError(f"{fields.where}: {REPETITIONS} must be 2 to {MOST_REPETITIONS}, not {number}")
        seeds = tuple(range(offset, offset + number))
        check_seeds([seeds[0], seeds[-1]], f"{fields.where}: {REPETITIONS}")
    else:
        seeds = _shifted(fields, REPETITIONS, offset)
    if len(seeds) < 2:
        raise UserError(f"{fields.where}: one of {REPETITIONS} repeats nothing; give two or more, or use seeds")
    return Repetitions(seeds, seeds, _margin(fields, MARGIN), of_everything=True)


def check_something_is_pretrained(fields: Fields, pretrained: Mapping[str, bool]) -> None:
    """Raise UserError for a repetition of pretraining in a plan that pretrains nothing.

    ``pretrained``: initialisation -> whether the plan pretrains it.
    """
    if any(pretrained.values()):
        return
    none = f"the plan pretrains none of its inits ({listed(list(pretrained), 5)})"
    if REPETITIONS in fields:
        raise UserError(
            f"{fields.where}: {REPETITIONS} would repeat fine-tuning only, because {none}; write seeds in its place"
        )
    if "pretrain_seeds" in fields:
        raise UserError(
            f"{fields.where}: pretrain_seeds has nothing to repeat: {none}; remove it, or give an init a pretrain entry"
        )


def read_subset_seeds(fields: Fields, fractions: Sequence[float], searched: bool) -> bool:
    """``subset_seeds``: whether every fine-tuning seed trains on a subset of its own. Raises UserError.

    ``fractions``: the data_fraction of each config; ``searched``: whether a learning rate is searched.
    """
    if not fields.get("subset_seeds", bool, False):
        return False
    if all(fraction == 1 for fraction in fractions):
        raise UserError(f"{fields.where}: subset_seeds needs a config with a data_fraction below 1")
    if searched:
        raise UserError(
            f"{fields.where}: subset_seeds with a search of the rate: it would see labels that other subsets lack; "
            "give a rate"
        )
    return True


def check_seeds(seeds: Sequence[int], where: str) -> None:
    """Raise UserError for a seed that a generator cannot take."""
    if min(seeds) < 0 or max(seeds) >= SEED_LIMIT:
        raise UserError(f"{where} must be 0 or more and below 2^31, also with --seed-offset, not {listed(seeds, 5)}")


def _shifted(fields: Fields, key: str, offset: int) -> tuple[int, ...]:
    """The seeds in ``key``, as they are used."""
    seeds = fields.items(key, int)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(f"{fields.where}: {key} must be a list of different integers, 0 or more, not {seeds}")
    shifted = tuple(seed + offset for seed in seeds)
    check_seeds(shifted, f"{fields.where}: {key}")
    return shifted


def _margin(fields: Fields, default: float) -> float:
    margin = float(fields.get("margin", (int, float), default))
    if not 0 < margin < 100:
        raise UserError(f"{fields.where}: margin must be between 0 and 100 points of AP, not {margin:g}")
    return margin


@dataclass(frozen=True)
class Pretraining:
    """One pretraining run: arguments of pretrain/main.py, and the checkpoint that it ends with."""

    name: str  # "pretrainN" with several pretraining seeds, otherwise ""
    argv: tuple[str, ...]
    checkpoint: str


Resolve = Callable[[Mapping[str, str]], tuple[tuple[str, ...], str]]  # placeholders -> (argv, checkpoint)


def pretraining_runs(
    resolve: Resolve, fill: Mapping[str, str], seeds: Sequence[int], where: str
) -> tuple[Pretraining, ...]:
    """One pretraining run per seed, or the one that ``resolve`` describes when there are no ``seeds``.

    With several, {init} is INIT/pretrainN, so that each has a folder of its own. A command without {pretrain_seed} gets
    its seed by ``--seed``. Raises UserError when two runs would share a folder.
    """
    if not seeds:
        run = Pretraining("", *resolve(fill))
        _check_checkpoint(run, where)
        return (run,)
    runs = []
    probe = resolve({**fill, "pretrain_seed": "{pretrain_seed}"})[0]
    names_seed = any("{pretrain_seed}" in word for word in probe)
    for seed in seeds:
        name = f"pretrain{seed}" if len(seeds) > 1 else ""
        folder = {"init": f"{fill['init']}/{name}"} if name else {}
        argv, checkpoint = resolve({**fill, **folder, "pretrain_seed": str(seed)})
        runs.append(Pretraining(name, argv if names_seed else with_seed(argv, seed), checkpoint))
    folders, outputs = {Path(run.checkpoint).parent for run in runs}, {output_of(run.argv) for run in runs}
    if min(len(folders), len(outputs)) < len(runs):
        raise UserError(
            f"{where}: with several pretrain_seeds each run needs a folder of its own; "
            "write {init} in --output of argv and in checkpoint"
        )
    for run in runs:
        _check_checkpoint(run, where)
    return tuple(runs)


def _check_checkpoint(run: Pretraining, where: str) -> None:
    """Raise UserError for a checkpoint outside of the run's folder: the file of another run would pass for its own."""
    output = output_of(run.argv)
    if output and Path(os.path.normpath(output)) != Path(os.path.normpath(run.checkpoint)).parent:
        raise UserError(f"{where}: checkpoint {run.checkpoint} is not in {output}, the --output of argv; correct one")


def check_shared_checkpoints(runs: Iterable[tuple[str, Pretraining]]) -> None:
    """Raise UserError for two different pretraining commands that share a folder, given as (where in the plan, run).

    The second would be taken for finished as soon as the first is, and both initialisations would be one backbone. The
    same command twice is one pretraining that two initialisations convert or fine-tune differently.
    """
    known: dict[Path, tuple[str, Pretraining]] = {}
    for where, run in runs:
        other, first = known.setdefault(Path(os.path.normpath(run.checkpoint)).parent, (where, run))
        if first.argv != run.argv:
            raise UserError(
                f"{where} and {other} have different commands but write to the same folder, that of {run.checkpoint}; "
                "give each its own, for example with {init}"
            )


def with_seed(argv: Sequence[str], seed: int) -> tuple[str, ...]:
    """``argv`` with ``--seed`` set to ``seed``: replaced where it is, or appended."""
    words = list(argv)
    for i, word in enumerate(words):
        if word == "--seed" and i + 1 < len(words):
            return (*words[: i + 1], str(seed), *words[i + 2 :])
        if word.startswith("--seed="):
            return (*words[:i], f"--seed={seed}", *words[i + 1 :])
    return (*words, "--seed", str(seed))


def output_of(argv: Sequence[str]) -> str:
    """The value of ``--output`` in a command, the last one as in the command itself; "" without one."""
    output = ""
    for word, following in zip(argv, [*argv[1:], ""]):
        if word == "--output":
            output = following
        elif word.startswith("--output="):
            output = word.partition("=")[2]
    return output
