"""Sections of the GPU check that are runs: exact resumes, two processes, and a short run on CIFAR-10."""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.detectors import NEEDS
from benchmarks.gpu.pretraining import checkpoint_weights
from benchmarks.gpu.section import Check, Skipped, command, relative

CURVE = Path(__file__).with_name("cifar10_curve.json")
T_95 = 4.303  # of Student's t with 2 degrees of freedom, two-sided
ARCHIVE = "cifar10.tar.gz"


def resume(check: Check) -> None:
    """A pretraining and a fine-tuning, each continued from its middle, against the same in one piece.

    A GPU may add in another order in every run. So the run in one piece is made twice, and a resume is exact where it
    differs from the first by no more than the second does.
    """
    check.folder.mkdir(parents=True, exist_ok=True)
    size = ["--per-class", "8", "--train-scenes", "16", "--val-scenes", "4"]
    command(check, ["demo/draw.py", "data", *size])
    argv = [
        "pretrain/main.py",
        "data/images",
        "-a",
        "resnet18",
        "--image-size",
        "32",
        "-b",
        "8",
        "--mlp",
        "--moco-k",
        "64",
    ]
    argv += ["--iterations", "4", "--save-steps", "2", "--keep", "0", "--knn-every", "0", "-j", "0"]
    argv += ["--device", check.device, "--output"]
    runs = [check.folder / f"pretrain_{name}" for name in ("first", "second", "resumed")]
    middle, end = "checkpoint_step_000000002.pth.tar", "checkpoint_step_000000004.pth.tar"
    compare_runs(check, "pretraining", runs, middle, end, lambda run: [*argv, run.name])
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        check.note("fine-tuning", f"left out: needs {', '.join(missing)}")
        return
    coco = "coco:data/coco/annotations/instances_{0}.json:data/coco/{0}"
    tune = ["transfer/train_net.py", "--config-file", "demo_R18_C4.yaml", "--init", "random", "--engine", "torchvision"]
    options = [
        "MODEL.DEVICE",
        check.device,
        "SOLVER.MAX_ITER",
        "4",
        "SOLVER.CHECKPOINT_PERIOD",
        "2",
        "SOLVER.STEPS",
        "(3,)",
    ]
    options += ["TEST.EVAL_PERIOD", "0", "SEED", "0", "SOLVER.WARMUP_ITERS", "0"]
    for part, split in (("TRAIN", "train"), ("TEST", "val")):
        options += [f"DATASETS.{part}", f"('{coco.format(split)}',)"]
    runs = [check.folder / f"tune_{name}" for name in ("first", "second", "resumed")]
    compare_runs(
        check, "fine-tuning", runs, "model_0000001.pth", "model_final.pth",
        lambda run: [*tune, *(["--resume"] if run.exists() else []), *options, "OUTPUT_DIR", run.name],
    )  # fmt: skip


def compare_runs(check: Check, title: str, runs: list[Path], middle: str, end: str, argv: Any) -> None:
    """Make two runs in one piece and one that continues from the first one's checkpoint ``middle``; compare ``end``."""
    first, second, resumed = runs
    command(check, argv(first))
    command(check, argv(second))
    resumed.mkdir()
    for name in (middle, "last_checkpoint", "metrics.json"):
        if (first / name).exists():
            shutil.copy(first / name, resumed / name)
    if (resumed / "last_checkpoint").exists():
        (resumed / "last_checkpoint").write_text(middle)
    command(check, [*argv(resumed), *([] if "--resume" in argv(resumed) else ["--resume"])])
    weights = [checkpoint_weights(run / end) for run in runs]
    repeated, continued = (relative(list(w.values()), list(weights[0].values())) for w in weights[1:])
    check.note(title, {"repeated run, relative difference": repeated, "resumed run, relative difference": continued})
    check.expect(weights[0].keys() == weights[2].keys(), f"{title}: the resumed run saved other tensors")
    check.expect(continued <= 2 * repeated, f"{title}: resumed {continued:.1e}, but repeated only {repeated:.1e}")


def processes(check: Check) -> None:
    """Two processes (NCCL on two GPUs, gloo on a CPU): gathered keys, mean gradients, equal weights after steps."""
    import torch

    from runtime.distributed import launch

    if check.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skipped("needs two GPUs")
    launch(one_of_two, 2, (check.device, str(check.folder)))
    reports = [json.loads((check.folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    check.note("backend", reports[0]["backend"])
    check.note("gathered rows", reports[0]["rows"])
    check.note("weights and queue of the ranks differ by", max(r["weights"] for r in reports))
    check.expect(all(r["rows"] == [0.0, 0.0, 1.0, 1.0] for r in reports), "gathered rows are not in rank order")
    check.expect(all(r["mean"] == 0.5 for r in reports), "the mean over ranks of 0 and 1 is not 0.5")
    check.expect(all(r["weights"] == 0 for r in reports), "the ranks' weights or queues differ")
    check.expect(all(r["moved"] for r in reports), "the steps changed no weight")


def one_of_two(device_name: str, folder: str) -> None:
    """The part of one process: three steps on images of its own, and what it has in common with the other."""
    import torch

    from pretrain.encoders import build_encoder
    from pretrain.methods.exchange import average_gradients
    from pretrain.methods.moco import MoCo
    from runtime.atomic import write_json
    from runtime.distributed import all_gather_rows, all_reduce_mean, close_world, init_world

    world = init_world(device_name)
    device = world.device
    own = torch.full((2, 1), float(world.rank), device=device)
    record: dict[str, Any] = {
        "backend": torch.distributed.get_backend(),
        "rows": all_gather_rows(own).flatten().tolist(),
    }
    record["mean"] = all_reduce_mean(own)[0].item()
    torch.manual_seed(0)
    moco = MoCo(build_encoder("resnet18", outputs=32, mlp=True), dim=32, queue_size=64).to(device).train()
    before = next(moco.encoder_q.parameters()).detach().clone()
    optimizer = torch.optim.SGD(moco.trained_parameters(), 0.1)
    images = torch.randn(3, 2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(world.rank))
    for step, views in enumerate(images.to(device)):
        torch.manual_seed(step)  # the shuffle is drawn alike on all ranks
        optimizer.zero_grad()
        moco(views[0], views[1]).backward()
        average_gradients(moco.trained_parameters())
        optimizer.step()
    mine = torch.cat([t.detach().flatten() for t in (*moco.encoder_q.parameters(), moco.queue.rows)])
    record["weights"] = (all_gather_rows(mine[None]) - mine).abs().max().item()
    record["moved"] = bool((next(moco.encoder_q.parameters()) != before).any())
    write_json(Path(folder, f"rank{world.rank}.json"), record)
    close_world()


def cifar(check: Check) -> None:
    """Short MoCo runs on a part of CIFAR-10: the kNN accuracy after every epoch against that of the same runs on a CPU.

    Seeds, batches, crops and colours are those of the stored runs; only the order of sums differs. The last accuracy,
    mean over the seeds run here, must lie in the 95 % prediction interval around the stored mean, from the spread of
    the three stored seeds (Student's t, 2 degrees of freedom).
    """
    stored = json.loads(CURVE.read_text())
    source = check.data / ARCHIVE
    if not source.exists():
        raise Skipped(f"{source} is missing; name the folder that holds it by --data or GAP_SHARED_DATA")
    train, val = (2, 1) if check.tiny else (stored["train_per_class"], stored["val_per_class"])
    unpack(source, check.folder / "images", train, val)
    epochs = 1 if check.tiny else stored["epochs"]
    curves: list[list[float]] = []
    for seed in range(1 if check.tiny else len(stored["knn"])):
        run = check.folder / f"seed{seed}"
        argv = [str(check.folder / "images"), *stored["arguments"], "--seed", str(seed), "--epochs", str(epochs)]
        argv += ["--save-every", str(epochs), "--device", check.device, "--output", str(run)]
        argv += ["--batch-size", "16", "--warmup-epochs", "0", "--moco-k", "64"] if check.tiny else []
        began = time.monotonic()
        command(check, ["pretrain/main.py", *argv])
        lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
        curves.append([line["knn"] for line in lines if "knn" in line])
        check.note("knn", curves)
        if check.seconds_left() < 1.5 * (time.monotonic() - began):
            break
    check.expect(all(len(curve) == epochs for curve in curves), "an epoch has no kNN accuracy")
    if check.tiny:
        check.note("compared", "no: the rehearsal trains one epoch on 20 images")
        return
    here, there = ([curve[-1] for curve in side] for side in (curves, stored["knn"]))
    found, expected = statistics.mean(here), statistics.mean(there)
    bound = T_95 * statistics.stdev(there) * (1 / len(here) + 1 / len(there)) ** 0.5
    check.note("last kNN accuracy, mean", {"here": found, "stored, CPU": expected, "bound": bound})
    check.expect(abs(found - expected) <= bound, f"kNN {found:.2f} %, stored {expected:.2f} ± {bound:.2f}")


def unpack(archive: Path, folder: Path, train: int, val: int) -> None:
    """The first ``train`` and ``val`` images of every class by name, as folder/train/CLASS and folder/val/CLASS."""
    wanted = {"train": ("train", train), "test": ("val", val)}
    by_class: dict[tuple[str, str], list[Any]] = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts
            if member.isfile() and len(parts) >= 3 and parts[-3] in wanted:
                by_class.setdefault((parts[-3], parts[-2]), []).append(member)
        chosen = [
            (member, folder / wanted[split][0] / label / Path(member.name).name)
            for (split, label), members in by_class.items()
            for member in sorted(members, key=lambda m: str(m.name))[: wanted[split][1]]
        ]
        for member, target in sorted(chosen, key=lambda pair: int(pair[0].offset)):
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())
