"""Runs are compared only when they differ in nothing but the initialisation and the seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.records.run import Run


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
    """
    if not runs:
        return []
    changed_on_resume = _check_changes(table, runs, allow)
    first = runs[0]
    differing: dict[str, Run] = {}
    for run in runs[1:]:
        if run.must_agree == first.must_agree:
            continue
        for key in first.must_agree.keys() | run.must_agree.keys():
            if first.must_agree.get(key) != run.must_agree.get(key):
                differing.setdefault(key, run)
    refused = sorted(key for key in differing if not _is_allowed(key, allow))
    if refused:
        key, other = refused[0], differing[refused[0]]
        raise UserError(
            f"{table}: runs differ in {listed(refused, 8)} besides their "
            f"initialisation ({key}: {first.must_agree.get(key)!r} in {first.folder}, {other.must_agree.get(key)!r} in "
            f"{other.folder}); not like for like: make them equal, or --allow {key} and see it in red in the report"
        )
    different = [Allowed(key, {run.init: run.must_agree.get(key) for run in runs}) for key in sorted(differing)]
    return [*different, *changed_on_resume]


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
