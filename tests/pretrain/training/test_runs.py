"""Whole runs: exact resume, signals, damaged files, refusals. In this process where a new one would add nothing."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.settings.options import defaults, parse
from pretrain.training.recorder import Recorder
from pretrain.training.run import pretrain
from pretrain.views import Views
from pretrain.views.batch import Batch
from runtime.distributed import World
from runtime.errors import UserError
from runtime.metrics import read_metrics

SMALL = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "2", "--moco-k", "32", "--moco-dim",
         "16", "--bn-splits", "2", "--aug-plus", "--mlp", "--cos", "-p", "1", "--knn-every", "0", "--keep", "0",
         "-j", "0"]  # fmt: skip
SCRIPT = "pretrain/main.py"
LAST = "checkpoint_0001.pth.tar"  # 33 images, batches of 8, 2 epochs: 8 steps
FIRST = "checkpoint_0000.pth.tar"


def run(images: Path, folder: Path, *flags: str | Path) -> int:
    """One process of pretrain/main.py, without starting one."""
    settings = parse([str(images), *SMALL, "--output", str(folder), *map(str, flags)])
    return pretrain(settings, World(0, 1, 0, torch.device("cpu")))


def contents(folder: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / name, weights_only=True)
    assert {"epoch", "arch", "state_dict", "optimizer", "method", "recipe", "step", "rng"} <= checkpoint.keys()
    momenta = {f"momentum.{i}": s["momentum_buffer"] for i, s in checkpoint["optimizer"]["state"].items()}
    return checkpoint["state_dict"] | momenta


def assert_same(a: Path, b: Path) -> None:
    torch.testing.assert_close(contents(a), contents(b), rtol=0, atol=0)


@pytest.fixture(scope="module")
def finished(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run without loader processes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(tiny_images, folder) == 0
    return folder


def start(images: Path, folder: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, SCRIPT, str(images), *SMALL, "--output", str(folder), *flags]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, start_new_session=True
    )


def wait_for(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until metrics.json shows that step, or the run is over."""
    end = time.time() + 120
    while process.poll() is None and time.time() < end:
        metrics = folder / "metrics.json"
        if metrics.exists() and f'"iteration": {step},' in metrics.read_text():
            return
        time.sleep(0.02)


def test_killed_run_resumes_to_the_same_bits_with_other_workers(
    finished: Path, tiny_images: Path, tmp_path: Path
) -> None:
    process = start(tiny_images, tmp_path / "run", "-j", "2", "--save-steps", "3")
    wait_for(process, tmp_path / "run", 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / LAST).exists()
    run(tiny_images, tmp_path / "run", "-j", "1", "--save-steps", "3", "--resume")
    assert "resumed" in (tmp_path / "run" / "log.txt").read_text()
    assert_same(finished, tmp_path / "run")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_signal_saves_the_step_and_the_run_resumes_exactly(
    finished: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    line = Recorder.line

    def interrupt(self: Recorder, step: int, *rest: Any) -> None:
        line(self, step, *rest)
        if step == 2:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(Recorder, "line", interrupt)
    assert run(tiny_images, tmp_path) == code
    monkeypatch.undo()
    assert [f.name for f in tmp_path.glob("checkpoint_*")] == ["checkpoint_step_000000003.pth.tar"]
    assert (tmp_path / "metrics.json").read_text().endswith("}\n")
    run(tiny_images, tmp_path, "--resume")
    assert_same(finished, tmp_path)


@pytest.mark.parametrize("damage", ["empty", "torn", "page"])
def test_damaged_newest_checkpoint_falls_back(finished: Path, tiny_images: Path, tmp_path: Path, damage: str) -> None:
    whole = (finished / LAST).read_bytes()
    (tmp_path / FIRST).write_bytes((finished / FIRST).read_bytes())
    content = {"empty": b"", "torn": whole[: len(whole) // 2], "page": b"<!DOCTYPE html><html>"}[damage]
    (tmp_path / LAST).write_bytes(content)
    run(tiny_images, tmp_path, "--resume")
    assert "passing over a damaged checkpoint" in (tmp_path / "log.txt").read_text()
    assert_same(finished, tmp_path)


def test_a_full_disk_ends_a_save_in_one_line(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk: a write fails at half of a checkpoint."""
    first = tmp_path / FIRST
    shutil.copy(finished / FIRST, first)
    before = first.read_bytes()
    limit = (len(before) // 2, resource.RLIM_INFINITY)
    done = subprocess.run(
        [sys.executable, SCRIPT, str(tiny_images), *SMALL, "--output", str(tmp_path), "--resume", "--save-steps", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    name = tmp_path / "checkpoint_step_000000005.pth.tar"
    assert done.stderr == f"error: disk full: cannot write {name}; free some space and run the same command again\n"
    assert first.read_bytes() == before
    assert {f.name for f in tmp_path.glob("*.tar*")} | {f.name for f in tmp_path.glob(".*.partial")} == {FIRST}
    run(tiny_images, tmp_path, "--resume")
    assert_same(finished, tmp_path)


def test_only_damaged_checkpoints_are_not_overwritten(tiny_images: Path, tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        run(tiny_images, tmp_path, "--resume")


def test_finished_run_is_left_alone_and_never_overwritten(finished: Path, tiny_images: Path) -> None:
    before, written = (finished / LAST).stat().st_mtime_ns, (finished / "weights.sha256").read_text()
    (finished / "weights.sha256").unlink()  # as if killed right after the last save
    assert run(tiny_images, finished, "--resume") == 0
    assert (finished / "weights.sha256").read_text() == written
    assert "already finished" in (finished / "log.txt").read_text()
    with pytest.raises(UserError, match="already holds checkpoints"):
        run(tiny_images, finished)
    assert (finished / LAST).stat().st_mtime_ns == before


def test_changed_settings_are_refused_by_name(finished: Path, tiny_images: Path) -> None:
    with pytest.raises(UserError, match=r"lr was 0.03, is 0.1; moco_t was 0.07, is 0.3\. .*--allow-change moco_t"):
        run(tiny_images, finished, "--resume", "--moco-t", "0.3", "--lr", "0.1")
    with pytest.raises(UserError, match="data was"):
        run(tiny_images / "val", finished, "--resume", "--batch-size", "8", "--epochs", "9")


def test_setting_younger_than_the_checkpoint_had_its_default(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(finished / FIRST, weights_only=True)
    del checkpoint["settings"]["symmetric"]
    torch.save(checkpoint, tmp_path / "older.pth.tar")
    with pytest.raises(UserError, match="symmetric was False, is True"):
        run(tiny_images, tmp_path / "run", "--resume", tmp_path / "older.pth.tar", "--symmetric")
    run(tiny_images, tmp_path / "run", "--resume", tmp_path / "older.pth.tar")
    assert_same(finished, tmp_path / "run")


def test_a_checkpoint_of_version_0_1_0_resumes(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    """Its ``settings`` were written when every option stood in one flat table. Keys and values, byte for byte."""
    checkpoint = torch.load(finished / FIRST, weights_only=True)
    fingerprint = checkpoint["settings"]["data"]
    checkpoint["settings"] = {**json.loads(Path(__file__).with_name("settings_0_1_0.json").read_text()),
                              "data": fingerprint}  # fmt: skip
    now = torch.load(finished / LAST, weights_only=True)["settings"]
    assert checkpoint["settings"].keys() <= now.keys()
    torch.save(checkpoint, tmp_path / "older.pth.tar")
    run(tiny_images, tmp_path / "run", "--resume", tmp_path / "older.pth.tar")
    assert_same(finished, tmp_path / "run")
    newer = torch.load(tmp_path / "run" / LAST, weights_only=True)
    assert newer["changes"] == []
    kept = {key: value for key, value in newer["settings"].items() if key in checkpoint["settings"]}
    assert json.dumps(kept) == json.dumps(checkpoint["settings"])
    younger = newer["settings"].keys() - kept.keys()  # options that came later, and had their defaults
    assert {key: newer["settings"][key] for key in younger} == {key: defaults()[key] for key in younger}


def test_weights_and_biases_gets_the_numbers(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in for the package, which is optional; without it, one line says how to get it."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        run(tiny_images, tmp_path / "without", "--wandb")
    logged: list[tuple[int, dict]] = []
    begun: list[dict] = []

    def init(**settings: Any) -> SimpleNamespace:
        begun.append(settings)
        name = settings["id"] or f"session{len(begun)}"
        return SimpleNamespace(id=name, log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    run(tiny_images, tmp_path / "with", "--wandb", "--epochs", "1")
    assert [step for step, _ in logged] == [1, 2, 3, 4]
    assert {"loss", "lr", "acc1"} <= logged[0][1].keys()
    run(tiny_images, tmp_path / "with", "--wandb", "--epochs", "2", "--resume", "--allow-change", "epochs")
    assert [(settings["id"], settings["resume"]) for settings in begun] == [(None, "allow"), ("session1", "allow")]
    assert [step for step, _ in logged] == list(range(1, 9))


def test_an_interrupted_probe_is_made_up(tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probes(name: str) -> dict[int, float]:
        return {r["iteration"]: r["knn"] for r in read_metrics(tmp_path / name / "metrics.json") if "knn" in r}

    flags = ("--epochs", "2", "--knn-every", "1")
    run(tiny_images, tmp_path / "whole", *flags)

    def killed(*_: object) -> dict[str, float]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):  # after the checkpoint of the first epoch
        patch.setattr("pretrain.training.run.run_probe", killed)
        run(tiny_images, tmp_path / "parts", *flags)
    assert probes("parts") == {}
    run(tiny_images, tmp_path / "parts", *flags, "--resume")
    assert sorted(probes("parts")) == [4, 8]
    assert probes("parts") == probes("whole")


def test_allowed_change_is_recorded(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path, "--resume", finished / FIRST, "--lr", "0.1", "--allow-change", "lr")
    checkpoint = torch.load(tmp_path / LAST, weights_only=True)
    assert checkpoint["changes"] == [{"step": 4, "changed": {"lr": [0.03, 0.1]}}]


def test_another_batch_continues_at_the_same_place_in_the_epochs(tiny_images: Path, tmp_path: Path) -> None:
    """6 of 8 steps, 4 in an epoch, are 3 of 4 steps with batches of twice the size; by its name the file of step 6
    would be taken for the newest from then on."""
    run(tiny_images, tmp_path / "a", "--save-steps", "6")
    sixth = "checkpoint_step_000000006.pth.tar"
    (tmp_path / "b").mkdir()
    for name in (FIRST, sixth):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b")
    flags = ["--resume", "--batch-size", "16", "--allow-change", "batch_size", "--keep", "1"]
    assert run(tiny_images, tmp_path / "b", *flags) == 0
    assert f"resumed {tmp_path / 'b' / sixth} at step 3" in (tmp_path / "b" / "log.txt").read_text()
    assert [file.name for file in (tmp_path / "b").glob("checkpoint_*")] == [LAST]
    assert {file.name for file in (tmp_path / "b" / "before_step_000000003").iterdir()} == {FIRST, sixth}
    last = torch.load(tmp_path / "b" / LAST, weights_only=True)
    assert (last["step"], last["steps_per_epoch"], last["epoch"]) == (4, 2, 2)
    assert last["changes"] == [{"step": 6, "changed": {"batch_size": [8, 16]}}]
    assert run(tiny_images, tmp_path / "b", *flags) == 0
    assert "already finished: 4 of 4" in (tmp_path / "b" / "log.txt").read_text()


def test_a_run_measured_in_steps_continues_at_the_same_step(tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path, "--iterations", "6")
    flags = ["--iterations", "8", "--batch-size", "16", "--allow-change", "batch_size", "--allow-change", "iterations"]
    run(tiny_images, tmp_path, "--resume", *flags)
    assert "at step 6" in (tmp_path / "log.txt").read_text()
    assert torch.load(tmp_path / "checkpoint_0003.pth.tar", weights_only=True)["step"] == 8


def test_official_checkpoint_resumes(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    """Only the official keys, and an optimiser that lists the key encoder's parameters too, as main_moco.py writes."""
    ours = torch.load(finished / FIRST, weights_only=True)
    names = [k for k in ours["state_dict"] if k.split(".")[-1] in ("weight", "bias")]
    queries = [k for k in names if ".encoder_q." in k]
    assert ours["optimizer"]["param_groups"][0]["params"] == list(range(len(names)))
    assert sorted(ours["optimizer"]["state"]) == list(range(len(queries)))
    official = {key: ours[key] for key in ("epoch", "arch", "state_dict", "optimizer")}
    torch.save(official, tmp_path / "official.pth.tar")
    run(tiny_images, tmp_path, "--resume", tmp_path / "official.pth.tar")
    assert_same(finished, tmp_path)


def test_same_seed_twice_gives_the_same_bits(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path / "again", "-j", "2")
    assert_same(finished, tmp_path / "again")
    written = (finished / "weights.sha256").read_bytes()
    assert (tmp_path / "again" / "weights.sha256").read_bytes() == written
    assert written.decode().split()[0] in (tmp_path / "again" / "log.txt").read_text().splitlines()[-2]
    run(tiny_images, tmp_path / "other", "--seed", "5", "--epochs", "1")
    a, b = contents(finished, FIRST), contents(tmp_path / "other", FIRST)
    assert not torch.equal(a["module.encoder_q.conv1.weight"], b["module.encoder_q.conv1.weight"])
    assert (tmp_path / "other" / "weights.sha256").read_bytes() != written


@pytest.mark.parametrize(("flags", "message"), [
    (["--batch-size", "64"], "larger than the data set"),
    (["--moco-k", "12"], "not a multiple"),
    (["-a", "resnet"], "unknown encoder"),
])  # fmt: skip
def test_bad_settings_write_nothing(tiny_images: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tiny_images, tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, run_cli: Callable) -> None:
    (tmp_path / "empty").mkdir()
    done = run_cli([SCRIPT, tmp_path / "empty", *SMALL, "--output", tmp_path / "x"], check=2)
    assert done.stderr.startswith("error: no image")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()
    assert "invalid choice" in run_cli([SCRIPT, tmp_path, "--method", "simclr"], check=2).stderr


def test_a_folder_one_level_too_high_is_one_class_and_refused(tmp_path: Path, tiny_images: Path) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "inner").symlink_to(tiny_images)
    with pytest.raises(UserError, match="holds one class"):
        run(tmp_path / "outer", tmp_path / "run", "--method", "supervised")
    assert not (tmp_path / "run").exists()


def test_several_processes_do_not_draw_over_each_other(tmp_path: Path, run_cli: Callable) -> None:
    done = run_cli([SCRIPT], cwd=tmp_path, env={"WORLD_SIZE": "2", "RANK": "0"}, check=2)
    assert done.stdout.startswith("no folder of images was named: pretraining on the demo images")
    assert "demo/draw.py runs/demo/data first" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("given", "flags"), [
    ({}, []), ({"RANK": "0"}, []), ({"RANK": "1"}, []), ({}, ["--world-size", "2", "--rank", "1"]),
])  # fmt: skip
def test_the_main_process_alone_prints_the_recipe(
    given: dict, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from pretrain import main

    monkeypatch.setattr(os, "environ", {**os.environ, **given})
    monkeypatch.setattr(sys, "argv", [SCRIPT, "DIR", "--recipe", "moco_v2", *flags])
    monkeypatch.setattr(main, "work", lambda settings: 0)
    assert main.main() == 0
    assert ("recipe moco_v2:" in capsys.readouterr().out) is ("1" not in (given.get("RANK"), *flags))


@pytest.mark.parametrize(("given", "rank"), [
    ({}, "3"), ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "1"), ({"LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"}, "3"),
    ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "0"),
])  # fmt: skip
def test_gpu_is_for_the_only_process_of_a_machine(given: dict, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else --gpu 0 --multiprocessing-distributed, say, would put all processes on one GPU."""
    from pretrain.main import choose_gpu

    monkeypatch.setattr(os, "environ", dict(given))
    choose_gpu(3)
    assert os.environ["LOCAL_RANK"] == rank


def test_an_invalid_address_is_one_line(tiny_images: Path, tmp_path: Path, run_cli: Callable) -> None:
    flags = ["--world-size", "2", "--rank", "0", "--dist-url", "tcp://localhost:port"]
    assert "is not tcp://HOST:PORT" in run_cli([SCRIPT, tiny_images, *flags], cwd=tmp_path, check=2).stderr


def test_wrong_checkpoint_is_named(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(tiny_images, tmp_path, "--resume", tmp_path / "missing.pth.tar")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "no_arch.pth.tar")
    with pytest.raises(UserError, match="not a pretraining checkpoint"):
        run(tiny_images, tmp_path, "--resume", tmp_path / "no_arch.pth.tar")
    with pytest.raises(UserError, match="holds a resnet18, not the resnet34"):
        run(tiny_images, tmp_path, "--resume", finished / FIRST, "-a", "resnet34")


def test_nonfinite_step_stops_before_the_update(tiny_images: Path, tmp_path: Path) -> None:
    hot = ["--epochs", "1", "--method", "supervised", "--lr", "1e30", "--save-steps", "1"]
    with pytest.raises(UserError, match=r"of step \d is not finite .* were not updated"):
        run(tiny_images, tmp_path / "stops", *hot)
    (record,) = (tmp_path / "stops").glob("nonfinite_step_*.json")
    content = json.loads(record.read_text())
    assert len(content["images"]) == 8
    newest = tmp_path / "stops" / f"checkpoint_step_{content['step']:09d}.pth.tar"
    state = torch.load(newest, weights_only=True)["state_dict"]
    assert all(torch.isfinite(v).all() for k, v in state.items() if k.endswith(("weight", "bias")))
    assert run(tiny_images, tmp_path / "continues", *hot, "--skip-nonfinite", "9") == 0
    assert "skipped" in (tmp_path / "continues" / "log.txt").read_text()


def test_a_skipped_step_leaves_no_trace_in_the_statistics(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the running means would stay NaN, for the kNN monitor and for a converted backbone too."""
    on_device = Views.on_device

    def spoil(self: Views, batch: Batch, *rest: Any) -> list[torch.Tensor]:
        views = on_device(self, batch, *rest)
        return [view * math.nan if batch.step == 1 else view for view in views]

    monkeypatch.setattr(Views, "on_device", spoil)
    assert run(tiny_images, tmp_path, "--epochs", "1", "--skip-nonfinite", "1") == 0
    state = torch.load(tmp_path / FIRST, weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
    assert state["module.encoder_q.bn1.num_batches_tracked"] == 3
    assert state["module.queue_ptr"] == 24  # 8 keys from each of 3 steps
    late = ["--epochs", "1", "-p", "4"]  # here no line, and so no look at the device, comes before the fourth step
    assert run(tiny_images, tmp_path / "late", *late, "--skip-nonfinite", "1") == 0
    torch.testing.assert_close(contents(tmp_path / "late", FIRST), contents(tmp_path, FIRST), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"loss of step 1 is not finite .* were not updated"):
        run(tiny_images, tmp_path / "stops", *late)
    assert not list((tmp_path / "stops").glob("checkpoint_*"))


@pytest.mark.parametrize("method", ["supervised", "memory_bank", "end_to_end", "instdisc", "invaspread"])
def test_other_methods_resume_exactly(tiny_images: Path, tmp_path: Path, method: str) -> None:
    flags = ["--method", method, "--bn-splits", "1"]
    run(tiny_images, tmp_path / "a", *flags)
    run(tiny_images, tmp_path / "b", *flags, "--resume", tmp_path / "a" / FIRST)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("flags", [
    ["--negatives", "mochi", "--mochi-warmup", "1", "--mochi-hardest", "8"],
    ["--negatives", "hard", "--symmetric"],
    ["--iterations", "8", "--lr-every", "3", "--lr-gamma", "0.9"],
    ["--accumulate", "2", "--precision", "bf16", "--stem", "cifar"],
])  # fmt: skip
def test_variants_resume_exactly(tiny_images: Path, tmp_path: Path, flags: list[str]) -> None:
    run(tiny_images, tmp_path / "a", *flags)
    run(tiny_images, tmp_path / "b", *flags, "--resume", tmp_path / "a" / FIRST)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_knn_monitor_writes_its_number(tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path, "--epochs", "1", "--knn-every", "1")
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    (knn,) = [line["knn"] for line in lines if "knn" in line]
    assert 0 <= knn <= 100
    assert {"loss", "acc1", "lr", "images_per_second", "data_wait"} <= lines[0].keys()


def test_bad_probe_images_end_the_probe_and_not_the_run(tiny_images: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_images / "val", tmp_path / "val")
    (tmp_path / "val" / "class1" / "0.jpg").write_bytes(b"<html>")
    flags = ["--epochs", "1", "--knn-every", "1", "--val", str(tmp_path / "val")]
    assert run(tiny_images, tmp_path / "strict", *flags) == 0
    assert "no kNN accuracy: 1 of 9 images cannot be read" in (tmp_path / "strict" / "log.txt").read_text()
    run(tiny_images, tmp_path / "lenient", *flags, "--max-bad", "2")
    assert '"knn"' in (tmp_path / "lenient" / "metrics.json").read_text()


def test_probe_classes_must_be_those_of_the_training(tiny_images: Path, tmp_path: Path) -> None:
    """Without class0, class1 of val would have number 0 and the accuracy would be meaningless."""
    shutil.copytree(tiny_images / "val", tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "class0")
    run(tiny_images, tmp_path / "run", "--epochs", "1", "--knn-every", "1", "--val", tmp_path / "val")
    assert "differ (only in train: class0)" in (tmp_path / "run" / "log.txt").read_text()
    assert '"knn"' not in (tmp_path / "run" / "metrics.json").read_text()


def test_elastic_restart_continues_from_its_own_checkpoint(
    finished: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun repeats the whole command, --resume PATH included."""
    (tmp_path / LAST).write_bytes((finished / LAST).read_bytes())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run(tiny_images, tmp_path, "--resume", finished / FIRST) == 0
    assert "already finished: 8 of 8" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_25_kills_leave_no_trace(finished: Path, tiny_images: Path, tmp_path: Path) -> None:
    """kill -9 of the whole process group at random moments, in saves too; each life uses another worker count."""
    rng, folder, kills = torch.Generator().manual_seed(0), tmp_path / "run", 0
    while kills < 25:
        process = start(tiny_images, folder, "-j", str(kills % 3), "--save-steps", "1", "--resume")
        wait_for(process, folder, 1)
        time.sleep(float(torch.rand(1, generator=rng)) * 2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (folder / LAST).exists():
            assert_same(finished, folder)
            folder = tmp_path / f"run{kills}"
    run(tiny_images, folder, "--save-steps", "1", "--resume")
    assert_same(finished, folder)
