"""Seeds, signals, locks, logs and metrics."""

import errno
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from runtime.distributed import all_gather_rows, all_reduce_mean, close_world, init_world, launch
from runtime.errors import UserError
from runtime.logs import setup_logging
from runtime.metrics import MetricsWriter, read_metrics
from runtime.provenance import provenance
from runtime.run_folder import RunLock
from runtime.seeds import derive_seed, rng_state, seed_everything, set_rng_state
from runtime.stop import StopSignal
from runtime.torch_files import load_torch, save_torch


def test_derived_seeds_are_fixed_for_ever():
    assert derive_seed(0, "order", 3) == 7969273670047146399  # a change here would change every published run
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_rng_state_survives_a_checkpoint(tmp_path):
    seed_everything(3)
    save_torch(rng_state(), tmp_path / "rng.pth")
    first = random.random(), np.random.rand(), torch.rand(1).item()
    random.random(), np.random.rand(), torch.rand(5)
    set_rng_state(load_torch(tmp_path / "rng.pth"))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_signals_become_exit_codes(signum, code):
    before = signal.getsignal(signum)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested
        assert stop.exit_code == code
    assert signal.getsignal(signum) == before


def test_second_interrupt_interrupts():
    with StopSignal(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def hold(repo, folder, *flags):
    command = [sys.executable, "-m", "tests.runtime.programs.hold_lock", str(folder), *flags]
    return subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, text=True)


def test_second_writer_is_refused_by_pid_and_a_dead_one_is_not(tmp_path, repo):
    with hold(repo, tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=str(holder.pid)), RunLock(tmp_path):
            pass
        holder.kill()
    with RunLock(tmp_path) as lock:
        assert lock.folder == tmp_path


def test_a_worker_that_outlives_a_killed_run_does_not_hold_its_folder(tmp_path, repo):
    holder = hold(repo, tmp_path, "fork")
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match=str(holder.pid)), RunLock(tmp_path):
            pass  # the worker's closed copy has not released its parent's lock
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # still there
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


def test_a_folder_that_cannot_be_locked_is_not_called_in_use(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("runtime.run_folder.fcntl.flock", refuse)
    with pytest.raises(UserError, match="cannot lock .*No locks available"), RunLock(tmp_path):
        pass


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in ("file", "file/run"):
        with pytest.raises(UserError, match=f"cannot write .*{folder}"), RunLock(tmp_path / folder):
            pass


def test_metrics_resume_and_torn_line(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, loss=2.0)
    writer.write(2, loss=float("nan"), lr=0.1)
    writer.close()
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 3, "lo')  # killed half way
    again = MetricsWriter(tmp_path, tensorboard=False)
    again.write(2, loss=1.5)
    again.close()
    assert read_metrics(tmp_path / "metrics.json") == [
        {"iteration": 1, "loss": 2.0},
        {"iteration": 2, "loss": 1.5, "lr": 0.1},
    ]
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_provenance_leaves_out_where_the_clone_is(repo):
    assert provenance([str(repo / "pretrain" / "main.py"), "/DIR"])["argv"] == ["pretrain/main.py", "/DIR"]
    assert provenance(["/elsewhere/main.py"])["argv"] == ["/elsewhere/main.py"]


def test_provenance_names_command_and_versions():
    record = provenance(["pretrain/main.py", "DIR"])
    assert record["argv"] == ["pretrain/main.py", "DIR"]
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "pillow" in record["versions"]  # pixels depend on the decoder
    assert record["hardware"]["cores"] >= 1


def _gather(folder):
    world = init_world("cpu")
    rows = all_gather_rows(torch.tensor([[world.rank + 1.0]]))
    mean = all_reduce_mean(torch.tensor(float(world.rank)))
    if world.is_main:
        save_torch({"rows": rows, "mean": mean}, os.path.join(folder, "out.pth"))
    close_world()


def test_two_processes_gather_and_reduce(tmp_path):
    launch(_gather, 2, (str(tmp_path),))
    out = load_torch(tmp_path / "out.pth")
    assert out["rows"].tolist() == [[1.0], [2.0]]
    assert out["mean"].item() == 0.5


def test_a_world_of_one_needs_no_process_group():
    world = init_world("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert all_gather_rows(torch.ones(2, 3)).shape == (2, 3)


def test_full_disk_under_the_log_file_is_the_runs_error(tmp_path, capsys):
    (tmp_path / "log_rank2.txt").symlink_to("/dev/full")
    logger = setup_logging(tmp_path, rank=2)
    with pytest.raises(OSError, match="No space left"):
        logger.info("a line")
    assert "Logging error" not in capsys.readouterr().err
    with pytest.raises(OSError, match="No space left"):  # its unwritten line fails again on closing
        logger.handlers[0].stream.close()
    logger.handlers[0].stream = None
    setup_logging()


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(UserError, match=f"no GPU {torch.cuda.device_count()}: this machine has"):
        init_world("cuda")


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("mistake", 2, "error: bad thing in x\n"),
        ("interrupt", 130, "interrupted"),
        ("full disk", 2, "error: disk full"),
        ("143", 143, ""),
        ("long mistake", 2, f"error: {'x' * 2000} ... (3000 more characters)"),
    ],
)
def test_entry_exit_codes(repo, end, code, words):
    command = [sys.executable, "-m", "tests.runtime.programs.exit_codes", end]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
