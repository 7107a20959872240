"""The command itself: result.json, exits, messages, resume, several processes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from runtime.atomic import sha256_file
from runtime.errors import UserError
from runtime.run_folder import RunLock
from tests.transfer.toy_data import coco_content, write_coco, write_voc
from tests.transfer.train_command import arguments, write_resnet18
from transfer import train_net
from transfer.config import load_config
from transfer.config.expectations import failed_expectations
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.checks import Datasets, check_classes
from transfer.fine_tuning.preparation import scale_to_batch, set_class_counts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("toy"), count=4)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, run_cli):
    folder = tmp_path_factory.mktemp("runs") / "seed0"
    done = run_cli(arguments(data, folder, SEED="0", TEST__EVAL_PERIOD="1"), check=0)
    return folder, done, json.loads((folder / "result.json").read_text())


def test_a_run_leaves_class_names_and_pictures_of_its_evaluations(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _, _ = finished
    categories = json.loads((folder / "classes.json").read_text())["categories"]
    assert categories == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cup"}, {"id": 90, "name": "kite"}]
    (board,) = folder.glob("events.*.pictures")
    assert len(EventAccumulator(str(board)).Reload().Tags()["images"]) == 4


def test_result_holds_what_the_gap_compares(finished, data):
    folder, done, result = finished
    assert done.stdout.splitlines()[0].split("] ")[1].startswith("engine: torchvision (torch ")
    assert (result["schema"], result["status"], result["error"], result["seed"]) == (1, "finished", None, 0)
    assert result["config"]["name"] == "demo_R18_FPN"
    assert len(result["config"]["sha256"]) == 64
    assert "SEED" not in result["config"]["flat"]
    assert result["config"]["flat"]["SOLVER.MAX_ITER"] == 2
    assert result["init"]["kind"] == "random"
    assert result["engine"]["name"] == "torchvision"
    assert result["evaluator"].startswith("coco/")
    assert result["iterations"] == 2
    assert [e["iteration"] for e in result["history"]] == [1, 2]
    assert set(result["metrics"]["bbox"]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-dog", "AP-cup", "AP-kite"}
    for part in ("train", "test"):
        assert [d["name"] for d in result["datasets"][part]] == [data]
        assert result["datasets"][part][0]["images"] == 4
    assert result["seconds"]["train"] > 0
    assert result["provenance"]["argv"][0].endswith("train_net.py")
    assert result["peak_memory_mb"] > 50
    found = Detections.load(folder / result["detections"][0])
    assert len(found.image_ids) == 4


def test_the_folder_holds_the_run(finished):
    folder, _, _ = finished
    for name in ("config.yaml", "metrics.json", "log.txt", "model_final.pth", "last_checkpoint", "detections_0.npz"):
        assert (folder / name).stat().st_size > 0
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line for line in lines)


def test_a_used_folder_is_not_overwritten(finished, data, monkeypatch, tmp_path):
    folder, _, _ = finished
    before = (folder / "result.json").read_bytes()
    files = sorted(folder.iterdir())
    write_resnet18(tmp_path / "r18.pkl")
    for flags in [(), ("--init", str(tmp_path / "r18.pth"))]:
        monkeypatch.setattr(sys, "argv", arguments(data, folder, *flags))
        with pytest.raises(UserError, match="already holds a run: pass --resume"):
            train_net.main()
    assert (folder / "result.json").read_bytes() == before
    assert sorted(folder.iterdir()) == files  # no backbone was converted into it either


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_finished_run_without_checkpoints_is_not_overwritten(finished, data, monkeypatch, tmp_path, flags):
    for name in ("result.json", "config.yaml"):
        shutil.copy(finished[0] / name, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path, *flags, SOLVER__BASE_LR="0.5"))
    with pytest.raises(UserError, match="already holds a finished run, and no checkpoint"):
        train_net.main()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_eval_only_repeats_the_numbers_and_leaves_the_result(finished, data, run_cli):
    folder, _, result = finished
    before = (folder / "result.json").read_bytes()
    promise = "[['bbox', 'AP', 150.0, 1.0]]"
    flags = ("--eval-only", "--evaluator", "official")
    done = run_cli(arguments(data, folder, *flags, TEST__EXPECTED_RESULTS=promise), check=1)
    assert "expected bbox/AP 150.0" in done.stdout
    record = json.loads((folder / "evaluation.json").read_text())
    assert [finding["kind"] for finding in record["findings"]] == ["category ids that are not 1..3"]
    assert record["weights_sha256"] == sha256_file(folder / "model_final.pth")
    assert record["datasets"] == result["datasets"]["test"]
    assert record["engine"] == result["engine"]
    assert record["config"]["flat"]["SOLVER.MAX_ITER"] == result["config"]["flat"]["SOLVER.MAX_ITER"]
    again = record["metrics_by_dataset"][data]["bbox"]
    for key, value in result["metrics"]["bbox"].items():
        assert again[key] == (None if value is None else pytest.approx(value, abs=1e-9))
    assert (folder / "result.json").read_bytes() == before


def test_expected_results_are_enforced():
    metrics = {"bbox": {"AP": 27.4, "APs": None}}
    assert failed_expectations([["bbox", "AP", 27.0, 0.5], ["bbox", "AP", 27.0, 0.2, 2.0]], metrics) == []
    (line,) = failed_expectations([["bbox", "AP", 27.0, 0.3]], metrics)
    assert line == "expected bbox/AP 27.0 within 0.3, found 27.4"
    assert len(failed_expectations([["segm", "AP", 20.0, 9.0], ["bbox", "APs", 5.0, 9.0]], metrics)) == 2
    with pytest.raises(UserError, match="EXPECTED_RESULTS"):
        failed_expectations([["bbox", 27.0]], metrics)


def test_a_folder_in_use_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run"))
    with RunLock(tmp_path / "run"), pytest.raises(UserError, match="in use by"):
        train_net.main()


@pytest.mark.parametrize(
    ("flags", "opts", "message"),
    [
        ((), {"DATASETS.TRAIN": "('voc_2007_trainval',)"}, "run: make demo"),
        ((), {"DATASETS.TRAIN": "()"}, "DATASETS.TRAIN is empty"),
        ((), {"MODEL.ROI_HEADS.NUM_CLASSES": "7"}, "NUM_CLASSES is 7 (command line)"),
        ((), {"SOLVER.BASE_RL": "0.1"}, "did you mean SOLVER.BASE_LR"),
        ((), {"INPUT.CROP.ENABLED": "True", "INPUT.LSJ.ENABLED": "True"}, "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED"),
        ((), {"MODEL.KEYPOINT_ON": "True"}, "names 0 keypoints in its categories"),
        ((), {"SOLVER.STEPS": "(2,)"}, "SOLVER.STEPS (2,) must rise from 1 and end before SOLVER.MAX_ITER 2"),
        ((), {"SOLVER.BASE_LR": "-0.1"}, "SOLVER.BASE_LR -0.1 must be above 0"),
        ((), {"SOLVER.REFERENCE_WORLD_SIZE": "3"}, "not a multiple of REFERENCE_WORLD_SIZE 3"),
        ((), {"INPUT.MIN_SIZE_TRAIN": "()"}, "INPUT.MIN_SIZE_TRAIN ()"),
        ((), {"TEST.EXPECTED_RESULTS": "[['bbox', 'AP', 'x', 1]]"}, "TEST.EXPECTED_RESULTS"),
        ((), {"MODEL.RPN.IN_FEATURES": "['p9']"}, "among the maps of this backbone"),
        ((), {"MODEL.DEVICE": "gpu"}, "MODEL.DEVICE 'gpu'"),
        ((), {"SOLVER.AMP.ENABLED": "True"}, "SOLVER.AMP.ENABLED with float16 needs a GPU"),
        ((), {"OUTPUT_DIR": ""}, "OUTPUT_DIR is empty"),
        ((), {"DATASETS.TEST": "(5,)"}, "5 is not the name of a data set"),
        (("--init", "random", "--scale-to-batch", "2"), {"SOLVER.IMS_PER_BATCH": "0"}, "IMS_PER_BATCH 0 must be 1"),
        (("--init", "nowhere.pkl"), {}, "nowhere.pkl: no such file"),
        (("--init", "random"), {"INPUT.FORMAT": "BGR"}, "INPUT.FORMAT is BGR"),
        (("--eval-only",), {}, "--eval-only: no"),
        (("--eval-only",), {"DATASETS.TEST": "()"}, "DATASETS.TEST is empty; --eval-only has nothing"),
        (("--init", "random", "--dist-url", "file:///x", "--num-machines", "2"), {}, "--dist-url"),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(data, tmp_path, monkeypatch, flags, opts, message):
    opts = {k.replace(".", "__"): v for k, v in opts.items()}
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run", *flags, **opts))
    with pytest.raises(UserError) as caught:
        train_net.main()
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_findings_are_recorded_with_the_result(finished, data):
    _, done, result = finished
    (shared,) = [f for f in result["findings"] if f["kind"] == "test image that is also trained on"]
    assert (shared["dataset"], shared["count"]) == (data, 4)
    assert f"data set {data}: test image that is also trained on: 4, e.g. image 11" in done.stdout


def test_check_data_prints_findings_and_trains_nothing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run", "--check-data"))
    assert train_net.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data set {data}: 4 images, 12 annotations, 3 classes"
    assert any(line.startswith(f"data set {data}: category ids that are not 1..3: 3") for line in lines)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("after", [True, False])
def test_check_data_takes_the_config_itself(after, data, tmp_path, monkeypatch, capsys):
    """``--check-data CONFIG``, with overrides after it or --config-file before it."""
    words = arguments(data, tmp_path / "run", "--check-data")
    config = words.index("--config-file")
    if after:
        name = words[config + 1]
        words[config : config + 2] = []
        words.insert(words.index("--check-data") + 1, name)
    else:  # the flag comes last before the overrides, whose first is no config
        words.remove("--check-data")
        words.insert(words.index("MODEL.FPN.OUT_CHANNELS"), "--check-data")
    monkeypatch.setattr(sys, "argv", words)
    assert train_net.main() == 0
    assert capsys.readouterr().out.startswith(f"data set {data}: 4 images, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--check-data"], "the config is missing; name it by --config-file FILE"),
        (["demo_R18_FPN.yaml"], "the config is missing; name it by --config-file demo_R18_FPN.yaml"),
        (["--config-file", "a.yaml", "--check-data", "b.yaml"], "--config-file a.yaml names the config already"),
        (["--check-data", "nowhere.yaml"], "config nowhere.yaml: no such file"),
        (["--check-data", "DATASETS.TRAIN", "('x',)"], "the config is missing; name it by --config-file FILE"),
    ],
)
def test_a_config_that_is_not_named_is_one_line(words, message, run_cli):
    done = run_cli(["transfer/train_net.py", *words], check=2)
    assert (done.stdout, done.stderr.count("\n"), message in done.stderr) == ("", 1, True), done.stderr


def test_check_data_names_images_that_cannot_be_decoded(tmp_path, monkeypatch, capsys):
    name = write_coco(tmp_path, count=4)
    path = tmp_path / "images" / "img2.png"
    path.write_bytes(path.read_bytes()[:-60])  # its header is whole
    monkeypatch.setattr(sys, "argv", arguments(name, tmp_path / "run", "--check-data"))
    with pytest.raises(UserError, match=r"1 of 4 images: image .*img2\.png cannot be read"):
        train_net.main()
    assert "4 images, 12 annotations, 3 classes" in capsys.readouterr().out  # what is known is said before


def test_a_run_whose_evaluation_fails_says_so_in_its_result(data, tmp_path, run_cli):
    name = write_coco(tmp_path, count=2)
    path = tmp_path / "images" / "img1.png"
    path.write_bytes(path.read_bytes()[:-60])
    done = run_cli(arguments(data, tmp_path / "run", DATASETS__TEST=f"('{name}',)"), check=2)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "img1.png cannot be read" in result["error"]
    assert result["error"] in done.stderr
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_a_raised_limit_of_detections_is_recorded(data, finished, run_cli):
    folder, _, _ = finished
    flags = ("--eval-only", "--evaluator", "fast-300")
    done = run_cli(arguments(data, folder, *flags), check=2)
    assert "the detector keeps 100 of all classes; set TEST.DETECTIONS_PER_IMAGE to 300 or more" in done.stderr
    run_cli(arguments(data, folder, *flags, TEST__DETECTIONS_PER_IMAGE="300"), check=0)
    assert json.loads((folder / "evaluation.json").read_text())["evaluators"] == ["coco/101pt-300"]


def test_an_unknown_evaluator_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run", "--evaluator", "slow"))
    with pytest.raises(UserError, match="evaluator 'slow': choose auto, official, fast or hotcoco"):
        train_net.main()


def test_masks_of_the_wrong_form_are_refused_before_training(tmp_path, monkeypatch):
    content = coco_content(tmp_path / "images", count=4)
    plain = write_coco(tmp_path, content)  # its last annotation is a crowd of run lengths, which training leaves out
    for annotation in content["annotations"][:2]:
        annotation["segmentation"] = {"size": [48, 64], "counts": [0, 48 * 64]}
    (tmp_path / "mixed.json").write_text(json.dumps(content))
    mixed = f"coco:{tmp_path / 'mixed.json'}:{tmp_path / 'images'}"
    for name, flags in ((mixed, {}), (plain, {}), (mixed, {"INPUT__MASK_FORMAT": "bitmask"})):
        options = {"MODEL__MASK_ON": "True", "DATASETS__TEST": f"('{plain}',)", **flags}
        monkeypatch.setattr(sys, "argv", arguments(name, tmp_path / "run", "--check-data", **options))
        if name == mixed and not flags:
            with pytest.raises(UserError, match="2 annotations have a run-length mask .*set it to bitmask"):
                train_net.main()
        else:
            assert train_net.main() == 0


def test_data_without_one_usable_polygon_are_refused_with_masks_only(tmp_path, monkeypatch):
    content = coco_content(tmp_path / "images", count=2)
    for annotation, shape in zip(content["annotations"], ([[]], [[1, 2, 3, 4]], [[1] * 7]) * 2):
        annotation["segmentation"] = shape
    name = write_coco(tmp_path, content)
    monkeypatch.setattr(sys, "argv", arguments(name, tmp_path / "run", "--check-data", MODEL__MASK_ON="True"))
    with pytest.raises(UserError, match="no annotations to evaluate against .*all 6 were dropped, none has a usable"):
        train_net.main()
    monkeypatch.setattr(sys, "argv", arguments(name, tmp_path / "run", "--check-data"))
    assert train_net.main() == 0


def test_data_that_cannot_be_evaluated_is_refused_before_training(tmp_path, monkeypatch):
    content = coco_content(tmp_path / "images", count=2)
    plain = write_coco(tmp_path, content)
    boxes = [{k: v for k, v in a.items() if k != "segmentation"} for a in content["annotations"]]
    for file, annotations, message in (
        ("none.json", [], "has no annotations to evaluate against"),
        ("boxes.json", boxes, "6 annotations have no segmentation .*MODEL.MASK_ON needs one for each"),
    ):
        (tmp_path / file).write_text(json.dumps({**content, "annotations": annotations}))
        opts = {"DATASETS__TEST": f"('coco:{tmp_path / file}:{tmp_path / 'images'}',)", "MODEL__MASK_ON": "True"}
        monkeypatch.setattr(sys, "argv", arguments(plain, tmp_path / "run", **opts))
        with pytest.raises(UserError, match=message):
            train_net.main()
    assert not (tmp_path / "run").exists()


def test_a_wrong_image_size_in_the_test_set_is_named_before_training(data, tmp_path, monkeypatch):
    content = coco_content(tmp_path / "images")
    content["images"][1]["height"] += 3
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    opts = {"DATASETS__TEST": f"('coco:{tmp_path / 'wrong.json'}:{tmp_path / 'images'}',)"}
    monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run", **opts))
    with pytest.raises(UserError, match=r"1 of 8 checked images .*img1\.png is 48 x 64, not 48 x 67"):
        train_net.main()
    assert not (tmp_path / "run").exists()


def test_a_retinanet_gets_the_classes_of_its_data(data):
    given = ["MODEL.META_ARCHITECTURE", "RetinaNet", "DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST", "()"]
    cfg = load_config("coco_R50_FPN.yaml", given)
    datasets = Datasets.of(cfg, train=True)
    check_classes(cfg, datasets, {})
    set_class_counts(cfg, datasets)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES) == (3, 3)
    cfg.MODEL.RETINANET.NUM_CLASSES = 80
    with pytest.raises(UserError, match=r"MODEL.RETINANET.NUM_CLASSES is 80 \(command line\), data set .* 3 classes"):
        check_classes(cfg, datasets, {"MODEL.RETINANET.NUM_CLASSES": "command line"})


def test_a_mistake_is_one_line(data, tmp_path, run_cli):
    done = run_cli(arguments(data, tmp_path / "run", DATASETS__TRAIN="('coco_2017_train',)"), check=2)
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()
    assert "make demo" in done.stderr


def test_argument_mistakes_exit_2(run_cli):
    for flags in (
        ["--engine", "tf"],
        ["--num-gpus", "0"],
        ["--machine-rank", "1"],
        ["--eval-only", "--init", "random"],
        [],
    ):
        config = ["--config-file", "demo_R18_FPN.yaml"] if flags else []
        assert run_cli(["transfer/train_net.py", *config, *flags]).returncode == 2


def test_scale_to_batch_says_what_it_changed():
    cfg = load_config("voc_R50_C4.yaml")
    lines = scale_to_batch(cfg, 4)
    assert "scaled to a batch of 4: SOLVER.BASE_LR 0.02 -> 0.005" in lines
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (4, 96000, 400)
    assert cfg.SOLVER.STEPS == (72000, 88000)
    assert "scaled to a batch of 4: SOLVER.CHECKPOINT_PERIOD 5000 -> 20000" in lines
    assert not any("EVAL_PERIOD" in line or "BASE_LR_END" in line for line in lines)  # 0 as before


def test_scaling_switches_nothing_off_or_on():
    given = ["TEST.EVAL_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR_END", "0.01"]
    cfg = load_config("voc_R50_C4.yaml", given)
    lines = scale_to_batch(cfg, 64)
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR_END) == (1, 0, 0.04)
    assert not any("EVAL_PERIOD" in line or "WARMUP" in line for line in lines)
    assert "scaled to a batch of 64: SOLVER.BASE_LR_END 0.01 -> 0.04" in lines
    assert scale_to_batch(cfg, 64) == []


def test_a_voc_folder_needs_no_code(tmp_path, run_cli):
    objects = {f"im{k}": [("dog", 0, [5, 5, 60, 50]), ("cat", k % 2, [50, 20, 95, 70])] for k in range(3)}
    name = write_voc(tmp_path, objects)
    run_cli(arguments(name, tmp_path / "run", MODEL__ROI_HEADS__NUM_CLASSES="20", SOLVER__MAX_ITER="1"), check=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluator"] == "voc/2007-11pt"


def test_a_training_that_diverges_leaves_a_failed_result(data, tmp_path, run_cli):
    opts = {"SOLVER__BASE_LR": "1e12", "SOLVER__WARMUP_ITERS": "0", "SOLVER__MAX_ITER": "8"}
    done = run_cli(arguments(data, tmp_path / "run", **opts), check=2)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "not finite" in result["error"]
    assert "not finite" in done.stderr


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_a_full_disk_is_one_line_and_leaves_no_torn_checkpoint(data, tmp_path, repo, engine):
    command = [sys.executable, *arguments(data, tmp_path / "run", SOLVER__CHECKPOINT_PERIOD="1")]
    command[command.index("torchvision")] = engine
    done = subprocess.run(
        command,
        cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        # no file grows beyond a megabyte; the checkpoint of a ResNet-18 would
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    assert done.returncode == 2, done.stderr[-2000:]
    target = tmp_path / "run" / "model_0000000.pth"
    wanted = f"error: disk full: cannot write {target}; free some space and run the same command again"
    assert done.stderr.splitlines()[-1] == wanted
    assert list((tmp_path / "run").glob("*.pth*")) == []
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def weights_of(folder):
    import torch

    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(data, tmp_path, run_cli, repo):
    import torch

    opts = {"SOLVER__MAX_ITER": "12", "SOLVER__CHECKPOINT_PERIOD": "100", "SEED": "3", "SOLVER__STEPS": "(9,)"}
    opts["DATALOADER__NUM_WORKERS"] = "2"
    run_cli(arguments(data, tmp_path / "whole", **opts), check=0)
    command = [sys.executable, *arguments(data, tmp_path / "parts", **opts)]
    process = subprocess.Popen(command, cwd=repo, stdout=subprocess.DEVNULL, start_new_session=True)
    while not (tmp_path / "parts" / "metrics.json").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does: to the loader's workers too
    assert process.wait(120) == 143
    run_cli(arguments(data, tmp_path / "parts", "--resume", **opts), check=0)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert json.loads((tmp_path / "parts" / "result.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_two_processes_make_one_run(data, tmp_path, run_cli):
    flags = ("--init", "random", "--num-gpus", "2")
    done = run_cli(arguments(data, tmp_path / "two", *flags, SOLVER__IMS_PER_BATCH="4"), check=0)

    assert done.stdout.count("engine: torchvision") == 1
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["iterations"] == 2
    assert len(Detections.load(tmp_path / "two" / "detections_0.npz").image_ids) == 4


@pytest.mark.slow
def test_a_mistake_in_one_of_two_processes_is_one_line(data, tmp_path, run_cli):
    flags = ("--init", "random", "--num-gpus", "2")
    done = run_cli(arguments(data, tmp_path / "two", *flags, SOLVER__IMS_PER_BATCH="3"), check=2)
    assert done.stderr.count("error: ") == 1
    assert "SOLVER.IMS_PER_BATCH 3" in done.stderr
    assert "SIGTERM" not in done.stderr


STAND_IN = """
import json, os
from types import SimpleNamespace

def note(**what):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(what, default=str) + "\\n")

def init(**settings):
    note(init=settings)
    summary = SimpleNamespace(update=lambda values: note(summary=values))
    return SimpleNamespace(id="one", summary=summary, finish=lambda: note(finish=True))
"""


def test_weights_and_biases_gets_the_settings_and_the_result(data, tmp_path, run_cli):
    """Curves and pictures reach it through TensorBoard's files; here the package is a stand-in."""
    (tmp_path / "wandb.py").write_text(STAND_IN)
    env = {"PYTHONPATH": str(tmp_path), "CALLS": str(tmp_path / "calls")}
    run_cli(arguments(data, tmp_path / "r", "--wandb", SEED="3"), check=0, env=env)
    begun, summed, finished = map(json.loads, (tmp_path / "calls").read_text().splitlines())
    assert begun["init"].items() >= {"project": "transfer-gap", "sync_tensorboard": True, "id": None}.items()
    assert begun["init"]["config"].items() >= {"seed": 3, "SOLVER.MAX_ITER": 2}.items()
    assert (
        summed["summary"]["bbox/AP"]
        == json.loads((tmp_path / "r" / "result.json").read_text())["metrics"]["bbox"]["AP"]
    )
    assert finished == {"finish": True}
    run_cli(arguments(data, tmp_path / "r", "--wandb", "--resume", "--allow-change", "SOLVER.MAX_ITER", SEED="3",
                      SOLVER__MAX_ITER="3"), check=0, env=env)  # fmt: skip
    assert json.loads((tmp_path / "calls").read_text().splitlines()[3])["init"]["id"] == "one"


def test_weights_and_biases_is_asked_for_before_anything_is_written(data, tmp_path, run_cli):
    (tmp_path / "wandb.py").write_text("raise ImportError('none')")
    done = run_cli(arguments(data, tmp_path / "r", "--wandb"), check=2, env={"PYTHONPATH": str(tmp_path)})
    assert "--wandb needs the package wandb: pip install wandb" in done.stderr
    assert not (tmp_path / "r").exists()
    assert (
        "--wandb shows a training"
        in run_cli(["transfer/train_net.py", "--config-file", "x", "--eval-only", "--wandb"], check=2).stderr
    )
