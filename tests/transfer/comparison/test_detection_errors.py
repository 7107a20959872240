"""What is computed from stored detections: error types and example images of a small data set with real pictures."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.transfer.detection_arrays import make_detections
from transfer.comparison.comparison import complete
from transfer.comparison.detection_errors import CACHE, run_error_types
from transfer.comparison.example_images import most_different
from transfer.comparison.gap import compare
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.records.run import Run, find_runs
from transfer.report.content import Report
from transfer.report.files import sections

IMAGES = 4
BOX = [8.0, 8.0, 28.0, 28.0]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    images, annotations = [], []
    for i in range(IMAGES):
        Image.fromarray(np.full((48, 64, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
        images.append({"id": i + 1, "width": 64, "height": 48, "file_name": f"{i}.png"})
        row = {"id": i + 1, "image_id": i + 1, "category_id": i % 2 + 1, "iscrowd": 0, "area": 400.0}
        annotations.append({**row, "bbox": [8.0, 8.0, 20.0, 20.0]})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "<dog>"}]
    (folder / "t.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return f"coco:{folder / 't.json'}:{folder}"


@pytest.fixture
def tables(dataset: str, store) -> list:
    spec = get_dataset(dataset)
    sets = {"train": [], "test": [{"name": dataset, "sha256": spec.sha256(), "images": IMAGES}]}
    found = {"supervised": [0], "moco": [0, 1, 3]}
    for init, which in found.items():
        boxes = np.array([BOX] * len(which))
        detections = make_detections([1, 2, 3, 4], which, [i % 2 for i in which], boxes, [0.9 - 0.1 * i for i in which])
        for seed in (0, 1):
            metrics = evaluate(spec, detections, evaluator="official")[0]
            files = ["detections_0.npz"]
            root = store(init=init, seed=seed, metrics=metrics, datasets=sets, detections=files)
            detections.save(root / "toy" / init / f"seed{seed}" / "detections_0.npz")
    return compare(list(find_runs(root)), {"supervised": "supervised"})


def page_of(tables: list, examples: bool = True) -> str:
    """The section of the one config."""
    report = Report("toy", "command", complete(tables, examples=examples))
    return sections(report)[0].html.source


def test_error_types_and_examples_are_shown(tables: list) -> None:
    text = page_of(tables)
    assert "Error types" in text
    assert re.search(r"missed.*<span class=\"even\">\(−\d", text)  # in no colour, whoever is better
    assert 'class="ahead">(' not in text
    pictures = re.findall(r'alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)"', text)
    assert len(pictures) == 2 * 3  # two images differ; truth and two initialisations each
    assert {alt.split(" on ")[0] for alt, _ in pictures} == {"ground truth", "supervised", "moco"}
    assert any(alt == "moco on 1.png: &lt;dog&gt; 0.80" for alt, _ in pictures)
    assert "supervised on 1.png: nothing" in {alt for alt, _ in pictures}
    assert "<h4>1.png (image 2)</h4>" in text
    for caption in ("ground truth: 1 object", "moco: found 1 of 1, 0 false", "supervised: found 0 of 1, 0 false"):
        assert f"<figcaption>{caption}</figcaption>" in text
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0][1]))).size == (320, 240)
    assert "+" in text
    assert "AP75 needs better boxes" not in text  # the ratio of the two does not differ


def test_the_report_reads_neither_runs_nor_data(tables: list, dataset: str) -> None:
    """Everything but the pictures themselves is computed before."""
    report = Report("toy", "command", complete(tables))
    before = sections(report)[0].html
    for run in tables[0].runs:
        shutil.rmtree(run.folder)
    Path(dataset.split(":")[1]).unlink()
    assert sections(report)[0].html == before


def test_examples_can_be_left_out(tables: list) -> None:
    text = page_of(tables, examples=False)
    assert "Error types" in text
    assert "<img" not in text


def stored_types(run: Run) -> dict[str, Any]:
    found = run_error_types(run)
    assert not isinstance(found, str), found
    return dict(found)


def test_error_types_are_kept_until_something_changes(tables: list) -> None:
    run = next(run for run in tables[0].runs if run.init == "moco")
    first = stored_types(run)
    path = run.folder / CACHE
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "AP50": -1}))
    assert stored_types(run)["AP50"] == -1
    make_detections([1, 2, 3, 4]).save(run.folder / "detections_0.npz")
    assert stored_types(run)["weight"]["missed"] != first["weight"]["missed"]
    make_detections([7, 8]).save(run.folder / "detections_0.npz")
    assert run_error_types(run) == "stored detections are of other images"


def test_unreadable_images_leave_the_numbers(tables: list, dataset: str) -> None:
    for path in Path(dataset.split(":")[2]).glob("*.png"):
        path.write_bytes(b"not a picture")
    text = page_of(tables)
    assert "Error types" in text
    assert "<img" not in text


def test_images_without_a_difference_are_no_examples(dataset: str) -> None:
    records = {record["image_id"]: record for record in get_dataset(dataset).records()}
    same = make_detections([1, 2, 3, 4], [0], [0], np.array([BOX]), [0.9])
    assert most_different(records, {"a": same, "b": same}) == []


def test_objects_without_a_usable_mask_count_for_boxes_only(dataset: str, store) -> None:
    path = Path(dataset.split(":")[1])
    content = json.loads(path.read_text())
    for annotation, shape in zip(content["annotations"], ([[]], [[8, 8, 28, 8, 28, 28, 8, 28]]) * 2):
        annotation["segmentation"] = shape
    path.write_text(json.dumps(content))
    spec = get_dataset(f"coco:{path}:{path.parent}/.")
    sets = {"train": [], "test": [{"name": spec.name, "sha256": spec.sha256(), "images": IMAGES}]}
    root = store(datasets=sets, detections=["d.npz"])
    for masks, missed in ((None, 4), ([], 2)):
        make_detections([1, 2, 3, 4], masks=masks).save(root / "toy" / "moco" / "seed0" / "d.npz")
        (run,) = find_runs(root)
        result = run_error_types(run)
        assert result["count"]["missed"] == missed
