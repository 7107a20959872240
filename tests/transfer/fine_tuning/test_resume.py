"""A resumed run is the run that was begun: what decides its result is compared with the checkpoint, key by key."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runtime.errors import UserError
from runtime.recorded_settings import changed_settings
from tests.transfer.toy_data import coco_content, write_coco
from tests.transfer.train_command import arguments, write_resnet18
from transfer import train_net
from transfer.config import load_config
from transfer.engines.weights.checkpoints import SETTINGS_KEY
from transfer.records.deciding_settings import FREE_KEYS, RunSettings, run_settings
from transfer.records.result_file import History

RANDOM = {"kind": "random", "sha256": None}
Train = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_coco(tmp_path_factory.mktemp("toy"), count=4)


@pytest.fixture(scope="module")
def begun(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations."""
    folder = tmp_path_factory.mktemp("runs") / "seed0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments(data, folder, SEED="0"))
        assert train_net.main() == 0
    return folder


@pytest.fixture
def resume(data: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Resume a copy of ``begun`` in ``tmp_path / "run"`` with other flags and keys."""
    shutil.copytree(begun, tmp_path / "run")

    def run(*flags: str, **opts: str) -> int:
        keys = {"SEED": "0", **opts}
        monkeypatch.setattr(sys, "argv", arguments(data, tmp_path / "run", "--resume", *flags, **keys))
        return train_net.main()

    return run


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("log.txt", ".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("opts", "key", "values"),
    [
        ({"SOLVER__BASE_LR": "0.001"}, "SOLVER.BASE_LR", "was 0.02, is 0.001"),
        ({"SOLVER__IMS_PER_BATCH": "4"}, "SOLVER.IMS_PER_BATCH", "was 2, is 4"),
        ({"SEED": "1"}, "SEED", "was 0, is 1"),
        ({"MODEL__RPN__NMS_THRESH": "0.5"}, "MODEL.RPN.NMS_THRESH", "was 0.7, is 0.5"),
        ({"ENGINE__ATTENTION": "fused"}, "ENGINE.ATTENTION", "was exact, is fused"),
    ],
)
def test_another_setting_is_refused_and_nothing_is_overwritten(
    resume: Train, tmp_path: Path, opts: dict[str, str], key: str, values: str
) -> None:
    before = content(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        resume(**opts)
    assert f"{key} {values}" in str(caught.value)
    assert str(caught.value).endswith(f"add --allow-change {key}")
    assert content(tmp_path / "run") == before


def test_other_data_are_refused_by_their_content(resume: Train, data: str, begun: Path, tmp_path: Path) -> None:
    moved = write_coco(tmp_path / "moved", count=4)  # the same annotations in another place
    assert resume(DATASETS__TRAIN=f"('{moved}',)", DATASETS__TEST=f"('{moved}',)") == 0
    other = write_coco(tmp_path / "other", coco_content(tmp_path / "other" / "images", count=5))
    with pytest.raises(
        UserError, match=r"DATASETS\.TRAIN was \['4 images, sha256 \w+'\], is \['5 images, sha256 \w+'\]"
    ):
        resume(DATASETS__TRAIN=f"('{other}',)")


def test_another_initialisation_is_refused(resume: Train, tmp_path: Path) -> None:
    path = write_resnet18(tmp_path / "S.pkl")
    with pytest.raises(UserError, match=r"init was random, is backbone [0-9a-f]{64}\. .*--allow-change init$"):
        resume("--init", str(path))


def test_another_evaluator_is_refused_unless_the_checkpoint_does_not_say(resume: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluator was \['coco/101pt-100'\], is \['coco/pycocotools-.*'\]\. "):
        resume("--evaluator", "official")
    assert resume("--evaluator", "fast") == 0  # the same rule by another name
    file = tmp_path / "run" / "model_final.pth"
    old = torch.load(file, weights_only=True)
    del old[SETTINGS_KEY]["settings"]["evaluator"]
    torch.save(old, file)
    assert resume("--evaluator", "official") == 0


def test_every_difference_is_named_at_once(resume: Train) -> None:
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR was .*; SOLVER\.MAX_ITER was 2, is 4\. ") as caught:
        resume("--allow-change", "SEED", SOLVER__BASE_LR="0.001", SOLVER__MAX_ITER="4", SEED="1")
    assert "SEED was" not in str(caught.value)


def test_an_allowed_change_is_recorded_with_its_iteration(resume: Train, tmp_path: Path) -> None:
    assert resume("--allow-change", "SOLVER.MAX_ITER", SOLVER__MAX_ITER="3") == 0
    expected = [{"iteration": 2, "changed": {"SOLVER.MAX_ITER": [2, 3]}}]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["iterations"], result["changes"], result["world_size"]) == (3, expected, 1)
    stored = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)[SETTINGS_KEY]
    assert (stored["changes"], stored["settings"]["SOLVER.MAX_ITER"]) == (expected, 3)
    assert resume(SOLVER__MAX_ITER="3") == 0  # the change stays on record
    assert json.loads((tmp_path / "run" / "result.json").read_text())["changes"] == expected


def test_settings_that_decide_nothing_may_differ(resume: Train, tmp_path: Path) -> None:
    assert resume(SOLVER__CHECKPOINT_PERIOD="7", DATALOADER__NUM_WORKERS="1") == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["changes"] == []


def test_a_checkpoint_without_the_record_is_resumed_with_one_warning(
    resume: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run" / "model_final.pth"
    old = torch.load(file, weights_only=True)
    del old[SETTINGS_KEY]
    torch.save(old, file)
    assert resume(SOLVER__BASE_LR="0.001") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "does not say what it was made with" in line]
    assert len(lines) == 1


def test_a_misspelt_allow_change_is_refused(resume: Train) -> None:
    with pytest.raises(UserError, match=r"--allow-change SOLVER\.BASE_RL: .*did you mean SOLVER\.BASE_LR"):
        resume("--allow-change", "SOLVER.BASE_RL", SOLVER__BASE_LR="0.001")


def test_every_key_decides_but_the_free_ones(data: str) -> None:
    names = ["DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST", f"('{data}',)"]
    cfg = load_config("demo_R18_FPN.yaml", names)
    settings = run_settings(cfg, RANDOM, "torchvision", 1).settings
    absent = {"MODEL.WEIGHTS", "OUTPUT_DIR", *FREE_KEYS}
    assert not absent & settings.keys()
    assert {"SOLVER.STEPS", "TEST.EVAL_PERIOD", "ENGINE.ACCUMULATE", "MODEL.DEVICE"} <= settings.keys()
    other = run_settings(cfg, {"kind": "backbone", "sha256": "a" * 64}, "detectron2", 2)
    changed = changed_settings(settings, other.settings, ["engine", "init", "world_size"], Path("x"))
    assert changed == {
        "engine": ["torchvision", "detectron2"],
        "init": ["random", f"backbone {'a' * 64}"],
        "world_size": [1, 2],
    }


PERIODS = {"SOLVER__MAX_ITER": "6", "SOLVER__CHECKPOINT_PERIOD": "1", "TEST__EVAL_PERIOD": "2"}


class KilledError(Exception):
    """Stands for a kill: nothing handles it."""


def logged(folder: Path) -> list[tuple[int, str]]:
    """(iteration, key) of everything in metrics.json."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [(line["iteration"], key) for line in lines for key in line if key != "iteration"]


def evaluations(folder: Path) -> list[tuple[int, object]]:
    history = json.loads((folder / "result.json").read_text())["history"]
    return [(entry["iteration"], entry["metrics"]) for entry in history]


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_an_interrupted_evaluation_is_made_up(
    engine: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.fine_tuning import job

    def run(name: str, *flags: str) -> None:
        command = arguments(data, tmp_path / name, *flags, SEED="0", **PERIODS)
        command[command.index("torchvision")] = engine
        monkeypatch.setattr(sys, "argv", command)
        assert train_net.main() == 0

    run("whole")
    evaluate = job._in_training

    def killed(*given: object) -> dict[str, float]:
        raise KilledError

    monkeypatch.setattr(job, "_in_training", killed)
    with pytest.raises(KilledError):  # in the first evaluation, after the checkpoint of iteration 2
        run("parts")
    monkeypatch.setattr(job, "_in_training", evaluate)
    run("parts", "--resume")
    assert [iteration for iteration, _ in evaluations(tmp_path / "parts")] == [2, 4, 6]
    assert evaluations(tmp_path / "parts") == evaluations(tmp_path / "whole")
    in_log = [1, 3] if engine == "torchvision" else [3]  # Detectron2 logs the newest evaluation every 20 iterations
    for name in ("whole", "parts"):
        assert [i for i, key in logged(tmp_path / name) if key == "bbox/AP"] == in_log, name
    assert len(logged(tmp_path / "parts")) == len(set(logged(tmp_path / "parts")))


def test_a_resume_with_a_longer_history_makes_the_later_evaluations_again(tmp_path: Path) -> None:
    history = History(tmp_path / "history.json", [{"iteration": i, "metrics": {}} for i in (2, 4, 6)])
    history.cut(4)
    assert history.iterations == [2, 4]


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_detectron2_stores_and_compares_the_same(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*flags: str, **opts: str) -> int:
        command = arguments(data, tmp_path / "run", *flags, SOLVER__MAX_ITER="1", **opts)
        command[command.index("torchvision")] = "detectron2"
        monkeypatch.setattr(sys, "argv", command)
        return train_net.main()

    assert run() == 0
    with pytest.raises(UserError, match=r"model_final\.pth .* SOLVER\.BASE_LR was 0\.02, is 0\.001\. "):
        run("--resume", SOLVER__BASE_LR="0.001")
    assert run("--resume", "--allow-change", "SOLVER.BASE_LR", SOLVER__BASE_LR="0.001") == 0
    (change,) = json.loads((tmp_path / "run" / "result.json").read_text())["changes"]
    assert change == {"iteration": 1, "changed": {"SOLVER.BASE_LR": [0.02, 0.001]}}


def test_a_malformed_entry_counts_as_none() -> None:
    settings = RunSettings({"SEED": 0})
    for stored in (None, [], {"settings": 3}):
        settings.continue_from(stored, Path("x"), 2, ())
    assert settings.changes == []
