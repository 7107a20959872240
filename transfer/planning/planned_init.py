"""The initialisations of a plan: what the backbone of a detector starts from, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import UserError
from transfer.planning.fields import Fields, suggest
from transfer.planning.lr_search import LearningRate, read_rate
from transfer.planning.placeholders import check_one_line, filled, filled_words, valid_name
from transfer.planning.repetitions import Pretraining, check_shared_checkpoints, pretraining_runs

INIT_KINDS = ("random", "supervised", "weights", "pretrain", "published")
CONVERSION_KEYS = ("family", "encoder")  # what convert/to_d2.py is told of a checkpoint
INIT_KEYS = (*INIT_KINDS, *CONVERSION_KEYS, "lr")
PUBLISHED_KEYS = ("init", "pretrain_data", "pretrain_epochs", "source")


@dataclass(frozen=True)
class PlannedInit:
    """One initialisation of the detector's backbone, as the plan describes it."""

    name: str
    kind: str  # random | supervised | supervised-msra | weights | pretrain | published
    weights: str | None = None  # a backbone .pkl, or a checkpoint that is converted on the fly
    pretrainings: tuple[Pretraining, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    convert: tuple[str, ...] = ()  # extra arguments of convert/to_d2.py
    lr: LearningRate | None = None


def _init(
    name: str,
    raw: Any,
    where: str,
    fill: Mapping[str, str],
    default_lr: LearningRate | None,
    pretrain_seeds: Sequence[int],
) -> PlannedInit:
    fields = Fields(raw, where, INIT_KEYS)
    kinds = [key for key in INIT_KINDS if key in fields]
    if len(kinds) != 1:
        raise UserError(f"{where}: give exactly one of {', '.join(INIT_KINDS)}")
    kind = kinds[0]
    lr = read_rate(raw.get("lr"), f"{where}: lr") or default_lr
    extra = [check_one_line(f"--{key}={fields.get(key, str)}", where) for key in CONVERSION_KEYS if key in fields]
    common: dict[str, Any] = {"name": name, "kind": kind, "lr": lr, "convert": tuple(extra)}
    if kind == "supervised":
        variant = fields.get("supervised", (bool, str))
        if variant not in (True, "torchvision", "msra"):
            raise UserError(f"{where}: supervised must be true (torchvision's weights) or msra")
        _refuse_ignored(fields, CONVERSION_KEYS, "downloaded weights are not converted")
        return PlannedInit(**{**common, "kind": "supervised-msra" if variant == "msra" else "supervised"})
    if kind == "weights":
        weights = filled(fields.need("weights", str), fill, where)
        if weights.endswith(".pkl"):
            _refuse_ignored(fields, CONVERSION_KEYS, f"{weights} is a backbone, which is not converted again")
        return PlannedInit(**common, weights=weights)
    if kind == "pretrain":
        stage = Fields(raw["pretrain"], f"{where}: pretrain", ("argv", "checkpoint"))

        def resolve(values: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
            return filled_words(stage, "argv", values), filled(stage.need("checkpoint", str), values, stage.where)

        return PlannedInit(**common, pretrainings=pretraining_runs(resolve, fill, pretrain_seeds, stage.where))
    if kind == "published":
        _refuse_ignored(fields, (*CONVERSION_KEYS, "lr"), "a published number is not run here")
        row = Fields(raw["published"], f"{where}: published", PUBLISHED_KEYS)
        return PlannedInit(**common, published={key: str(row.need(key, (str, int))) for key in row.value})
    if fields.get("random", bool) is not True:
        raise UserError(f"{where}: random must be true")
    _refuse_ignored(fields, CONVERSION_KEYS, "random weights are not converted")
    return PlannedInit(**common)


def _refuse_ignored(fields: Fields, keys: Sequence[str], why: str) -> None:
    """Raise UserError for a key of an initialisation that would change nothing."""
    if ignored := [key for key in keys if key in fields]:
        raise UserError(f"{fields.where}: {ignored[0]} would change nothing: {why}; remove it")


def read_inits(
    fields: Fields, fill: Mapping[str, str], lr: LearningRate | None, pretrain_seeds: Sequence[int]
) -> tuple[PlannedInit, ...]:
    """The initialisations of a plan; ``fill`` are the values of placeholders. Raises UserError."""
    raw = fields.need("inits", dict)
    where = f"{fields.where}: inits"
    inits = tuple(
        _init(valid_name(str(n), where), body, f"{where}.{n}", {**fill, "init": str(n)}, lr, pretrain_seeds)
        for n, body in raw.items()
    )
    check_shared_checkpoints((f"{where}.{init.name}", run) for init in inits for run in init.pretrainings)
    return inits


def reference_init(fields: Fields, key: str, inits: tuple[PlannedInit, ...], kinds: tuple[str, ...]) -> str | None:
    """The initialisation that the plan names for the role ``key``, or the first that can be it. Raises UserError."""
    named = fields.get(key, str)
    known = [init.name for init in inits]
    if named is not None and named not in known:
        raise UserError(f"{fields.where}: {key}: {named} is not one of the inits{suggest(named, known)}")
    guesses = [init.name for init in inits if init.kind in kinds or init.name == key]
    return named or (guesses[0] if guesses else None)
