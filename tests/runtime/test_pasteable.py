"""Printed commands run when pasted where they were printed."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import pasteable as module
from runtime.pasteable import pasteable, python


def pasted(text: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", text], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("folder", ["root", "below", "elsewhere"])
def test_a_command_runs_where_it_was_printed(repo, tmp_path, monkeypatch, folder):
    here = {"root": repo, "below": repo / "docs", "elsewhere": tmp_path}[folder]
    monkeypatch.chdir(here)
    text = pasteable("transfer/measure_gap.py", ["no such $plan; 'x'"])
    done = pasted(text, here)
    assert (done.returncode, done.stderr[:7]) == (2, "error: ")
    assert "plan no such $plan; 'x' does not exist" in done.stderr


def test_python_is_the_one_that_runs(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert os.path.abspath(python()) == os.path.abspath(sys.executable)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert python() == "python"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert python() == "bin/python"


def test_an_installed_project_prints_console_commands(tmp_path, monkeypatch):
    class Distribution:
        entry_points = (importlib.metadata.EntryPoint("gap-train", "transfer.train_net:console", "console_scripts"),)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    assert pasteable("transfer/train_net.py", ["--num-gpus", 2], tmp_path) == "gap-train --num-gpus 2"
    assert pasteable("transfer/splits.py", [], tmp_path).endswith(f"{tmp_path}/transfer/splits.py")  # has no command
    monkeypatch.setattr(module.shutil, "which", lambda name: None)  # its folder of commands is not on the PATH
    assert pasteable("transfer/train_net.py", [], tmp_path).endswith(f"{tmp_path}/transfer/train_net.py")
