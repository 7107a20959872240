"""Pictures of a run: what is drawn, where, and what is refused."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from tests.transfer.toy_data import coco_content, write_coco
from transfer import show
from transfer.data.catalog import get_dataset
from transfer.evaluate.detections import Detections
from transfer.evaluate.drawing import Marked, class_color, draw


@pytest.fixture
def run_folder(tmp_path):
    content = coco_content(tmp_path / "images", count=3)
    name = write_coco(tmp_path, content)
    ids = [r["image_id"] for r in get_dataset(name).records()]
    from pycocotools import mask as coco_mask

    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[10:20, 10:30] = 1
    found = Detections(ids, [0, 0], [1, 2], [[10, 10, 30, 20], [0, 0, 5, 5]], [0.9, 0.2], [coco_mask.encode(mask)] * 2)
    found.save(tmp_path / "detections_0.npz")
    result = {
        "schema": 1,
        "status": "finished",
        "config": {"name": "toy <config>"},
        "init": {"name": "random"},
        "datasets": {"test": [{"name": name}]},
        "detections": ["detections_0.npz"],
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_a_page_and_one_picture_per_image(run_folder, run_cli):
    done = run_cli(["transfer/show.py", run_folder, "--images", "2"], check=0)
    assert "2 pictures" in done.stdout
    page = (run_folder / "show" / "index.html").read_text()
    pictures = sorted(p.name for p in (run_folder / "show").glob("*.png"))
    assert len(pictures) == 2
    assert all(name in page for name in pictures)
    assert "toy &lt;config&gt;" in page
    with Image.open(run_folder / "show" / pictures[0]) as image:
        assert image.width > 2 * 360


def test_a_folder_without_a_run_is_refused(tmp_path, run_cli):
    assert "no finished run" in run_cli(["transfer/show.py", tmp_path], check=2).stderr


def change(folder, **fields):
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, **fields}))


def of_other_images(folder):
    Detections([1, 2], [0], [0], [[1, 1, 5, 5]], [0.9]).save(folder / "detections_0.npz")


def of_another_class(folder):
    found = Detections.load(folder / "detections_0.npz")
    Detections(found.image_ids, [0], [7], [[1, 1, 5, 5]], [0.9]).save(folder / "detections_0.npz")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda f: (f / "result.json").write_text('{"schema": 1}'), "has no status"),
        (lambda f: (f / "result.json").write_text('{"schema": 1, "status": "finished"}'), "has no config.name"),
        (lambda f: change(f, config="toy"), "config is not a mapping"),
        (lambda f: change(f, datasets={"test": ["x"]}), "datasets.test is not a list of data sets"),
        (lambda f: change(f, detections=[]), "--set 0: the run has detections of 0 test sets"),
        (lambda f: change(f, detections=5), "detections is not a list of file names"),
        (lambda f: change(f, status="failed"), "no finished run"),
        (of_other_images, "not detections of data set"),
        (of_another_class, "not detections of data set"),
        (lambda f: (f / "show").write_text("a file"), "choose another --output"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(run_folder, mistake, message, monkeypatch):
    mistake(run_folder)
    monkeypatch.setattr(sys, "argv", ["transfer/show.py", str(run_folder)])
    with pytest.raises(UserError, match=message):
        show.main()


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--score", "nan"], ["--images", "0"]])
def test_argument_mistakes_exit_2(run_folder, flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["transfer/show.py", str(run_folder), *flags])
    with pytest.raises(SystemExit, match="2"):
        show.main()


def test_boxes_are_drawn_in_the_color_of_their_class():
    image = Image.new("RGB", (400, 400), "black")
    mask = np.zeros((400, 400), dtype=bool)
    mask[200:210, 200:210] = True
    picture = np.asarray(draw(image, Marked(np.array([[50.0, 60, 100, 120]]), ["x"], [3], [mask]), "caption"))
    assert tuple(picture[22 + 90, 50]) == class_color(3)
    assert tuple(picture[22 + 205, 205]) == tuple(int(c * 0.4) for c in class_color(3))
    assert len({class_color(i) for i in range(80)}) == 80
