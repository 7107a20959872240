"""Sections of the GPU check: the step of pretraining against the official one, and how busy a run keeps the GPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.section import Check, command, plain_float32, relative, timed
from benchmarks.step import OfficialStep, OurStep, build, parse

TO_COMPILE = 45  # seconds that compiling two encoders may take
SAME = 1e-3  # of a float32 update: relative difference up to which it is called the same
CASES = (
    ["--arch", "resnet50", "--size", "224", "--batch", "64"],
    ["--arch", "resnet18", "--size", "64", "--batch", "256"],
)
TINY_CASES = (["--arch", "resnet18", "--size", "32", "--batch", "4", "--k", "256"],)


def steps(check: Check) -> None:
    """One step equals the official one; then ms per step of the official one, ours, in bfloat16 and compiled."""
    import torch

    device = torch.device(check.device)
    for name, value in agreement(device).items():
        check.note(name, value)
        check.expect(value < SAME, f"{name}: {value:.1e}, should be below {SAME:.0e}")
    for argv in TINY_CASES if check.tiny else CASES:
        args = parse(argv)
        title = f"{args.arch}, {args.size} px, {args.batch} images, K {args.k}"
        makers: dict[str, Callable[[], Any]] = {k: v for k, v in build(args, device).items() if k != "lightly"}
        makers["ours bf16, compiled"] = partial(compiled_by, makers["ours bf16"], check.tiny)
        found: dict[str, Any] = {}
        for name, make in makers.items():
            if "compiled" in name and check.seconds_left() < TO_COMPILE:
                found[name] = {"left out": f"less than {TO_COMPILE} s were left"}
                continue
            views = [torch.randn(args.batch, 3, args.size, args.size, device=device) for _ in range(2)]
            if name != "official":
                views = [view.to(memory_format=torch.channels_last) for view in views]
            step = make()
            found[name] = timed(partial(step, *views), 2 if check.tiny else 30)
            found[name]["images_per_second"] = 1e3 * args.batch / found[name]["ms"]
            found[name]["against_official"] = found["official"]["ms"] / found[name]["ms"]
            check.note(title, found)
            del step
        check.note(title, found)


def compiled_by(make: Callable[[], OurStep], tiny: bool) -> OurStep:
    """A step with both encoders compiled; the rehearsal traces them, but leaves the code generation out."""
    step = make()
    for encoder in (step.moco.encoder_q, step.moco.encoder_k):
        encoder.compile(backend="eager") if tiny else encoder.compile()
    return step


def agreement(device: Any) -> dict[str, float]:
    """Relative differences of what one float32 step changes: ours and the official one, and ours on a CPU."""
    import torch

    from pretrain.encoders import build_encoder

    torch.manual_seed(0)
    encoder = build_encoder("resnet18", outputs=128, mlp=True)
    views = [torch.randn(16, 3, 48, 48) for _ in range(2)]
    with plain_float32():
        official = OfficialStep(copy.deepcopy(encoder), 256, device)
        # the queue of the official step is drawn on its device; the others start from the same keys
        keys = official.queue.T.clone()
        official(*(view.to(device) for view in views))
        ours, on_cpu = (_our_change(encoder, keys, views, place) for place in (device, torch.device("cpu")))
        start = list(encoder.parameters())
        theirs = [new.detach().cpu() - old for new, old in zip(official.q.parameters(), start)]
        new_keys = official.queue.T[: len(views[0])]
    return {
        "update, ours against the official step": relative(ours[0], theirs),
        "keys, ours against the official step": relative(ours[1], [new_keys]),
        "update, this device against the CPU": relative(ours[0], on_cpu[0]),
    }


def _our_change(encoder: Any, keys: Any, views: list[Any], device: Any) -> tuple[list[Any], list[Any]]:
    """What our step adds to the weights of the query encoder, and the keys that it enqueues."""
    import torch

    ours = OurStep(copy.deepcopy(encoder), len(keys), device, False)
    ours.moco.queue.rows.copy_(keys)
    ours(*(view.to(device).to(memory_format=torch.channels_last) for view in views))
    change = [new.detach().cpu() - old for new, old in zip(ours.moco.encoder_q.parameters(), encoder.parameters())]
    return change, [ours.moco.queue.rows[: len(views[0])]]


def cache(check: Check) -> None:
    """A pretraining run from a cache: images per second, time spent waiting for data, busy share of the GPU."""
    import cv2
    import numpy as np

    count, steps, batch = (32, 6, 8) if check.tiny else (1024, 120, 128)
    images = check.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{index:05d}.jpg"), cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC))
    command(
        check,
        [
            "pretrain/cache_images.py",
            str(images),
            str(check.folder / "cache"),
            "--shorter-side",
            "240",
            *(["-j", "0"] if check.tiny else []),
        ],
    )
    small = ["-a", "resnet18", "--image-size", "32", "--moco-k", "64", "-j", "0"]
    argv = [str(images), "--cache", str(check.folder / "cache"), "--recipe", "moco_v2", "--precision", "bf16"]
    argv += ["--batch-size", str(batch), "--iterations", str(steps), "--knn-every", "0", "--save-every", "100000"]
    argv += ["--device", check.device, "--output", str(check.folder / "run"), *(small if check.tiny else ["-j", "32"])]
    argv += ["-p", str(max(1, steps // 6))]
    with BusyShare(check.device) as busy:
        command(check, ["pretrain/main.py", *argv])
    lines = [json.loads(line) for line in (check.folder / "run" / "metrics.json").read_text().splitlines()]
    speeds = [line for line in lines if "images_per_second" in line][1:]  # the first line holds the start
    check.note("settings", f"{'resnet18, 32' if check.tiny else 'resnet50, 224'} px, {batch} images, bfloat16")
    check.note("images_per_second", [round(line["images_per_second"], 1) for line in speeds])
    check.note("data_wait_percent", [round(line["data_wait"], 1) for line in speeds])
    check.note("gpu_busy_percent", busy.median())
    check.note("gpu_busy_samples", len(busy.samples))
    check.expect(bool(speeds), "the run logged no speed")


class BusyShare:
    """Samples nvidia-smi twice a second while the block runs: the share of time in which a kernel was running."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.samples = device == "cuda", [0.0][:0]

    def __enter__(self) -> BusyShare:
        self.process = None
        if self.on_gpu:
            query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
            query += ["-i", os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"]
            try:
                self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            except OSError:  # no nvidia-smi: no sample
                self.process = None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            text = self.process.communicate()[0]
            self.samples = [float(line) for line in text.split() if line.replace(".", "", 1).isdigit()]

    def median(self) -> float | None:
        """Median of the second half of the samples, when the run is past its start; None without samples."""
        late = sorted(self.samples[len(self.samples) // 2 :])
        return late[len(late) // 2] if late else None


def checkpoint_weights(path: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint by its name, nested names joined by dots."""
    import torch

    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, one in value.items():
                walk(one, f"{name}.{key}")

    content = torch.load(path, map_location="cpu", weights_only=True)
    for part in ("state_dict", "optimizer", "model"):
        walk(content.get(part), part)
    return found
