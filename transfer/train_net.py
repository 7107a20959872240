"""Fine-tune a detector from a backbone, evaluate it, and write result.json; takes Detectron2's flags.

python transfer/train_net.py --config-file coco_R50_FPN.yaml --init BACKBONE.pkl --num-gpus 8 OUTPUT_DIR runs/x SEED 0
"""

import os
import sys
import tempfile

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from runtime.command_line import CommandParser
from runtime.errors import run_entry

CONFIG_SUFFIXES = (".yaml", ".yml")


def parse() -> argparse.Namespace:
    """The command line: Detectron2's flags and this project's --engine, --init, --evaluator, --scale-to-batch."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", metavar="FILE", help="a path, or a name in configs/")
    parser.add_argument("--init", help="random, supervised, supervised-msra, or a backbone or checkpoint file")
    parser.add_argument("--init-name", help="name of the initialisation in results (default: from --init)")
    parser.add_argument("--engine", default="auto", choices=("auto", "detectron2", "torchvision"))
    parser.add_argument(
        "--evaluator",
        default="auto",
        metavar="NAME",
        help="for COCO data: auto, official, fast or hotcoco; auto-300 takes 300 detections a class and image, not 100",
    )
    parser.add_argument(
        "--scale-to-batch", type=int, metavar="N", help="use a batch of N and scale the schedule linearly"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--allow-change", action="append", default=[], metavar="KEY", help="let this setting differ on --resume"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS or OUTPUT_DIR/model_final.pth")
    parser.add_argument(
        "--check-data",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="read the data sets of the config, decode every image, print findings, do not train",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, estimate the memory, write nothing")
    parser.add_argument("--wandb", action="store_true", help="also show the training in Weights & Biases")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="K")
    parser.add_argument("--dist-url", default="auto", metavar="tcp://HOST:PORT")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args()
    _settle_config(parser, args)
    for name in ("num_gpus", "num_machines", "scale_to_batch"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.eval_only and args.init:
        parser.error("--eval-only evaluates a trained model; leave out --init, which is for training")
    if args.dry_run and args.eval_only:
        parser.error("--dry-run is of a training; leave out --eval-only")
    if args.eval_only and args.wandb:
        parser.error("--wandb shows a training; leave it out with --eval-only")
    if args.allow_change and not args.resume:
        parser.error("--allow-change needs --resume: it accepts a difference to the checkpoint")
    if not 0 <= args.machine_rank < args.num_machines:
        parser.error("--machine-rank must be below --num-machines")
    return args


def _settle_config(parser: CommandParser, args: argparse.Namespace) -> None:
    """The word after --check-data is the config, in place of --config-file, or the first of the overrides."""
    word = args.check_data
    args.check_data = bool(word)
    if isinstance(word, str) and not (word.endswith(CONFIG_SUFFIXES) or Path(word).is_file()):
        args.opts = [word, *args.opts]
    elif isinstance(word, str) and args.config_file is not None:
        parser.error(
            f"--check-data {word}: --config-file {args.config_file} names the config already; give one of them"
        )
    elif isinstance(word, str):
        args.config_file = word
    if args.config_file is None:
        meant = f" {args.opts[0]}" if args.opts and args.opts[0].endswith(CONFIG_SUFFIXES) else " FILE"
        parser.error(f"the config is missing; name it by --config-file{meant}")


def main() -> int:
    """Parse, then run in as many processes as requested."""
    args = parse()
    if args.check_data:
        return print_data_check(args)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.num_gpus)))
    from transfer.fine_tuning.processes import Machines, run_processes

    machines = Machines(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    return run_processes(run, machines, (args,))


def print_data_check(args: argparse.Namespace) -> int:
    """``--check-data``: findings on standard output."""
    from transfer.config import explicit_keys, load_config
    from transfer.fine_tuning.data_check import check_data

    cfg = load_config(args.config_file, args.opts)
    for line in check_data(cfg, explicit_keys(args.config_file, args.opts)):
        print(line, flush=True)
    return 0


def run(args: argparse.Namespace) -> int:
    """The work of one process."""
    from runtime.distributed import close_world, init_world
    from runtime.logs import get_logger, setup_logging
    from runtime.weights_and_biases import require_wandb
    from transfer.config import load_config
    from transfer.engines import resolve_engine
    from transfer.fine_tuning.dry_run import dry_run_lines
    from transfer.fine_tuning.job import Job, evaluate_only, train_and_evaluate
    from transfer.fine_tuning.preparation import prepare, set_default_seed, set_output_folder

    cfg = load_config(args.config_file, args.opts)
    world = init_world("cpu" if cfg.MODEL.DEVICE == "cpu" else None)
    try:
        setup_logging(None, world.rank)
        log = get_logger("run")
        engine = resolve_engine(args.engine)
        log.info("engine: %s (%s)", engine.name, ", ".join(f"{k} {v}" for k, v in engine.versions().items()))
        if args.wandb:
            require_wandb()
        set_default_seed(cfg)
        folder = set_output_folder(cfg, args)
        if args.dry_run:
            with tempfile.TemporaryDirectory() as elsewhere:  # a checkpoint is converted into the run's folder
                init = prepare(cfg, args, Path(elsewhere), engine, world.size)
                print("\n".join(dry_run_lines(cfg, init, world.size, engine.name)))
            return 0
        init = prepare(cfg, args, folder, engine, world.size)
        cfg.freeze()
        name = Path(args.config_file).stem
        job = Job(
            cfg,
            name,
            folder,
            init.record(),
            engine,
            args.evaluator,
            args.resume,
            tuple(args.allow_change),
            world.rank,
            world.size,
            args.wandb,
        )
        if args.eval_only and init.weights is not None:
            return evaluate_only(job, init.weights)
        return train_and_evaluate(job)
    finally:
        close_world()


def console() -> None:
    """The command ``gap-train``."""
    run_entry(main)


if __name__ == "__main__":
    console()
