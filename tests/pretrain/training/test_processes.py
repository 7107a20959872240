"""Two gloo processes: the same as one process with two BatchNorm groups, and exact through a lost rank."""

from __future__ import annotations

import contextlib
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
from torch import nn

from pretrain.views.batch import Batch
from runtime.run_folder import RunLock
from tests.pretrain.training import ranks  # by its full name: the spawned ranks import it again

FLAGS = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "2", "--moco-k", "32", "--moco-dim",
         "8", "-p", "1", "--knn-every", "0", "--keep", "0", "--save-steps", "1", "-j", "0"]  # fmt: skip
LAST = "checkpoint_0001.pth.tar"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


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
        assert rank["guard"]["verdicts"].tolist() == [True, False, False, True]
    assert (two_ranks[0]["report"]["what"], two_ranks[0]["report"]["images"]) == ("loss", [0, 1, 2, 3])


@pytest.mark.parametrize("name", ["moco", "end_to_end", "memory_bank"])
def test_two_ranks_are_one_process_with_two_batchnorm_groups(two_ranks: list[dict], name: str) -> None:
    """Shuffling across ranks and across SplitBatchNorm groups is the same operation: the same permutation, the same
    other images in every key's group, the same losses, so the same weights and dictionary (up to rounding)."""
    alone = ranks.run(ranks.build_methods(bn_splits=2)[name], ranks.VIEWS[name], slice(0, 8), lambda parameters: None)
    torch.testing.assert_close(two_ranks[0][name], alone, rtol=1e-4, atol=1e-5)


def test_accumulated_parts_are_ranks_in_sequence() -> None:
    """Two parts of a batch in one process give the gradient, and the queue, of two ranks without a shuffle."""
    from pretrain.methods.moco import MoCo
    from pretrain.training.loop import _forward_backward

    # without BatchNorm, whose statistics would differ between the whole and its parts
    whole, parts = (MoCo(nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), dim=8, queue_size=16) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    indices = torch.arange(8)
    batch = Batch(step=0, epoch=0, indices=indices, images=[], labels=indices, params=torch.empty(0))
    gradients = []
    for method, count in ((whole, 1), (parts, 2)):
        method.zero_grad()
        _forward_backward(method, batch, ranks.batch(0), count)
        gradients.append([p.grad for p in method.trained_parameters()])
        assert all(gradient is not None and gradient.any() for gradient in gradients[-1])
        method.end_step()
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(whole.queue.rows, parts.queue.rows)
    assert parts.queue.position == 8


def torchrun(images: Path, folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()),
            *flags, "pretrain/main.py", str(images), *FLAGS, "--output", str(folder)]  # fmt: skip


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def family(process: subprocess.Popen) -> list[int]:
    """All descendants of this process: torchrun's ranks and their loader workers."""
    pids = [process.pid]
    for pid in pids:
        pids += children(pid)
    return pids[1:]


def leader(process: subprocess.Popen, rank: int) -> int:
    """The process that torchrun started as this rank."""
    (pid,) = [p for p in children(process.pid) if f"RANK={rank}" in Path(f"/proc/{p}/environ").read_text().split("\0")]
    return pid


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Whether a process has exited, reaped or not (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill_all(process: subprocess.Popen) -> None:
    """kill -9 of torchrun, both ranks and their workers, as when the machine goes."""
    pids = [process.pid, *family(process)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(map(ended, pids)), "the end of killed processes")


@pytest.fixture(scope="module")
def whole(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that two undisturbed processes end with."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(torchrun(tiny_images, folder), env=ENVIRONMENT, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


def run_and_kill(command: list[str], folder: Path, delay: float) -> bool:
    """Start a run and kill it ``delay`` seconds after its first new checkpoint; False where it had finished by then."""
    before = set(folder.glob("checkpoint_*"))
    process = subprocess.Popen(command, env=ENVIRONMENT)
    wait_until(lambda: process.poll() is not None or set(folder.glob("checkpoint_*")) > before, "a checkpoint")
    time.sleep(delay)
    running = process.poll() is None
    kill_all(process)
    return running


@pytest.mark.slow
def test_kills_of_both_ranks_leave_no_trace(whole: dict, tiny_images: Path, tmp_path: Path) -> None:
    """kill -9 of everything at random moments, in saves too."""
    rng, folder, kills = torch.Generator().manual_seed(0), tmp_path / "run0", 0
    while kills < 4:
        delay = float(torch.rand(1, generator=rng))
        kills += run_and_kill([*torchrun(tiny_images, folder), "--resume"], folder, delay)
        if (folder / LAST).exists():
            torch.testing.assert_close(weights(folder), whole, rtol=0, atol=0)
            folder = tmp_path / f"run{kills}"
    assert subprocess.run([*torchrun(tiny_images, folder), "--resume"], env=ENVIRONMENT, timeout=600).returncode == 0
    torch.testing.assert_close(weights(folder), whole, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_ends_the_job_and_its_workers(whole: dict, tiny_images: Path, tmp_path: Path, rank: int) -> None:
    """Without restarts, with loader workers: no process is left, the folder is unlocked, and no bit is lost."""
    folder = tmp_path / "run"
    command = [*torchrun(tiny_images, folder), "-j", "2", "--resume"]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    wait_until(lambda: bool(list(folder.glob("checkpoint_*"))), "a checkpoint")
    everyone = family(process)
    assert len(everyone) >= 4  # two ranks, each with a loader worker
    os.kill(leader(process, rank), signal.SIGKILL)
    assert process.wait(timeout=240) != 0
    with RunLock(folder):
        pass  # raises where another process holds the lock
    wait_until(lambda: all(map(ended, everyone)), "the end of workers without a rank")
    assert subprocess.run(command, env=ENVIRONMENT, timeout=600).returncode == 0
    torch.testing.assert_close(weights(folder), whole, rtol=0, atol=0)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_at_one_step(tiny_images: Path, tmp_path: Path) -> None:
    """No line and no save comes before it: the ranks agree on the device and hear of it a step later."""
    folder, log = tmp_path / "run", tmp_path / "run" / "log.txt"
    endless = ["--epochs", "4000", "--save-every", "4000", "--save-steps", "0", "-p", "100000"]
    process = subprocess.Popen([*torchrun(tiny_images, folder), *endless], env=ENVIRONMENT)
    wait_until(lambda: log.exists() and "no kNN probe" in log.read_text(), "the first step")
    os.kill(leader(process, 1), signal.SIGUSR1)
    assert process.wait(timeout=240) != 0
    (file,) = folder.glob("checkpoint_*")
    step = torch.load(file, weights_only=True)["step"]
    assert f"stopped by a signal after step {step} of 16000" in log.read_text()


@pytest.mark.slow
def test_lost_rank_restarts_and_ends_with_the_same_bits(whole: dict, tiny_images: Path, tmp_path: Path) -> None:
    """torchrun --max-restarts 1, one rank killed: the restarted pair resumes by itself and loses no bit."""
    folder = tmp_path / "lost"
    process = subprocess.Popen(torchrun(tiny_images, folder, "--max-restarts", "1"), env=ENVIRONMENT)
    wait_until(lambda: bool(list(folder.glob("checkpoint_*"))), "a checkpoint")
    os.kill(leader(process, 1), signal.SIGKILL)
    assert process.wait(timeout=240) == 0
    assert "resumed" in (folder / "log.txt").read_text()
    torch.testing.assert_close(weights(folder), whole, rtol=0, atol=0)
