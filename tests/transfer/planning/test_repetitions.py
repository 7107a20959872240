"""Several pretraining runs of one method, and seeds that are added until the comparisons are decided."""

from __future__ import annotations

import csv
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.planning.plan import load_plan
from transfer.planning.repetitions import with_seed
from transfer.planning.runner import Runner
from transfer.planning.stages import plan_stages


def change(plan_file: Path, old: str, new: str) -> None:
    text = plan_file.read_text()
    assert old in text
    plan_file.write_text(text.replace(old, new))


def test_every_pretraining_seed_has_its_own_folder_backbone_and_runs(plan_file: Path) -> None:
    stages = plan_stages(load_plan(plan_file, settings=["pretrain_seeds=[3,4]"]))
    by_name = {stage.name: stage for stage in stages}
    assert [name for name in by_name if "moco" in name] == [
        "pretrain/moco/pretrain3",
        "convert/moco/pretrain3",
        "pretrain/moco/pretrain4",
        "convert/moco/pretrain4",
        *(f"toy/moco/pretrain{run}/seed{seed}" for seed in (0, 1) for run in (3, 4)),
    ]
    assert "toy/random/seed0" in by_name  # nothing to pretrain, nothing to repeat
    pretraining = by_name["pretrain/moco/pretrain4"]
    assert pretraining.argv[1:] == ("--output", "runs/toy/moco/pretrain4", "--seed", "4")
    assert by_name["pretrain/supervised/pretrain3"].argv[-2:] == ("--seed", "3")  # its argv has no seed
    conversion = by_name["convert/moco/pretrain4"]
    assert conversion.weights == pretraining.proof
    assert conversion.needs == (pretraining.name,)
    training = by_name["toy/moco/pretrain4/seed1"]
    assert training.weights == conversion.proof == Path("runs/toy/backbones/moco/pretrain4.pkl")
    assert training.needs == ("prepare/1", conversion.name)


def repeating(plan_file: Path, *settings: str) -> list[str]:
    change(plan_file, "seeds: [0, 1]", "repetitions: [0, 1]")
    return [stage.name for stage in plan_stages(load_plan(plan_file, settings=list(settings)))]


def test_a_repetition_pretrains_and_fine_tunes_with_one_seed(plan_file: Path) -> None:
    names = repeating(plan_file, "repetitions=[3,5]")
    assert [name for name in names if "moco" in name] == [
        *(f"{stage}/moco/pretrain{seed}" for seed in (3, 5) for stage in ("pretrain", "convert")),
        "toy/moco/pretrain3/seed3",
        "toy/moco/pretrain5/seed5",
    ]
    assert [name for name in names if "random" in name] == ["toy/random/seed3", "toy/random/seed5"]


def test_repetitions_may_be_a_number(plan_file: Path) -> None:
    change(plan_file, "seeds: [0, 1]", "repetitions: 3")
    plan = load_plan(plan_file, seed_offset=100)
    assert plan.seeds == (100, 101, 102)
    (pretraining,) = [s for s in plan_stages(plan) if s.name == "pretrain/moco/pretrain102"]
    assert pretraining.argv[-2:] == ("--seed", "102")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1", "must be 2 to 1000, not 1"),
        ("[4]", "one of repetitions repeats nothing"),
        ("[1, 1]", "must be a list of different integers"),
        ("true", "repetitions"),
        ("{until: decided}", "repetitions"),
        ("2\nseeds: [0]", "remove seeds, or repetitions"),
        ("2\npretrain_seeds: [0]", "remove pretrain_seeds, or repetitions"),
    ],
)
def test_repetitions_that_are_none(plan_file: Path, value: str, message: str) -> None:
    change(plan_file, "seeds: [0, 1]", f"repetitions: {value}")
    with pytest.raises(UserError, match=re.escape(message)):
        load_plan(plan_file)


GIVEN = ["inits.moco={weights: moco.pth.tar}", "inits.supervised={supervised: true}"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("repetitions", "3", "repetitions would repeat fine-tuning only, because the plan pretrains none of its inits"),
        ("repetitions", "[0, 1]", "(random, supervised, moco); write seeds in its place"),
        ("pretrain_seeds", "[3]", "pretrain_seeds has nothing to repeat: the plan pretrains none of its inits"),
        ("pretrain_seeds", "[0, 1]", "(random, supervised, moco); remove it, or give an init a pretrain entry"),
    ],
)
def test_a_plan_that_pretrains_nothing_cannot_repeat_it(plan_file: Path, key: str, value: str, message: str) -> None:
    old = "seeds: [0, 1]"
    change(plan_file, old, f"{key}: {value}" if key == "repetitions" else f"{old}\n{key}: {value}")
    load_plan(plan_file)
    with pytest.raises(UserError, match=re.escape(message)):
        load_plan(plan_file, settings=GIVEN)


def test_a_dry_run_refuses_to_repeat_nothing(plan_file: Path, measure_gap: list[str]) -> None:
    command = [
        *measure_gap,
        "--dry-run",
        *(word for one in [*GIVEN, "pretrain_seeds=[0,1]"] for word in ("--set", one)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pretrain_seeds has nothing to repeat" in done.stderr


def test_one_pretraining_seed_leaves_the_folders_as_they_are(plan_file: Path) -> None:
    before, after = (plan_stages(load_plan(plan_file, settings=s)) for s in ([], ["pretrain_seeds=[7]"]))
    assert [stage.name for stage in before] == [stage.name for stage in after]
    assert [stage.folder for stage in before] == [stage.folder for stage in after]
    (pretraining,) = [stage for stage in after if stage.name == "pretrain/moco"]
    assert pretraining.argv[-2:] == ("--seed", "7")


def test_the_placeholder_stands_where_the_plan_wants_it(plan_file: Path) -> None:
    change(
        plan_file,
        '--output, "{output}/{init}", --seed, "{seed}"]',
        '--output, "{output}/{init}", "--seed={pretrain_seed}"]',
    )
    plan = load_plan(plan_file, settings=["pretrain_seeds=[0,1]"], seed_offset=10)
    runs = [stage.argv for stage in plan_stages(plan) if stage.name.startswith("pretrain/moco")]
    assert [argv[-1] for argv in runs] == ["--seed=10", "--seed=11"]
    assert with_seed(("--seed=1", "-a"), 2) == ("--seed=2", "-a")


def test_two_commands_that_leave_the_same_checkpoint_are_refused(plan_file: Path) -> None:
    folder = "runs/toy/moco"
    settings = [
        f"inits.supervised.pretrain.argv=[--method, supervised, --output, {folder}]",
        f"inits.supervised.pretrain.checkpoint={folder}/checkpoint_0001.pth.tar",
    ]
    with pytest.raises(UserError, match=r"inits.moco and .*inits.supervised have different commands but write to the"):
        load_plan(plan_file, settings=settings)
    same = [f"inits.supervised.pretrain.argv=[--output, {folder}, --seed, 0]", settings[1]]
    assert len(load_plan(plan_file, settings=[*same, "seed=0"]).inits) == 3  # one pretraining, used twice


@pytest.mark.parametrize("seeds", ["[3]", "[3, 4]"])
@pytest.mark.parametrize("output", ["{output}/other", "{output}/{init}/deeper"])
def test_a_checkpoint_outside_of_its_runs_folder_is_refused(plan_file: Path, output: str, seeds: str) -> None:
    for settings in ([], [f"pretrain_seeds={seeds}"]):
        with pytest.raises(UserError, match=r"^[^\n]*inits.moco: pretrain: "):
            load_plan(plan_file, settings=[*settings, f"inits.moco.pretrain.argv=[--output, '{output}']"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["pretrain_seeds=[0,0]"], "pretrain_seeds must be a list of different integers"),
        (["seeds={until: never}"], "until must be decided, not 'never'"),
        (["seeds={until: decided, max: 1}"], "must be 2 <= min <= max, not min: 2, max: 1"),
        (["seeds={until: decided, most: 4}"], "unknown key 'most'"),
        (["seeds={until: decided, margin: 1}", "margin=2"], "margin is 1 here and 2 in the plan"),
        (["seeds={until: decided}", "pretrain_seeds=[0,1]"], "cannot be combined with several pretrain_seeds"),
        (["margin=0"], "margin must be between 0 and 100 points of AP"),
    ],
)
def test_mistakes_are_one_line(plan_file: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_plan(plan_file, settings=settings)


def test_runs_that_would_share_a_folder_are_refused(plan_file: Path) -> None:
    change(plan_file, '[--output, "{output}/{init}", --seed', '[--output, "{output}/moco", --seed')
    load_plan(plan_file)
    with pytest.raises(UserError, match=r"inits\.moco: pretrain: with several pretrain_seeds each run needs a folder"):
        load_plan(plan_file, settings=["pretrain_seeds=[0,1]"])


def test_the_report_of_several_pretraining_runs_is_about_the_method(
    plan_file: Path, measure_gap: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SPREAD", "0.3")
    command = [*measure_gap, "--set", "pretrain_seeds=[0,1,2]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "The method moco is " in done.stdout
    assert "3 against 3 pretraining runs, n=2" in done.stdout
    assert "one more pretraining run buys" in done.stdout
    with open("runs/toy/gap.csv", newline="") as file:
        rows = {row["init"]: row for row in csv.DictReader(file) if row["metric"] == "AP"}
    assert (rows["moco"]["pretraining_runs"], rows["moco"]["n"], rows["random"]["n"]) == ("3", "6", "2")
    # the same from the folder alone
    folder = subprocess.run([*measure_gap[:-1], "runs/toy"], capture_output=True, text=True, timeout=240)
    assert "The method moco is " in folder.stdout


def decided_after(plan_file: Path, measure_gap: list[str], **settings: object) -> int:
    rule = ", ".join(f"{key}: {value}" for key, value in settings.items())
    command = [*measure_gap, "--set", f"seeds={{until: decided, {rule}}}", "--no-detections"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Seeds were added one at a time" in Path("runs/toy/gap.md").read_text()
    return len(list(Path("runs/toy/toy/moco").glob("seed*/result.json")))


def test_seeds_are_added_until_every_comparison_is_decided(
    plan_file: Path, measure_gap: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SPREAD", "0.4")
    seeds = decided_after(plan_file, measure_gap, max=8)
    assert 2 < seeds < 8
    text = Path("runs/toy/gap.md").read_text()
    assert "on toy is undecided" not in text
    assert "moco is +" in text
    # the same command finds the verdict again and runs nothing
    assert decided_after(plan_file, measure_gap, max=8) == seeds
    calls = Path("runs/toy/toy/moco/seed0/calls.txt").read_text()
    assert calls.count("\n") == 1


def test_an_undecided_plan_stops_at_its_largest_number(
    plan_file: Path, measure_gap: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SPREAD", "5")
    assert decided_after(plan_file, measure_gap, max=3) == 3
    assert "on toy is undecided" in Path("runs/toy/gap.md").read_text()


def test_the_runner_runs_every_pretraining_run(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["pretrain_seeds=[0,1]", "seeds=[0]"])
    outcomes = Runner(plan_stages(plan), plan.output).run(StopSignal())
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    backbones: Callable[[int], bytes] = lambda run: Path(f"runs/toy/backbones/moco/pretrain{run}.pkl").read_bytes()  # noqa: E731
    assert backbones(0) != backbones(1)


def test_the_demo_repeats_everything() -> None:
    kinds = Counter(stage.kind for stage in plan_stages(load_plan("plans/demo.yaml")))
    assert kinds == {"prepare": 1, "pretrain": 8, "convert": 8, "train": 12}
