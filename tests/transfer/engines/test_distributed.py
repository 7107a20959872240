"""Several processes on gloo: the same global batch gives the same numbers whatever their count."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.metrics import read_metrics
from runtime.torch_files import load_torch

# every anchor and every proposal is sampled and all images have one size: no random choice, equal shares
FIXED = {
    "MODEL.RESNETS.DEPTH": 18,  # fewer layers to synchronise
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.BASE_LR": 0.002,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 6,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 10000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.RANDOM_FLIP": "none",
    "DATALOADER.ASPECT_RATIO_GROUPING": False,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 1,
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Any], tiny_coco: str) -> Path:
    """FIXED on the landscape half of the tiny data set, as a file."""
    from transfer.config import dump_config

    folder = tmp_path_factory.mktemp("fixed")
    _, annotations, images = tiny_coco.split(":")
    content = json.loads(Path(annotations).read_text())
    content["images"] = [image for image in content["images"] if image["width"] > image["height"]]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (folder / "landscape.json").write_text(json.dumps(content))
    name = f"coco:{folder / 'landscape.json'}:{images}"
    cfg = tiny_config(FIXED, {"DATASETS.TRAIN": (name,), "DATASETS.TEST": (name,)})
    (folder / "fixed.yaml").write_text(dump_config(cfg))
    return folder / "fixed.yaml"


def command(config_file: Path, output: Path, *flags: str) -> list[str]:
    base = ["transfer/train_net.py", "--config-file", str(config_file), "--init", "random", "--engine", "torchvision"]
    return [*base, *flags, "OUTPUT_DIR", str(output)]


@pytest.fixture(scope="module")
def alone(config_file: Path, tmp_path_factory: pytest.TempPathFactory, run_cli: Callable[..., Any]) -> Path:
    """The run in one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    run_cli(command(config_file, output), check=0)
    return output


def assert_equal_runs(alone: Path, other: Path) -> None:
    one, two = (read_metrics(folder / "metrics.json")[-1] for folder in (alone, other))
    for name in ("total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"):
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name
    weights, others = (load_torch(folder / "model_final.pth")["model"] for folder in (alone, other))
    for name, value in weights.items():
        if "running" in name:  # two ranks measure two batches of two, one process one batch of four
            torch.testing.assert_close(others[name], value, rtol=0.1, atol=0.1)
        elif value.is_floating_point():
            torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4)
    image = [json.loads((folder / "result.json").read_text()) for folder in (alone, other)]
    assert image[0]["iterations"] == image[1]["iterations"] == 2


def test_two_processes_equal_one(alone: Path, config_file: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    run_cli(command(config_file, tmp_path / "run", "--num-gpus", "2"), check=0)
    assert_equal_runs(alone, tmp_path / "run")


@pytest.mark.slow
def test_torchrun_equals_one_process(alone: Path, config_file: Path, tmp_path: Path, repo: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, *command(config_file, tmp_path / "run")],
        cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_runs(alone, tmp_path / "run")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> list[dict[str, Any]]:
    """What two gloo processes computed with the norms and with precise batch norm."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.transfer.engines.programs.norms_of_rank", str(folder)],
            cwd=repo,
            env={**os.environ, **address, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_sync_bn_equals_one_process_on_the_whole_batch(two_ranks: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    whole = torch.randn(5, 8, 6, 7) * 3 + 1
    norm = torch.nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8))
    x = whole.clone().requires_grad_()
    y = norm(x)
    first, second = y[:3], y[3:]
    loss = sum((part * torch.arange(part.numel()).view_as(part).cos()).sum() for part in (first, second))
    loss.backward()
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([r["SyncBN"]["y"] for r in two_ranks]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([r["SyncBN"]["grad"] for r in two_ranks]), x.grad, **close)
    torch.testing.assert_close(two_ranks[0]["SyncBN"]["weight_grad"], norm.weight.grad, **close)
    for rank in two_ranks:
        torch.testing.assert_close(rank["SyncBN"]["mean"], norm.running_mean, **close)
        torch.testing.assert_close(rank["SyncBN"]["var"], norm.running_var, **close)


def test_naive_sync_bn_weighs_ranks_equally(two_ranks: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    whole = torch.randn(5, 8, 6, 7) * 3 + 1
    mean = torch.stack([part.mean([0, 2, 3]) for part in (whole[:3], whole[3:])]).mean(0)
    square = torch.stack([(part**2).mean([0, 2, 3]) for part in (whole[:3], whole[3:])]).mean(0)
    var = square - mean**2
    scale = (torch.linspace(0.5, 2, 8) / (var + 1e-5).sqrt()).view(1, -1, 1, 1)
    expected = (whole - mean.view(1, -1, 1, 1)) * scale
    got = torch.cat([r["naiveSyncBN"]["y"] for r in two_ranks])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two_ranks[0]["naiveSyncBN"]["var"], 0.9 + 0.1 * var, rtol=1e-4, atol=1e-5)


def test_precise_bn_agrees_between_ranks(two_ranks: list[dict[str, Any]]) -> None:
    first, second = two_ranks
    assert torch.equal(first["precise"]["mean"], second["precise"]["mean"])
    assert torch.equal(first["precise"]["var"], second["precise"]["var"])
    moments = []
    for rank in two_ranks:
        given = rank["inputs"]
        out = torch.nn.functional.conv2d(torch.cat(given["batches"]), given["weight"], given["bias"])
        moments.append((out.mean([0, 2, 3]), (out**2).mean([0, 2, 3])))
    mean, square = (torch.stack(part).mean(0) for part in zip(*moments))
    torch.testing.assert_close(first["precise"]["mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["precise"]["var"], square - mean**2, rtol=1e-4, atol=1e-4)


def test_reference_world_size_scales_the_schedule(tiny_config: Callable[..., Any]) -> None:
    from transfer.engines.training.world_size import scale_to_processes

    given = {
        "SOLVER.REFERENCE_WORLD_SIZE": 8,
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.MAX_ITER": 90000,
        "SOLVER.STEPS": (60000, 80000),
        "SOLVER.WARMUP_ITERS": 1000,
        "SOLVER.CHECKPOINT_PERIOD": 5000,
    }
    cfg = tiny_config(given)
    scaled = scale_to_processes(cfg, 2).SOLVER
    assert (scaled.IMS_PER_BATCH, scaled.BASE_LR, scaled.MAX_ITER) == (4, 0.005, 360000)
    assert (scaled.STEPS, scaled.WARMUP_ITERS, scaled.CHECKPOINT_PERIOD) == ((240000, 320000), 4000, 20000)
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert scale_to_processes(cfg, 8) is cfg
