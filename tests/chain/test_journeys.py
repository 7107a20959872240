"""What users do, as the docs say it: from a fresh installation, in a folder of their own, with the installed commands.

The data are drawn and the schedules a few steps: what is tested is that the commands fit together, not what comes out.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chain.fresh_environment import build, copy_source, install, run

pytestmark = pytest.mark.slow

PRETRAIN = ["-a", "resnet18", "--image-size", 32, "--epochs", 1, "--batch-size", 16, "--lr", 0.03, "-j", 0]
MOCO = ["--mlp", "--moco-k", 64, "--moco-t", 0.2, "--aug-plus", "--bn-splits", 2]
FEW_STEPS = [
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6),
    *("SOLVER.STEPS", "(4,)", "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.WARMUP_ITERS", 2, "TEST.PRECISE_BN.NUM_ITER", 2),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
]
COCO = "coco:data/coco/annotations/instances_{0}.json:data/coco/{0}"
DATA = ["DATASETS.TRAIN", f"('{COCO.format('train')}',)", "DATASETS.TEST", f"('{COCO.format('val')}',)"]
TRAIN = ["--config-file", "demo_R18_FPN.yaml", "--engine", "torchvision"]

Command = Callable[..., str]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    """The bin folder of a new environment with this project's wheel."""
    source = copy_source(repo, tmp_path_factory.mktemp("source"))
    return install(tmp_path_factory.mktemp("env"), build("wheel", source, tmp_path_factory.mktemp("dist")))


@pytest.fixture(scope="module")
def work(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with drawn data, as the demo draws them."""
    folder = tmp_path_factory.mktemp("work")
    where = "from runtime.repository import REPOSITORY; print(REPOSITORY / 'demo' / 'draw.py')"
    draw = run(scripts / "python", "-c", where, cwd=folder).strip()
    run(scripts / "python", draw, "data", "--per-class", 4, "--train-scenes", 12, "--val-scenes", 6, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def gap(scripts: Path, work: Path) -> Command:
    """``gap("train", ...)`` runs gap-train in the user's folder."""

    def command(name: str, *words: object, **options: Any) -> str:
        return run(scripts / f"gap-{name}", *words, cwd=work, **options)

    return command


@pytest.fixture(scope="module")
def checkpoint(gap: Command) -> str:
    gap("pretrain", "data/images", *PRETRAIN, *MOCO, "--output", "runs/moco")
    return "runs/moco/checkpoint_0000.pth.tar"


@pytest.fixture(scope="module")
def runs(gap: Command, checkpoint: str) -> Path:
    """Two fine-tunings, from MoCo's weights and from random ones, in runs/mine/INIT."""
    assert "max |diff|" in gap("convert", checkpoint, "backbone.pkl")
    for init, weights in (("moco", "backbone.pkl"), ("random", "random")):
        words = ["--init", weights, "--init-name", init, *DATA, *FEW_STEPS, "OUTPUT_DIR", f"runs/mine/{init}/seed0"]
        gap("train", *TRAIN, *words, "SEED", 0)
    return Path("runs/mine")


def test_pretrain_convert_fine_tune_and_report(gap: Command, runs: Path, work: Path) -> None:
    """docs/tour.ipynb, docs/gap.md: a report on a folder of runs."""
    printed = gap("measure", runs, "--random", "random")
    assert "moco against random" in printed
    assert "no verdict" in printed  # one seed
    with open(work / runs / "gap.csv") as file:
        assert {row["init"] for row in csv.DictReader(file)} == {"moco", "random"}


def test_own_data_by_one_command(gap: Command, checkpoint: str, work: Path) -> None:
    """docs/own_data.md, one command."""
    words = ["--data", COCO.format("train"), "--test", COCO.format("val"), "--init", f"mine={checkpoint}"]
    printed = gap("measure", *words, "--hours", 1, "--output", "runs/own", "--dry-run")
    assert "predicted" in printed
    assert "mine" in (work / "runs/own/plan.yaml").read_text()
    assert "seed0" in gap("measure", "runs/own/plan.yaml", "--dry-run")  # the plan is an ordinary one


def test_a_voc_style_folder(gap: Command) -> None:
    """docs/own_data.md: voc:DIR."""
    voc = "voc:data/VOCdevkit/VOC2007"
    data = ["DATASETS.TRAIN", f"('{voc}:trainval',)", "DATASETS.TEST", f"('{voc}:test',)"]
    assert "images" in gap("train", "--config-file", "demo_R18_FPN.yaml", "--check-data", *data)


def test_check_and_estimate_before_a_run(gap: Command, work: Path) -> None:
    """docs/transfer.md, docs/pretrain.md: --check-data and --dry-run write nothing."""
    before = sorted(work.rglob("*"))
    assert "images" in gap("train", "--config-file", "demo_R18_FPN.yaml", "--check-data", *DATA)
    assert "memory" in gap("train", *TRAIN, "--init", "random", "--dry-run", *DATA, *FEW_STEPS, "OUTPUT_DIR", "runs/no")
    gap("pretrain", "data/images", *PRETRAIN, *MOCO, "--output", "runs/no", "--dry-run")
    assert sorted(work.rglob("*")) == before


def test_predict(gap: Command, runs: Path, work: Path) -> None:
    """docs/predict.md: a folder, a pattern, a list, standard input and a data set."""
    run_folder = runs / "moco" / "seed0"
    pictures = sorted((work / "data/coco/val").glob("*.jpg"))
    (work / "list.txt").write_text("".join(f"data/coco/val/{path.name}\n" for path in pictures[:2]))
    for images, count in (("data/coco/val", 6), ("data/coco/val/*.jpg", 6), ("list.txt", 2), (COCO.format("val"), 6)):
        printed = gap("predict", run_folder, images, "--score", 0, "--output", "found", "--pictures", 1)
        assert f"{count} images" in printed
        found = json.loads((work / "found/coco_results.json").read_text())
        assert {"image_id", "category_id", "bbox", "score"} <= set(found[0])
    lines = gap("predict", run_folder, "-", "--json", "--score", 0, stdin=f"data/coco/val/{pictures[0].name}\n")
    (answer,) = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    assert answer["detections"]


def test_predict_in_python(scripts: Path, runs: Path, work: Path) -> None:
    """docs/predict.md, Python."""
    code = (
        "import sys; from transfer.predict import Detector; detector = Detector.load(sys.argv[1]); "
        "found = detector(sys.argv[2]); print(found.boxes.shape[1], len(found.scores) == len(found.names))"
    )
    image = next((work / "data/coco/val").glob("*.jpg"))
    assert run(scripts / "python", "-c", code, runs / "moco/seed0", image, cwd=work).split() == ["4", "True"]


def test_a_whole_detector_as_a_start(gap: Command, runs: Path, work: Path) -> None:
    """docs/transfer.md: --init with a trained detector."""
    words = ["--init", runs / "moco/seed0/model_final.pth", *DATA, *FEW_STEPS, "OUTPUT_DIR", "runs/continued"]
    gap("train", *TRAIN, *words)
    assert json.loads((work / "runs/continued/result.json").read_text())["init"]["kind"] == "detector"


def test_published_results_beside_a_run(gap: Command, runs: Path, work: Path) -> None:
    """docs/published.md."""
    gap("published", "--explain", runs / "moco/seed0")
    gap("published", "--html", "atlas.html")
    assert "<table" in (work / "atlas.html").read_text()
    gap("published", "--csv", "rows.csv")
    assert len((work / "rows.csv").read_text().splitlines()) > 600


def test_a_killed_fine_tuning_goes_on(scripts: Path, work: Path, gap: Command) -> None:
    """docs/transfer.md: --resume. The weights are those of an unbroken run."""
    words = [*TRAIN, "--init", "random", *DATA, *FEW_STEPS, "SEED", 3, "OUTPUT_DIR"]
    gap("train", *words, "runs/whole")
    command = [str(word) for word in (scripts / "gap-train", *words, "runs/killed")]
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (work / "runs/killed/last_checkpoint").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gap("train", "--resume", *words, "runs/killed")
    whole, killed = (
        torch.load(work / f"runs/{name}/model_final.pth", weights_only=True)["model"] for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_probes_of_an_encoder(gap: Command, checkpoint: str) -> None:
    """docs/pretrain.md: kNN and linear probe."""
    assert json.loads(gap("knn", checkpoint, "data/images"))["val_images"] == 10
    probe = ["--epochs", 1, "--image-size", 32, "--batch-size", 8, "-j", 0, "--output", "runs/probe"]
    assert "top-1" in gap("linear-probe", "data/images", "--pretrained", checkpoint, *probe)


def test_pretraining_from_a_cache(gap: Command, work: Path) -> None:
    """docs/data.md: images decoded once."""
    gap("cache-images", "data/images", "cache", "--shorter-side", 48)
    gap("pretrain", "cache", *PRETRAIN, *MOCO, "--output", "runs/cached")
    assert (work / "runs/cached/checkpoint_0000.pth.tar").is_file()
