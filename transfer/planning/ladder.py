"""``--ladder``: the configs of a plan in order, each without the initialisations that an earlier one ruled out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from runtime.atomic import read_json, write_json
from runtime.errors import UserError
from transfer.comparison.gap import Table
from transfer.comparison.ladder import Dropped, agreement, means, ruled_out
from transfer.literature.rank_agreement import published_agreements
from transfer.planning.plan import Plan, trained_inits
from transfer.planning.stage import Stage, with_needs
from transfer.planning.stages import plan_stages

RECORD = "ladder.json"
Run = Callable[[Sequence[Stage]], None]  # runs stages
Compare = Callable[[Sequence[Stage]], list[Table]]  # the tables of stages that have run


def check_ladder(plan: Plan, only: Sequence[str]) -> None:
    """Raise UserError for a plan that has no rungs, or that is repeated or cut by another rule."""
    if len(plan.configs) < 2:
        raise UserError(f"--ladder: {plan.path} has one config; list cheap ones before the one that counts")
    if plan.stopping is not None:
        raise UserError("--ladder cannot be combined with seeds: {until: decided}; give a list of seeds")
    if len(plan.seeds) < 2:
        raise UserError("--ladder needs two seeds or more: nothing is ruled out by one")
    if only:
        raise UserError("--ladder cannot be combined with --only, which leaves out what it decides with")


def climb(plan: Plan, run: Run, compare: Compare, stopped: Callable[[], bool]) -> None:
    """Run one config after the other; what each rules out is written into ladder.json and not run any more."""
    dropped: list[Dropped] = []
    (plan.output / RECORD).unlink(missing_ok=True)  # of another plan, perhaps: it is decided again
    for number, config in enumerate(plan.configs, 1):
        left = without_dropped(plan, plan_stages(plan), dropped)
        rung = with_needs(left, [s.name for s in left if s.cell is not None and s.cell.config == config.name])
        run(rung)
        if stopped() or number == len(plan.configs):
            return
        for table in compare(rung):
            if table.name == config.name:
                dropped += ruled_out(table, rungs=len(plan.configs) - 1, keep=_references(plan))
        write_json(plan.output / RECORD, {"dropped": [asdict(one) for one in dropped]})


def read_dropped(plan: Plan) -> list[Dropped]:
    """What ladder.json says of the plan's configs and initialisations; nothing where there is none.

    Raises UserError for a damaged one.
    """
    path = plan.output / RECORD
    if not path.is_file():
        return []
    try:
        dropped = [_dropped(one) for one in read_json(path)["dropped"]]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run --ladder again") from error
    configs, inits = {config.name for config in plan.configs}, {init.name for init in trained_inits(plan)}
    known = inits - set(_references(plan))
    return [one for one in dropped if one.rung in configs and one.init in known and one.leader in inits]


def _dropped(content: Any) -> Dropped:
    one = Dropped(**content)
    if not all(isinstance(text, str) for text in (one.init, one.rung, one.leader)):
        raise ValueError("a name is not text")
    return replace(one, difference=float(one.difference), low=float(one.low))


def _references(plan: Plan) -> list[str]:
    """What the others are compared with; never dropped."""
    return [init for init in (plan.supervised, plan.random) if init]


def without_dropped(plan: Plan, stages: Sequence[Stage], dropped: Sequence[Dropped]) -> list[Stage]:
    """``stages`` without the trainings of initialisations on the configs after the one that ruled them out."""
    order = [config.name for config in plan.configs]
    last = {one.init: order.index(one.rung) for one in dropped if one.rung in order}
    return [
        stage
        for stage in stages
        if stage.cell is None or order.index(stage.cell.config) <= last.get(stage.cell.init, len(order))
    ]


def ladder_sentences(dropped: Sequence[Dropped], tables: Sequence[Table]) -> str:
    """What was left out and why, and how far the cheap tables can be trusted."""
    if not dropped:
        return ""
    parts = ["Ladder: " + "; ".join(one.text for one in dropped) + "."]
    parts.append(
        "The best of a cheap config is dropped in at most 5 % of plans, but the best of the last config need not be "
        "among the best of a cheap one."
    )
    for first, second in itertools.pairwise(tables):
        if (own := agreement(means(first), means(second))) is not None:
            parts.append(f"{first.name} ranks as {second.name} does with Kendall's tau {own}.")
    published = published_agreements()
    parts.append("In published results: " + "; ".join(f"{name} {one}" for name, one in published.items()) + ".")
    return " ".join(parts)
