"""One pretraining run, put together: data, method, schedule, checkpoint, loop."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pretrain.batches.loader import build_loader
from pretrain.encoders.checkpoint_file import load_checkpoint
from pretrain.images import open_images
from pretrain.images.source import ImageSource
from pretrain.methods import METHODS, Sizes
from pretrain.methods.base import Method
from pretrain.probes.knn import KnnMonitor
from pretrain.settings.checks import check_settings, check_sizes, deciding
from pretrain.settings.options import OURS
from pretrain.settings.recipes import OFFICIAL
from pretrain.settings.schedule import Schedule
from pretrain.training.checkpoints import CheckpointFolder, optimizer_state, refuse_changes, restore, weights_sha256
from pretrain.training.loop import Course, train
from pretrain.training.optimiser import RefusableSGD
from pretrain.training.recorder import Recorder
from pretrain.training.step_guard import StepGuard
from pretrain.training.warnings_of_failure import HealthWatch
from pretrain.views import Views, build_views, eval_kind
from runtime.allocator import keep_freed_memory
from runtime.atomic import write_text
from runtime.distributed import World, barrier
from runtime.errors import UserError
from runtime.logs import get_logger, setup_logging
from runtime.provenance import provenance, usable_cores
from runtime.run_folder import RunLock
from runtime.seeds import derive_seed, rng_state, seed_everything
from runtime.stop import StopSignal

log = get_logger("pretrain")
DEFAULTS = {**OURS, **OFFICIAL}
HASH_FILE = "weights.sha256"


def pretrain(args: Namespace, folder: Path, world: World) -> int:
    """Run or continue a pretraining in ``folder``; returns the exit code (0, or 128 + the signal that stopped it).

    Raises UserError for settings or data that cannot work, before anything is written.
    """
    check_settings(args)
    cache = Path(args.cache) if args.cache else None
    source = open_images(args.data, labels=METHODS[args.method].labels, cache=cache)
    if METHODS[args.method].labels and len(source.classes or []) < 2:
        raise UserError(
            f"{args.data} holds one class ({', '.join(source.classes or [])}): --method {args.method} needs "
            "DIR/CLASS/*.jpg with two classes or more; is the folder of classes one level deeper?"
        )
    global_batch = args.batch_size * machines(world)
    check_sizes(args, images=len(source), global_batch=global_batch, ranks=world.size)
    sizes = Sizes(len(source), len(source.classes or []), global_batch, len(source) // global_batch)
    with RunLock(folder) if world.is_main else nullcontext():
        setup_logging(folder if world.is_main else None, world.rank)
        return _run(args, folder, world, source, sizes)


def _run(args: Namespace, folder: Path, world: World, source: ImageSource, sizes: Sizes) -> int:
    total = args.iterations or args.epochs * sizes.steps_per_epoch
    seed_everything(derive_seed(args.seed, "weights"))
    method = METHODS[args.method].build(args, sizes).to(world.device)
    method.to(memory_format=torch.channels_last)  # BatchNorm 3x, bf16 convolutions faster still
    optimizer = RefusableSGD(
        method.trained_parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )
    kept = CheckpointFolder(folder, sizes.steps_per_epoch, args.keep)
    fixed = deciding(args, fingerprint=source.fingerprint, ranks=world.size)
    start, changes, recount = resume(args, kept, method, optimizer, fixed)
    if start >= total:
        if world.is_main and not (folder / HASH_FILE).exists():  # killed right behind the last save
            write_hash(folder, kept.name(start), weights_sha256(method.export_state()))
        log.info("already finished: %d of %d steps are in %s", start, total, folder)
        return 0

    def state_after(done: int) -> dict[str, Any]:
        return snapshot(args, method, optimizer, done, sizes.steps_per_epoch, fixed, changes)

    def save(done: int) -> None:
        if world.is_main:  # the ranks hold the same weights; the BatchNorm buffers saved are rank 0's
            state = state_after(done)
            file = kept.save(state)
            log.info("saved %s, weights %s", file, state["weights_sha256"])
            if done == total:
                write_hash(folder, file, state["weights_sha256"])
        barrier()

    barrier()  # every rank has read its checkpoint
    if recount and world.is_main:
        kept.renumber(state_after(start))
    log.info(
        "%s %s on %d images of %s: %d steps of %d images%s, %d process(es) on %s",
        args.method, args.arch, len(source), args.data, total, sizes.global_batch,
        f" from step {start}" if start else "", world.size, world.device,
    )  # fmt: skip
    with StopSignal() as stop:
        done = _train(args, folder, world, source, sizes, method, optimizer, fixed, start, total, save, stop)
    if done < total:
        log.info("stopped by a signal after step %d of %d; add --resume to continue", done, total)
        return stop.exit_code or 143
    log.info("finished: %s", kept.name(total))
    return 0


def _train(
    args: Namespace, folder: Path, world: World, source: ImageSource, sizes: Sizes, method: Method,
    optimizer: RefusableSGD, fixed: dict[str, Any], start: int, total: int, save: Callable[[int], None],
    stop: StopSignal,
) -> int:  # fmt: skip
    """Build what the loop needs and hand over to it."""
    per_epoch = sizes.steps_per_epoch
    if world.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    views = training_views(args)
    recorder = Recorder(
        folder, every=args.print_freq, images=sizes.global_batch, total_steps=total, steps_per_epoch=per_epoch,
        watch=HealthWatch(method.chance, total), main=world.is_main,
        wandb={"project": "transfer-gap", "config": fixed} if args.wandb else None,
    )  # fmt: skip
    monitor = knn_monitor(args, method, world)
    batches = build_loader(
        source, views, batch_size=sizes.global_batch, stop_step=total, start_step=start, seed=args.seed,
        workers=usable_workers(args.workers, world), rank=world.rank, world_size=world.size, max_bad=args.max_bad,
    )  # fmt: skip
    try:
        return train(
            method, optimizer, batches, views, device=world.device, schedule=schedule_of(args, total, per_epoch),
            course=course(args, start, total, per_epoch, monitor is not None),
            guard=StepGuard(folder, args.skip_nonfinite), recorder=recorder, save=save,
            probe=lambda: run_probe(monitor, world), stop=stop,
        )  # fmt: skip
    finally:
        recorder.close()


def machines(world: World) -> int:
    """Number of machines: --batch-size counts the images of one, as in the official code."""
    return max(1, world.size // int(os.environ.get("LOCAL_WORLD_SIZE", world.size)))


def usable_workers(wanted: int, world: World) -> int:
    """Loader processes of this rank: the machine's, shared by its ranks, never more than its cores."""
    cores = usable_cores()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return max(0 if wanted == 0 else 1, min(wanted, cores) // local)


def training_views(args: Namespace) -> Views:
    """The method's views: the crops it needs, of the kind that --views names, else of v1, v2 or its own."""
    single = {"supervised": ("supervised", 1), "invaspread": ("invaspread", 2)}
    kind, count = single.get(args.method, ("v2" if args.aug_plus else "v1", 2))
    if args.method in ("memory_bank", "instdisc"):
        count = 1
    return build_views(args.views or kind, image_size=args.image_size, views=count, aug_on=args.aug_on)


def schedule_of(args: Namespace, total: int, per_epoch: int) -> Schedule:
    """The learning-rate schedule that the settings describe."""
    return Schedule(
        args.lr, total, per_epoch, cos=args.cos, by_step=args.iterations is not None, every=args.lr_every,
        milestones=sorted(args.schedule), gamma=args.lr_gamma, factors=args.schedule_factors,
        warmup_steps=round(args.warmup_epochs * per_epoch),
    )  # fmt: skip


def course(args: Namespace, start: int, total: int, per_epoch: int, probing: bool) -> Course:
    """When the run saves and probes: at its end, every so many epochs, and every so many steps if asked to."""

    def save_at(done: int) -> bool:
        by_steps = bool(args.save_steps) and done % args.save_steps == 0
        return done == total or by_steps or done % (args.save_every * per_epoch) == 0

    def probe_at(done: int) -> bool:
        return probing and (done == total or done % (args.knn_every * per_epoch) == 0)

    return Course(start, total, save_at, probe_at, args.seed, args.accumulate)


def snapshot(
    args: Namespace, method: Method, optimizer: torch.optim.Optimizer, done: int, per_epoch: int, fixed: dict[str, Any],
    changes: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """A checkpoint: the official keys, and what an exact resume and an honest record need."""
    weights = method.export_state()
    return {
        "epoch": done // per_epoch,
        "arch": args.arch,
        "state_dict": weights,
        "optimizer": optimizer_state(optimizer, method),
        "method": args.method,
        "recipe": args.recipe,
        "step": done,
        "steps_per_epoch": per_epoch,
        "settings": fixed,
        "changes": changes,
        "rng": rng_state(),
        "weights_sha256": weights_sha256(weights),
        "provenance": provenance(),
    }


def write_hash(folder: Path, checkpoint: Path, sha256: str) -> None:
    """What two equal runs have in common, byte by byte, in their folders: the sha256 of the weights they ended with."""
    write_text(folder / HASH_FILE, f"{sha256}  {checkpoint.name}\n")


def resume(
    args: Namespace, kept: CheckpointFolder, method: Method, optimizer: torch.optim.Optimizer, fixed: dict[str, Any]
) -> tuple[int, list[dict[str, Any]], bool]:
    """Load what --resume names, or the newest checkpoint of the folder.

    Returns the first step, the changes allowed so far, and whether the folder's files count an epoch's steps otherwise.
    """
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # torchrun repeats the same command
    if args.resume is None and not restarted:
        if kept.steps():
            raise UserError(f"{kept.folder} already holds checkpoints; add --resume, or choose another --output")
        return args.start_epoch * kept.steps_per_epoch, [], False
    # a restarted run goes on from its own newest checkpoint, not from the one that its first life was given
    named = args.resume not in (None, "auto") and not (restarted and kept.steps())
    found = (Path(args.resume), load_checkpoint(Path(args.resume))) if named else kept.newest()
    if found is None:
        log.info("nothing to resume in %s: starting from the beginning", kept.folder)
        return 0, [], False
    file, checkpoint = found
    if checkpoint["arch"] != args.arch:
        raise UserError(f"{file} holds a {checkpoint['arch']}, not the {args.arch} of -a")
    changes = list(checkpoint.get("changes", []))
    # a setting that is younger than the checkpoint had its default then
    saved = {key: checkpoint.get("settings", fixed).get(key, DEFAULTS.get(key)) for key in fixed}
    if changed := refuse_changes(saved, fixed, args.allow_change, file):
        changes.append({"step": checkpoint["step"], "changed": changed})
        log.warning("continuing with changed settings: %s", changed)
    restore(method, optimizer, checkpoint, file)
    start = first_step(args, checkpoint, kept.steps_per_epoch)
    log.info("resumed %s at step %d", file, start)
    recount = bool(kept.steps()) and checkpoint.get("steps_per_epoch", kept.steps_per_epoch) != kept.steps_per_epoch
    return start, changes, recount


def first_step(args: Namespace, checkpoint: dict[str, Any], per_epoch: int) -> int:
    """The step a checkpoint goes on with: the same place in the epochs, should an epoch have other steps by now (an
    allowed change of the batch or the data); the same step where the run is measured in steps."""
    if "step" not in checkpoint:
        return (args.start_epoch or checkpoint.get("epoch", 0)) * per_epoch
    step, before = checkpoint["step"], checkpoint.get("steps_per_epoch", per_epoch)
    return step if args.iterations or before == per_epoch else round(step * per_epoch / before)


def knn_monitor(args: Namespace, method: Method, world: World) -> Callable[[], dict[str, float]] | None:
    """The kNN monitor, where there are labelled images to compare with; a line says why not."""
    val = Path(args.val) if args.val else Path(args.data) / "val"
    if args.knn_every == 0 or not val.exists():
        log.info("no kNN monitor: %s", "--knn-every 0" if args.knn_every == 0 else f"no labelled images in {val}")
        return None
    try:
        train_set: ImageSource = open_images(args.data, labels=True, cache=args.cache and Path(args.cache))
        val_set = open_images(val, labels=True, split=None)
    except UserError as error:
        log.info("no kNN monitor: %s", error)
        return None
    if any(a != b for a, b in zip(train_set.classes or [], val_set.classes or [])):
        log.info("no kNN monitor: the classes of %s are not those of the training images", val)
        return None
    return KnnMonitor(
        method.encoder_q, train_set, val_set, image_size=args.image_size, device=world.device, images=args.knn_images,
        workers=usable_workers(args.workers, world), layer=args.knn_layer, max_bad=args.max_bad,
        kind=eval_kind(args.views),
    )  # fmt: skip


def run_probe(monitor: Callable[[], dict[str, float]] | None, world: World) -> dict[str, float]:
    """The monitor's numbers on the main process while the others wait; bad images end the probe, not the run."""
    numbers: dict[str, float] = {}
    if world.is_main and monitor is not None:
        try:
            numbers = monitor()
            log.info("kNN accuracy %.2f %%", numbers["knn"])
        except UserError as error:
            log.warning("no kNN accuracy: %s", error)
    barrier()
    return numbers
