"""The learning rate of an initialisation, searched on a held-out part of the training set.

A fixed rate may favour some methods, so a plan can search it per initialisation, as was done for the transfer results
of SimSiam (arXiv 2011.10566, Table 5). The test set takes no part in the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.arguments import RATES, is_rate
from runtime.errors import UserError
from transfer.evaluate.headline import headline
from transfer.planning.fields import Fields
from transfer.records.result_file import read_result
from transfer.records.subsets import subset_suffix
from transfer.report.content import RateSearch

LR_KEYS = ("search", "held_out", "schedule_factor")
SEARCHED = "-own_lr"  # suffix of the table whose runs use each initialisation's own rate


@dataclass(frozen=True)
class LearningRate:
    """Base learning rate of an initialisation: one value, or a grid searched on a held-out part of train."""

    value: float | None = None
    search: tuple[float, ...] = ()
    held_out: float = 0.2  # share of train on which the rates are scored
    schedule_factor: float = 1.0  # length of a search run relative to the real one


def read_rate(raw: Any, where: str) -> LearningRate | None:
    """``lr`` of a plan or of an initialisation: a rate, or a grid to search. Raises UserError."""
    if raw is None:
        return None
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        if not is_rate(raw):
            raise UserError(f"{where} must be {RATES}, not {raw}")
        return LearningRate(value=float(raw))
    fields = Fields(raw, where, LR_KEYS)
    grid = _grid(fields.items("search", (int, float)), where)
    held_out = float(fields.get("held_out", (int, float), 0.2))
    factor = float(fields.get("schedule_factor", (int, float), 1.0))
    if not 0 < held_out < 1 or not 0 < factor < math.inf:
        raise UserError(f"{where}: held_out must be in (0, 1), schedule_factor > 0 and finite")
    return LearningRate(search=grid, held_out=held_out, schedule_factor=factor)


def _grid(rates: Sequence[float], where: str) -> tuple[float, ...]:
    """``rates``, of which each can be trained with and has a folder of its own; otherwise UserError."""
    if not rates:
        raise UserError(f"{where}: search must be a list of positive rates; it is empty")
    if unusable := [rate for rate in rates if not is_rate(rate)]:
        raise UserError(f"{where}: each rate must be {RATES}, not {unusable[0]}")
    check_rates(rates, where)
    return tuple(map(float, rates))


def read_default_rate(plan: Mapping[str, Any], where: str) -> LearningRate | None:
    """``lr`` of a plan, or ``rates``, which is a search with everything else at its default. Raises UserError."""
    if "rates" not in plan:
        return read_rate(plan.get("lr"), f"{where}: lr")
    if "lr" in plan:
        raise UserError(f"{where}: lr and rates both say how fast to train; remove one of them")
    return read_rate({"search": plan["rates"]}, f"{where}: rates")


def check_rates(rates: Sequence[float], where: str) -> None:
    """Raise UserError for two rates whose runs would have the same folder: the second would never be run."""
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise UserError(f"{where}: search must list rates that differ in their first six digits, not {list(rates)}")


def search_folder(output: Path, config: str, init: str) -> Path:
    """Where the search runs of one config and initialisation are."""
    return output / "lr_search" / config / init


def split_folder(output: Path, config: str, fit: float, held_out: float, subset: int | None = None) -> Path:
    """Where a split of the training images into ``fit`` (to train on) and ``held_out`` (to score on) is described.

    ``subset``: the seed that draws it, where every fine-tuning seed has a subset of its own.
    """
    own = "" if subset is None else subset_suffix(subset)
    return output / "splits" / config / (f"{fit:g}+{held_out:g}" if held_out else f"{fit:g}{own}")


def split_names(folder: Path, key: str, part: str) -> tuple[str, ...]:
    """``DATASETS.<key>`` words for one part ("fit" or "held_out") of a split. Raises UserError without it."""
    path = folder / "names.json"
    try:
        names = json.loads(path.read_text())[part]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is missing or damaged; run the plan's split stage") from error
    return (f"DATASETS.{key}", repr(tuple(names)))


def grid_scores(folder: Path, rates: Sequence[float]) -> dict[float, float]:
    """Held-out AP (recall of proposals) of every run of the grid that has ended; NaN for one that failed."""
    scores = {}
    for rate in rates:
        path = folder / f"lr{rate:g}" / "result.json"
        if path.is_file():
            result = read_result(path.parent) or {}
            metrics = result.get("metrics", {}) if result.get("status") == "finished" else {}
            judged = headline((task, metric) for task, values in metrics.items() for metric in values)
            value = metrics[judged[0]][judged[1]] if judged else None
            scores[rate] = math.nan if value is None else float(value)
    return scores


def chosen_rate(folder: Path, rates: Sequence[float]) -> float:
    """The rate with the highest held-out AP; the smaller one of two that tie. Raises UserError when none finished."""
    scores = {rate: score for rate, score in grid_scores(folder, rates).items() if not math.isnan(score)}
    if not scores:
        raise UserError(f"no run of the learning-rate search under {folder} has finished")
    return min(scores, key=lambda rate: (-scores[rate], rate))


def search_record(folder: Path, rates: Sequence[float]) -> RateSearch:
    """What the report says about a search."""
    scores = grid_scores(folder, rates)
    usable = any(not math.isnan(score) for score in scores.values())
    chosen = chosen_rate(folder, rates) if usable else None
    return RateSearch(scores, chosen, len(rates) > 1 and chosen in (min(rates), max(rates)))
