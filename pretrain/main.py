"""Pretrain an encoder on a folder of images.

python pretrain/main.py                                     # a small MoCo v2 run on the demo images
python pretrain/main.py DIR -a resnet50 --lr 0.03 --batch-size 256 --mlp --moco-t 0.2 --aug-plus --cos
torchrun --nproc-per-node 8 pretrain/main.py DIR --recipe moco_v2
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

from pretrain.settings.options import parse
from pretrain.settings.recipes import describe
from pretrain.settings.values import ProcessSettings, Settings
from runtime.errors import UserError, run_entry
from runtime.pasteable import pasteable
from runtime.repository import REPOSITORY

DEMO = Path("runs/demo/data")


def draw_demo() -> str:
    """Draw the demo images where they are missing; returns their folder."""
    images = DEMO / "images"
    if not (DEMO / "demo.json").exists():  # written last: without it the drawing was never finished
        script, draw = REPOSITORY / "demo" / "draw.py", pasteable("demo/draw.py", [DEMO])
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # each process would draw over the others' images
            raise UserError(f"the demo images are not drawn yet; run {draw} first")
        done = subprocess.run([sys.executable, str(script), str(DEMO)])
        if done.returncode or not images.is_dir():
            raise UserError(f"the demo images could not be drawn; run {draw} to see why")
    return str(images)


def join_official_world(processes: ProcessSettings) -> None:
    """Translate the official way to name processes (--world-size, --rank, --dist-url) into torchrun's environment."""
    if processes.world_size <= 1 or "RANK" in os.environ:
        return
    if processes.multiprocessing_distributed:
        raise UserError("for several machines with one process per GPU use torchrun --nnodes N --nproc-per-node G")
    if not 0 <= processes.rank < processes.world_size:
        raise UserError(f"--rank {processes.rank} must be 0 or more and below --world-size {processes.world_size}")
    try:
        address = urlparse(processes.dist_url)
        host, port = address.hostname or "127.0.0.1", address.port or 10001
    except ValueError as error:
        raise UserError(f"--dist-url {processes.dist_url} is not tcp://HOST:PORT: {error}") from error
    os.environ.update(RANK=str(processes.rank), WORLD_SIZE=str(processes.world_size), LOCAL_WORLD_SIZE="1",
                      MASTER_ADDR=host, MASTER_PORT=str(port))  # fmt: skip


def choose_gpu(gpu: int | None) -> None:
    """The GPU of --gpu for the only process on this machine; of several each keeps its own, as in the official code."""
    environ = os.environ
    alone = int(environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", 1))) == 1
    if gpu is not None and alone:
        environ["LOCAL_RANK"] = str(gpu)


def work(settings: Settings) -> int:
    """Run this process's part; returns its exit code."""
    from pretrain.training.run import pretrain
    from runtime.distributed import close_world, init_world

    choose_gpu(settings.processes.gpu)
    world = init_world(settings.processes.device, settings.processes.dist_backend)
    try:
        return pretrain(settings, world)
    finally:
        close_world()


def enter(settings: Settings) -> None:
    """Entry point of a spawned process."""
    run_entry(lambda: work(settings))


def main() -> int:
    """Parse, draw the demo images if no folder was named, and run one process or one per GPU."""
    settings = parse()
    join_official_world(settings.processes)
    main_process = os.environ.get("RANK", "0") == "0"
    if settings.demo and main_process:
        print("no folder of images was named: pretraining on the demo images with the small recipe 'demo'", flush=True)
    if settings.demo:
        settings = replace(settings, data=replace(settings.data, data=draw_demo()))
    if settings.recipe_named and main_process:
        print("\n".join(describe(settings.recipe)), flush=True)
    if not settings.processes.multiprocessing_distributed or "RANK" in os.environ:
        return work(settings)
    import torch

    from runtime.distributed import launch

    try:
        launch(enter, max(1, torch.cuda.device_count()), (settings,))
    except torch.multiprocessing.ProcessExitedException as error:
        return error.exit_code
    return 0


def console() -> None:
    """The command ``gap-pretrain``."""
    run_entry(main)


if __name__ == "__main__":
    console()
