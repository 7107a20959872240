"""Section of the GPU check: both detectors against the CPU and Detectron2, and the ms of a step and an image."""

from __future__ import annotations

import argparse
import copy
import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.gpu.section import Check, Skipped, plain_float32, timed

VARIANTS: dict[str, dict[str, bool]] = {
    "float32": {},
    "float32, channels last": {"channels_last": True},
    "bfloat16, channels last": {"channels_last": True, "bf16": True},
    "bfloat16, channels last, compiled": {"channels_last": True, "bf16": True, "compile": True},
}
TO_COMPILE = 45  # seconds that compiling a backbone may take
NEEDS = ("fvcore", "iopath", "yacs", "pycocotools")


def detectors(check: Check) -> None:
    """Equal detections on this device and a CPU; then ms of every variant, and of Detectron2 where it is installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"needs {', '.join(missing)}")
    cases = ("r18",) if check.tiny else ("c4", "fpn")
    for case in cases:
        same, count = same_detections(settings(check, case, batch=1))
        check.note(f"{case}: detections on a CPU", count)
        check.note(f"{case}: share of them found on this device", same)
        check.expect(count > 0, f"{case}: nothing was detected, so nothing was compared")
        check.expect(same >= 0.95, f"{case}: only {same:.0%} of the CPU's detections were found on this device")
    for number, case in enumerate(cases):
        share = check.seconds_left() / (len(cases) - number)
        measure_case(check, case, share / (len(VARIANTS) + 1))


def settings(check: Check, case: str, batch: int = 2, **variant: bool) -> argparse.Namespace:
    """The options of benchmarks/detect.py for one variant."""
    from benchmarks.detect import parse

    args = parse(["--case", case, "--device", check.device, "--batch", str(batch)])
    vars(args).update(size=96 if check.tiny else 640, repeat=0, **variant)
    return args


def measure_case(check: Check, case: str, seconds: float) -> None:
    """Note ms of a training step and a test image of every variant of one detector."""
    import torch

    from benchmarks.detect import detectron2_turns, embedded_turns, prepare

    found: dict[str, Any] = {}
    variants = list(VARIANTS)[:-1] if check.tiny else list(VARIANTS)  # compiling takes a CPU a minute
    repeat = 2 if check.tiny else 20

    def note(name: str, turns: dict[str, Any]) -> None:
        # test images first: training changes the weights, and with them the number of detections
        found[name] = {turn: timed(turns[turn], repeat, seconds / 3) for turn in ("test image", "training step")}
        check.note(case, found)

    weights_file = Path(check.folder, f"{case}.pth")
    for name in variants:
        if "compiled" in name and check.seconds_left() < TO_COMPILE:
            check.note(f"{case}, {name}", f"left out: less than {TO_COMPILE} s were left")
            continue
        args = settings(check, case, **VARIANTS[name])
        cfg, batch = prepare(args)
        turns, weights = embedded_turns(cfg, args, batch)
        if not weights_file.exists():
            torch.save(weights, weights_file)
        note(name, turns)
        del turns, weights
    if importlib.util.find_spec("detectron2"):
        note("Detectron2, float32", detectron2_turns(settings(check, case), str(weights_file)))
        for turn in ("test image", "training step"):
            ratio = found["Detectron2, float32"][turn]["ms"] / found["float32"][turn]["ms"]
            check.note(f"{case}: {turn}, Detectron2 / this, float32", ratio)


def same_detections(args: argparse.Namespace) -> tuple[float, int]:
    """Share of a CPU's detections of one image that the device finds too (class, box to a pixel, score to 0.01), and
    the CPU's number of detections. Both in float32."""
    import torch

    from benchmarks.detect import prepare, settle
    from transfer.engines.torchvision.builder import build_model
    from transfer.engines.torchvision.detection import detect_images
    from transfer.engines.torchvision.run import prepare_device

    cfg, batch = prepare(args)
    device = prepare_device(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    settle(model, batch)
    with plain_float32():
        _, boxes, scores, classes, _ = next(detect_images(model, [batch]))
        _, *other = next(detect_images(copy.deepcopy(model).to(device), [batch]))
    their_boxes, their_scores, their_classes = other[:3]
    found = [
        bool(
            ((their_classes == c) & (abs(their_boxes - b).max(1, initial=0) < 1) & (abs(their_scores - s) < 0.01)).any()
        )
        for b, s, c in zip(boxes, scores, classes)
    ]
    return sum(found) / max(1, len(found)), len(found)
