"""Images -> encoder -> backbone -> detector -> measured gap, through the commands a user types."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

PRETRAIN = ["-a", "resnet18", "--image-size", "32", "--epochs", "1", "--batch-size", "16", "--lr", "0.03", "-j", "0"]


def tiny_plan(folder: Path) -> Path:
    """The demo's plan in miniature: 40 images, 12 scenes, 6 iterations."""
    data = "{output}/data"
    moco = ["--mlp", "--moco-k", "64", "--moco-t", "0.2", "--aug-plus", "--bn-splits", "2"]

    def init(*flags: str) -> dict:
        argv = [f"{data}/images", *PRETRAIN, *flags, "--output", "{output}/{init}", "--seed", "{seed}"]
        return {"pretrain": {"argv": argv, "checkpoint": "{output}/{init}/checkpoint_0000.pth.tar"}}

    draw = ["demo/draw.py", data, "--seed", "{seed}", "--per-class", "4", "--train-scenes", "12", "--val-scenes", "6"]
    coco = f"coco:{data}/coco/annotations/instances_SPLIT.json:{data}/coco/SPLIT"
    plan = {
        "name": "tiny",
        "output": str(folder / "runs"),
        "seed": 0,
        "prepare": [{"argv": draw, "done": f"{data}/demo.json"}],
        "inits": {"random": {"random": True}, "supervised": init("--method", "supervised"), "moco": init(*moco)},
        "configs": ["demo_R18_FPN.yaml"],
        "seeds": [1],
        "supervised": "supervised",
        "random": "random",
        "engine": "torchvision",
        "overrides": {
            "DATASETS.TRAIN": f"('{coco.replace('SPLIT', 'train')}',)",
            "DATASETS.TEST": f"('{coco.replace('SPLIT', 'val')}',)",
            "INPUT.MIN_SIZE_TRAIN": "(64,)",
            "INPUT.MIN_SIZE_TEST": 64,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.MAX_ITER": 6,
            "SOLVER.STEPS": "(4,)",
            "SOLVER.CHECKPOINT_PERIOD": 3,
            "SOLVER.WARMUP_ITERS": 2,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,  # six iterations are sure of nothing
            "TEST.PRECISE_BN.NUM_ITER": 2,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory, run_cli):
    folder = tmp_path_factory.mktemp("chain")
    plan = tiny_plan(folder)
    done = run_cli(["transfer/measure_gap.py", plan, "--jobs", "2"], timeout=900, check=0)
    return folder / "runs", plan, done


def test_every_run_leaves_its_record(measured):
    runs, _, _ = measured
    results = sorted((runs / "demo_R18_FPN").glob("*/seed*/result.json"))
    assert len(results) == 3
    for path in results:
        record = json.loads(path.read_text())
        assert record["status"] == "finished"
        assert record["iterations"] == 6
        assert record["engine"]["name"] == "torchvision"
        assert set(record["metrics"]["bbox"]) >= {"AP", "AP50", "AP75"}
        assert (path.parent / "model_final.pth").exists()
        assert (path.parent / record["detections"][0]).exists()


def test_the_report_names_every_initialisation(measured):
    runs, _, done = measured
    for name in ("random", "supervised", "moco"):
        assert name in (runs / "gap.md").read_text()
        assert name in done.stdout
    with open(runs / "gap.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["init"] for row in rows} == {"random", "supervised", "moco"}
    page = (runs / "gap.html").read_text()
    assert "<table" in page
    assert "<svg" in page
    assert "default-src 'none'" in page  # the browser itself refuses any request
    assert 'src="http' not in page


def test_a_second_call_repeats_nothing(measured, run_cli):
    runs, plan, _ = measured
    weights = sorted((runs / "demo_R18_FPN").glob("*/seed*/model_final.pth"))
    before = [w.stat().st_mtime_ns for w in weights]
    done = run_cli(["transfer/measure_gap.py", plan], timeout=300, check=0)
    assert "moco" in done.stdout
    assert [w.stat().st_mtime_ns for w in weights] == before


def test_a_fine_tuning_that_was_killed_goes_on(measured, run_cli):
    runs, plan, _ = measured
    run = runs / "demo_R18_FPN" / "moco" / "seed1"
    whole = torch.load(run / "model_final.pth", weights_only=True)["model"]
    for left in ("result.json", "model_final.pth", "model_0000005.pth"):
        (run / left).unlink()
    (run / "last_checkpoint").write_text("model_0000002.pth")
    done = run_cli(["transfer/measure_gap.py", plan], timeout=300, check=0)
    assert "demo_R18_FPN/moco/seed1: resuming" in done.stdout + done.stderr
    again = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "at iteration 3" in (runs / "stages" / "demo_R18_FPN__moco__seed1" / "log.txt").read_text()


def test_the_backbone_reached_the_detector(measured):
    runs, _, _ = measured
    checkpoint = torch.load(runs / "moco" / "checkpoint_0000.pth.tar", weights_only=True)
    assert {"epoch", "arch", "state_dict", "optimizer"} <= set(checkpoint)
    first = checkpoint["state_dict"]["module.encoder_q.conv1.weight"]
    sidecar = json.loads((runs / "backbones" / "moco.json").read_text())
    assert sidecar["coverage"]["set"] == sidecar["coverage"]["backbone_tensors"]
    assert max(sidecar["max_abs_diff"].values()) == 0
    trained = torch.load(runs / "demo_R18_FPN" / "moco" / "seed1" / "model_final.pth", weights_only=True)["model"]
    stem = trained["backbone.bottom_up.stem.conv1.weight"]
    # six short iterations leave the stem near where it started; a random one is nowhere near
    assert torch.nn.functional.cosine_similarity(stem.flatten(), first.flatten(), 0) > 0.95


def test_a_plan_naming_a_missing_config_is_one_line(tmp_path, run_cli):
    plan = yaml.safe_load(tiny_plan(tmp_path).read_text())
    plan["configs"] = ["no_such_config.yaml"]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(plan))
    done = run_cli(["transfer/measure_gap.py", tmp_path / "bad.yaml"], check=2)
    assert "no_such_config.yaml" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
