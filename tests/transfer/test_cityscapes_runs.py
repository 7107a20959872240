"""Cityscapes through the commands: training, evaluation, the gap's uncertainty over images, splits, both engines."""

import json

import pytest

from runtime.torch_files import load_torch
from tests.transfer.cityscapes_data import write_cityscapes
from tests.transfer.train_command import arguments
from transfer import splits
from transfer.comparison.image_bootstrap import load_detections
from transfer.data.catalog import get_dataset
from transfer.evaluate.match_tables import match_table
from transfer.records.run import read_run

pytest.importorskip("shapely")
MASKS = {"MODEL__MASK_ON": "True", "MODEL__ROI_HEADS__NUM_CLASSES": "8", "MODEL__ROI_MASK_HEAD__CONV_DIM": "16"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cityscapes(tmp_path_factory.mktemp("cities"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, run_cli):
    folder = tmp_path_factory.mktemp("runs") / "seed0"
    run_cli(arguments(data, folder, SEED="0", **MASKS), check=0)
    return folder


def test_a_run_is_evaluated_on_masks(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["evaluator"] == "cityscapes/instances"
    assert set(result["metrics"]) == {"segm"}
    assert {"AP", "AP50", "AP-person", "AP-bicycle"} <= set(result["metrics"]["segm"])


def test_stored_detections_give_the_recorded_ap(finished):
    import numpy as np

    run = read_run(finished)
    spec, detections = load_detections(run)
    again = match_table(spec, detections, "segm").ap(np.ones(4, dtype=int))["AP"]
    assert again == pytest.approx(run.metrics["segm", "AP"], abs=1e-9)


def test_a_detector_without_masks_is_refused_before_the_run(data, tmp_path, run_cli):
    done = run_cli(arguments(data, tmp_path / "r", MODEL__ROI_HEADS__NUM_CLASSES="8"), check=2)
    assert "is evaluated on masks alone; set MODEL.MASK_ON True" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.detectron2
def test_both_engines_train_to_the_same_bits(finished, data, tmp_path, run_cli):
    argv = arguments(data, tmp_path / "d2", SEED="0", **MASKS)
    argv[argv.index("torchvision")] = "detectron2"
    run_cli(argv, check=0)
    ours, theirs = (load_torch(folder / "model_final.pth")["model"] for folder in (finished, tmp_path / "d2"))
    assert all((ours[name] == theirs[name]).all() for name in theirs if "anchor" not in name)
    ours, theirs = (json.loads((f / "result.json").read_text())["metrics"] for f in (finished, tmp_path / "d2"))
    assert ours == theirs


def test_parts_of_a_split_are_data_sets(data, tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text(f"DATASETS:\n  TRAIN: ['{data}']\n")
    monkeypatch.setattr("sys.argv", ["splits.py", "--config-file", str(config), "--fit", "0.5", "--held-out", "0.25",
                                     "--output", str(tmp_path / "s")])  # fmt: skip
    assert splits.main() == 0
    names = json.loads((tmp_path / "s" / "names.json").read_text())
    fit, held_out = (get_dataset(names[part][0]) for part in ("fit", "held_out"))
    assert (len(fit.records()), len(held_out.records())) == (2, 1)
    assert not set(fit.summary.image_ids) & set(held_out.summary.image_ids)
    whole = {record["image_id"]: record["annotations"] for record in get_dataset(data).records()}
    assert all(record["annotations"] == whole[record["image_id"]] for record in fit.records())
