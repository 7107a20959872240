"""A plan as stages: prepare -> pretrain -> convert -> train, each with its command and the stages it waits for."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.engines.weights.loading import is_detector
from transfer.planning.command_settings import override_words
from transfer.planning.lr_search import SEARCHED, chosen_rate, search_folder, split_folder, split_names
from transfer.planning.plan import Config, Plan, trained_inits
from transfer.planning.planned_init import PlannedInit
from transfer.planning.protocols import shared_folder
from transfer.planning.repetitions import Pretraining
from transfer.planning.slurm.stage_commands import SHARED_SCRIPTS
from transfer.planning.stage import Cell, Stage, with_needs
from transfer.planning.subsets import search_parts, split_name, subset_stages


def plan_stages(plan: Plan) -> list[Stage]:
    """Every stage of the plan in an order that respects their dependencies.

    One seed of every initialisation comes before the next seed, so a plan stopped early still compares like with like.
    """
    stages = [
        Stage(f"prepare/{i + 1}", "prepare", step.argv, Path(step.done).parent, Path(step.done))
        for i, step in enumerate(plan.prepare)
    ]
    prepared = tuple(stage.name for stage in stages)
    backbones: dict[str, list[_Backbone]] = {}
    for init in plan.inits:
        backbone_stages, backbones[init.name] = _backbone_stages(plan, init, prepared)
        stages += backbone_stages
    trainings = []
    for config in plan.configs:
        stages += subset_stages(plan, config, prepared)
        for init in trained_inits(plan):
            of_init = [_Train(plan, config, init, one, (*prepared, *one.needs)) for one in backbones[init.name]]
            stages += of_init[0].search_stages()  # the rate found with the first pretraining run is used for all
            trainings += of_init
    for seed in plan.seeds:
        of_seed = [training for training in trainings if training.backbone.only_seed in (None, seed)]
        stages += [stage for training in of_seed for stage in training.seed_stages(seed)]
    return stages


@dataclass(frozen=True)
class _Backbone:
    """One backbone of an initialisation: its file, and the names of the stages that a training waits for."""

    pretraining: str = ""  # which of several pretraining runs
    weights: Path | None = None
    needs: tuple[str, ...] = ()
    only_seed: int | None = None  # the one fine-tuning seed that it is used with; None: all of the plan


def _backbone_stages(plan: Plan, init: PlannedInit, prepared: tuple[str, ...]) -> tuple[list[Stage], list[_Backbone]]:
    """The stages that make the backbones of ``init``, and the backbones: one, or one per pretraining seed."""
    stages: list[Stage] = []
    backbones = []
    for i, run in enumerate(init.pretrainings):
        name = _backbone_name(init, run)
        checkpoint = Path(run.checkpoint)
        argv = (SHARED_SCRIPTS["pretrain"], *run.argv)
        stages.append(Stage(pretrain_stage(init, run), "pretrain", argv, checkpoint.parent, checkpoint, prepared))
        stages.append(_conversion(plan, init, name, run.checkpoint, (stages[-1].name,)))
        only_seed = plan.seeds[i] if plan.repeats_everything else None
        backbones.append(_Backbone(run.name, stages[-1].proof, (stages[-1].name,), only_seed))
    if init.weights is not None and init.kind == "weights" and _needs_no_conversion(init):
        return [], [_Backbone(weights=Path(init.weights))]
    if init.weights is not None:
        stages.append(_conversion(plan, init, init.name, init.weights, prepared))
        backbones.append(_Backbone(weights=stages[-1].proof, needs=(stages[-1].name,)))
    return stages, backbones or [_Backbone()]


def _needs_no_conversion(init: PlannedInit) -> bool:
    """A backbone, or a whole detector, which is a start of its own kind unless its conversion is asked for."""
    path = Path(init.weights or "")
    if path.suffix == ".pkl" or init.convert or not path.is_file():
        return path.suffix == ".pkl"
    try:
        return is_detector(path)
    except UserError:  # the conversion will say what is wrong with the file
        return False


def _backbone_name(init: PlannedInit, run: Pretraining) -> str:
    return "/".join(filter(None, (init.name, run.name)))


def pretrain_stage(init: PlannedInit, run: Pretraining) -> str:
    """The name of the stage of a pretraining run."""
    return f"pretrain/{_backbone_name(init, run)}"


def _conversion(plan: Plan, init: PlannedInit, name: str, source: str, needs: tuple[str, ...]) -> Stage:
    """Checkpoint ``source`` -> the backbone ``name``."""
    backbone = plan.output / "backbones" / f"{name}.pkl"
    argv = ("convert/to_d2.py", source, str(backbone), *init.convert)
    return Stage(f"convert/{name}", "convert", argv, backbone.parent, backbone, needs, weights=Path(source))


@dataclass(frozen=True)
class _Train:
    """What the runs of one config and one backbone share."""

    plan: Plan
    config: Config
    init: PlannedInit
    backbone: _Backbone
    needs: tuple[str, ...]

    def stage(
        self,
        folder: Path,
        table: str,
        seed: int,
        needs: tuple[str, ...],
        late: Callable[[], tuple[str, ...]],
        opts: Mapping[str, Any],
        after: tuple[str, ...] = (),
        is_search: bool = False,
    ) -> Stage:
        weights = self.backbone.weights
        init = self.init.kind if weights is None else str(weights)
        argv = [
            SHARED_SCRIPTS["train"],
            "--config-file",
            self.config.file,
            "--init",
            init,
            "--init-name",
            self.init.name,
        ]
        for flag, value in (("--engine", self.plan.engine), ("--evaluator", self.plan.evaluator)):
            argv += [flag, value] if value != "auto" else []
        own = self.config.overrides
        shared = shared_folder(self.plan.output, own)
        argv += override_words({**own, **opts, **shared, "SEED": seed, "OUTPUT_DIR": str(folder)})
        name = str(folder.relative_to(self.plan.output))
        cell = Cell(table, self.config.name, self.init.name, seed, folder, is_search)
        proof = folder / "result.json"
        return Stage(name, "train", tuple(argv), folder, proof, needs, after, late, weights, seed, cell)

    def seed_stages(self, seed: int) -> list[Stage]:
        """The run at the config's own rate, and the one at this initialisation's rate where it has one."""
        late, needs = self._subset(seed)
        where = Path(self.init.name) / self.backbone.pretraining / f"seed{seed}"
        stages = [self.stage(self.plan.output / self.config.name / where, self.config.name, seed, needs, late, {})]
        rate = self.init.lr
        if rate is not None:
            table = self.config.name + SEARCHED
            folder = self.plan.output / table / where
            if rate.value is not None:
                stages.append(self.stage(folder, table, seed, needs, late, {"SOLVER.BASE_LR": rate.value}))
            else:
                grid = search_folder(self.plan.output, self.config.name, self.init.name)
                searched = tuple(self._search_name(value) for value in rate.search)
                with_rate = lambda: (*late(), "SOLVER.BASE_LR", repr(chosen_rate(grid, rate.search)))  # noqa: E731
                stages.append(self.stage(folder, table, seed, needs, with_rate, {}, after=searched))
        return stages

    def _subset(self, seed: int) -> tuple[Callable[[], tuple[str, ...]], tuple[str, ...]]:
        """Late schedule and data arguments, and the stages they wait for."""
        if self.config.data_fraction == 1:
            return self._schedule, self.needs
        own = seed if self.plan.subset_seeds else None
        folder = split_folder(self.plan.output, self.config.name, self.config.data_fraction, 0.0, own)
        needs = (*self.needs, split_name(folder, self.plan))
        return lambda: (*self._schedule(), *split_names(folder, "TRAIN", "fit")), needs

    def _schedule(self, factor: float = 1.0) -> tuple[str, ...]:
        return schedule_opts(self.config, factor)

    def _search_name(self, value: float) -> str:
        grid = search_folder(self.plan.output, self.config.name, self.init.name)
        return str((grid / f"lr{value:g}").relative_to(self.plan.output))

    def search_stages(self) -> list[Stage]:
        """One short training per learning rate on part of train, evaluated on the part held out."""
        rate = self.init.lr
        if rate is None or not rate.search:
            return []
        folder = split_folder(self.plan.output, self.config.name, *search_parts(self.config, self.init))
        needs = (*self.needs, split_name(folder, self.plan))

        def late() -> tuple[str, ...]:
            data = (*split_names(folder, "TRAIN", "fit"), *split_names(folder, "TEST", "held_out"))
            return (*self._schedule(rate.schedule_factor), *data)

        return [
            self.stage(
                self.plan.output / self._search_name(value),
                f"{self.config.name} learning-rate search",
                self.plan.seeds[0],
                needs,
                late,
                {"SOLVER.BASE_LR": value},
                is_search=True,
            )
            for value in rate.search
        ]


def schedule_opts(config: Config, factor: float = 1.0) -> tuple[str, ...]:
    """KEY VALUE words that stretch MAX_ITER and STEPS by the schedule factor; warm-up stays, as in 2x configs."""
    factor *= config.schedule_factor
    return _stretched(config.file, tuple(override_words(config.overrides)), factor) if factor != 1 else ()


@functools.cache
def _stretched(file: str, overrides: tuple[str, ...], factor: float) -> tuple[str, ...]:
    from transfer.config import load_config

    solver = load_config(file, overrides).SOLVER
    length = max(1, round(solver.MAX_ITER * factor))
    steps = sorted({min(round(step * factor), length - 1) for step in solver.STEPS})  # a step must come before the end
    return tuple(override_words({"SOLVER.MAX_ITER": length, "SOLVER.STEPS": tuple(steps)}))


def choose(stages: Sequence[Stage], patterns: Sequence[str]) -> list[Stage]:
    """Stages whose name matches one of the glob ``patterns``, and everything they wait for."""
    if not patterns:
        return list(stages)
    wanted = [s.name for s in stages if any(fnmatch.fnmatch(s.name, p) or f"/{p}/" in f"/{s.name}/" for p in patterns)]
    if not wanted:
        raise UserError(f"--only {' '.join(patterns)} matches no stage; stages are {listed([s.name for s in stages])}")
    return with_needs(stages, wanted)
