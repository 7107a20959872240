"""Sweeps of pretrainings, and that every committed plan's flags are ones pretraining accepts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pretrain import sweep
from pretrain.images import fingerprints
from pretrain.methods.row import Sizes
from pretrain.settings.checks import check_settings, check_sizes
from pretrain.settings.options import parse
from pretrain.training.finished_run import _fingerprints, mark_finished
from pretrain.training.run import pretrain
from runtime.distributed import World
from runtime.errors import UserError

PLANS = [*sorted(Path("plans").glob("ablation_pretrain*.yaml")), Path("plans/ablation_informative.yaml")]


def test_every_run_of_the_committed_plans_is_accepted() -> None:
    argvs = []
    for plan in map(sweep.read_plan, PLANS):
        runs = [sweep.place(plan, group, name, 0)[1] for group, runs in plan["groups"].items() for name in runs]
        argvs += [[*plan["base"], *flags] for flags in runs]
    for file in Path("plans").glob("*.yaml"):
        inits = yaml.safe_load(file.read_text()).get("inits", {})
        argvs += [init["pretrain"]["argv"] for init in inits.values() if isinstance(init, dict) and "pretrain" in init]
    assert len(PLANS) == 3
    assert len(argvs) > 50
    for argv in argvs:
        settings = parse([str(part).format(output="runs/x", init="x", seed=0, pretrain_seed=0) for part in argv])
        batch, parts = settings.optimisation.batch_size, settings.optimisation.accumulate
        check_settings(settings)
        check_sizes(settings, Sizes(9469, 10, batch, 9469 // batch, parts), ranks=1)


def test_table_gives_mean_and_spread_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"output": str(tmp_path), "base": ["DIR"], "seeds": [0, 1, 2], "groups": {"g": {"a": ["--cos"], "b": []}}}
    values = iter([50.0, 60.0, 70.0])

    def pretend(flags: list, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"iteration": 1, "knn": next(values)}) + "\n")
        (folder / "finished").touch()

    for seed in (0, 1, 2):
        pretend([], tmp_path / "g" / "a" / f"seed{seed}", seed)
    text = sweep.table(plan, ["g"])
    assert "| a | `--cos` | 60.00 ± 10.00 | 3 |" in text
    assert "| b | `` | not run | 0 |" in text


def test_runs_are_shared_between_groups_and_go_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"output: {tmp_path / 'out'}\nbase: [DIR]\nseeds: [0, 1]\n"
        "groups: {a: {one: [--cos], two: []}, b: {three: [--mlp], same: a/one}}"
    )
    begun = []

    def pretend(flags: list, folder: Path, seed: int) -> None:
        begun.append((folder.relative_to(tmp_path / "out").as_posix(), flags))
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"iteration": 1, "knn": 40.0 + seed}) + "\n")
        (folder / "finished").touch()

    monkeypatch.setattr(sweep, "run", pretend)
    monkeypatch.setattr("sys.argv", ["sweep.py", str(plan), "--jobs", "1"])
    assert sweep.main() == 0
    assert begun == [
        (f"{run}/seed{seed}", ["DIR", *flags])
        for seed in (0, 1)
        for run, flags in (("a/one", ["--cos"]), ("a/two", []), ("b/three", ["--mlp"]))
    ]
    assert "| same | `--cos` | 40.50 ± 0.71 | 2 |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "output: x",
        "!!python/object/apply:os.getcwd []",
        "output: x\nbase: 1\nseeds: []\ngroups: {a: {b: 1}}",
        "output: x\nbase: []\nseeds: [0]\ngroups: {a: {b: a/c}}",
        "output: x\nbase: []\nseeds: [0]\ngroups: {a: {b: a/c, c: a/d, d: []}}",
    ],
)
def test_bad_plans_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.yaml").write_text(content)
    with pytest.raises(UserError):
        sweep.read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 0]}, "seeds of .* must be different integers"),  # would be two runs with a spread of 0
        ({"seeds": [0, False]}, "seeds of .* must be different integers"),
        ({"seeds": ["../../x"]}, "seeds of .* must be different integers"),
        ({"groups": {"a/b": {"c": ["--cos"]}, "a": {"b/c": ["--mlp"]}}}, "'a/b' is not a valid name"),  # one folder
        ({"groups": {"a": {"..": []}}}, "'..' is not a valid name"),
        ({"groups": {"a": {3: []}}}, "3 is not a valid name"),
        ({"groups": {"a": {"b|c": []}}}, "is not a valid name"),
        ({"groups": {"a": {"b": ["--seed", 7]}}}, "a/b of .*: --seed cannot be given here"),
        ({"base": ["DIR", "--output=x"]}, "base of .*: --output=x cannot be given here"),
        ({"base": ["DIR", "--help"]}, "--help cannot be given here"),
        ({"base": ["DIR", "--dry"]}, "--dry cannot be given here"),
        ({"groups": {"a": {"b": [["--cos"]]}}}, "is not a flag or its value"),
        ({"output": 5}, "output of .* must be the name of a folder, not 5"),
    ],
)
def test_runs_that_the_table_could_not_tell_apart_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    plan = {"output": "x", "base": ["DIR"], "seeds": [0], "groups": {"a": {"b": []}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, **change}))
    with pytest.raises(UserError, match=message):
        sweep.read_plan(tmp_path / "plan.yaml")


SMALL = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--moco-k", "32", "--moco-dim",
         "16", "-j", "0", "--device", "cpu", "--save-every", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plan of one run, finished in this process, and its copy of the images."""
    root = tmp_path_factory.mktemp("sweep")
    shutil.copytree(tiny_images, root / "images")
    (root / "plan.yaml").write_text(yaml.safe_dump(
        {"output": str(root / "out"), "base": [str(root / "images"), *SMALL], "seeds": [0], "groups": {"g": {"a": []}}}
    ))  # fmt: skip
    folder = root / "out" / "g" / "a" / "seed0"
    settings = sweep.settings_of([str(root / "images"), *SMALL], folder, 0)
    assert pretrain(settings, World(0, 1, 0, torch.device("cpu"))) == 0
    mark_finished(folder, settings)
    return root / "plan.yaml", root / "images"


def sweep_again(
    swept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: list[str], *flags: str
) -> list[list[str]]:
    """Run the plan with another ``base``; the flags of the runs that it starts."""
    plan = yaml.safe_load(swept[0].read_text())
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "base": [str(swept[1]), *base]}))
    started: list[list[str]] = []
    monkeypatch.setattr(sweep, "run", lambda flags, folder, seed: started.append(flags))
    monkeypatch.setattr("sys.argv", ["sweep.py", str(tmp_path / "plan.yaml"), *flags])
    _fingerprints.cache_clear()
    assert sweep.main() == 0
    return started


def test_equal_flags_in_another_order_are_not_stale(swept, monkeypatch, tmp_path) -> None:
    assert sweep_again(swept, monkeypatch, tmp_path, [*SMALL[2:], *SMALL[:2], "--moco-t", "0.07"]) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "0.5"], "lr was 0.03, is 0.5"),
        (["--mlp"], "mlp was False, is True"),
        (["--epochs", "3"], "epochs was 1, is 3"),
        (["--knn-images", "5"], "knn_images of the probe was 10000, is 5"),
    ],
)
@pytest.mark.parametrize("only", [[], ["--table-only"]])
def test_changed_flags_make_a_run_stale_by_name(more, message, only, swept, monkeypatch, tmp_path) -> None:
    with pytest.raises(UserError, match=f"1 finished runs are stale: .*seed0: {message}"):
        sweep_again(swept, monkeypatch, tmp_path, SMALL + more, *only)


@pytest.mark.parametrize("old", ["mark", "checkpoint"])
def test_other_images_make_a_run_stale(old, swept, monkeypatch, tmp_path) -> None:
    """Also where the mark is that of an earlier version, which was empty."""
    copy = tmp_path / "copy"
    shutil.copytree(swept[0].parent, copy)
    plan = (copy / "plan.yaml").read_text().replace(str(swept[0].parent), str(copy))
    (copy / "plan.yaml").write_text(plan)
    if old == "checkpoint":
        (copy / "out" / "g" / "a" / "seed0" / "finished").write_text("")
    moved = (copy / "plan.yaml", copy / "images")
    assert sweep_again(moved, monkeypatch, tmp_path, SMALL) == []
    (file, *_) = sorted((copy / "images" / "train").glob("*/*.jpg"))
    os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match="images of .* were changed or copied"):
        sweep_again(moved, monkeypatch, tmp_path, SMALL)
    file.unlink()
    with pytest.raises(UserError, match=r"seed0: the images of .*images are others"):
        sweep_again(moved, monkeypatch, tmp_path, SMALL)
    assert len(sweep_again(moved, monkeypatch, tmp_path, SMALL, "--redo")) == 1
    assert (copy / "out" / "g" / "a" / "seed0.old1" / "finished").exists()


def test_other_probe_images_make_a_run_stale(swept, monkeypatch, tmp_path) -> None:
    val = tmp_path / "val"
    shutil.copytree(swept[1] / "val", val)
    with pytest.raises(UserError, match="the images of the probe are others"):
        (next(val.glob("*/*.jpg"))).unlink()
        sweep_again(swept, monkeypatch, tmp_path, [*SMALL, "--val", str(val)])


def test_many_images_recorded_by_an_earlier_version_are_not_stale(swept, monkeypatch, tmp_path) -> None:
    """It took all files, of the training and the probe's images; all are compared, also the one that is not sampled."""
    copy = tmp_path / "copy"
    shutil.copytree(swept[0].parent, copy)
    plan = (copy / "plan.yaml").read_text().replace(str(swept[0].parent), str(copy))
    (copy / "plan.yaml").write_text(plan)
    moved = (copy / "plan.yaml", copy / "images")
    monkeypatch.setattr(fingerprints, "SAMPLE", 4)
    assert sweep_again(moved, monkeypatch, tmp_path, SMALL) == []
    for split, message in (("val", "images of the probe are others"), ("train", "images of .* were changed or copied")):
        for file in sorted((copy / "images" / split).glob("*/*.jpg"))[::4]:
            state = file.stat()
            os.utime(file, ns=(1, 1))
            with pytest.raises(UserError, match=message):
                sweep_again(moved, monkeypatch, tmp_path, SMALL)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
