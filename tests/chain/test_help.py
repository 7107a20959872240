"""Every entry script answers --help at once: nothing heavy is imported before the command line is parsed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "scipy", "detectron2", "cv2", "fvcore", "pycocotools")
ENTRIES = [
    "convert/to_d2.py",
    "convert/to_torchvision.py",
    "demo/draw.py",
    "pretrain/cache_images.py",
    "pretrain/features.py",
    "pretrain/linear_probe.py",
    "pretrain/main.py",
    "pretrain/sweep.py",
    "transfer/compare_runs.py",
    "transfer/leakage.py",
    "transfer/measure_gap.py",
    "transfer/predict.py",
    "transfer/published.py",
    "transfer/show.py",
    "transfer/planning/slurm/wait_for_job.py",
    "transfer/splits.py",
    "transfer/train_net.py",
]


def test_the_list_is_complete(repo):
    found = [
        str(f.relative_to(repo))
        for package in ("convert", "demo", "pretrain", "transfer")
        for f in (repo / package).rglob("*.py")
        if "run_entry(main)" in f.read_text() and f.name != "stage_job.py"  # has no options: a batch script calls it
    ]
    assert sorted(found) == sorted(ENTRIES)


@pytest.mark.parametrize("script", ENTRIES)
def test_help_imports_nothing_heavy(script, repo):
    command = [sys.executable, "-X", "importtime", str(repo / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0
    assert "usage:" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("script", ENTRIES)
def test_unknown_flags_exit_with_2(script, repo):
    done = subprocess.run([sys.executable, str(repo / script), "--no-such-flag"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ENTRIES)
def test_importing_an_entry_leaves_the_interpreter_as_it_was(script, repo):
    module = script.removesuffix(".py").replace("/", ".")
    code = (
        "import gc, os, sys; before = sys.path[:], dict(os.environ), gc.isenabled(); "
        f"import {module}; assert before == (sys.path, dict(os.environ), gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ENTRIES)
def test_a_mistake_on_the_command_line_is_one_line(script, repo):
    done = subprocess.run([sys.executable, str(repo / script), "--no-such-flag"], capture_output=True, text=True)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert f"{script.rpartition('/')[2]} --help" in done.stderr
