"""The comparisons that a report answers in words, and their verdicts, adjusted for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transfer.comparison.gap import Gap, Row, Table
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.student import ALPHA
from transfer.comparison.verdicts import AHEAD, BEHIND, MARGIN, NONE, UNDECIDED, Verdict, verdicts

FLOOR = 0.1  # AP below which a detector has learned nothing
FAMILY_ALPHA = ALPHA / 2  # of differences and of equivalences, so that any wrong word has ALPHA in all
OPPOSITE = {AHEAD: BEHIND, BEHIND: AHEAD}

Key = tuple[str, str, str]  # table, initialisation, role of the reference


def learned_nothing(table: Table) -> bool:
    """Whether no initialisation reaches ``FLOOR``: such differences may be significant and still have no meaning."""
    return all(row.mean < FLOOR for row in table.headline_rows)


def is_mirror(table: Table, init: str, role: str) -> bool:
    """Whether the comparison is the reverse of one that the family has: random against supervised."""
    supervised = table.references.get("supervised")
    return role == "supervised" and init != supervised and init in table.references.values()


def family(tables: Sequence[Table]) -> dict[Key, tuple[Row, Gap]]:
    """Every comparison that is tested: headline metrics of all initialisations and configs, each pair once."""
    return {
        (table.name, row.init, role): (row, gap)
        for table in tables
        if not learned_nothing(table)
        for row in table.headline_rows
        for role, gap in row.gaps.items()
        if not is_mirror(table, row.init, role)
    }


def repeated(pairs: Mapping[Key, tuple[Row, Gap]], tables: Sequence[Table]) -> dict[Key, Key]:
    """Comparisons of runs that another table compares too -> the first one of the same runs: one piece of evidence.

    A table at own learning rates takes the runs of initialisations that have none as they are.
    """
    folders = {
        (table.name, init): frozenset(run.folder for run in table.runs if run.init == init and run.finished)
        for table in tables
        for init in table.inits
    }
    first: dict[tuple[frozenset[Path], frozenset[Path]], Key] = {}
    same = {}
    for key, (row, gap) in pairs.items():
        runs = folders[key[0], row.init], folders[key[0], gap.reference]
        if all(runs) and first.setdefault(runs, key) != key:
            same[key] = first[runs]
    return same


def unpaired(table: Table) -> list[tuple[Row, str]]:
    """(headline row, role) of every comparison that is missing because no seed finished in all runs of both."""
    return [
        (row, role)
        for row in table.headline_rows
        for role, reference in table.references.items()
        if reference != row.init and role not in row.gaps and not is_mirror(table, row.init, role)
        if table.row(reference, row.task, row.metric) is not None
    ]


def undecided(tables: Sequence[Table], least: int = 2) -> list[Key]:
    """The comparisons that another seed may decide: undecided, or with fewer than ``least`` common seeds."""
    keys = [
        key
        for key, (_, gap) in family(tables).items()
        if gap.verdict is not None
        if gap.verdict.word == UNDECIDED or (gap.verdict.word == NONE and len(gap.difference.seeds) < least)
    ]
    apart = [(table.name, row.init, role) for table in tables for row, role in unpaired(table)]
    return keys + apart


def with_verdicts(
    tables: Sequence[Table], *, margin: float = MARGIN, stopping: SequentialPlan | None = None
) -> list[Table]:
    """The tables with a verdict for every gap in a headline metric.

    ``stopping``: the rule by which seeds were added; its verdicts replace those of a fixed number of seeds. Its
    ``comparisons`` are set to the size of the family.
    """
    everything = family(tables)
    same = repeated(everything, tables)
    pairs = {key: pair for key, pair in everything.items() if key not in same}
    differences = {key: gap.difference for key, (_, gap) in pairs.items()}
    words: dict[Key, Verdict] = verdicts(differences, margin=margin, alpha=FAMILY_ALPHA)
    if stopping is not None and pairs:
        plan = replace(stopping, comparisons=len(pairs), margin=margin)
        words = {key: _sequential(words[key], *pairs[key], tables, key, plan) for key in pairs}
    words.update({key: words[original] for key, original in same.items() if original in words})
    return [_judged(table, words, margin) for table in tables]


def _judged(table: Table, words: Mapping[Key, Verdict], margin: float) -> Table:
    judged = {
        id(row): replace(
            row,
            gaps={
                role: replace(gap, verdict=_verdict(table, row, role, words, margin)) for role, gap in row.gaps.items()
            },
        )
        for row in table.headline_rows
    }
    return replace(table, rows=tuple(judged.get(id(row), row) for row in table.rows))


def _verdict(table: Table, row: Row, role: str, words: Mapping[Key, Verdict], margin: float) -> Verdict:
    if is_mirror(table, row.init, role):
        supervised = table.references["supervised"]
        mirrored = words.get((table.name, supervised, "random"))
        if mirrored is not None:
            return replace(mirrored, word=OPPOSITE.get(mirrored.word, mirrored.word))
    gap = row.gaps[role]
    nothing = Verdict(NONE, margin, "nothing was learned", failed=gap.difference.failed, planned=gap.difference.planned)
    return words.get((table.name, row.init, role), nothing)


def _sequential(
    verdict: Verdict, row: Row, gap: Gap, tables: Sequence[Table], key: Key, plan: SequentialPlan
) -> Verdict:
    """The verdict that ``plan`` reached, which stays once it was reached."""
    table = next(table for table in tables if table.name == key[0])
    other = table.row(gap.reference, row.task, row.metric)
    if verdict.word == NONE or other is None:
        return verdict
    own, reference = (next(iter(one.cells.values())) for one in (row, other))
    paired = [own[seed] - reference[seed] for seed in gap.difference.seeds][: plan.most]
    word, seeds = plan.reached(paired)
    if word == NONE:
        reason = f"{len(paired)} common seeds, and the plan first looks at {plan.least}"
        return replace(verdict, word=NONE, reason=reason, p_difference=None, p_equivalence=None, within_margin=False)
    decided_with = seeds if seeds < len(paired) else None
    return replace(
        verdict, word=word, p_difference=None, p_equivalence=None, within_margin=False, decided_with=decided_with
    )
