"""Runs that choose their images and negatives: what they record, refuse and resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.conversion import convert
from pretrain.batches.loader import BatchMaker
from pretrain.settings.options import parse
from pretrain.training.run import pretrain
from runtime.distributed import World
from runtime.errors import UserError

SMALL = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "3", "--moco-k", "32", "--moco-dim",
         "16", "-p", "1", "--knn-every", "0", "--keep", "0", "-j", "0"]  # fmt: skip
LAST, FIRST = "checkpoint_0002.pth.tar", "checkpoint_0000.pth.tar"  # 33 images, 4 steps an epoch
CHOICES = {
    "cluster": ["--negatives", "cluster", "--cluster-count", "4"],
    "active": ["--negatives", "active", "--active-draw", "sampled"],
    "loss": ["--sample-by", "loss"],
    "uncertainty": ["--sample-by", "uncertainty", "--symmetric", "--accumulate", "2", "--sample-temperature", "0.1"],
    "pcl": ["--method", "pcl", "--num-cluster", "3,5", "--pcl-warmup", "1", "--sample-by", "loss"],
}


def run(images: Path, folder: Path, *flags: Any) -> int:
    settings = parse([str(images), *SMALL, "--output", str(folder), *map(str, flags)])
    return pretrain(settings, World(0, 1, 0, torch.device("cpu")))


def contents(file: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(file, weights_only=True)
    extra = {f"extra.{name}": value for name, value in checkpoint.get("extra_state", {}).items()}
    scores = {"scores": checkpoint["scores"]} if "scores" in checkpoint else {}
    return {**checkpoint["state_dict"], **extra, **scores}


def assert_same(a: Path, b: Path) -> None:
    torch.testing.assert_close(contents(a / LAST), contents(b / LAST), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_resumes_exactly_in_the_middle_of_an_epoch(tiny_images: Path, tmp_path: Path, name: str) -> None:
    flags = CHOICES[name]
    run(tiny_images, tmp_path / "a", *flags, "--save-steps", "3")
    middle = tmp_path / "a" / "checkpoint_step_000000006.pth.tar"
    run(tiny_images, tmp_path / "b", *flags, "--resume", middle)
    assert_same(tmp_path / "a", tmp_path / "b")
    assert set(torch.load(middle, weights_only=True)) & {"scores", "extra_state"} == {
        "cluster": {"extra_state"}, "active": set(), "loss": {"scores"}, "uncertainty": {"scores"},
        "pcl": {"scores", "extra_state"},
    }[name]  # fmt: skip


def drawn(images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: Any) -> list[list[int]]:
    """The images of every step of a run."""
    seen: list[list[int]] = []
    make = BatchMaker.__getitem__

    def watch(self: BatchMaker, key: tuple[int, int]) -> Any:
        seen.append(self.order.batch(key[0]).tolist())
        return make(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(BatchMaker, "__getitem__", watch)
        run(images, folder, *flags)
    return seen


def test_what_was_hard_is_drawn_more_often(tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last epoch is drawn by the scores after the second; the first one is uniform."""
    flags = ["--sample-by", "loss", "--sample-temperature", "0.05", "--sample-floor", "0", "--sample-momentum", "0"]
    seen = drawn(tiny_images, tmp_path / "run", monkeypatch, *flags)
    uniform = drawn(tiny_images, tmp_path / "uniform", monkeypatch, "--sample-by", "uniform")
    assert seen[:4] == uniform[:4]
    assert seen[8:] != uniform[8:]
    before = torch.load(tmp_path / "run" / "checkpoint_0001.pth.tar", weights_only=True)["scores"][0].numpy()
    counts = np.bincount(np.concatenate(seen[8:]), minlength=33)
    hardest, easiest = np.argsort(np.nan_to_num(before, nan=-1))[[-1, 1]]
    assert counts[hardest] > counts[easiest]
    assert np.corrcoef(counts, np.nan_to_num(before, nan=np.nanmean(before)))[0, 1] > 0.5
    assert "epoch 1 is drawn by loss: 33 of 33 images" in (tmp_path / "run" / "log.txt").read_text()


def test_cache_and_shards_are_drawn_too(tiny_images: Path, tmp_path: Path) -> None:
    from pretrain import cache_images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cache_images.py", str(tiny_images), str(tmp_path / "cache"), "-j", "1"])
        cache_images.main()
    run(tiny_images, tmp_path / "files", *CHOICES["loss"])
    run(tiny_images, tmp_path / "cached", *CHOICES["loss"], "--cache", tmp_path / "cache")
    hashes = [(tmp_path / name / "weights.sha256").read_text() for name in ("files", "cached")]
    assert hashes[0] == hashes[1]  # the images are smaller than the cache's limit: equal pixels, equal scores
    (tmp_path / "shards").mkdir()
    files = sorted((tiny_images / "train").rglob("*.jpg"))
    for number in range(3):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as shard:
            for file in files[number::3]:
                shard.add(file, f"{file.parent.name}_{file.name}")
    flags = [*CHOICES["loss"], "--save-steps", "3"]
    run(tmp_path / "shards", tmp_path / "a", *flags)
    middle = tmp_path / "a" / "checkpoint_step_000000009.pth.tar"
    run(tmp_path / "shards", tmp_path / "b", *flags, "--resume", middle)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_the_share_of_same_class_pairs_is_reported_where_there_are_labels(tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path / "run", *CHOICES["cluster"], "--class-report")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [("dropped_same_class" in line) for line in lines] == [False] * 4 + [True] * 8
    assert 20 < lines[-1]["queue_same_class"] < 50  # three classes of 11
    assert "dropped_same_class" in (tmp_path / "run" / "log.txt").read_text()
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted((tiny_images / "train").rglob("*.jpg"))):
        shutil.copy(file, flat / f"{number}.jpg")
    run(flat, tmp_path / "unlabelled", *CHOICES["cluster"])
    assert "no labels: how many of the dropped pairs" in (tmp_path / "unlabelled" / "log.txt").read_text()
    with pytest.raises(UserError, match="labels are needed: put the images into one sub-folder per class"):
        run(flat, tmp_path / "refused", *CHOICES["cluster"], "--class-report")
    assert not (tmp_path / "refused").exists()


def test_the_converter_reads_a_pcl_checkpoint(tiny_images: Path, tmp_path: Path) -> None:
    """By name: its keys are those of MoCo. An official file has no clusters beside them, and resumes all the same."""
    flags = ["--method", "pcl", "--num-cluster", "3", "--pcl-warmup", "0", "--epochs", "1"]
    run(tiny_images, tmp_path / "run", *flags, "--save-steps", "2")
    backbone = convert(tmp_path / "run" / FIRST, family="pcl")
    assert (backbone.family, backbone.encoder) == ("pcl", "query")
    assert backbone.max_abs_diff is not None
    assert set(backbone.max_abs_diff.values()) == {0.0}
    middle = torch.load(tmp_path / "run" / "checkpoint_step_000000002.pth.tar", weights_only=True)
    official = {key: middle[key] for key in ("arch", "state_dict", "optimizer", "epoch")}
    torch.save(official, tmp_path / "official.pth.tar")
    run(tiny_images, tmp_path / "other", *flags, "--resume", tmp_path / "official.pth.tar")
    assert "clustering the features of 33 images before step 0" in (tmp_path / "other" / "log.txt").read_text()


@pytest.mark.parametrize(("flags", "named"), [
    (["--negatives", "cluster", "--cluster-start", "3"], "--cluster-start 3"),
    (["--negatives", "mochi", "--mochi-hardest", "8"], "--mochi-warmup 10"),
    (["--method", "pcl"], "--pcl-warmup 20"),
    (["--negatives", "cluster"], None),
    ([], None),
])  # fmt: skip
def test_a_choice_that_never_starts_is_a_finding(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], named: str | None
) -> None:
    run(tiny_images, tmp_path, *flags, "--dry-run")
    shown = [line for line in capsys.readouterr().out.splitlines() if "choice that never starts" in line]
    assert len(shown) == (named is not None)
    assert all(str(named) in line and "plain MoCo to its end" in line for line in shown)


@pytest.mark.parametrize(("flags", "message"), [
    (["--negatives", "cluster", "--cluster-count", "33"], "--cluster-count 33: .* no more than the 32 keys"),
    (["--negatives", "cluster", "--cluster-count", "1"], "--cluster-count 1: choose 2 or more"),
    (["--negatives", "active", "--active-rows", "33"], "--active-rows 33 is more than the 32 keys of --moco-k"),
    (["--active-rows", "8"], "--active-rows has no effect with --negatives queue"),
    (["--cluster-use", "hard"], "--cluster-use has no effect with --negatives queue"),
    (["--class-report"], "--class-report has no effect with --negatives queue"),
    (["--negatives", "cluster", "--cluster-weight", "0.3"], "--cluster-weight is for --cluster-use down"),
    (["--sample-floor", "0.5"], "--sample-floor has no effect with --sample-by uniform"),
    (["--sample-by", "loss", "--sample-temperature", "0"], "--sample-temperature must be 0.01 or more"),
    (["--sample-by", "loss", "--sample-floor", "1"], "--sample-floor must be 0 or more and below 1"),
    (["--method", "pcl", "--num-cluster", "3,34"], "--num-cluster 34 is more than the 33 images"),
    (["--method", "pcl", "--num-cluster", "3,x"], "--num-cluster must be whole numbers of 2 or more"),
    (["--method", "pcl", "--num-cluster", "1"], "--num-cluster must be whole numbers of 2 or more"),
    (["--method", "pcl", "--moco-k", "12"], "is not a multiple of the 8 keys"),
    (["--method", "invaspread", "--sample-by", "loss"], "--sample-by is an option of --method moco and pcl"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    tiny_images: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(tiny_images, tmp_path / "run", *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_changes_are_refused_by_name_and_scores_of_other_images_too(tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path / "a", *CHOICES["loss"], "--epochs", "1")
    first = tmp_path / "a" / FIRST
    with pytest.raises(UserError, match="sample_by was loss, is uniform"):
        run(tiny_images, tmp_path / "b", "--epochs", "1", "--resume", first)
    with pytest.raises(UserError, match="sample_floor was 0.2, is 0.3"):
        run(tiny_images, tmp_path / "b", *CHOICES["loss"], "--sample-floor", "0.3", "--epochs", "1", "--resume", first)
    shutil.copytree(tiny_images / "val", tmp_path / "other")
    with pytest.raises(UserError, match=r"scores\.bin is of other images, not the scores of these 9 images"):
        first.unlink()
        run(tmp_path / "other", tmp_path / "a", *CHOICES["loss"], "--epochs", "1")


def test_a_run_without_scores_can_begin_to_choose(tiny_images: Path, tmp_path: Path) -> None:
    run(tiny_images, tmp_path / "a", "--epochs", "3")
    changes = [f"--allow-change={key}" for key in ("sample_by", "negatives", "cluster_start")]
    flags = ["--sample-by", "loss", "--negatives", "cluster", "--cluster-start", "0", *changes]
    run(tiny_images, tmp_path / "b", *flags, "--resume", tmp_path / "a" / FIRST)
    assert "no scores of these images in the checkpoint" in (tmp_path / "b" / "log.txt").read_text()
    assert torch.load(tmp_path / "b" / LAST, weights_only=True)["scores"].isfinite().any()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_10_kills_leave_no_trace(tiny_images: Path, tmp_path: Path, name: str) -> None:
    """kill -9 at random moments, with and without loader processes."""
    run(tiny_images, tmp_path / "whole", *CHOICES[name])
    rng, folder, kills = np.random.default_rng(0), tmp_path / "run0", 0
    while kills < 10:
        flags = [*CHOICES[name], "--output", str(folder), "-j", str(kills % 2), "--save-steps", "1", "--resume"]
        command = [sys.executable, "pretrain/main.py", str(tiny_images), *SMALL, *flags]
        before = set(folder.glob("checkpoint_*"))
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        while process.poll() is None and set(folder.glob("checkpoint_*")) <= before:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.5)))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (folder / LAST).exists():
            assert_same(tmp_path / "whole", folder)
            folder = tmp_path / f"run{kills}"
    run(tiny_images, folder, *CHOICES[name], "--resume")
    assert_same(tmp_path / "whole", folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_two_processes_resume_to_the_same_bits(tiny_images: Path, tmp_path: Path, name: str) -> None:
    """The second life begins in the middle of an epoch."""
    flags = [*CHOICES[name], "--save-steps", "3"]
    for folder, resume in (("a", []), ("b", ["--resume", str(tmp_path / "a" / "checkpoint_step_000000006.pth.tar")])):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                   "pretrain/main.py", str(tiny_images), *SMALL, *flags]  # fmt: skip
        command += ["--output", str(tmp_path / folder), *resume]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path / "a", tmp_path / "b")
