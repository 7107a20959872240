"""The stages that draw parts of the training images: data fractions, and the parts of a learning-rate search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import UserError
from transfer.config import load_config
from transfer.data.catalog import get_dataset
from transfer.data.splitting import parts_of
from transfer.planning.command_settings import override_words
from transfer.planning.lr_search import split_folder
from transfer.planning.plan import Config, Plan, trained_inits
from transfer.planning.planned_init import PlannedInit
from transfer.planning.recorded_run import split_command
from transfer.planning.stage import Stage


def search_parts(config: Config, init: PlannedInit) -> tuple[float, float]:
    """Shares of the training images that a learning-rate search trains on and is scored on."""
    held_out = init.lr.held_out if init.lr else 0.0
    return config.data_fraction * (1 - held_out), config.data_fraction * held_out


def subset_stages(plan: Plan, config: Config, prepared: tuple[str, ...]) -> list[Stage]:
    stages = []
    opts = override_words({k: v for k, v in config.overrides.items() if k.startswith("DATASETS.")})
    if plan.subset_seeds and config.data_fraction < 1:
        return [_own_subset(plan, config, seed, opts, prepared) for seed in plan.seeds]
    wanted = {(config.data_fraction, 0.0)} if config.data_fraction < 1 else set()
    wanted |= {search_parts(config, init) for init in trained_inits(plan) if init.lr and init.lr.search}
    for fit, held_out in sorted(wanted):
        folder = split_folder(plan.output, config.name, fit, held_out)
        argv = ["transfer/splits.py", "--config-file", config.file, "--output", str(folder)]
        argv += ["--fit", f"{fit:g}", "--held-out", f"{held_out:g}"]
        if held_out and config.data_fraction < 1:  # a search must not see labels that the runs do not have
            argv += ["--within", f"{config.data_fraction:g}"]
        argv += opts
        stages.append(Stage(split_name(folder, plan), "split", tuple(argv), folder, folder / "names.json", prepared))
    return stages


def subset_refusal(stage: Stage) -> str | None:
    """Why the parts of a split stage cannot be drawn from the training sets of its config; None where they can."""
    flags, opts = split_command(stage.argv)
    fit, held_out, within = float(flags["--fit"]), float(flags.get("--held-out", 0)), float(flags.get("--within", 1))
    try:
        for name in load_config(flags["--config-file"], opts).DATASETS.TRAIN:
            parts_of(get_dataset(name).summary.image_ids, fit, held_out, within, where=f"data set {name}")
    except UserError as error:
        return str(error)
    return None


def _own_subset(plan: Plan, config: Config, seed: int, opts: Sequence[str], prepared: tuple[str, ...]) -> Stage:
    """The stage that draws the subset of one fine-tuning seed."""
    folder = split_folder(plan.output, config.name, config.data_fraction, 0.0, seed)
    argv = ["transfer/splits.py", "--config-file", config.file, "--output", str(folder)]
    argv += ["--fit", f"{config.data_fraction:g}", "--seed", str(seed), *opts]
    return Stage(split_name(folder, plan), "split", tuple(argv), folder, folder / "names.json", prepared)


def split_name(folder: Path, plan: Plan) -> str:
    return str(folder.relative_to(plan.output))
