"""What a finished comparison leaves undecided, how many more runs would decide it, and what they would cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transfer.comparison.differences import METHOD, Difference
from transfer.comparison.family import FAMILY_ALPHA, family, learned_nothing, unpaired
from transfer.comparison.gap import Gap, Row, Table
from transfer.comparison.intervals import mean, sample_std
from transfer.comparison.power import SEEDS_OF_A_METHOD, Method, cheapest_plan, prospect, seeds_for, visible_gap
from transfer.comparison.run_arrays import over_repetitions
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.variance import Cells, Components, components
from transfer.comparison.verdicts import NONE, UNDECIDED

MOST_NAMED = 4  # undecided comparisons that the line names
MOST_TABLES = 3  # configs for which it says what is needed
RUN_COSTS = 10.0  # a pretraining run in fine-tuning runs, where nothing was measured


@dataclass(frozen=True)
class Spread:
    """The variance components of one initialisation, and how one more repetition narrows the expected interval."""

    init: str
    reference: str
    components: Components
    half_width: float  # expected, in points, with the runs that there are
    with_a_run: float | None  # with one more pretraining run; None where none was repeated
    with_a_seed: float | None  # with one more seed; None with one seed, which does not show what seeds vary
    of_everything: bool = False  # ``with_a_run`` is one more repetition of everything


def measured_spreads(table: Table) -> list[Spread]:
    """Of every initialisation with an interval in the headline metric, against its first reference."""
    found = []
    for row in table.headline_rows:
        gap = next(iter(row.gaps.values()), None)
        other = table.row(gap.reference, row.task, row.metric) if gap else None
        if gap is None or other is None or gap.difference.df is None:
            continue
        everything = not gap.difference.seeds
        seeds = 1 if everything else len(gap.difference.seeds)
        own, against = _methods(row, other, gap.difference)
        more = [replace(side, runs=side.runs + (side.runs > 1)) for side in (own, against)]
        found.append(
            Spread(
                row.init,
                gap.reference,
                components(row.cells),
                prospect(own, against, seeds).half_width,
                prospect(more[0], more[1], seeds).half_width if gap.difference.question == METHOD else None,
                prospect(own, against, seeds + 1).half_width if seeds > 1 else None,
                everything,
            )
        )
    return found


def _methods(row: Row, other: Row, difference: Difference) -> tuple[Method, Method]:
    """Both sides as they would be planned: spreads from their runs.

    Without repeated pretraining the residual is that of the paired differences, half of it on each side.
    """
    if difference.question != METHOD:
        residual = (difference.standard_error or 0.0) * math.sqrt(len(difference.seeds) / 2)
        return Method(0.0, residual), Method(0.0, residual)
    if not difference.seeds:
        return _of_everything(row.cells), _of_everything(other.cells)
    sides = [
        Method(*_spreads(components(one.cells)), len(one.cells)) if len(one.cells) > 1 else None for one in (row, other)
    ]
    if sides[0] is not None and sides[1] is not None:
        return sides[0], sides[1]
    if sides[0] is None:
        against, own = _methods(other, row, difference)
        return own, against
    return sides[0], _single_run(row.cells, other.cells, difference.seeds, sides[0])


def _of_everything(cells: Cells) -> Method:
    """A side of which everything is repeated: each repetition is one value that holds all sources of variance."""
    values = over_repetitions(cells)
    assert values is not None  # noqa: S101 (the difference was computed from it)
    return Method(sample_std(values[:, 0].tolist()) or 0.0, 0.0, len(values))


def _single_run(repeated: Cells, single: Cells, seeds: Sequence[int], spreads: Method) -> Method:
    """A side that exists once, planned with the spread that the differences per seed have beyond the other side's."""
    (values,) = single.values()
    shifts = [values[seed] - mean([run[seed] for run in repeated.values()]) for seed in seeds]
    residual = (sample_std(shifts) or 0.0) ** 2 - spreads.residual_sd**2 / spreads.runs
    return Method(spreads.pretraining_sd, math.sqrt(max(residual, 0.0)))


def _spreads(parts: Components) -> tuple[float, float]:
    """Standard deviations of (pretraining, residual); with one seed the two cannot be told apart: all is the first."""
    residual = math.sqrt(parts.residual.value) if parts.residual else 0.0
    if parts.pretraining is None:
        return residual, 0.0
    return math.sqrt(parts.pretraining.value), residual


def what_now(
    tables: Sequence[Table],
    margin: float,
    pretraining_hours: Mapping[str, float],
    stopping: SequentialPlan | None = None,
) -> str:
    """One line: what is undecided, what would decide it, at which cost; "" when nothing was compared."""
    pairs = family(tables)
    words = {key: gap.verdict.word for key, (_, gap) in pairs.items() if gap.verdict is not None}
    apart = sum(len(unpaired(table)) for table in tables if not learned_nothing(table))
    if not words and not apart:
        return ""
    undecided = [key for key, word in words.items() if word == UNDECIDED]
    single = [key for key, word in words.items() if word == NONE and len(pairs[key][1].difference.seeds) == 1]
    parts = []
    if undecided:
        names = [
            f"{init} against {pairs[table, init, role][1].reference} on {table}" for table, init, role in undecided
        ]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        are = _of_comparisons(len(undecided), len(words), "is", "are")
        parts.append(f"{are} undecided ({', '.join(names[:MOST_NAMED])}{more}).")
        of_tables = [(table, [pairs[key] for key in undecided if key[0] == table.name]) for table in tables]
        open_tables = [(table, of_table) for table, of_table in of_tables if of_table]
        for table, of_table in open_tables[:MOST_TABLES]:
            parts.append(_need(table, of_table, margin, len(pairs), pretraining_hours))
        if len(open_tables) > MOST_TABLES:
            parts.append(f"{len(open_tables) - MOST_TABLES} more configs have undecided comparisons.")
        if stopping is not None:
            used = max(len(pairs[key][1].difference.seeds) for key in undecided)
            left = f"adds seeds itself, up to {stopping.most}" if used < stopping.most else f"ends with {used} seeds"
            parts.append(f"The plan {left}.")
    if single:
        have = _of_comparisons(len(single), len(words), "has", "have")
        parts.append(f"{have} one seed, so no verdict: add a second seed.")
    if apart:
        parts.append(
            f"{apart} {'pair has' if apart == 1 else 'pairs have'} no common seed: run the same seeds for both."
        )
    if not parts:
        nothing = sum(word == NONE for word in words.values())
        untested = f", but {_of_comparisons(nothing, len(words))} cannot be tested" if nothing else ""
        parts.append(f"nothing is undecided{untested}.")
    return f"What now: {' '.join(parts)}"


def _of_comparisons(part: int, whole: int, one: str = "", several: str = "") -> str:
    """``2 of 3 comparisons are``, ``1 of 3 comparisons is``, ``the comparison is`` where there is one in all."""
    verb = one if part == 1 else several
    return f"{'the comparison' if whole == 1 else f'{part} of {whole} comparisons'} {verb}".rstrip()


def _need(
    table: Table,
    undecided: Sequence[tuple[Row, Gap]],
    margin: float,
    comparisons: int,
    pretraining_hours: Mapping[str, float],
) -> str:
    """The runs that see ``margin`` with 80 % power in the noisiest undecided comparison of a table."""
    row, gap = max(undecided, key=lambda pair: pair[1].difference.standard_error or 0.0)
    one = gap.difference
    alpha = FAMILY_ALPHA / comparisons  # the first step of Holm
    visible = visible_gap(one.standard_error or 0.0, one.df or 1.0, alpha=alpha)
    sees = f"differences above {visible:.1f} {row.metric}" if visible < 100 else "no difference"
    text = f"On {table.name} these runs see {sees}; "
    hours = fine_tuning_hours(table)
    if one.question != METHOD:
        sd = (one.standard_error or 0.0) * math.sqrt(len(one.seeds) / 2)
        seeds = seeds_for(margin, sd, alpha=alpha)
        if seeds is None:
            return f"{text}more than 1000 seeds would be needed to see {margin:g}."
        extra = seeds - len(one.seeds)
        if extra <= 0:
            return f"{text}{_enough(margin)}"
        cost = None if hours is None else extra * len(table.inits) * hours
        more = "1 more seed" if extra == 1 else f"{extra} more seeds"
        return f"{text}about {more} would see {margin:g} ({shown_hours(cost)})."
    if visible <= margin:
        return f"{text}{_enough(margin)}"
    other = table.row(gap.reference, row.task, row.metric)
    assert other is not None  # noqa: S101 (the gap was computed from it)
    own, against = _methods(row, other, one)
    if not one.seeds:
        sd = max(own.pretraining_sd, against.pretraining_sd)
        inits = [side for side in (row.init, gap.reference) if side in pretraining_hours]
        cost = None if hours is None else 2 * hours + sum(pretraining_hours[init] for init in inits)
        return f"{text}{_repetitions_needed(margin, sd, cost, alpha)}"
    to_pretrain = row.init
    if own.runs == 1:  # only the reference can be pretrained more often
        own, against, to_pretrain = against, own, gap.reference
    pretraining = pretraining_hours.get(to_pretrain)
    known = hours is not None and pretraining is not None
    costs = (pretraining or 0.0, hours or 0.0) if known else (RUN_COSTS, 1.0)
    plan = cheapest_plan(
        margin,
        own.pretraining_sd,
        own.residual_sd,
        pretraining_hours=costs[0],
        fine_tuning_hours=costs[1],
        seeds=SEEDS_OF_A_METHOD,
        other=against if against.runs == 1 else None,
        alpha=alpha,
    )
    if plan is None:
        return f"{text}20 pretraining runs with 10 seeds would not be enough to see {margin:g}."
    total = f"{shown_hours(plan.hours)} in all" if known else shown_hours(None)
    return f"{text}about {plan.runs} pretraining runs with {plan.seeds} seeds each would see {margin:g} ({total})."


def _repetitions_needed(margin: float, sd: float, hours: float | None, alpha: float) -> str:
    """``hours``: of one repetition of both sides."""
    need = cheapest_plan(margin, sd, 0.0, pretraining_hours=1.0, fine_tuning_hours=0.0, seeds=(1,), alpha=alpha)
    if need is None:
        return f"20 repetitions would not be enough to see {margin:g}."
    cost = shown_hours(None) if hours is None else f"{shown_hours(need.runs * hours)} in all"
    return f"about {need.runs} repetitions would see {margin:g} ({cost})."


def _enough(margin: float) -> str:
    return f"{margin:g} is among them, so only more runs can show equivalence or a smaller difference."


def fine_tuning_hours(table: Table) -> float | None:
    """Measured hours of one run, mean over the finished runs; None where none says."""
    seconds = [sum(filter(None, (run.record.get("seconds") or {}).values())) for run in table.runs if run.finished]
    return mean(seconds) / 3600 if any(seconds) else None


def shown_hours(hours: float | None) -> str:
    """A cost in words."""
    if hours is None:
        return "cost unknown"
    return f"about {hours:.1f} h" if hours >= 1 else f"about {max(1, round(hours * 60))} min"
