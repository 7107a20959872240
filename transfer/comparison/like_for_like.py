"""Runs are compared only when they differ in nothing but the initialisation and the seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.records.run import LATER_KEYS, Run
from transfer.records.subsets import KEYS, subset_of


@dataclass(frozen=True)
class Allowed:
    """A key in which the compared runs differ and may, by --allow; the report prints it in red."""

    key: str
    values: Mapping[str, Any]  # init -> value

    @property
    def by_init(self) -> str:
        """The values in words."""
        return ", ".join(f"{init}: {value}" for init, value in self.values.items())


def check_equal(table: str, runs: Sequence[Run], allow: Collection[str]) -> list[Allowed]:
    """Keys in which ``runs`` differ and may. Raises UserError naming every key that may not, and the first two runs.

    A run whose own settings changed on a resume is no better than two runs that differ in them: refused by key too.
    Where every seed has a subset of the training images of its own, the runs of a seed must have the same.
    """
    if not runs:
        return []
    changed_on_resume = _check_changes(table, runs, allow)
    differing = _differing_by_seed(runs) if on_own_subsets(runs) else _differing(runs)
    refused = sorted(key for key in differing if not _is_allowed(key, allow))
    if refused:
        key = refused[0]
        first, other = differing[key]
        raise UserError(
            f"{table}: runs differ in {listed(refused, 8)} besides their "
            f"initialisation ({key}: {first.must_agree.get(key)!r} in {first.folder}, {other.must_agree.get(key)!r} in "
            f"{other.folder}); not like for like: make them equal, or --allow {key} and see it in red in the report"
        )
    different = [Allowed(key, {run.init: run.must_agree.get(key) for run in runs}) for key in sorted(differing)]
    return [*different, *changed_on_resume]


def on_own_subsets(runs: Sequence[Run]) -> bool:
    """Whether every run was trained on the subset that its fine-tuning seed drew."""
    return bool(runs) and all(subset_of(run.must_agree) == run.seed for run in runs)


def _differing_by_seed(runs: Sequence[Run]) -> dict[str, tuple[Run, Run]]:
    """``_differing`` within each seed, and between the seeds for everything but the subset."""
    differing: dict[str, tuple[Run, Run]] = {}
    for seed in dict.fromkeys(run.seed for run in runs):
        differing |= _differing([run for run in runs if run.seed == seed])
    rest = [replace(r, must_agree={k: v for k, v in r.must_agree.items() if k not in KEYS}) for r in runs]
    return {**_differing(rest), **differing}


def _differing(runs: Sequence[Run]) -> dict[str, tuple[Run, Run]]:
    """Key -> the first two runs that differ in it. A key that a run could not record yet is not compared for it."""
    differing: dict[str, tuple[Run, Run]] = {}
    for run in runs[1:]:
        if run.must_agree == runs[0].must_agree:
            continue
        for key in runs[0].must_agree.keys() | run.must_agree.keys():
            if key not in LATER_KEYS and runs[0].must_agree.get(key) != run.must_agree.get(key):
                differing.setdefault(key, (runs[0], run))
    for key in LATER_KEYS:
        recorded = [run for run in runs if key in run.must_agree]
        for run in recorded[1:]:
            if run.must_agree[key] != recorded[0].must_agree[key]:
                differing.setdefault(key, (recorded[0], run))
    return differing


def _check_changes(table: str, runs: Sequence[Run], allow: Collection[str]) -> list[Allowed]:
    """Settings that were changed when a run was resumed. Raises UserError naming run and key of one not allowed."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        for change in run.record.get("changes") or []:
            for key, (before, now) in change["changed"].items():
                text = f"{before} until iteration {change['iteration']}, then {now}"
                if not _is_allowed(key, allow):
                    raise UserError(
                        f"{table}: {run.folder} was not made with one setting throughout: {key} was {text}; run it "
                        f"again, or --allow {key} and see it in red in the report"
                    )
                values = found.setdefault(f"{key} (changed on resume)", {})
                values[run.init] = f"{values[run.init]}; {text}" if run.init in values else text
    return [Allowed(key, values) for key, values in sorted(found.items())]


def _is_allowed(key: str, allow: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in allow)
