"""Plans: what they may say, and a one-line error for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UserError
from tests.transfer.prediction.trained import write_detector
from tests.transfer.toy_data import write_coco
from transfer.planning.plan import load_plan
from transfer.planning.stages import choose, plan_stages


def test_plan_becomes_stages_in_order(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    names = [stage.name for stage in plan_stages(plan)]
    assert names[:5] == ["prepare/1", "pretrain/supervised", "convert/supervised", "pretrain/moco", "convert/moco"]
    assert names[5:] == [f"toy/{i}/seed{s}" for s in (0, 1) for i in ("random", "supervised", "moco")]
    assert (plan.supervised, plan.random) == ("supervised", "random")


def test_output_and_seed_offset_move_everything(plan_file: Path) -> None:
    plan = load_plan(plan_file, output="runs/again", seed_offset=10)
    stages = plan_stages(plan)
    words = [word for stage in stages for word in stage.command()]
    assert plan.seeds == (10, 11)
    assert not [word for word in words if "runs/toy" in word]
    assert stages[0].argv == ("demo/draw.py", "runs/again/data", "--seed", "10")
    assert ("SEED", "11") in [pair for s in stages for pair in zip(s.argv, s.argv[1:])]


def test_settings_reach_plan_and_config(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["seeds=[5]", "SOLVER.MAX_ITER=7", "inits.moco.lr=0.01"])
    train = [s for s in plan_stages(plan) if s.kind == "train"]
    assert {s.seed for s in train} == {5}
    assert all(s.argv[s.argv.index("SOLVER.MAX_ITER") + 1] == "7" for s in train)
    assert [s.name for s in train if "SOLVER.BASE_LR" in s.argv] == ["toy-own_lr/moco/seed5"]


def test_the_command_line_wins_over_a_config_of_the_plan(plan_file: Path) -> None:
    text = plan_file.read_text()
    own = "configs: [{config: toy.yaml, overrides: {SOLVER.MAX_ITER: 3}}]"
    assert "configs: [toy.yaml]" in text
    plan_file.write_text(text.replace("configs: [toy.yaml]", own))
    for settings, iterations in (([], "3"), (["SOLVER.MAX_ITER=7"], "7")):
        train = [s for s in plan_stages(load_plan(plan_file, settings=settings)) if s.kind == "train"]
        given = [b for s in train for a, b in zip(s.argv, s.argv[1:]) if a == "SOLVER.MAX_ITER"]
        assert given[-1] == iterations


def test_every_kind_of_initialisation_reaches_the_command(plan_file: Path) -> None:
    inits = """inits:
  random: {random: true}
  like_for_like: {supervised: true}
  msra: {supervised: msra}
  backbone: {weights: w/moco.pkl}
  released: {weights: "{output}/moco.pth.tar", family: moco}
  paper: {published: {init: MoCo v2}}
"""
    text = plan_file.read_text()
    start, end = text.index("inits:"), text.index("configs:")
    plan_file.write_text(text[:start] + inits + text[end:])
    stages = plan_stages(load_plan(plan_file, settings=["seeds=[0]"]))
    given = {s.name.split("/")[1]: s.argv[s.argv.index("--init") + 1] for s in stages if s.kind == "train"}
    assert given == {
        "random": "random",
        "like_for_like": "supervised",
        "msra": "supervised-msra",
        "backbone": "w/moco.pkl",
        "released": "runs/toy/backbones/released.pkl",
    }
    (convert,) = [s for s in stages if s.kind == "convert"]
    assert convert.argv == (
        "convert/to_d2.py",
        "runs/toy/moco.pth.tar",
        "runs/toy/backbones/released.pkl",
        "--family=moco",
    )
    assert convert.name in next(s for s in stages if s.name == "toy/released/seed0").needs


def test_only_includes_dependencies(plan_file: Path) -> None:
    stages = plan_stages(load_plan(plan_file))
    assert [s.name for s in choose(stages, ["toy/moco/seed1"])] == [
        "prepare/1",
        "pretrain/moco",
        "convert/moco",
        "toy/moco/seed1",
    ]
    with pytest.raises(UserError, match="matches no stage"):
        choose(stages, ["nothing"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("configs: [toy.yaml]", "configs: [tay.yaml]", "tay.yaml, which does not exist.*did you mean toy.yaml"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "different integers"),
        ("seeds: [0, 1]", "seeds: [0, x]", "seeds has 'x'"),
        ("seeds: [0, 1]", "seeds: [true]", "seeds has True"),
        ("configs:", "confgs:", "unknown key 'confgs'; did you mean configs"),
        ("random: {random: true}", "random: {random: true, weights: a.pkl}", "exactly one of"),
        ("random: {random: true}", "random: {}", "exactly one of"),
        ("random: {random: true}", "'../x': {random: true}", "is not a valid name"),
        ("name: toy", "name: !!python/object/apply:os.system ['touch owned']", "cannot be read"),
        ("name: toy", "name: toy\nname: again", "duplicate key name"),
        ("name: toy", "? [name]\n: toy", "a key must be a plain word"),
        ("name: toy", "name: &a toy\nengine: *a", "aliases"),
        ("demo/draw.py", "/bin/sh", "must begin with one of demo/draw.py, transfer/splits.py"),
        ("demo/draw.py", "../outside.py", "must begin with one of demo/draw.py"),
        ('"{output}/data", --seed', '"{outptu}/data", --seed', "unknown placeholder {outptu}"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nsupervised: nobody", "not one of the inits"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nlr: {search: []}", "positive rates"),
        ("name: toy", "name: [", "cannot be read"),
        ("[toy.yaml]", "[{config: toy.yaml, schedule_factor: .inf}]", "schedule_factor > 0 and finite"),
        ("[toy.yaml]", "[{config: toy.yaml, schedule_factor: .nan}]", "schedule_factor > 0 and finite"),
        ("[toy.yaml]", "[{config: toy.yaml, data_fraction: .nan}]", "data_fraction must be in"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nlr: .inf", "lr must be above 0 and a number that float32 can hold"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nlr: {search: [0.1, .nan]}", "each rate must be above 0"),
        ("seeds: [0, 1]", "seeds: [0, 1]\noverrides: {1: 2}", "overrides has 1, expected a config key"),
        ("seeds: [0, 1]", "seeds: [0, 1]\noverrides: {SEED: 2}", "overrides has SEED, which the plan sets"),
        ("seeds: [0, 1]", "seeds: [0, 1]\noverrides: {MODEL.WEIGHTS: x.pkl}", "overrides has MODEL.WEIGHTS"),
        ("[toy.yaml]", "[{config: toy.yaml, name: toy-own_lr}]", "toy-own_lr ends in -own_lr"),  # of other runs
        ("seeds: [0, 1]", "seeds: [0, 1]\nlr: {search: [0.1, 0.1]}", "rates that differ in their first six digits"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nlr: {search: [0.1, 0.1000001]}", "rates that differ in their first six"),
        ("seeds: [0, 1]", "seeds: [0, 99999999999999999999]", "below 2.31"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseed: 99999999999999999999", "seed must be 0 or more and below 2.31"),
        ("demo/draw.py,", 'demo/draw.py, "a\\0b",', "NUL character"),
        ("name: toy", 'name: toy\nlimits: "a\\0b"', "NUL character"),
        ("random: {random: true}", "random: {random: true, family: moco}", "inits.random: family would change nothing"),
        ("random: {random: true}", "s: {supervised: true, encoder: base}", "inits.s: encoder would change nothing"),
        ("random: {random: true}", "b: {weights: b.pkl, family: moco}", "b.pkl is a backbone, which is not converted"),
        ("random: {random: true}", "p: {published: {init: MoCo}, lr: 0.1}", "inits.p: lr would change nothing"),
    ],
)
def test_mistakes_are_one_line(plan_file: Path, old: str, new: str, message: str) -> None:
    text = plan_file.read_text()
    assert old in text
    plan_file.write_text(text.replace(old, new))
    (plan_file.parent.parent / "outside.py").write_text("")
    with pytest.raises(UserError, match=message):
        load_plan(plan_file)
    assert not (plan_file.parent / "owned").exists()


def test_entry_reports_a_missing_config_in_one_line(repo: Path, run_cli, tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    plan.write_text("inits: {a: {random: true}}\nconfigs: [nowhere.yaml]\nseeds: [0]\n")
    done = run_cli(["transfer/measure_gap.py", str(plan)], cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "nowhere.yaml" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"]


GAP_PLANS = [p for p in sorted((Path(__file__).parents[3] / "plans").glob("*.yaml")) if "\ninits:" in p.read_text()]


@pytest.mark.parametrize("plan", GAP_PLANS, ids=lambda p: p.name)
def test_shipped_plans_are_valid(plan: Path, monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.chdir(repo)
    stages = plan_stages(load_plan(plan))
    assert any(stage.kind == "train" for stage in stages)


def test_a_whole_detector_is_started_from_as_it_is(plan_file: Path, tmp_path: Path) -> None:
    """Unless its conversion is asked for, which takes the backbone alone; a file that cannot be read is converted."""
    write_detector(tmp_path / "first", write_coco(tmp_path / "data"))
    Path("broken.pth").write_text("no checkpoint")
    for weights, convert, converted in (
        (tmp_path / "first" / "model_final.pth", "", False),
        (tmp_path / "first" / "model_final.pth", ", family: detectron2-detector", True),
        ("broken.pth", "", True),
    ):
        text = plan_file.read_text().replace("random: {random: true}", f"coco: {{weights: {weights}{convert}}}")
        (plan_file.parent / "detector.yaml").write_text(text)
        names = [stage.name for stage in plan_stages(load_plan(plan_file.parent / "detector.yaml"))]
        assert ("convert/coco" in names) == converted, names
