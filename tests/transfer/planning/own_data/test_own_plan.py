"""One command on own data: a plan that explains every line, runs, and is refused where it cannot measure anything."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageOps

from runtime.errors import UserError
from tests.transfer.toy_data import coco_content, write_coco, write_voc
from tests.transfer.train_command import write_resnet18
from transfer import measure_gap
from transfer.data.catalog import get_dataset
from transfer.planning.own_data import own_plan as module
from transfer.planning.own_data.own_plan import own_plan, prediction_line
from transfer.planning.own_data.schedule import Pace
from transfer.planning.plan import load_plan

PACE = Pace(start=5, step=0.5, statistics=0.1, test_image=0.05, memory_mb=1000, spent=20)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with data and weights; the probe is not run."""
    monkeypatch.chdir(tmp_path)
    for part, seed in (("train", 1), ("val", 2)):
        write_coco(tmp_path / part, coco_content(tmp_path / part / "images", count=8, per_image=seed + 2))
    for path in (tmp_path / "val" / "images").iterdir():  # other photographs than those of train
        with Image.open(path) as image:
            ImageOps.invert(image).rotate(30).save(path)
    write_resnet18(tmp_path / "ck.pkl")
    monkeypatch.setattr(module, "probe", lambda *args: PACE)
    get_dataset.cache_clear()  # relative names mean other files in another test
    yield tmp_path
    get_dataset.cache_clear()


def arguments(*words: str, data: str = "coco:train/annotations.json:train/images", init: str = "mine=ck.pth"):
    head = ["--data", data, "--test", "coco:val/annotations.json:val/images", "--output", "out"]
    typed = [*head, *(["--init", init] if init else []), *words]
    return measure_gap.parse(typed), typed


def test_the_plan_is_ordinary_and_explains_every_line(own, capsys):
    path = own_plan(*arguments("--hours", "40", "--margin", "2"))
    plan = load_plan(path)
    assert [(init.name, init.kind) for init in plan.inits] == [("random", "random"), ("mine", "weights")]
    assert (plan.output, plan.margin, plan.random, plan.supervised) == (Path("out"), 2.0, "random", None)
    assert plan.stopping is not None
    assert plan.stopping.least == 3
    lines = path.read_text().splitlines()
    head = lines.index("")
    unexplained = []
    for before, line in zip(lines[head:], lines[head + 1 :]):
        explained = before.lstrip().startswith("#") or line.lstrip().startswith("#")
        if not explained and line.strip() not in ("inits:", "overrides:", "configs:"):
            unexplained.append(line)
    assert unexplained == []
    printed = capsys.readouterr().out
    assert "8 training images with 22 objects, 8 test images with 30; 3 classes" in printed  # two crowds in each
    assert "fewer than 20 test objects" in printed
    assert "category ids that are not 1..3" in printed
    assert "supervised pretraining. Nothing is downloaded" in " ".join(path.read_text().replace("#", "").split())
    assert json.loads((own / "out" / "leakage.json").read_text())["results"][0]["against_images"] == 8


def test_a_probe_on_a_busy_machine_is_said_and_kept_in_the_plan(own, monkeypatch, capsys):
    monkeypatch.setattr(module, "probe", lambda *args: replace(PACE, step=44.3, cores=0.05))
    text = " ".join(own_plan(*arguments()).read_text().replace("#", "").split())
    said = "the probe had 0.05 of a core: other work, or slow storage, held it up"
    printed = capsys.readouterr().out
    assert said in printed
    assert re.search(r"4000 steps a run, predicted 49\.\d h each: 29\d\.\d\d h for 3 seeds", printed)
    assert said in text


def test_supervised_by_name_is_a_reference(own):
    plan = load_plan(own_plan(*arguments("--init", "supervised=ck.pth")))
    assert plan.supervised == "supervised"
    assert "not here: supervised" not in (own / "out" / "plan.yaml").read_text()


def test_odd_names_survive_the_file(own):
    (own / "tr'ain: \"#x").mkdir()
    odd = own / "tr'ain: \"#x"
    write_coco(odd, coco_content(odd / "images"))
    (own / "ck {x} # é.pth").write_bytes((own / "ck.pth").read_bytes())
    data = "coco:tr'ain: \"#x/annotations.json:tr'ain: \"#x/images"
    with pytest.raises(UserError, match="data set coco:tr'ain"):  # a colon cannot be in a name
        own_plan(*arguments(data=data))
    for file, wanted in (("ck # é.pth", "ck # é.pth"), ("ck: 'a'.pth", "ck: 'a'.pth")):
        (own / file).write_bytes((own / "ck.pth").read_bytes())
        path = own_plan(*arguments("--output", f"out{len(file)}{ord(file[2])}", init=f"mine={file}"))
        assert load_plan(path).inits[1].weights == wanted


def test_the_same_command_keeps_an_edited_plan_and_another_is_refused(own, capsys):
    path = own_plan(*arguments("--hours", "4"))
    path.write_text(path.read_text().replace("margin: 0.5", "margin: 1.5"))
    assert own_plan(*arguments("--hours", "4", "--dry-run")) == path
    assert load_plan(path).margin == 1.5
    assert "used as it is now" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other arguments \(--hours was 4.0, is 5.0\); run it \(.*plan.yaml\)"):
        own_plan(*arguments("--hours", "5"))
    (own / "out" / "own_data.json").unlink()
    with pytest.raises(UserError, match="was not made by this command"):
        own_plan(*arguments("--hours", "4"))


def test_few_hours_make_the_images_smaller_and_say_why(own, monkeypatch, capsys):
    sides = []

    def probe(config, overrides, *rest):
        sides.append(overrides.get("INPUT.MIN_SIZE_TEST"))
        return replace(PACE, step=4.0) if len(sides) == 1 else replace(PACE, step=1.0)

    monkeypatch.setattr(module, "probe", probe)
    monkeypatch.setattr(module, "smaller_side", lambda *args: 96)
    path = own_plan(*arguments("--hours", "4"))
    assert sides == [None, 96] or sides[1] == 96
    out = capsys.readouterr().out
    assert "1.00 s a step" in out
    assert "with images of 96 pixels" in out
    overrides = load_plan(path).configs[0].overrides
    assert overrides["INPUT.MIN_SIZE_TEST"] == 96
    assert overrides["MODEL.ANCHOR_GENERATOR.SIZES"][0] == [8]
    assert "4 h allow" in path.read_text()
    assert "smaller images" in " ".join(line.lstrip("# ") for line in path.read_text().splitlines())


def test_hours_that_are_too_short_stop_before_the_first_run_every_time(own):
    typed = arguments("--hours", "0.001")
    for _ in range(2):
        with pytest.raises(UserError, match=r"--hours 0\.001 is too short: one seed of 20 steps .*run it all the same"):
            own_plan(*typed)
    assert load_plan("out/plan.yaml").seeds == (0,)  # the way out that the message names
    assert own_plan(*arguments("--hours", "0.001", "--dry-run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": ""}, "--data needs at least one --init"),
        ({"init": "ck.pth"}, "write NAME=FILE"),
        ({"init": "a/b=ck.pth"}, "is not a valid name"),
        ({"init": "random=ck.pth"}, "random initialisation is always compared"),
        ({"init": "mine=none.pth"}, "no such file"),
        ({"init": "mine=https://x.org/ck.pth"}, "nothing is downloaded here"),
        ({"init": "mine=train/annotations.json"}, "annotations.json"),
        ({"data": "coco:none.json:train/images"}, "none.json not found"),
        ({"data": "yolo:train"}, "YOLO labels are not read"),
    ],
)
def test_mistakes_are_one_line(own, change, message):
    with pytest.raises(UserError, match=message):
        own_plan(*arguments(**change))
    assert not (own / "out" / "plan.yaml").exists()


def test_repeated_names_and_missing_test_sets_are_refused(own):
    with pytest.raises(UserError, match="--init mine is given twice"):
        own_plan(*arguments("--init", "mine=ck.pth"))
    args, typed = arguments()
    args.test = []
    with pytest.raises(UserError, match="--data needs --test"):
        own_plan(args, typed)
    with pytest.raises(UserError, match="--hours -1"):
        own_plan(*arguments("--hours", "-1"))


def test_weights_of_two_architectures_cannot_share_a_table(own):
    import torch
    from torchvision.models import resnet50

    torch.save(resnet50().state_dict(), own / "r50.pth")
    with pytest.raises(UserError, match="mine is a resnet18 and --init big a resnet50: one table compares"):
        own_plan(*arguments("--init", "big=r50.pth"))


def test_sets_with_different_classes_are_refused(own):
    content = json.loads((own / "val" / "annotations.json").read_text())
    for category in content["categories"]:
        category["name"] = category["name"].replace("cup", "mug")
    (own / "val" / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="have different classes: 'cup' is in one of them only"):
        own_plan(*arguments())


def test_a_leak_is_printed(own, capsys):
    args, typed = arguments()
    args.test = args.data
    own_plan(args, typed)
    printed = capsys.readouterr().out
    assert "test image that is also trained on: 8" in printed
    assert "8 test images in both" in printed


def test_plain_voc_folders_are_taken(own, monkeypatch):
    for part in ("a", "b"):
        write_voc(own / part, {f"{part}{k}": [("ant", 0, [11, 12, 40, 60])] for k in range(4)})
    args, typed = arguments(data="voc:a/VOC2007")
    args.test = ["voc:b/VOC2007:test"]
    path = own_plan(args, typed)
    raw = yaml.safe_load(path.read_text())
    assert raw["overrides"]["DATASETS.TEST"] == "('voc:b/VOC2007:test',)"


def test_options_that_would_be_ignored_are_refused(own):
    for words in (["--power", "1"], ["--redo"], ["--set", "seeds=[0]"], ["--report-only"]):
        with pytest.raises(UserError, match="does not apply to --data; run the plan"):
            measure_gap.check_arguments(arguments(*words)[0])
    with pytest.raises(UserError, match="--launcher torchrun does not apply to --data"):
        measure_gap.check_arguments(arguments("--launcher", "torchrun")[0])
    for words in (["--init", "a=b"], ["--hours", "1"], ["--test", "voc:x"]):
        with pytest.raises(UserError, match=r"does not apply to plan\.yaml; it belongs to --data"):
            measure_gap.check_arguments(measure_gap.parse(["plan.yaml", *words]))
    for typed in ([], ["plan.yaml", "--data", "voc:x"]):
        with pytest.raises(SystemExit):
            measure_gap.parse(typed)


def test_prediction_and_measurement_are_compared(own):
    path = own_plan(*arguments("--hours", "4"))
    assert prediction_line(path) == ""
    expected = json.loads((own / "out" / "own_data.json").read_text())["seconds_of_a_run"]["own_R18_FPN"]
    record = own / "out" / "stages" / "own_R18_FPN__mine__seed0" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"status": "finished", "seconds": expected * 2}))
    assert "measured (2.00 times)" in prediction_line(path)
    assert isinstance(arguments()[0], argparse.Namespace)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_the_command_measures_own_data_from_another_folder(own, run_cli, kind):
    """The real probe, the plan, its runs and the report, as typed in the folder of the data."""
    names = {"coco": [f"coco:{part}/annotations.json:{part}/images" for part in ("train", "val")]}
    for part in ("a", "b"):
        write_voc(own / part, {f"{part}{k}": [("ant", 0, [11, 12, 40, 60])] for k in range(4)})
    names["voc"] = ["voc:a/VOC2007", "voc:b/VOC2007:test"]
    train, test = names[kind]
    head = ["transfer/measure_gap.py", "--data", train, "--test", test]
    command = [*head, "--init", "mine=ck.pth", "--output", "out"]
    dry = run_cli([*command, "--hours", "0.0001", "--dry-run"], cwd=own, check=0)
    assert "probe: " in dry.stdout
    assert "as its probe predicts in out" in dry.stdout
    assert not (own / "out" / "probe").exists()
    refused = run_cli([*command, "--hours", "0.0001"], cwd=own, check=2)
    run = refused.stderr.rpartition("to run it all the same: ")[2]
    done = subprocess.run(["bash", "-c", run], cwd=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wrote out/gap.csv" in done.stdout
    assert "is ahead" not in done.stdout  # one seed of 20 steps decides nothing
    again = run_cli([*command, "--hours", "0.0001", "--dry-run"], cwd=own, check=0)
    assert "to do: nothing" in again.stdout
    for name in ("random", "mine"):
        result = json.loads((own / "out" / "own_R18_FPN" / name / "seed0" / "result.json").read_text())
        assert (result["status"], result["iterations"]) == ("finished", 20)
