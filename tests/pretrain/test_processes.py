"""Two gloo processes: the same as one process with two BatchNorm groups, and exact through a lost rank."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.pretrain import ranks  # by its full name: the spawned ranks import it again

FLAGS = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "2", "--moco-k", "32", "--moco-dim",
         "8", "-p", "1", "--knn-every", "0", "--keep", "0", "--save-steps", "1", "-j", "0"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The states of both ranks after three steps of every method."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ranks.step_methods, (free_port(), str(folder)), nprocs=2)
    states = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    states[0]["report"] = json.loads((folder / "nonfinite_step_0.json").read_text())
    return states


@pytest.mark.parametrize("name", ["moco", "end_to_end", "invaspread", "memory_bank"])
def test_ranks_hold_the_same_state(two_ranks: list[dict], name: str) -> None:
    torch.testing.assert_close(two_ranks[0][name], two_ranks[1][name], rtol=0, atol=0)


def test_ranks_refuse_and_stop_together(two_ranks: list[dict]) -> None:
    """The bad loss is one rank's, the signal the other's: both refuse the step, and both hear of it one step later."""
    for rank in two_ranks:
        assert rank["guard"]["said"].tolist() == [True, False, False, True]
    assert (two_ranks[0]["report"]["what"], two_ranks[0]["report"]["images"]) == ("loss", [0, 1, 2, 3])


@pytest.mark.parametrize("name", ["moco", "end_to_end", "memory_bank"])
def test_two_ranks_are_one_process_with_two_batchnorm_groups(two_ranks: list[dict], name: str) -> None:
    """Shuffling across ranks and across SplitBatchNorm groups is the same operation: the same permutation, the same
    company for every key, the same losses, so the same weights and dictionary (up to rounding)."""
    alone = ranks.run(ranks.build_methods(bn_splits=2)[name], slice(0, 8), lambda parameters: None)
    torch.testing.assert_close(two_ranks[0][name], alone, rtol=1e-4, atol=1e-5)


def test_accumulated_parts_are_ranks_in_sequence() -> None:
    """Two parts of a batch in one process give the gradient, and the queue, of two ranks without a shuffle."""
    from pretrain.loop import _forward_backward
    from pretrain.methods.moco import MoCo

    whole, parts = (MoCo(ranks.encoder()[2:4], dim=8, queue_size=16) for _ in range(2))
    whole.encoder_q[1] = parts.encoder_q[1] = torch.nn.Linear(48, 8)
    whole.encoder_k[1] = parts.encoder_k[1] = torch.nn.Linear(48, 8)
    parts.queue.rows.copy_(whole.queue.rows)

    class Item:
        indices = labels = torch.arange(8)

    gradients = []
    for method, count in ((whole, 1), (parts, 2)):
        method.zero_grad()
        _forward_backward(method, Item, ranks.batch(0), count)
        gradients.append([p.grad.clone() for p in method.trained_parameters()])
        method.end_step()
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(whole.queue.rows, parts.queue.rows)
    assert parts.queue.position == 8


def torchrun(images: Path, folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()),
            *flags, "pretrain/main.py", str(images), *FLAGS, "--output", str(folder)]  # fmt: skip


@pytest.mark.slow
def test_lost_rank_restarts_and_ends_with_the_same_bits(tiny_images: Path, tmp_path: Path, run_cli: Callable) -> None:
    """torchrun --max-restarts 1, one rank killed: the restarted pair resumes by itself and loses no bit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(torchrun(tiny_images, tmp_path / "whole"), env=environment, capture_output=True, timeout=300)
    assert whole.returncode == 0, whole.stderr[-2000:]
    folder = tmp_path / "lost"
    process = subprocess.Popen(torchrun(tiny_images, folder, "--max-restarts", "1"), env=environment)
    end = time.time() + 120
    while not list(folder.glob("checkpoint_*")) and time.time() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert "resumed" in (folder / "log.txt").read_text()
    files = (tmp_path / "whole" / "checkpoint_0001.pth.tar", folder / "checkpoint_0001.pth.tar")
    a, b = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    torch.testing.assert_close(a, b, rtol=0, atol=0)
