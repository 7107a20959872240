"""Atomic files and checkpoints: nothing half-written, nothing executed."""

import argparse
import errno
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from runtime.atomic import atomic_path, sha256_file, write_json, write_text
from runtime.errors import UserError
from runtime.repository import REPOSITORY
from runtime.torch_files import load_torch, save_torch


def test_failed_write_keeps_the_old_file_and_leaves_no_partial(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as partial:
        partial.write_text("half of the new")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(UserError, match="disk full"), atomic_path(target) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file/runs/a\.txt"):
        write_text(tmp_path / "file" / "runs" / "a.txt", "new")


def test_full_disk_during_torch_save(tmp_path, repo):
    command = [sys.executable, "-m", "tests.runtime.programs.limited_save", str(tmp_path / "c.pth")]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert "refused disk full" in done.stdout, done.stdout + done.stderr
    assert load_torch(tmp_path / "c.pth")["w"].shape == (10,)
    assert os.listdir(tmp_path) == ["c.pth"]


def test_json_is_strict_and_stable(tmp_path):
    write_json(tmp_path / "a.json", {"AP": float("nan"), "n": (1, 2.5)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"AP": None, "n": [1, 2.5]}
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "a.json")


def test_checkpoint_round_trip_with_the_types_real_files_carry(tmp_path):
    content = {
        "state_dict": {"w": torch.randn(3)},
        "args": argparse.Namespace(lr=0.03),
        "best": np.float64(1.5),
        "array": np.arange(3, dtype=np.float32),
    }
    save_torch(content, tmp_path / "c.pth")
    back = load_torch(tmp_path / "c.pth")
    assert torch.equal(back["state_dict"]["w"], content["state_dict"]["w"])
    assert back["args"].lr == 0.03
    assert back["best"] == 1.5
    assert back["array"].tolist() == [0, 1, 2]


class Hostile:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def test_code_in_a_checkpoint_never_runs_and_is_named(tmp_path):
    witness = tmp_path / "ran"
    torch.save({"state_dict": Hostile(witness)}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"posix\.system|os\.system"):
        load_torch(tmp_path / "bad.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Hostile(witness)))
    with pytest.raises(UserError):
        load_torch(tmp_path / "old.pth")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"  <html>", "web page"),
        (b"PK\x03\x04 torn", "readable"),
    ],
)
def test_what_is_not_a_checkpoint_is_said(tmp_path, content, words):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_torch(tmp_path / "c.pth")


def test_truncated_checkpoint_at_every_eighth(tmp_path):
    save_torch({"w": torch.randn(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for eighth in range(1, 8):
        (tmp_path / "torn.pth").write_bytes(whole[: len(whole) * eighth // 8])
        with pytest.raises(UserError):
            load_torch(tmp_path / "torn.pth")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_torch(tmp_path / "none.pth")
    with pytest.raises(UserError, match="folder"):
        load_torch(tmp_path)


def killed_writer(folder):
    """The name that a process, killed in mid-write, leaves in ``folder``."""
    code = (
        "import os, signal, sys; from runtime.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial: partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "a.txt")], cwd=REPOSITORY, check=False)
    (name,) = [name for name in os.listdir(folder) if name.endswith(".partial")]
    return name


def test_partials_of_killed_processes_are_removed_by_the_next_run(tmp_path, monkeypatch):
    killed = killed_writer(tmp_path)
    dead = killed.split(".")[-2].split("-")[0]
    alive = killed.replace(f".{dead}-", f".{os.getpid()}-")
    elsewhere = killed[: killed.rindex("-") + 1] + "0" * 8 + ".partial"
    older = f".a.txt.{dead}-1.partial"  # of a version that did not name the machine
    for name in (alive, elsewhere, older, "mine.partial"):
        (tmp_path / name).touch()
    write_text(tmp_path / "b.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["b.txt", alive, elsewhere, older, "mine.partial"])


def test_a_folder_is_looked_through_once_a_process(tmp_path, monkeypatch):
    calls = []
    listdir = os.listdir
    monkeypatch.setattr("runtime.atomic.os.listdir", lambda folder: calls.append(folder) or listdir(folder))
    for i in range(3):
        write_text(tmp_path / f"{i}.txt", "x")
    assert calls == [tmp_path]
