"""predict.py: what it reads, writes and prints."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from runtime.errors import UserError
from tests.transfer.prediction.trained import write_detector
from tests.transfer.toy_data import coco_content, write_coco
from tests.transfer.train_command import arguments
from transfer import predict
from transfer.data.catalog import get_dataset
from transfer.engines import resolve_engine
from transfer.evaluate import evaluate


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def images(data):
    return data.split(":")[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    write_detector(folder, data, MODEL__MASK_ON="True")
    return folder


@pytest.fixture
def command(run, tmp_path, monkeypatch, capsys):
    """``command(IMAGES..., flags...)`` runs predict.py into tmp_path/out; returns its lines on stdout."""

    def call(*words, output=True):
        to = ["--output", tmp_path / "out"] if output else []
        argv = ["transfer/predict.py", run, *words, *to, "--engine", "torchvision", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
        assert predict.main() == 0
        return capsys.readouterr().out.splitlines()

    return call


def entries(folder):
    return json.loads((folder / "coco_results.json").read_text())


def test_a_folder_becomes_results_and_pictures(command, images, tmp_path):
    lines = command(images, "--score", "0.1")
    assert lines[0].startswith("8 images, ")
    assert "with a score of at least 0.1" in lines[0]
    listing = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["id"] for image in listing["images"]] == list(range(1, 9))
    assert listing["categories"] == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cup"}, {"id": 90, "name": "kite"}]
    results = entries(tmp_path / "out")
    assert f"8 images, {len(results)} detections" in lines[0]
    assert all(row["score"] >= 0.1 and row["category_id"] in (3, 7, 90) for row in results)
    pictures = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert pictures == [f"img{k}.jpg" for k in range(8)]
    with Image.open(tmp_path / "out" / "pictures" / "img0.jpg") as picture:
        assert min(picture.size) >= 360


def test_the_results_file_is_the_one_that_an_evaluation_scores(command, data, tmp_path, run):
    """A data set keeps its ids and gets all detections; pycocotools reads the file and finds the same AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from transfer.config import load_config

    command(data)
    assert not (tmp_path / "out" / "pictures").exists()
    cfg = load_config(run / "config.yaml")
    detections = resolve_engine("torchvision").detect(cfg, run / "model_final.pth", data)
    assert len(entries(tmp_path / "out")) == len(detections)
    metrics, _ = evaluate(get_dataset(data), detections)
    truth = COCO(data.split(":")[1])
    results = truth.loadRes(str(tmp_path / "out" / "coco_results.json"))
    for task in ("bbox", "segm"):
        if task == "segm":  # as Detectron2 does: areas of masks, not of boxes
            rows = [{k: v for k, v in row.items() if k != "bbox"} for row in entries(tmp_path / "out")]
            results = truth.loadRes(rows)
        scored = COCOeval(truth, results, task)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        assert 100 * scored.stats[0] == pytest.approx(metrics[task]["AP"], abs=1e-9)
        assert 100 * scored.stats[1] == pytest.approx(metrics[task]["AP50"], abs=1e-9)


def test_one_is_not_counted_as_many(command, images, run):
    from transfer.prediction.detector import Detector

    best = Detector.load(run, engine="torchvision", device="cpu")(f"{images}/img0.png").scores[:2]
    (line, _) = command(f"{images}/img0.png", "--score", f"{(float(best[0]) + float(best[1])) / 2:.9g}")
    assert line.startswith("1 image, 1 detection with a score")


def test_a_set_without_annotations_gives_results(command, tmp_path):
    """Like COCO's test-dev: images and categories only."""
    content = coco_content(tmp_path / "test" / "images", count=3)
    content["annotations"] = []
    name = write_coco(tmp_path / "test", content)
    command(name)
    assert {row["image_id"] for row in entries(tmp_path / "out")} == {image["id"] for image in content["images"]}


def test_a_set_with_other_classes_is_refused(command, tmp_path):
    content = coco_content(tmp_path / "test" / "images", count=2)
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "mug"}, {"id": 90, "name": "kite"}]
    with pytest.raises(UserError, match="other classes than the detector: 'mug' in the place of 'cup'"):
        command(write_coco(tmp_path / "test", content))
    with pytest.raises(UserError, match="detect its images alone"):
        command(write_coco(tmp_path / "test", content), tmp_path / "test" / "images")


def test_lines_of_json(command, images, run):
    lines = [json.loads(line) for line in command(images, "--json", "--score", "0", output=False)]
    assert [line["image_id"] for line in lines] == list(range(1, 9))
    first = lines[0]
    assert first["file"].endswith("img0.png")
    assert (first["width"], first["height"]) == (64, 48)
    for found in first["detections"]:
        x0, y0, x1, y1 = found["box"]
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 48
        assert found["class"] == {3: "dog", 7: "cup", 90: "kite"}[found["category_id"]]
    assert not (run / "predict").exists()


@pytest.mark.parametrize("form", ["files", "pattern", "list", "stdin", "nested"])
def test_every_way_to_name_images(command, images, tmp_path, monkeypatch, form):
    paths = [f"{images}/img{k}.png" for k in range(3)]
    words = paths
    if form == "pattern":
        words = [f"{images}/img[0-2].png"]
    elif form == "list":
        for path in paths:
            (tmp_path / path.rpartition("/")[2]).symlink_to(path)
        (tmp_path / "list.txt").write_text("# three\nimg0.png\n\nimg1.png\n" + paths[2] + "\n")
        words = [tmp_path / "list.txt"]
    elif form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths)))
        words = ["-"]
    elif form == "nested":
        for k, path in enumerate(paths):
            (tmp_path / "in" / str(k)).mkdir(parents=True)
            (tmp_path / "in" / str(k) / "same.png").write_bytes(open(path, "rb").read())
        words = [tmp_path / "in"]
    assert command(*words)[0].startswith("3 images, ")
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [(image["width"], image["height"]) for image in listed] == [(64, 48), (48, 64), (80, 40)]
    assert len(list((tmp_path / "out" / "pictures").rglob("*.jpg"))) == 3


def test_pictures_of_one_name_do_not_replace_each_other(command, images, tmp_path):
    command(f"{images}/img0.png", f"{images}/img0.png", "--pictures", "2")
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == ["img0.jpg", "img0_2.jpg"]


def test_a_picture_that_cannot_be_drawn_leaves_no_results(command, images, tmp_path, monkeypatch):
    """As where a disk is full or an image vanished after it was read: the error of the thread ends the command."""

    def fail(found, path):
        raise UserError(f"{path}: no room")

    monkeypatch.setattr("transfer.prediction.output.save_picture", fail)
    with pytest.raises(UserError, match="no room"):
        command(images)
    assert not (tmp_path / "out" / "coco_results.json").exists()


def test_unreadable_images_end_in_exit_code_2_with_the_others_written(command, images, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"1 of 2 images could not be read: .*bad.jpg$"):
        command(tmp_path / "bad.jpg", f"{images}/img0.png", "--score", "0")
    assert "skipped: image" in capsys.readouterr().err
    assert {row["image_id"] for row in entries(tmp_path / "out")} == {2}


@pytest.mark.parametrize("flags", [("--strict",), ()])
def test_nothing_is_written_when_nothing_can_be_said(command, images, tmp_path, flags):
    (tmp_path / "bad.jpg").write_text("no image")
    words = [tmp_path / "bad.jpg", *([f"{images}/img0.png"] if flags else [])]
    with pytest.raises(UserError, match="read"):
        command(*words, *flags)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gone.png", "no such image, folder, list or data set"),
        ("gone/*.png", "no image matches"),
        ("EMPTY", "no image in it"),
        ("coco:gone.json:gone", "is not there"),
    ],
)
def test_what_does_not_exist_is_one_line(command, tmp_path, word, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        command(tmp_path / "empty" if word == "EMPTY" else word)


def test_an_empty_standard_input_is_an_error(command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="no image was named"):
        command("-")


def test_memory_does_not_grow_with_the_number_of_images(command, images, tmp_path, run):
    """Results go to disk as they come: what is held after 120 images is what was held after 20."""
    import tracemalloc

    from transfer.prediction.detector import Detector

    detector = Detector.load(run, engine="torchvision", device="cpu")
    paths = [f"{images}/img0.png"] * 120
    held = []
    tracemalloc.start()
    for number, _ in enumerate(detector.stream(paths), 1):
        if number in (20, 120):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 200_000


@pytest.mark.slow
def test_a_thousand_images_take_no_more_memory_than_a_hundred(images, tmp_path, run, repo):
    """The peak of the whole command, masks and 20 pictures included, by the system's own count."""
    command = [sys.executable, "transfer/predict.py", run, "--score", "0", "--pictures", "20", "--device", "cpu"]
    peaks = []
    for count in (100, 1000):
        paths = tmp_path / f"{count}.txt"
        paths.write_text("".join(f"{images}/img{k % 8}.png\n" for k in range(count)))
        child = subprocess.Popen(
            [*map(str, command), str(paths), "--output", str(tmp_path / str(count))],
            cwd=repo,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        assert len(json.loads((tmp_path / str(count) / "images.json").read_text())["images"]) == count
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 16  # MB; the pixels of one image, held for each, would be 30


@pytest.mark.slow
def test_a_trained_run_can_be_shown_images_from_another_folder(run_cli, data, images, tmp_path):
    """The commands as a user types them, flags before and after the images."""
    done = run_cli(arguments(data, tmp_path / "trained", DATALOADER__NUM_WORKERS="0"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "trained" / "classes.json").read_text())["categories"][0] == {"id": 3, "name": "dog"}
    done = run_cli(["transfer/predict.py", "--score", "0", "trained", images, "--pictures", "1"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wrote trained/predict/coco_results.json, images.json and 1 picture in" in done.stdout
    assert len(done.stdout.splitlines()) == 2
