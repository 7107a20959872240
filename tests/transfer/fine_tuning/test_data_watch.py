"""Annotations and images that change under a run: no number is recorded as if it had been made on other data."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.atomic import sha256_file
from runtime.errors import UserError
from tests.transfer.toy_data import write_coco, write_voc
from tests.transfer.train_command import arguments
from transfer import train_net
from transfer.data import labels
from transfer.data.catalog import get_dataset
from transfer.engines.torchvision import loop
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.data_watch import DataWatch


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_coco(tmp_path / "data", count=4)


@pytest.fixture
def train(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Train in this process; ``meanwhile`` is called after the first step."""

    def run(meanwhile: Callable[[], Any], *flags: str, **keys: str) -> int:
        step, done = loop.Training.step, []

        def watched(self: Any, *args: Any) -> dict[str, float]:
            losses = step(self, *args)
            if not done:
                meanwhile()
            done.append(True)
            return losses

        with monkeypatch.context() as patch:
            patch.setattr(loop.Training, "step", watched)
            patch.setattr(sys, "argv", arguments(data, tmp_path / "run", *flags, **keys))
            return train_net.main()

    return run


def rewrite(folder: Path) -> None:
    """Other boxes in the same annotation file."""
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][::2]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("period", ["0", "1"])
def test_replaced_annotations_stop_the_run_without_a_number(
    train: Callable[..., int], tmp_path: Path, period: str
) -> None:
    shutil.copy(tmp_path / "data" / "annotations.json", tmp_path / "kept.json")
    with pytest.raises(UserError, match=r"data set coco:.*annotations were replaced during the run .*--resume"):
        train(lambda: rewrite(tmp_path / "data"), TEST__EVAL_PERIOD=period)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result.get("metrics")) == ("failed", None)
    assert "annotations were replaced" in result["error"]
    assert json.loads((tmp_path / "run" / "history.json").read_text())["history"] == [] if period == "0" else True
    shutil.copy(tmp_path / "kept.json", tmp_path / "data" / "annotations.json")
    assert train(lambda: None, "--resume", TEST__EVAL_PERIOD=period) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["changes"]) == ("finished", [])


def write_proposals(path: Path, data: str, side: float) -> Path:
    """Two proposals for each image."""
    ids = [record["image_id"] for record in get_dataset(data).records()]
    index = np.repeat(np.arange(len(ids), dtype=np.int32), 2)
    boxes = np.tile(np.array([[1, 1, side, side], [5, 5, 20, 20]], dtype=np.float32), (len(ids), 1))
    scores = np.ones(len(index), dtype=np.float32)
    Detections(ids, index, np.zeros_like(index), boxes, scores, are_proposals=True).save(path)
    return path


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_proposals_that_change_during_a_run_stop_it_by_name(
    train: Callable[..., int], data: str, tmp_path: Path, what: str
) -> None:
    file = write_proposals(tmp_path / "p.npz", data, 30)
    keys = {
        "MODEL__LOAD_PROPOSALS": "True",
        "MODEL__PROPOSAL_GENERATOR__NAME": "PrecomputedProposals",
        "DATASETS__PROPOSAL_FILES_TRAIN": f"('{file}',)",
        "DATASETS__PROPOSAL_FILES_TEST": f"('{file}',)",
    }
    change = file.unlink if what == "removed" else lambda: write_proposals(file, data, 40)
    with pytest.raises(
        UserError, match=rf"{file}: (the file was {what} during the run; no number|no such file of prop)"
    ):
        train(change, **keys)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result.get("metrics")) == ("failed", None)
    write_proposals(file, data, 40)
    with pytest.raises(UserError, match="DATASETS.PROPOSAL_FILES_TRAIN"):
        train(lambda: None, "--resume", **keys)  # by another file than it began with
    write_proposals(file, data, 30)
    assert train(lambda: None, "--resume", **keys) == 0
    assert train(lambda: None, "--eval-only", **keys) == 0
    (recorded,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())["datasets"]
    assert recorded["proposals"] == sha256_file(file)


def test_replaced_images_are_a_finding(train: Callable[..., int], tmp_path: Path) -> None:
    images = tmp_path / "data" / "images"

    def replace() -> None:
        shutil.copy2(images / "img0.png", tmp_path / "new.png")  # with the old time
        os.replace(tmp_path / "new.png", images / "img0.png")

    assert train(replace) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (found,) = [one for one in result["findings"] if one["kind"] == "image file changed during the run"]
    assert (found["count"], found["example"]) == (1, str(images / "img0.png"))


def test_a_sample_of_a_large_set_is_watched(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(labels, "WATCHED_IMAGES", 2)
    images = tmp_path / "data" / "images"
    assert train(lambda: [os.utime(images / f"img{k}.png") for k in range(4)]) == 0
    assert (
        f"{tmp_path / 'data' / 'images'}: 2 of 4 images are watched for changes during the run"
        in capsys.readouterr().out
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (found,) = [one for one in result["findings"] if one["kind"] == "image file changed during the run"]
    assert (found["count"], found["example"]) == (2, str(images / "img0.png"))
    assert found["message"].endswith("run it again (2 of 4 images were looked at)")
    assert [(one["images"], one["images_watched"]) for one in result["datasets"]["train"]] == [(4, 2)]


@pytest.mark.parametrize(("count", "chosen"), [(4, [0, 1, 2, 3]), (8, [0, 2, 4, 6]), (11, [0, 2, 5, 8])])
def test_the_sample_is_spread_over_the_set(count: int, chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "WATCHED_IMAGES", 4)
    assert labels.watched_files([{"file_name": str(k)} for k in range(count)]) == [str(k) for k in chosen]


def test_an_undisturbed_run_has_no_such_finding(train: Callable[..., int], tmp_path: Path) -> None:
    assert train(lambda: None) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "image file changed during the run" not in {one["kind"] for one in result["findings"]}


def test_a_removed_image_is_one_line_and_a_failed_result(train: Callable[..., int], tmp_path: Path) -> None:
    image = tmp_path / "data" / "images" / "img1.png"
    with pytest.raises(UserError, match=rf"image {image} cannot be read .*; replace it or remove it"):
        train(image.unlink)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], str(image) in result["error"]) == ("failed", True)


def test_voc_annotations_are_read_again(tmp_path: Path) -> None:
    spec = get_dataset(write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])], "b": [("cat", 0, [2, 2, 8, 8])]}))
    watch = DataWatch([spec])
    watch.check()
    file = tmp_path / "VOC2007" / "Annotations" / "a.xml"
    text = file.read_text()
    file.write_text(text.replace("dog", "cow"))
    with pytest.raises(UserError, match="were replaced during the run"):
        watch.check()
    file.unlink()
    with pytest.raises(UserError, match="were removed during the run"):
        watch.check()
