"""``--power``: how many seeds and pretraining runs of a plan would see a difference, and what they would cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from runtime.terminal import aligned
from transfer.comparison.family import FAMILY_ALPHA
from transfer.comparison.gap import Table
from transfer.comparison.intervals import mean
from transfer.comparison.next_steps import RUN_COSTS, fine_tuning_hours, shown_hours
from transfer.comparison.power import POWER, PUBLISHED_SPREADS, SEEDS_OF_A_METHOD, cheapest_plan, seeds_for
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.variance import components
from transfer.planning.plan import Config, Plan, trained_inits

# names of training sets whose spread somebody published; a part of one varies more
PUBLISHED = {"voc": r"voc_20\d\d_train(val)?", "coco": r"coco_20\d\d_train", "lvis": r"lvis_v\d(\.\d)?_train"}
SIMULATED = 4000  # plans
GUESSED = "; pretraining runs are taken to vary as much"


@dataclass(frozen=True)
class RunSpread:
    """Standard deviations of AP in points: of a run over seeds, and over pretraining runs."""

    seeds: float
    pretraining: float
    source: str


def power_text(plan: Plan, tables: Sequence[Table], pretraining_hours: Mapping[str, float], gap: float) -> str:
    """What ``measure_gap.py PLAN --power gap`` prints. ``tables`` are those of runs that have finished."""
    comparisons = _comparisons(plan)
    by_name = {table.name: table for table in tables}
    lines = [["config", "spread", "these weights", "cost", "the method", "cost"]]
    sources: dict[str, None] = {}
    for config in plan.configs:
        table = by_name.get(config.name)
        spread = (_measured(table) if table else None) or _published(config)
        if spread is None:
            unknown = "unknown: finish two seeds first"
            lines.append([config.name, "unknown", unknown, "unknown", unknown, "unknown"])
            continue
        sources[spread.source] = None
        hours = fine_tuning_hours(table) if table else None
        weights = _weights(plan, spread, gap, comparisons, hours) if not plan.repeats_everything else ["-", "-"]
        method = _method(plan, spread, gap, comparisons, hours, pretraining_hours)
        lines.append([config.name, f"{spread.seeds:.2f}", *weights, *method])
    most = f" to {plan.stopping.most}" if plan.stopping else ""
    repeated = "Repetitions" if plan.repeats_everything else "Seeds"
    head = (
        f"{plan.name}: to see a difference of {gap:g} AP with {POWER:.0%} power, adjusted for the number of "
        f"comparisons ({comparisons}). {repeated} in the plan: {len(plan.seeds)}{most}"
    )
    if not any(init.pretrainings for init in plan.inits):  # no column about them, and no guess
        sources = {source.removesuffix(GUESSED): None for source in sources}
    return "\n".join([head, aligned(lines), *(f"spread: {source}" for source in sources)])


def _comparisons(plan: Plan) -> int:
    """The size of the family of the report: every initialisation against each reference, each pair once.

    Each config has a second table where an initialisation has a learning rate of its own; there, pairs without one are
    those of the first table.
    """
    own_rate = {init.name: bool(init.lr) for init in trained_inits(plan)}
    references = [reference for reference in (plan.supervised, plan.random) if reference in own_rate]
    pairs = [(init, reference) for init in own_rate if init not in references for reference in references]
    pairs += [(references[0], references[1])] if len(set(references)) == 2 else []
    again = [pair for pair in pairs if any(own_rate[init] for init in pair)]
    return max(1, len(plan.configs) * (len(pairs) + len(again)))


def _measured(table: Table) -> RunSpread | None:
    """From finished runs: the largest spread of any comparison, and the mean variance between pretraining runs.

    Where everything was repeated: that of the noisiest initialisation over its repetitions, which holds all sources.
    """
    if any(row.repeats_everything for row in table.headline_rows):
        stds = [row.std for row in table.headline_rows if row.std is not None]
        return RunSpread(max(stds), 0.0, "measured: the noisiest initialisation of finished runs") if stds else None
    gaps = [gap.weights for row in table.headline_rows for gap in row.gaps.values() if gap.weights.seeds]
    # each side is a mean over its pretraining runs, so that its residual is smaller than that of one run
    of_seeds = [
        gap.standard_error * math.sqrt(len(gap.seeds) / (1 / gap.runs[0] + 1 / gap.runs[1]))
        for gap in gaps
        if gap.standard_error is not None
    ]
    if not of_seeds:
        return None
    parts = [components(row.cells).pretraining for row in table.headline_rows]
    between = [part.value for part in parts if part is not None]
    seeds = max(of_seeds)
    if between:
        return RunSpread(seeds, math.sqrt(mean(between)), "measured: the noisiest comparison of finished runs")
    return RunSpread(seeds, seeds, f"measured: the noisiest comparison of finished runs{GUESSED}")


def _published(config: Config) -> RunSpread | None:
    """What somebody reported for the test set; None for other data, whose spread may be many times larger."""
    from transfer.config import load_config

    words = [
        word
        for key, value in config.overrides.items()
        if key.startswith("DATASETS.")
        for word in (key, value if isinstance(value, str) else repr(value))
    ]
    names = load_config(config.file, words).DATASETS.TRAIN
    name = next((k for k, pattern in PUBLISHED.items() if all(re.fullmatch(pattern, str(n)) for n in names)), None)
    if name is None or config.data_fraction < 1:
        return None
    spread = PUBLISHED_SPREADS[name]
    return RunSpread(spread.sd, spread.sd, f"{spread.source}{GUESSED}")


def _weights(plan: Plan, spread: RunSpread, gap: float, comparisons: int, hours: float | None) -> list[str]:
    """Seeds, and the cost of all runs of the config; of a plan that stops when decided, its mean in simulation."""
    if plan.stopping is not None:
        mean_seeds, decided = _until_decided(replace(plan.stopping, comparisons=comparisons), gap, spread.seeds)
        cost = None if hours is None else mean_seeds * len(trained_inits(plan)) * hours
        return [f"{mean_seeds:.1f} seeds on average, seen in {decided:.0%} of plans", _cost(cost)]
    seeds = seeds_for(gap, spread.seeds, alpha=FAMILY_ALPHA / comparisons)
    if seeds is None:
        return ["more than 1000 seeds", "unknown"]
    cost = None if hours is None else seeds * len(trained_inits(plan)) * hours
    return [f"{seeds} seeds", _cost(cost)]


def _until_decided(stopping: SequentialPlan, gap: float, sd: float) -> tuple[float, float]:
    """(mean seeds until one comparison with this gap is decided, share of plans that say ahead or behind)."""
    draws = np.random.default_rng(0).standard_normal((SIMULATED, 1, stopping.most))
    used, differs, _ = stopping.simulate(gap + math.sqrt(2) * sd * draws)
    return float(used.mean()), float(differs.mean())


def _method(
    plan: Plan,
    spread: RunSpread,
    gap: float,
    comparisons: int,
    hours: float | None,
    pretraining_hours: Mapping[str, float],
) -> list[str]:
    """Pretraining runs and seeds, and the cost of all of them, pretraining included."""
    pretrained = [init.name for init in trained_inits(plan) if init.pretrainings]
    if not pretrained:
        return ["-", "-"]
    known = hours is not None and all(init in pretraining_hours for init in pretrained)
    each = mean([pretraining_hours[init] for init in pretrained]) if known else RUN_COSTS
    unit = hours if known and hours else 1.0
    # of a repetition only the sum of its variances counts, wherever it comes from
    spreads = (math.hypot(spread.pretraining, spread.seeds), 0.0)
    need = cheapest_plan(
        gap,
        *(spreads if plan.repeats_everything else (spread.pretraining, spread.seeds)),
        pretraining_hours=each,
        fine_tuning_hours=unit,
        seeds=(1,) if plan.repeats_everything else SEEDS_OF_A_METHOD,
        alpha=FAMILY_ALPHA / comparisons,
    )
    if need is None:
        return [f"more than 20 {'repetitions' if plan.repeats_everything else 'pretraining runs'}", "unknown"]
    once = len(trained_inits(plan)) - len(pretrained)
    cost = need.runs * len(pretrained) * (each + need.seeds * unit) + once * need.seeds * unit
    many = (
        f"{need.runs} repetitions" if plan.repeats_everything else f"{need.runs} pretraining runs x {need.seeds} seeds"
    )
    return [many, _cost(cost if known else None)]


def _cost(hours: float | None) -> str:
    return "unknown" if hours is None else shown_hours(hours)
