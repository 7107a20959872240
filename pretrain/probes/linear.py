"""The linear probe: a classifier on frozen pooled features, with the loader and the schedule of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from pretrain.batches.loader import build_eval_loader, build_loader
from pretrain.encoders import pooled_features
from pretrain.encoders.reading import read_encoder
from pretrain.images import open_images
from pretrain.images.fingerprints import SAMPLED
from pretrain.images.inspection import inspect_pixels, shared_images
from pretrain.images.listing import validation_folder
from pretrain.images.source import ImageSource, require_same_classes
from pretrain.settings.schedule import Schedule
from pretrain.views import build_views, eval_kind
from runtime.allocator import keep_freed_memory
from runtime.atomic import sha256_file, write_json
from runtime.distributed import World
from runtime.errors import UserError
from runtime.logs import get_logger, setup_logging
from runtime.provenance import provenance, usable_cores
from runtime.run_folder import RunLock
from runtime.seeds import derive_seed
from runtime.stop import StopSignal
from runtime.torch_files import load_torch, save_torch

log = get_logger("linear")
DECIDING = ("lr", "batch_size", "epochs", "schedule", "momentum", "weight_decay", "seed")


@dataclass(frozen=True)
class LinearSettings:
    """What one linear probe is asked to do. arch, image_size: None for the checkpoint's. schedule: epochs at which
    the rate drops 10x. folder: the run folder. resume: continue the probe that the folder holds."""

    data: str
    pretrained: str
    folder: Path
    arch: str | None = None
    image_size: int | None = None
    lr: float = 30.0
    batch_size: int = 256
    epochs: int = 100
    schedule: tuple[int, ...] = (60, 80)
    momentum: float = 0.9
    weight_decay: float = 0.0
    workers: int = 32
    seed: int = 0
    resume: bool = False

    def recorded(self) -> dict[str, Any]:
        """What decides the result, as files record it: sequences as lists."""
        values = {name: getattr(self, name) for name in DECIDING}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class LinearProbe:
    """A frozen encoder in evaluation mode (so its BN statistics stay, as in the official code) and a classifier."""

    def __init__(
        self, encoder: Any, classes: int, settings: LinearSettings, device: torch.device, kind: str = "eval"
    ) -> None:
        """``kind`` of views (a key of ``pretrain.views.KINDS``) is what its accuracy is measured on."""
        self.kind = kind
        self.encoder = encoder.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
        torch.manual_seed(derive_seed(settings.seed, "linear"))
        last = encoder.layer4[-1]
        width = getattr(last, "bn3", last.bn2).num_features  # bottleneck or basic block
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.classifier.to(device)
        self.device = device
        self.optimizer = torch.optim.SGD(
            self.classifier.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """B x 3 x H x W -> B x classes."""
        with torch.no_grad():
            features = pooled_features(self.encoder, images)
        return self.classifier(features)

    def step(self, images: torch.Tensor, labels: torch.Tensor, rate: float) -> float:
        """One update; the loss."""
        self.optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(self.logits(images), labels)
        if not torch.isfinite(loss):
            with torch.no_grad():
                finite = torch.isfinite(pooled_features(self.encoder, images)).all()
            remedy = "lower --lr" if finite else "the encoder's features are not finite: take another checkpoint"
            raise UserError(f"the linear probe's loss is not finite: {remedy}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def accuracy(self, source: ImageSource, size: int, workers: int) -> tuple[float, float]:
        """Top-1 and top-5 in percent on centre crops."""
        views = build_views(self.kind, image_size=size)
        hits, seen = torch.zeros(2), 0
        for batch in build_eval_loader(source, views, batch_size=256, workers=workers):
            logits, labels = self.logits(views.on_device(batch, self.device)[0]).cpu(), batch.labels
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            hits += torch.stack([ranked[:, 0].sum(), ranked.any(1).sum()])
            seen += len(labels)
        return 100 * hits[0].item() / seen, 100 * hits[1].item() / seen


def probe(settings: LinearSettings, world: World) -> int:
    """Train the probe, write result.json to its folder; returns the exit code. One process suffices.

    Raises UserError for a checkpoint or data that cannot be used.
    """
    folder = settings.folder
    source = read_encoder(settings.pretrained, settings.arch)
    pretraining = source.settings
    size = settings.image_size or pretraining.get("image_size", 224)
    train = open_images(settings.data, labels=True)
    val = open_images(validation_folder(Path(settings.data)), labels=True, split=None)
    require_same_classes(train, val, settings.data)
    if world.device.type == "cpu":
        keep_freed_memory()
    kind = eval_kind(pretraining.get("views"))
    learner = LinearProbe(source.network, len(train.classes or []), settings, world.device, kind)
    origin = {"pretrained": sha256_file(settings.pretrained), "arch": source.arch, "size": size}
    origin |= {**_images_like({}, (train, val)), **settings.recorded()}
    with RunLock(folder), StopSignal() as stop:
        setup_logging(folder)
        log.info("%s: %s, %s", settings.pretrained, source.arch, source.origin)
        findings = [*train.findings, *inspect_pixels(train), *shared_images(train, val)]
        for finding in findings:
            log.warning("finding: %s", finding.line())
        top1, top5 = _fit(settings, learner, (train, val), origin, stop)
    if stop.requested:
        return stop.exit_code
    record = {"top1": top1, "top5": top5, **origin, "findings": [finding.as_record() for finding in findings]}
    write_json(folder / "result.json", {**record, "provenance": provenance()})
    return 0


def _fit(
    settings: LinearSettings,
    learner: LinearProbe,
    sets: tuple[ImageSource, ImageSource],
    origin: dict[str, Any],
    stop: StopSignal,
) -> tuple[float, float]:
    """Train on the first of ``sets`` until the end or ``stop``; (top-1, top-5) on the second, in percent."""
    train, val = sets
    file, size = settings.folder / "linear.pth.tar", origin["size"]
    total = settings.epochs * (len(train) // settings.batch_size)
    start = _resume(file, learner, origin, total, sets) if settings.resume else 0
    workers = min(settings.workers, usable_cores())
    views = build_views("supervised", image_size=size)
    batches = build_loader(
        train,
        views,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=settings.seed,
        start_step=start,
        workers=workers,
    )
    per_epoch, total = batches.steps_per_epoch, batches.stop_step
    schedule = Schedule(settings.lr, total, per_epoch, milestones=sorted(settings.schedule))
    accuracy = learner.accuracy(val, size, workers) if start == total else (0.0, 0.0)
    for batch in tqdm(batches, initial=start, total=total, desc="linear probe", disable=None):
        images = views.on_device(batch, learner.device)[0]
        loss = learner.step(images, batch.labels.to(learner.device), schedule.rate(batch.step))
        epoch, within = divmod(batch.step + 1, per_epoch)
        if stop.requested or not within:
            save_torch({**learner.state(), "step": batch.step + 1, "made": origin}, file)
        if stop.requested:
            break
        if not within:
            accuracy = learner.accuracy(val, size, workers)
            log.info("epoch %d/%d  loss %.4f  val top-1 %.2f  top-5 %.2f", epoch, settings.epochs, loss, *accuracy)
    return accuracy


def _images_like(made: dict[str, Any], sets: tuple[ImageSource, ImageSource]) -> dict[str, Any]:
    """The fingerprints of ``sets`` for the record of a probe, of the kind of those in ``made``, an earlier record."""
    then = made.get("data")
    kinds = then if isinstance(then, list) and len(then) == len(sets) else [SAMPLED] * len(sets)
    images = [source.fingerprints_like(kind) for source, kind in zip(sets, kinds)]
    return {"data": [one.images for one in images], "data_times": [one.times for one in images]}


def _resume(
    file: Path, learner: LinearProbe, origin: dict[str, Any], total: int, sets: tuple[ImageSource, ImageSource]
) -> int:
    if not file.exists():
        return 0
    saved = load_torch(file)
    if not isinstance(saved, dict) or not {"classifier", "optimizer", "step", "made"} <= saved.keys():
        raise UserError(f"{file}: not the checkpoint of a linear probe; move it away or name another --output")
    if not isinstance(saved["made"], dict):
        raise UserError(f"{file} does not say what it was made with; move it away or name another --output")
    origin_now = {**origin, **_images_like(saved["made"], sets)}
    origin_then = {"data_times": origin_now["data_times"], **saved["made"]}  # older files do not record them
    if changed := [key for key in origin if origin_then.get(key) != origin_now[key]]:
        raise UserError(f"{file} was made with other {', '.join(changed)}; restore them or name another --output")
    step = saved["step"]
    try:
        learner.classifier.load_state_dict(saved["classifier"])
        learner.optimizer.load_state_dict(saved["optimizer"])
        if type(step) is not int or not 0 <= step <= total:
            raise ValueError(f"step is {step!r:.40}, the probe has {total}")
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is damaged or was edited ({reason}); move it away and start again") from error
    return step
