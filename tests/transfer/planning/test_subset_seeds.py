"""``subset_seeds``: every fine-tuning seed draws its own part of the images, the same for all initialisations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from tests.transfer.toy_data import write_coco
from transfer.comparison.gap import compare
from transfer.data.catalog import get_dataset
from transfer.data.splitting import parts_of
from transfer.planning.plan import load_plan
from transfer.planning.stages import plan_stages
from transfer.records.run import Run, must_agree
from transfer.records.subsets import subset_of
from transfer.report.sentences import protocol_sentences

HALF = "configs=[{config: toy.yaml, name: half, data_fraction: 0.5}, toy.yaml]"


def test_every_seed_has_a_split_and_waits_for_it(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=[HALF, "subset_seeds=true", "seeds=[0, 3]"])
    stages = {stage.name: stage for stage in plan_stages(plan)}
    splits = [name for name, stage in stages.items() if stage.kind == "split"]
    assert splits == ["splits/half/0.5-subset0", "splits/half/0.5-subset3"]
    words = stages["splits/half/0.5-subset3"].argv
    assert words[words.index("--seed") + 1] == "3"
    for init in ("random", "moco"):
        assert "splits/half/0.5-subset3" in stages[f"half/{init}/seed3"].needs
        assert "splits/half/0.5-subset0" not in stages[f"half/{init}/seed3"].needs
        assert not any("splits" in need for need in stages[f"toy/{init}/seed3"].needs)
    names = Path("runs/toy/splits/half/0.5-subset3/names.json")
    names.parent.mkdir(parents=True)
    names.write_text(json.dumps({"fit": [f"coco:{names.parent}/train0/fit.json:images"], "held_out": []}))
    command = stages["half/moco/seed3"].command()
    assert subset_of({"DATASETS.TRAIN": [command[command.index("DATASETS.TRAIN") + 1].strip("()',")]}) == 3


def test_without_it_all_seeds_share_the_subset_of_before(plan_file: Path) -> None:
    stages = plan_stages(load_plan(plan_file, settings=[HALF]))
    assert [stage.name for stage in stages if stage.kind == "split"] == ["splits/half/0.5"]


def test_subsets_of_other_seeds_are_other_images() -> None:
    ids = list(range(100))
    first, second = (set(parts_of(ids, 0.2, 0.0, seed=seed)["fit"]) for seed in (0, 1))
    assert len(first) == len(second) == 20
    assert first != second
    assert first == set(parts_of(ids, 0.2, 0.0)["fit"])


def test_the_split_takes_a_seed(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    data = write_coco(tmp_path / "data")
    found = []
    for seed in (0, 5):
        args = ["--fit", "0.5", "--seed", str(seed), "--output", str(tmp_path / f"s{seed}")]
        args += ["DATASETS.TRAIN", f"('{data}',)"]
        run_cli(
            ["transfer/splits.py", "--config-file", "coco_R50_FPN.yaml", *args, "DATASETS.TRAIN", f"('{data}',)"],
            check=0,
        )
        (name,) = json.loads((tmp_path / f"s{seed}" / "names.json").read_text())["fit"]
        found.append({record["image_id"] for record in get_dataset(name).records()})
    shares = {record["image_id"] for record in get_dataset(f"{data}@50%s5").records()}
    assert found[1] == shares != found[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["subset_seeds=true"], "subset_seeds needs a config with a data_fraction below 1"),
        ([HALF, "subset_seeds=true", "rates=[0.01, 0.02]"], "subset_seeds with a search of the rate"),
        ([HALF, "subset_seeds=2"], "subset_seeds must be bool"),
    ],
)
def test_mistakes_are_one_line(plan_file: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_plan(plan_file, settings=settings)


def run_of(init: str, seed: int, subset: int | None, ap: float, digest: str = "") -> Run:
    folder = "splits/half/0.1" + ("" if subset is None else f"-subset{subset}")
    flat = {"DATASETS.TRAIN": [f"coco:runs/x/{folder}/train0/fit.json:images"], "SOLVER.BASE_LR": 0.02}
    record: dict[str, Any] = {
        "config": {"name": "half", "flat": flat},
        "init": {"name": init, "kind": "weights", "sha256": init},
        "evaluator": "coco",
        "iterations": 10,
        "engine": {"name": "torchvision", "versions": {}},
        "datasets": {"train": [{"name": "x", "sha256": digest or f"digest{subset}", "images": 10}], "test": []},
    }
    metrics = {("bbox", "AP"): ap}
    agree = must_agree(record)
    return Run(Path(init, f"seed{seed}"), "half", init, seed, "finished", None, metrics, agree, record)


def test_runs_on_their_seeds_subset_are_paired() -> None:
    runs = [run_of(init, seed, seed, ap + seed) for init, ap in (("moco", 5.0), ("random", 3.0)) for seed in (0, 1, 2)]
    (table,) = compare(runs, {"random": "random"})
    row = table.row("moco", "bbox", "AP")
    assert row is not None
    assert row.gaps["random"].difference.mean == pytest.approx(2.0)
    assert row.gaps["random"].difference.seeds == (0, 1, 2)
    assert "Every fine-tuning seed drew a subset" in " ".join(protocol_sentences(table))


@pytest.mark.parametrize("case", ["another subset", "another content", "not its own", "one without"])
def test_subsets_that_are_not_the_seeds_are_not_like_for_like(case: str) -> None:
    runs = [run_of(init, seed, seed, 5.0) for init in ("moco", "random") for seed in (0, 1)]
    runs[-1] = {
        "another subset": run_of("random", 1, 2, 5.0),
        "another content": run_of("random", 1, 1, 5.0, digest="changed"),
        "not its own": run_of("random", 1, 0, 5.0),
        "one without": run_of("random", 1, None, 5.0),
    }[case]
    with pytest.raises(UserError, match="runs differ in .*datasets.train.sha256"):
        compare(runs, {"random": "random"})
