"""A plan: the initialisations x configs x seeds of one table, and how the initialisations are made."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.repository import REPOSITORY, find_file
from transfer.comparison.sequential import SequentialPlan
from transfer.comparison.verdicts import MARGIN
from transfer.config import RUN_KEYS
from transfer.planning.config_files import check_config_exists, config_file
from transfer.planning.fields import Fields, apply_settings, check_text, read_plan
from transfer.planning.lr_search import SEARCHED, read_default_rate
from transfer.planning.placeholders import check_one_line, filled, filled_words, valid_name
from transfer.planning.planned_init import PlannedInit, read_inits, reference_init
from transfer.planning.prepare_scripts import check_prepare
from transfer.planning.protocols import (
    FEATURES,
    check_protocol,
    read_features,
    read_protocols,
    table_name,
    with_protocol,
)
from transfer.planning.repetitions import (
    REPETITIONS,
    check_seeds,
    check_something_is_pretrained,
    read_repetitions,
    read_subset_seeds,
)

CONFIG_KEYS = ("config", "name", "overrides", "data_fraction", "schedule_factor", "protocol", "features")
PLAN_KEYS = (
    *("name", "output", "seed", "prepare", "inits", "configs", "seeds", "supervised", "random"),
    *("overrides", "engine", "evaluator", "lr", "allow", "published", "limits", "leakage", "margin", "pretrain_seeds"),
    *("protocol", "features", "rates", "subset_seeds", REPETITIONS),
)


@dataclass(frozen=True)
class Config:
    """One column of the table: a detector, its data and its schedule."""

    name: str
    file: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data_fraction: float = 1.0
    schedule_factor: float = 1.0
    protocol: str = ""  # frozen | tuned, "" where the plan leaves it to the config


@dataclass(frozen=True)
class Prepare:
    """A command that must run before anything else, and the file it leaves when it has."""

    argv: tuple[str, ...]
    done: str


@dataclass(frozen=True)
class Plan:
    """A validated plan. Paths are relative to the working folder."""

    path: Path
    name: str
    output: Path
    inits: tuple[PlannedInit, ...]
    configs: tuple[Config, ...]
    seeds: tuple[int, ...]  # with ``stopping`` those to begin with
    supervised: str | None
    random: str | None
    prepare: tuple[Prepare, ...] = ()
    engine: str = "auto"
    evaluator: str = "auto"
    allow: tuple[str, ...] = ()
    published: bool = False
    stopping: SequentialPlan | None = None  # seeds are added until every comparison is decided
    margin: float = MARGIN  # points of AP within which two initialisations count as equivalent
    limits: str = ""  # what these runs can and cannot show; the report's first paragraph
    subset_seeds: bool = False  # whether every seed draws a subset of its own, where data_fraction is below 1
    repeats_everything: bool = False  # each pretraining run is fine-tuned with the seed in the same place only
    leakage: bool = True  # whether test images are looked for among those that are trained and pretrained on


def trained_inits(plan: Plan) -> list[PlannedInit]:
    """The initialisations that are run here, i.e. all but the published-only ones."""
    return [init for init in plan.inits if init.kind != "published"]


def load_plan(
    path: str | Path, *, settings: Collection[str] = (), output: str | None = None, seed_offset: int = 0
) -> Plan:
    """Read and check a plan: a path, or a bare name (with or without .yaml) of this project's plans.

    ``settings`` are KEY=VALUE overrides; ``output`` replaces the plan's folder; ``seed_offset`` shifts the data seed,
    the pretraining seed and every run seed, so that a whole plan is repeated independently. Raises UserError.
    """
    path = find_file(path, "plans", REPOSITORY)
    raw = read_plan(path)
    apply_settings(raw, settings)
    check_text(raw, f"plan {path}")
    fields = Fields(raw, f"plan {path}", PLAN_KEYS)
    name = valid_name(fields.get("name", str, path.stem), fields.where)
    folder = check_one_line(output or fields.get("output", str, f"runs/{name}"), f"{fields.where}: output")
    data_seed = fields.get("seed", int, 0) + seed_offset
    check_seeds([data_seed], f"{fields.where}: seed")
    fill = {"output": folder, "seed": str(data_seed), "pretrain_seed": str(data_seed)}
    repetitions = read_repetitions(fields, seed_offset)
    default_lr = read_default_rate(raw, fields.where)
    inits = read_inits(fields, fill, default_lr, repetitions.pretrain_seeds)
    check_something_is_pretrained(fields, {init.name: bool(init.pretrainings) for init in inits})
    configs = _configs(fields, fill)
    searched = any(init.lr and init.lr.search for init in inits)
    return Plan(
        path=path,
        name=name,
        output=Path(folder),
        inits=inits,
        configs=configs,
        seeds=repetitions.seeds,
        repeats_everything=repetitions.of_everything,
        supervised=reference_init(fields, "supervised", inits, ("supervised", "supervised-msra")),
        random=reference_init(fields, "random", inits, ("random",)),
        prepare=_prepare(fields, fill),
        engine=fields.get("engine", str, "auto"),
        evaluator=fields.get("evaluator", str, "auto"),
        allow=tuple(fields.items("allow", str)),
        published=fields.get("published", bool, False),
        stopping=repetitions.stopping,
        margin=repetitions.margin,
        limits=" ".join(fields.get("limits", str, "").split()),
        leakage=fields.get("leakage", bool, True),
        subset_seeds=read_subset_seeds(fields, [config.data_fraction for config in configs], searched),
    )


def _prepare(fields: Fields, fill: Mapping[str, str]) -> tuple[Prepare, ...]:
    stages = []
    for i, raw in enumerate(fields.items("prepare", dict)):
        stage = Fields(raw, f"{fields.where}: prepare {i + 1}", ("argv", "done"))
        argv = filled_words(stage, "argv", fill)
        check_prepare(argv, stage.where)
        stages.append(Prepare(argv, filled(stage.need("done", str), fill, stage.where)))
    return tuple(stages)


def _configs(fields: Fields, fill: Mapping[str, str]) -> tuple[Config, ...]:
    shared = fields.get("overrides", dict, {})
    default = read_protocols(fields)
    default_features = fields.get(FEATURES, str, "")
    configs: list[Config] = []
    for raw in fields.items("configs", (str, dict)):
        one = Fields({"config": raw} if isinstance(raw, str) else raw, f"{fields.where}: configs", CONFIG_KEYS)
        file = one.need("config", str)
        check_config_exists(file, fields.where)
        fraction = float(one.get("data_fraction", (int, float), 1.0))
        factor = float(one.get("schedule_factor", (int, float), 1.0))
        if not 0 < fraction <= 1 or not 0 < factor < math.inf:
            raise UserError(f"{one.where}: {file}: data_fraction must be in (0, 1], schedule_factor > 0 and finite")
        parts = [Path(file).stem, f"-{fraction:g}" if fraction < 1 else "", f"-{factor:g}x" if factor != 1 else ""]
        overrides = {**shared, **one.get("overrides", dict, {})}
        if no_key := [key for key in overrides if not isinstance(key, str)]:
            raise UserError(f"{one.where}: {file}: overrides has {no_key[0]!r}, expected a config key")
        if ignored := [key for key in overrides if key in RUN_KEYS]:
            raise UserError(
                f"{one.where}: {file}: overrides has {ignored[0]}, which the plan sets itself for every run"
            )
        overrides = {k: filled(v, fill, one.where) if isinstance(v, str) else v for k, v in overrides.items()}
        name = valid_name(one.get("name", str, "".join(parts)), one.where)
        chosen = read_protocols(one, default)
        features = read_features(one, default_features, chosen)
        for protocol in chosen:
            own = with_protocol(overrides, protocol, f"{one.where}: {file}", features)
            check_protocol(config_file(file), own, protocol, f"{one.where}: {file}")
            table = valid_name(table_name(name, protocol, "name" in one, len(chosen)), one.where)
            configs.append(Config(table, file, own, fraction, factor, protocol))
    for name in (names := [c.name for c in configs]):
        if names.count(name) > 1:
            raise UserError(f"{fields.where}: two configs have the name {name}; give one of them another name:")
        if name.endswith(SEARCHED):
            raise UserError(f"{fields.where}: config {name} ends in {SEARCHED}, which the plan adds to other tables")
    if not configs:
        raise UserError(f"{fields.where}: configs is empty")
    read_features(fields, "", [config.protocol for config in configs])
    return tuple(configs)
