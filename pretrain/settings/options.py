"""The command line of pretraining: official MoCo's flags with their defaults and meanings, and ours, in groups."""

from __future__ import annotations

import argparse

from pretrain.methods import METHODS
from pretrain.settings.recipes import OFFICIAL, RECIPES

OURS = {
    "image_size": 224,
    "stem": "imagenet",
    "bn_splits": 1,
    "precision": "fp32",
    "aug_on": "auto",
    "views": None,
    "symmetric": False,
    "negatives": "queue",
    "mochi_hardest": 1024,
    "mochi_pairs": 1024,
    "mochi_query": 128,
    "mochi_warmup": 10,
    "class_prior": 0.1,
    "hard_beta": 1.0,
    "bank_momentum": 0.5,
    "instdisc_form": "nce",
    "share_encoder": False,
    "accumulate": 1,
    "iterations": None,
    "lr_every": None,
    "lr_gamma": 0.1,
    "schedule_factors": None,
    "warmup_epochs": 0.0,
    "seed": None,
}


def build_parser() -> argparse.ArgumentParser:
    """Every option; those a recipe may set have no default here, so that what the user wrote can be told apart."""
    parser = argparse.ArgumentParser(
        prog="pretrain/main.py",
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
    group.add_argument("--method", choices=sorted(METHODS), help="pretext task (moco)")
    group.add_argument("--recipe", choices=sorted(RECIPES), help="published settings; what it sets is printed")
    group.add_argument("-a", "--arch", metavar="ARCH", help="torchvision ResNet (resnet50)")
    group.add_argument("--stem", choices=["imagenet", "cifar"], help="cifar: 3x3 stride 1, for 32 px images")
    group.add_argument("--image-size", type=_positive, metavar="PX", help="side of a crop (224)")
    group.add_argument("--precision", choices=["fp32", "bf16"], help="arithmetic of the encoders (fp32)")


def _add_official(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MoCo (official names, defaults and meanings)")
    group.add_argument("--moco-dim", type=_positive, help="feature dimension (128)")
    group.add_argument("--moco-k", type=_positive, help="queue size; number of negatives (65536)")
    group.add_argument("--moco-m", type=float, help="momentum of the key encoder (0.999)")
    group.add_argument("--moco-t", type=float, help="softmax temperature (0.07)")
    group.add_argument("--mlp", action="store_true", help="MoCo v2's two-layer head")
    group.add_argument("--aug-plus", action="store_true", help="MoCo v2's augmentation")
    group.add_argument("--cos", action="store_true", help="cosine learning rate, stepped per epoch")


def _add_optimisation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", "--learning-rate", type=float, help="initial learning rate (0.03)")
    group.add_argument("-b", "--batch-size", type=_positive, help="images per step on one machine, all GPUs (256)")
    group.add_argument("--epochs", type=_positive, help="(200)")
    group.add_argument("--start-epoch", type=_whole, default=0, help="first epoch when a checkpoint has no step")
    group.add_argument("--schedule", type=int, nargs="*", help="epochs at which the rate drops 10x (120 160)")
    group.add_argument("--schedule-factors", type=float, nargs="*", help="factors of the base rate at those epochs")
    group.add_argument("--iterations", type=_positive, help="length in steps instead of epochs")
    group.add_argument("--lr-every", type=_positive, metavar="STEPS", help="multiply the rate every so many steps ...")
    group.add_argument("--lr-gamma", type=float, help="... by this")
    group.add_argument("--warmup-epochs", type=float, help="linear warm-up (0: MoCo has none)")
    group.add_argument("--momentum", type=float, help="of SGD (0.9)")
    group.add_argument("--wd", "--weight-decay", dest="weight_decay", type=float, help="(1e-4)")
    group.add_argument("--accumulate", type=_positive, metavar="N", help="split each process's batch into N parts")


def _add_method_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of methods")
    group.add_argument("--bn-splits", type=_positive, metavar="N", help="BatchNorm groups on one device (1)")
    group.add_argument("--symmetric", action="store_true", help="moco: add the loss with the views exchanged")
    group.add_argument("--negatives", choices=["queue", "mochi", "debiased", "hard"], help="moco: which negatives")
    group.add_argument("--mochi-hardest", type=_positive, help="mochi: negatives to mix from, per query (1024)")
    group.add_argument("--mochi-pairs", type=_positive, help="mochi: mixtures of two negatives (1024)")
    group.add_argument("--mochi-query", type=_positive, help="mochi: mixtures of the query and a negative (128)")
    group.add_argument("--mochi-warmup", type=_whole, metavar="EPOCHS", help="mochi: epochs before mixing (10)")
    group.add_argument("--class-prior", type=float, help="debiased, hard: probability of a false negative (0.1)")
    group.add_argument("--hard-beta", type=float, help="hard: concentration (1.0)")
    group.add_argument("--bank-momentum", type=float, help="memory_bank, instdisc: of the representations (0.5)")
    group.add_argument("--instdisc-form", choices=["nce", "softmax"], help="instdisc: loss (nce)")
    group.add_argument("--share-encoder", action="store_true", help="end_to_end: one encoder for queries and keys")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("-j", "--workers", type=_whole, help="loader processes (32, at most the cores there are)")
    group.add_argument("--cache", metavar="FILE", default=None, help="pre-decoded images (pretrain/cache_images.py)")
    group.add_argument("--views", choices=["v1", "v2", "cifar"], help="augmentation by name (v1; v2 with --aug-plus; "
                       "cifar: of the official CIFAR-10 demo)")  # fmt: skip
    group.add_argument("--aug-on", choices=["auto", "device", "cpu"], help="where colour and blur are computed (auto)")
    group.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="bad images tolerated (0.01)")
    group.add_argument("--val", metavar="DIR", default=None, help="labelled images for the probe (DIR/val)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR", default=None, help="run folder (runs/NAME)")
    group.add_argument("--name", default=None, help="name of the run folder in runs/ (METHOD_ARCH)")
    group.add_argument("--resume", nargs="?", const="auto", default=None, metavar="PATH", help="checkpoint, ours or "
                       "official; without PATH the newest readable one of the run folder")  # fmt: skip
    group.add_argument("--allow-change", action="append", default=[], metavar="KEY", help="accept this on resume")
    group.add_argument("--save-every", type=_positive, default=1, metavar="EPOCHS", help="checkpoint interval (1)")
    group.add_argument("--save-steps", type=_whole, default=0, metavar="N", help="also save every N steps (0: no)")
    group.add_argument("--keep", type=_whole, default=2, metavar="N", help="newest checkpoints to keep, 0 for all (2)")
    group.add_argument("--seed", type=int, help="everything random derives from it (0)")
    group.add_argument("-p", "--print-freq", type=_positive, help="steps between log lines (10)")
    group.add_argument("--knn-every", type=_whole, default=1, metavar="EPOCHS", help="between kNN probes (1; 0: never)")
    group.add_argument("--knn-images", type=_whole, default=10000, metavar="N", help="of each set (10000; 0: all)")
    group.add_argument("--knn-layer", choices=["backbone", "head"], default="backbone", help="features it compares")
    group.add_argument("--skip-nonfinite", type=_whole, default=0, metavar="N", help="skip up to N bad steps in a row")
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


def _whole(text: str, least: int = 0) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} up")
    return value


def _positive(text: str) -> int:
    return _whole(text, 1)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Settings: the command line over its recipe (the method's own by default) over the official defaults.

    ``demo`` says that no folder was named, ``recipe`` which recipe was used.
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    given["resume"] = given["resume"] if given["resume"] != "" else None  # the official default
    demo = given["data"] is None
    if demo and given["resume"] not in (None, "auto"):
        parser.error(f"--resume took {given['resume']!r}: no folder of images is left, so name it before --resume")
    if demo:  # the run without arguments goes on where it stopped
        given["resume"], given["name"] = "auto", given["name"] or "demo_pretrain"
    fallback = "demo" if demo and "method" not in given else METHODS[given.get("method", "moco")].recipe
    recipe = given.get("recipe", fallback)
    merged = {**OURS, **OFFICIAL, **RECIPES[recipe], **given}
    named = given.get("method", merged["method"])
    if "recipe" in given and RECIPES[recipe].get("method", "moco") != named:
        parser.error(f"recipe {recipe} is for --method {RECIPES[recipe].get('method', 'moco')}, not {named}")
    merged["seed"] = 0 if merged["seed"] is None else merged["seed"]
    return argparse.Namespace(**{**merged, "recipe": recipe, "demo": demo, "recipe_named": "recipe" in given})
