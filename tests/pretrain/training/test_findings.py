"""What a run says of its images and settings: in the log, in findings.json and in the checkpoint."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.images import fingerprints
from pretrain.settings.options import parse
from pretrain.training.recorder import Recorder
from pretrain.training.run import pretrain
from runtime.distributed import World
from runtime.errors import UserError

SMALL = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--moco-k", "32", "--moco-dim",
         "16", "-j", "0"]  # fmt: skip


def run(images: Path, folder: Path, *flags: str | Path) -> int:
    settings = parse([str(images), *SMALL, "--output", str(folder), *map(str, flags)])
    return pretrain(settings, World(0, 1, 0, torch.device("cpu")))


@pytest.fixture
def images(tiny_images: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_images, tmp_path / "images")
    return tmp_path / "images"


def test_findings_are_logged_and_kept_with_the_run(images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "val" / "class0" / "0.jpg", images / "train" / "class0" / "again.jpg")
    (images / "train" / "class1" / "notes.txt").write_text("x")
    assert run(images, tmp_path / "run", "--moco-k", "4096") == 0
    records = json.loads((tmp_path / "run" / "findings.json").read_text())
    kinds = {record["kind"]: record for record in records}
    assert kinds.keys() == {"file skipped", "validation image in the training set", "queue larger than the data set"}
    assert kinds["validation image in the training set"]["example"] == "class0/0.jpg = class0/again.jpg"
    assert "use --moco-k 8 (" in kinds["queue larger than the data set"]["message"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(log.count(f"finding: {kind}: ") == 1 for kind in kinds)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint_0000.pth.tar", weights_only=True)
    assert checkpoint["findings"] == records


def test_a_run_without_findings_says_so(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "findings.json").read_text()) == []


def test_a_class_that_only_val_has_ends_the_probe(images: Path, tmp_path: Path) -> None:
    """The last in order: it would keep the other numbers and be counted as wrong."""
    shutil.copytree(images / "val" / "class0", images / "val" / "zebra")
    assert run(images, tmp_path / "run") == 0
    assert "no kNN probe: the classes" in (tmp_path / "run" / "log.txt").read_text()
    assert "only in val: zebra" in (tmp_path / "run" / "log.txt").read_text()
    assert '"knn"' not in (tmp_path / "run" / "metrics.json").read_text()


def test_replaced_images_of_the_same_size_are_noticed_on_resume(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "run", "--iterations", "3", "--save-steps", "1") == 0
    for name in ("checkpoint_step_000000003.pth.tar",):
        (tmp_path / "run" / name).unlink()
    (file, *_) = (images / "train").glob("*/*.jpg")
    os.utime(file, ns=(1, 1))
    flags = ("--iterations", "3", "--resume")
    with pytest.raises(
        UserError, match=r"data_times: the images have the same names and sizes.*--allow-change data_times"
    ):
        run(images, tmp_path / "run", *flags)
    assert run(images, tmp_path / "run", *flags, "--allow-change", "data_times") == 0


def test_many_images_recorded_by_an_earlier_version_are_recognised(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took all files, which are all compared again; from then on a sample stands for them."""
    flags = ("--iterations", "3", "--save-steps", "1", "--sample-by", "loss")
    assert run(images, tmp_path / "run", *flags) == 0
    monkeypatch.setattr(fingerprints, "SAMPLE", 4)
    last = tmp_path / "run" / "checkpoint_step_000000003.pth.tar"
    last.unlink()
    for file in sorted((images / "train").glob("*/*.jpg"))[::8]:
        state = file.stat()
        os.utime(file, ns=(1, 1))
        with pytest.raises(UserError, match="data_times: the images have the same names and sizes"):
            run(images, tmp_path / "run", *flags, "--resume")
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run(images, tmp_path / "run", *flags, "--resume") == 0
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["settings"]["data"].startswith("sampled:")
    assert checkpoint["data_times"].startswith("sampled:")
    assert checkpoint["changes"] == []
    last.unlink()
    (images / "train" / "class0" / "again.jpg").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="data was "):
        run(images, tmp_path / "run", *flags, "--resume")


@pytest.mark.parametrize("change", ["replace", "remove", None])
def test_images_that_change_during_the_run_are_a_finding_of_its_last_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    line, (file, *_) = Recorder.line, sorted((images / "train").glob("*/*.jpg"))

    def meanwhile(self: Recorder, *rest: Any) -> None:
        line(self, *rest)
        if change == "replace":
            os.utime(file, ns=(1, 1))
        elif change == "remove":
            file.unlink(missing_ok=True)

    monkeypatch.setattr(Recorder, "line", meanwhile)
    assert run(images, tmp_path / "run", "--iterations", "2", "--max-bad", "9", "-p", "1") == 0
    stored = torch.load(tmp_path / "run" / "checkpoint_step_000000002.pth.tar", weights_only=True)["findings"]
    assert ("images changed during the run" in {one["kind"] for one in stored}) == (change is not None)
    assert json.loads((tmp_path / "run" / "findings.json").read_text()) == stored


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(images, tmp_path / "run", "--dry-run", "--moco-k", "4096") == 0
    assert not (tmp_path / "run").exists()
    out = capsys.readouterr().out
    assert "steps: 4 of 8 images, 4 an epoch" in out
    assert "memory: about " in out
    assert re.search(r"^time: about [\d.e-]+ s a step here, 1 min in all, without probes and checkpoints$", out, re.M)
    assert "finding: queue larger than the data set" in out
    with pytest.raises(UserError, match="is larger than the data set"):
        run(images, tmp_path / "run", "--dry-run", "--batch-size", "64")
