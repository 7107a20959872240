"""Seconds per training step and per test image, the embedded engine and the real Detectron2 in turns.

    python benchmarks/detect.py [--case fpn] [--size 320] [--repeat 7] [--channels-last] [--bf16] [--compile]
                                [--test-only] [--arithmetic exact|folded|bfloat16] [--fused] [--bf16-too]

Each engine has a process of its own, as it would in use: the embedded one tells the C library to keep freed memory.
Both models have the same weights and see the same random images; the options apply to the embedded one only, but for
--bf16-too: Detectron2's steps and detections under torch's autocast to bfloat16, which it has no switch for. The
weights are random, with the statistics of the images in the norms, and class scores far enough apart for detections:
otherwise the features of an untrained network explode, nothing is detected and the mask branch has nothing to
compute. Wall and CPU seconds are medians, the ratios (Detectron2 / embedded, above 1: embedded is faster) medians
over neighbouring turns, with their quartiles. CPU seconds stay steady on a busy machine, but do not show cores that
wait. Needs Detectron2.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.apart import Apart, Seconds, measure
from runtime.errors import UserError, run_entry

CASES = {
    "fpn": "coco_R50_FPN.yaml",
    "c4": "voc_R50_C4.yaml",
    "r18": "demo_R18_FPN.yaml",
    "cascade": "coco_cascade_R50_FPN.yaml",
    "retinanet": "coco_RetinaNet_R50.yaml",
    "keypoints": "coco_keypoints_R50_FPN_2x.yaml",
    "vit": "coco_ViTB_SFP.yaml",
}
SPREAD = 10.0  # of the class scores of untrained networks
Turn = Callable[[], Any]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or ``words``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), default="fpn")
    parser.add_argument("--size", type=int, default=320, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true", help="ENGINE.ATTENTION fused")
    parser.add_argument("--bf16-too", action="store_true", help="Detectron2 under autocast to bfloat16")
    parser.add_argument("--arithmetic", default="exact", help="ENGINE.TEST_ARITHMETIC of the test images")
    parser.add_argument("--test-only", action="store_true", help="no training steps")
    return parser.parse_args(words)


def prepare(args: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """The config and the batch, the same in every process."""
    from transfer.config import load_config

    opts = ["MODEL.DEVICE", args.device]
    if args.case == "vit":  # Detectron2's trainer has no AdamW: plain steps in both
        square = ["MODEL.BACKBONE.SQUARE_PAD", str(args.size), "MODEL.VIT.IMG_SIZE", str(args.size)]
        opts += [*square, "SOLVER.OPTIMIZER", "SGD", "SOLVER.LAYER_DECAY", "1.0", "SOLVER.NO_DECAY", "[]"]
    if args.fused:
        opts += ["ENGINE.ATTENTION", "fused"]
    cfg = load_config(CASES[args.case], opts)
    retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    classes = cfg.MODEL.RETINANET.NUM_CLASSES if retinanet else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    batch = draw_batch(args, classes)
    for item in batch:
        if not cfg.MODEL.KEYPOINT_ON:
            del item["instances"]["keypoints"]
    return cfg, batch


def draw_batch(args: argparse.Namespace, classes: int) -> list[dict[str, Any]]:
    """Random images with eight objects each: boxes, polygons, 17 keypoints."""
    import numpy as np
    import torch

    rng = np.random.RandomState(0)
    batch = []
    for index in range(args.batch):
        corner = rng.uniform(0, args.size * 0.6, (8, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, args.size * 0.4, (8, 2))], 1).astype(np.float32)
        polygons = [[np.array([a, b, c, b, c, d, a, d], dtype=np.float64)] for a, b, c, d in boxes.tolist()]
        pixels = torch.from_numpy(rng.randint(0, 255, (3, args.size, args.size)).astype(np.uint8))
        instances = {
            "boxes": torch.from_numpy(boxes),
            "classes": torch.from_numpy(rng.randint(0, classes, 8)),
            "masks": polygons,
            "keypoints": torch.from_numpy(draw_keypoints(rng, boxes)),
        }
        size = {"height": args.size, "width": args.size, "image_id": index}
        batch.append({"image": pixels, "instances": instances, **size})
    return batch


def draw_keypoints(rng: Any, boxes: Any) -> Any:
    """Visible keypoints inside ``boxes`` (N x 4): N x 17 x 3."""
    import numpy as np

    places = boxes[:, None, :2] + rng.uniform(0, 1, (len(boxes), 17, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    return np.concatenate([places, np.full((len(boxes), 17, 1), 2.0)], axis=2).astype(np.float32)


def settle(model: Any, batch: list[dict[str, Any]]) -> None:
    """Give the norms the statistics of the images, and spread the class scores."""
    import torch

    def measure_input(norm: Any, inputs: tuple[Any]) -> None:
        norm.running_mean.copy_(inputs[0].mean([0, 2, 3]))
        norm.running_var.copy_(inputs[0].var([0, 2, 3]))

    norms = [m for m in model.backbone.modules() if hasattr(m, "running_mean")]
    hooks = [norm.register_forward_pre_hook(measure_input) for norm in norms]
    model.eval()
    with torch.no_grad():
        model.backbone(model.batch_images(batch)[0])
        for name, parameter in model.named_parameters():
            if name.endswith("cls_score.weight"):
                parameter.mul_(SPREAD)
    for hook in hooks:
        hook.remove()


def embedded_turns(
    cfg: Any, args: argparse.Namespace, batch: list[dict[str, Any]]
) -> tuple[dict[str, Turn], dict[str, Any]]:
    """A training step and the detection of one image by the embedded engine, and the weights it starts from."""
    import torch

    from transfer.engines.torchvision.builder import build_model
    from transfer.engines.torchvision.detection import detect_images
    from transfer.engines.torchvision.inference_arithmetic import detection_model, in_arithmetic
    from transfer.engines.torchvision.loop import Training
    from transfer.engines.torchvision.run import prepare_device
    from transfer.engines.training.precision import Precision
    from transfer.engines.training.solver import build_solver

    device = prepare_device(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).to(device)
    settle(model, batch)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if args.channels_last:
        model.channels_last()
    tested = detection_model(model, args.arithmetic)
    detector = in_arithmetic(tested, args.arithmetic, device)
    print(f"{len(next(detect_images(tested, [batch[:1]], detector))[1])} detections in the test image")
    model.train()
    if args.compile:
        model.backbone.compile()
    optimizer, schedule = build_solver(cfg, model)
    schedule.set(0)
    precision = Precision(args.bf16, "bfloat16", device)
    training = Training(model, optimizer, schedule, precision, lambda parameters: None)
    turns = {
        "training step": lambda: training.step(batch, 0),
        "test image": lambda: list(detect_images(tested, [batch[:1]], detector)),
    }
    return turns, weights


def detectron2_turns(args: argparse.Namespace, weights_file: str) -> dict[str, Turn]:
    """The same by Detectron2, from what can be sent to another process."""
    import torch
    from detectron2.engine.train_loop import SimpleTrainer
    from detectron2.modeling import build_model
    from detectron2.solver import build_optimizer
    from detectron2.utils.events import EventStorage

    import transfer.engines.detectron2.heads  # noqa: F401 (registers this project's heads)
    from transfer.engines.detectron2.data import as_detectron2_items
    from transfer.engines.detectron2.detection import arrays
    from transfer.engines.detectron2.engine import detectron2_config

    cfg, batch = prepare(args)
    own = detectron2_config(cfg, Path("unused"))
    torch.manual_seed(0)
    model = build_model(own).train()
    model.load_state_dict(torch.load(weights_file, weights_only=True))
    optimizer = build_optimizer(own, model)
    for group in optimizer.param_groups:
        group["lr"] *= own.SOLVER.WARMUP_FACTOR
    items = as_detectron2_items(batch)
    trainer = SimpleTrainer(model, [items] * 10000, optimizer)
    trainer.iter = 0

    def lower() -> Any:
        return torch.autocast(args.device, torch.bfloat16, enabled=args.bf16_too)

    def step() -> None:
        model.train()
        with EventStorage(), lower():
            trainer.run_step()

    @torch.no_grad()
    def detect() -> None:
        model.eval()
        with lower():
            for output in model(items[:1]):
                found = output["instances"].to("cpu")
                if not args.bf16_too:  # numpy has no bfloat16
                    arrays(found)

    return {"training step": step, "test image": detect}


def main() -> int:
    """Measure and print."""
    args = parse()
    if importlib.util.find_spec("detectron2") is None:
        raise UserError("this comparison needs Detectron2; install it beside this project")
    import torch

    cfg, batch = prepare(args)
    ours, weights = embedded_turns(cfg, args, batch)
    with tempfile.TemporaryDirectory() as folder:
        weights_file = str(Path(folder, "weights.pth"))
        torch.save(weights, weights_file)
        del weights
        theirs = Apart(detectron2_turns, args, weights_file)
        compare(args, ours, theirs)
    theirs.close()
    return 0


def compare(args: argparse.Namespace, ours: dict[str, Turn], theirs: Apart) -> None:
    """Run the turns alternately and print one line per kind of turn."""
    import torch

    from runtime.provenance import provenance

    record = provenance(sys.argv)
    print(f"{record['hardware']}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{CASES[args.case]}, {args.batch} images of {args.size} x {args.size}, {args.repeat} turns each")
    heads = f"{'':16}{'embedded s (CPU s)':>22}{'Detectron2 s (CPU s)':>24}"
    print(f"{heads}{'ratio':>8}  quartiles     in CPU seconds")
    # test images first: training changes the weights, and with them the number of detections
    for name in ("test image", "training step")[: 1 if args.test_only else 2]:
        ours[name](), theirs.measure(name)  # the first one allocates
        pairs = [(measure(ours[name]), theirs.measure(name)) for _ in range(args.repeat)]
        columns = [[statistics.median(p[side][kind] for p in pairs) for kind in (0, 1)] for side in (0, 1)]
        cells = [f"{wall:.3f} ({cpu:.3f})" for wall, cpu in columns]
        ratios = "".join("{1:8.2f}  {0:.2f} .. {2:.2f}".format(*quartiles(pairs, kind)) for kind in (0, 1))
        print(f"{name:16}{cells[0]:>22}{cells[1]:>24}{ratios}", flush=True)


def quartiles(pairs: list[tuple[Seconds, Seconds]], kind: int) -> list[float]:
    """Median and quartiles of the ratios theirs / ours of each pair, in wall (0) or CPU (1) seconds."""
    return statistics.quantiles((theirs[kind] / ours[kind] for ours, theirs in pairs), n=4)


if __name__ == "__main__":
    run_entry(main)
