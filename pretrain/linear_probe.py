"""Linear classification on frozen features, by MoCo's protocol (1911.05722, section 4.1).

    python pretrain/linear_probe.py DIR --pretrained runs/moco/checkpoint_0199.pth.tar

Defaults are the official main_lincls.py's: lr 30, batch 256, 100 epochs, x0.1 at 60 and 80, no weight decay.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from runtime.arguments import RATES, Bounds, is_rate, positive, whole
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", metavar="DIR", help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument(
        "--pretrained",
        required=True,
        metavar="FILE",
        help="checkpoint: ours, official, or any file that to_d2.py converts",
    )
    parser.add_argument("-a", "--arch", default=None, help="(the checkpoint's)")
    parser.add_argument("--lr", "--learning-rate", type=float, default=30.0)
    parser.add_argument("-b", "--batch-size", type=positive, default=256)
    parser.add_argument("--epochs", type=positive, default=100)
    parser.add_argument("--schedule", type=int, nargs="*", default=[60, 80], help="epochs at which lr drops 10x")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--wd", "--weight-decay", dest="weight_decay", type=float, default=0.0)
    parser.add_argument("--image-size", type=positive, default=None, help="(the checkpoint's, else 224)")
    parser.add_argument("-j", "--workers", type=whole, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=None, metavar="DIR", help="run folder (PRETRAINED's name + _linear)")
    parser.add_argument("--resume", action="store_true", help="continue the probe of the run folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=None)
    return parser.parse_args(argv)


def main() -> int:
    """Train the classifier and print its top-1 and top-5 after every epoch."""
    values = vars(parse())
    if not is_rate(values["lr"]):
        raise UserError(f"--lr must be {RATES}, not {values['lr']}")
    for name in ("momentum", "weight_decay"):
        Bounds().check(name, values[name])
    from pretrain.probes.linear import LinearSettings, probe
    from runtime.distributed import init_world

    output = values.pop("output") or f"{values['pretrained'].removesuffix('.pth.tar')}_linear"
    schedule, device = tuple(values.pop("schedule")), values.pop("device")
    return probe(LinearSettings(**values, schedule=schedule, folder=Path(output)), init_world(device))


def console() -> None:
    """The command ``gap-linear-probe``."""
    run_entry(main)


if __name__ == "__main__":
    console()
