"""The command line of pretraining: official MoCo's flags with their defaults and meanings, and ours, in groups."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pretrain.methods import METHODS, option_defaults, owners
from pretrain.methods.row import ModelSettings
from pretrain.settings.recipes import OFFICIAL, RECIPES
from pretrain.settings.values import (
    DataSettings,
    OptimisationSettings,
    ProbeSettings,
    ProcessSettings,
    SavingSettings,
    Settings,
    group_of,
)
from runtime.arguments import flag, positive, whole
from runtime.command_line import CommandParser
from runtime.errors import UserError

# Defaults of the settings that are ours, belong to no method, and decide the result or may be set by a recipe.
OURS: dict[str, Any] = {
    "image_size": 224,
    "stem": "imagenet",
    "bn_splits": 1,
    "precision": "fp32",
    "aug_on": "auto",
    "views": None,
    "accumulate": 1,
    "iterations": None,
    "lr_every": None,
    "lr_gamma": 0.1,
    "schedule_factors": None,
    "warmup_epochs": 0.0,
    "optimizer": "sgd",
    "seed": 0,
}
# What may differ between a run and its continuation without changing a single number.
FREE = {"workers", "print_freq"}


def defaults() -> dict[str, Any]:
    """Defaults of every setting that a recipe may set or that decides the result, in no recipe."""
    return {**OURS, **option_defaults(), **OFFICIAL}


def build_parser() -> argparse.ArgumentParser:
    """All options. Those that a recipe may set have no default here: the result then holds what the user wrote."""
    parser = CommandParser(
        description="Pretrain an encoder. Without a folder of images: a small MoCo v2 run on the demo images.",
        argument_default=argparse.SUPPRESS,
        epilog="--batch-size is for one machine, as in the official code; scale --lr by global batch / 256 x 0.03.",
    )
    parser.add_argument(
        "data",
        nargs="?",
        default=None,
        metavar="DIR",
        help="images: a folder (its train/ where it has one, with val/ for the probe), a file list, or tar shards",
    )
    for add in (_add_what, _add_official, _add_optimisation, _add_method_options, _add_data, _add_run, _add_processes):
        add(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to train")
    group.add_argument("--method", choices=sorted(METHODS), help=f"pretext task ({OFFICIAL['method']})")
    group.add_argument("--recipe", choices=sorted(RECIPES), help="published settings; what it sets is printed")
    group.add_argument("-a", "--arch", metavar="ARCH", help="torchvision ResNet or vit_small ... (resnet50)")
    group.add_argument("--stem", choices=["imagenet", "cifar"], help="cifar: 3x3 stride 1, for 32 px images")
    group.add_argument("--image-size", type=positive, metavar="PX", help="side of a crop (224)")
    words = "arithmetic of the encoders (fp32); auto: bf16 where the device has it, else fp32"
    group.add_argument("--precision", choices=["fp32", "bf16", "auto"], help=words)


def _add_official(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MoCo (official names, defaults and meanings)")
    group.add_argument("--moco-dim", type=positive, help="feature dimension (128)")
    group.add_argument("--moco-k", type=positive, help="queue size; number of negatives (65536)")
    group.add_argument("--moco-m", type=float, help="momentum of the key encoder (0.999)")
    group.add_argument("--moco-t", type=float, help="softmax temperature (0.07)")
    group.add_argument("--mlp", action="store_true", help="MoCo v2's two-layer head")
    group.add_argument("--aug-plus", action="store_true", help="MoCo v2's augmentation")
    group.add_argument("--cos", action="store_true", help="cosine learning rate, stepped per epoch")


def _add_optimisation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", "--learning-rate", type=float, help="learning rate (0.03); moco_v3: for 256 images")
    group.add_argument("-b", "--batch-size", type=positive, help="images per step on one machine, all GPUs (256)")
    group.add_argument("--epochs", type=positive, help="(200)")
    group.add_argument("--start-epoch", type=whole, default=0, help="first epoch when a checkpoint has no step")
    group.add_argument("--schedule", type=int, nargs="*", help="epochs at which the rate drops 10x (120 160)")
    group.add_argument("--schedule-factors", type=float, nargs="*", help="factors of the base rate at those epochs")
    group.add_argument("--iterations", type=positive, help="length in steps instead of epochs")
    group.add_argument("--lr-every", type=positive, metavar="STEPS", help="multiply the rate every so many steps ...")
    group.add_argument("--lr-gamma", type=float, help="... by this")
    group.add_argument("--warmup-epochs", type=float, help="linear warm-up (0: MoCo has none)")
    group.add_argument("--optimizer", choices=["sgd", "lars", "adamw"], help="(sgd)")
    group.add_argument("--momentum", type=float, help="of SGD and LARS (0.9)")
    group.add_argument("--wd", "--weight-decay", dest="weight_decay", type=float, help="(1e-4)")
    group.add_argument("--accumulate", type=positive, metavar="N", help="split each process's batch into N parts")


def _add_method_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of methods")
    group.add_argument("--bn-splits", type=positive, metavar="N", help="BatchNorm groups on one device (1)")
    arguments = {name: kwargs for row in METHODS.values() for name, kwargs in row.arguments().items()}
    for name, kwargs in arguments.items():
        group.add_argument(flag(name), **kwargs)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("-j", "--workers", type=whole, help="loader processes (32, at most the cores there are)")
    group.add_argument("--cache", metavar="DIR", default=None, help="pre-decoded images (pretrain/cache_images.py)")
    group.add_argument("--views", choices=["v1", "v2", "v3", "cifar"], help="augmentation by name (v1; v2 with "
                       "--aug-plus; v3: MoCo v3's; cifar: of the official CIFAR-10 demo)")  # fmt: skip
    group.add_argument("--aug-on", choices=["auto", "device", "cpu"], help="where colour and blur are computed (auto)")
    group.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="bad images tolerated (0.01)")
    group.add_argument("--val", metavar="DIR", default=None, help="labelled images for the probe (DIR/val)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR", default=None, help="run folder (runs/NAME)")
    group.add_argument("--name", default=None, help="name of the run folder in runs/ (METHOD_ARCH)")
    group.add_argument("--resume", nargs="?", const="auto", default=None, metavar="PATH", help="checkpoint, ours or "
                       "official; without PATH the newest readable one of the run folder")  # fmt: skip
    group.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="may differ on resume",
    )
    group.add_argument("--save-every", type=positive, default=1, metavar="EPOCHS", help="checkpoint interval (1)")
    group.add_argument("--save-steps", type=whole, default=0, metavar="N", help="also save every N steps (0: no)")
    group.add_argument("--keep", type=whole, default=2, metavar="N", help="newest checkpoints to keep, 0 for all (2)")
    group.add_argument("--seed", type=int, help="everything random derives from it (0)")
    group.add_argument("-p", "--print-freq", type=positive, help="steps between log lines (10)")
    group.add_argument("--knn-every", type=whole, default=1, metavar="EPOCHS", help="between kNN probes (1; 0: never)")
    group.add_argument(
        "--knn-images", type=whole, default=10000, metavar="N", help="images of each set (10000; 0: all)"
    )
    group.add_argument(
        "--knn-layer",
        choices=["backbone", "head"],
        default="backbone",
        help="layer it compares",
    )
    group.add_argument("--skip-nonfinite", type=whole, default=0, metavar="N", help="skip up to N bad steps in a row")
    group.add_argument("--dry-run", action="store_true", default=False, help="check everything, estimate memory and "
                       "time, print them and stop")  # fmt: skip
    group.add_argument("--wandb", action="store_true", default=False, help="also log to Weights & Biases")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes (torchrun's environment is used where it is set)")
    group.add_argument("--device", choices=["cpu", "cuda"], default=None, help="(cuda where there is one)")
    group.add_argument("--gpu", type=int, default=None, metavar="ID", help="use this GPU only")
    group.add_argument("--multiprocessing-distributed", action="store_true", default=False, help="one process per GPU")
    group.add_argument("--world-size", type=int, default=-1, help="number of machines")
    group.add_argument("--rank", type=int, default=-1, help="number of this machine")
    group.add_argument("--dist-url", default="tcp://127.0.0.1:10001", help="where machine 0 listens")
    group.add_argument("--dist-backend", choices=["nccl", "gloo"], default=None, help="(nccl on GPUs, gloo on CPUs)")


def parse(argv: list[str] | None = None) -> Settings:
    """Settings: the command line over its recipe (the method's own by default) over the defaults.

    Exits with code 2 where argparse does; raises UserError for an option that the method does not have.
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    given["resume"] = given["resume"] if given["resume"] != "" else None  # the official default
    demo = given["data"] is None
    if demo and given["resume"] not in (None, "auto"):
        parser.error(f"--resume took {given['resume']!r}: no folder of images is left, so name it before --resume")
    if demo:  # the run without arguments continues where it stopped
        given["resume"], given["name"] = "auto", given["name"] or "demo_pretrain"
    recipe = given["recipe"] if "recipe" in given else _default_recipe(given, demo)
    values = {**defaults(), **RECIPES[recipe], **given}
    of_recipe = RECIPES[recipe].get("method", OFFICIAL["method"])
    if "recipe" in given and of_recipe != values["method"]:
        parser.error(f"recipe {recipe} is for --method {of_recipe}, not {values['method']}")
    _refuse_options_of_other_methods(values)
    return _settings(values, recipe=recipe, recipe_named="recipe" in given, demo=demo)


def _default_recipe(given: dict[str, Any], demo: bool) -> str:
    if demo and "method" not in given:
        return "demo"
    return METHODS[given.get("method", OFFICIAL["method"])].recipe


def _refuse_options_of_other_methods(values: dict[str, Any]) -> None:
    """An option that the method ignores would let a comparison compare a run with itself."""
    method = values["method"]
    for name, default in option_defaults().items():
        if values[name] != default and method not in owners(name):
            raise UserError(
                f"{flag(name)} is an option of --method {' and '.join(owners(name))}; --method {method} does not use it"
            )


def _settings(values: dict[str, Any], *, recipe: str, recipe_named: bool, demo: bool) -> Settings:
    """The typed settings of the merged ``values``, whose names are those of the flags."""
    values = dict(values)
    folder = values["output"] or Path("runs") / (values["name"] or f"{values['method']}_{values['arch']}")
    for name in ("cache", "val"):
        values[name] = Path(values[name]) if values[name] else None
    return Settings(
        recipe=recipe,
        recipe_named=recipe_named,
        demo=demo,
        model=group_of(ModelSettings, values),
        options=group_of(METHODS[values["method"]].options, values),
        data=group_of(DataSettings, {**values, "data": values["data"] or ""}),
        optimisation=group_of(OptimisationSettings, values),
        saving=group_of(SavingSettings, {**values, "folder": Path(folder)}),
        probe=group_of(ProbeSettings, values),
        processes=group_of(ProcessSettings, values),
        recorded={name: values[name] for name in sorted(defaults().keys() - FREE)},
        **{name: values[name] for name in ("method", "seed", "print_freq", "skip_nonfinite", "wandb", "dry_run")},
    )
