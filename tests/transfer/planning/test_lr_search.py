"""Learning rates are chosen on a held-out part of train; data fractions are nested; both reach the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.data.catalog import get_dataset
from transfer.data.splitting import parts_of
from transfer.measure_gap import parse as arguments
from transfer.planning.lr_search import chosen_rate, search_record
from transfer.planning.measure import plan_report
from transfer.planning.plan import Config, load_plan
from transfer.planning.runner import Runner
from transfer.planning.stages import plan_stages, schedule_opts
from transfer.report.files import write_report
from transfer.splits import split_json


def test_parts_are_disjoint_and_nested() -> None:
    ids = list(range(100, 200))
    parts = parts_of(ids, 0.8, 0.2)
    assert (len(parts["fit"]), len(parts["held_out"])) == (80, 20)
    assert not set(parts["fit"]) & set(parts["held_out"])
    assert set(parts_of(ids, 0.1, 0.0)["fit"]) < set(parts_of(ids, 0.5, 0.0)["fit"]) < set(parts["fit"])
    assert parts_of(ids, 0.1, 0.0)["held_out"] == []
    inside = parts_of(ids, 0.08, 0.02, within=0.1)
    assert (len(inside["fit"]), len(inside["held_out"])) == (8, 2)
    assert sorted(inside["fit"] + inside["held_out"]) == sorted(parts_of(ids, 0.1, 0.0)["fit"])
    with pytest.raises(UserError, match="set s: a share of 0.002 of its 100 images is less than one image"):
        parts_of(ids, 0.008, 0.002, within=0.01, where="set s")
    with pytest.raises(UserError, match="a share of 1e-300 of its 100 images is less than one image"):
        parts_of(ids, 1e-300, 0.0)
    with pytest.raises(UserError, match="too few"):
        parts_of([1, 2], 0.8, 0.3)


def test_rates_are_a_search_of_every_initialisation(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["rates=[0.01, 0.02, 0.04, 0.08]"])
    assert {init.lr.search for init in plan.inits if init.lr} == {(0.01, 0.02, 0.04, 0.08)}
    assert {stage.cell.is_search for stage in plan_stages(plan) if stage.cell} == {True, False}
    with pytest.raises(UserError, match="lr and rates both say how fast to train"):
        load_plan(plan_file, settings=["rates=[0.01]", "lr=0.02"])
    with pytest.raises(UserError, match="rates: search must be a list of positive rates"):
        load_plan(plan_file, settings=["rates=[]"])


@pytest.mark.parametrize("rate", ["1.0e-300", "1.0e-40", "0", "0.0", "-0.1", ".inf", ".nan", "1.0e+39"])
def test_a_rate_that_nothing_could_be_trained_with_is_refused(plan_file: Path, rate: str) -> None:
    for key in ("rates=[0.01, {}]", "lr={{search: [{}]}}", "lr={}", "inits.moco.lr={}"):
        with pytest.raises(UserError, match=r"(rates|lr).*a number that float32 can hold"):
            load_plan(plan_file, settings=[key.format(rate)])


def test_the_spread_over_rates_is_said(tmp_path: Path) -> None:
    write_grid(tmp_path, {0.01: 4.0, 0.02: 6.5, 0.04: None})
    search = search_record(tmp_path, (0.01, 0.02, 0.04))
    assert search.spread == 2.5
    assert "chosen 0.02; spread over the rates 2.50" in str(search)
    assert search_record(tmp_path, (0.01, 0.04)).spread is None


def test_split_files_are_data_sets(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [{"id": i, "width": 9, "height": 9, "file_name": f"{i}.jpg"} for i in range(10)]
    for image in images:
        (tmp_path / image["file_name"]).write_bytes(b"")
    box = {"category_id": 4, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    truth = {
        "images": images,
        "annotations": [{**box, "id": i + 1, "image_id": i} for i in range(10)],
        "categories": [{"id": 4, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    spec = get_dataset(f"coco:{tmp_path / 'truth.json'}:{tmp_path}")
    names = split_json(spec, parts_of(list(range(10)), 0.7, 0.3), tmp_path / "out")
    found = {part: [r["image_id"] for r in get_dataset(name).records()] for part, name in names.items()}
    assert sorted(found["fit"] + found["held_out"]) == list(range(10))
    assert len(found["held_out"]) == 3
    assert spec.class_names == get_dataset(names["held_out"]).class_names
    shares = get_dataset(f"{spec.name}@70%").records()
    assert {r["image_id"] for r in shares} == set(found["fit"])  # the same images as the catalog's share


@pytest.mark.shared
def test_voc_split_is_a_data_set(shared_data, run_cli, tmp_path: Path) -> None:
    devkit = shared_data("voc2007_s256") / "voc2007_s256" / "VOCdevkit"
    name = f"voc:{devkit}:2007:trainval"
    args = ["--fit", "0.02", "--held-out", "0.01", "--output", str(tmp_path / "s"), "DATASETS.TRAIN", f"('{name}',)"]
    run_cli(["transfer/splits.py", "--config-file", "small_R18_FPN_voc.yaml", *args], check=0)
    names = json.loads((tmp_path / "s" / "names.json").read_text())
    fit, held_out = (get_dataset(names[part][0]) for part in ("fit", "held_out"))
    assert (len(fit.records()), len(held_out.records())) == (50, 25)
    assert fit.class_names == get_dataset(name).class_names


def write_grid(folder: Path, scores: dict[float, float | None]) -> None:
    for rate, score in scores.items():
        run = folder / f"lr{rate:g}"
        run.mkdir(parents=True)
        status = "failed" if score is None else "finished"
        (run / "result.json").write_text(
            json.dumps({"schema": 1, "status": status, "metrics": {"bbox": {"AP": score}}})
        )


def test_best_held_out_rate_is_chosen(tmp_path: Path) -> None:
    write_grid(tmp_path, {0.01: 20.0, 0.02: 24.0, 0.04: 24.0, 0.08: None})
    rates = (0.01, 0.02, 0.04, 0.08)
    assert chosen_rate(tmp_path, rates) == 0.02  # the smaller of two equal ones
    record = search_record(tmp_path, rates)
    assert (record.chosen, record.at_edge) == (0.02, False)
    assert str(record).endswith("0.04 -> 24.00, 0.08 -> failed; chosen 0.02; spread over the rates 4.00")
    write_grid(tmp_path / "one", {0.01: 20.0, 0.02: 24.0})
    assert search_record(tmp_path / "one", (0.01, 0.02)).at_edge
    with pytest.raises(UserError, match="has finished"):
        chosen_rate(tmp_path / "empty", rates)


def test_search_runs_before_the_seeds_and_both_tables_are_reported(plan_file: Path, fake_repo: Path) -> None:
    plan_file.write_text(plan_file.read_text() + "lr: {search: [0.01, 0.02, 0.04], held_out: 0.25}\n")
    plan = load_plan(plan_file)
    stages = plan_stages(plan)
    outcomes = Runner(stages, plan.output).run(StopSignal())
    assert {o.status for o in outcomes.values()} == {"finished"}
    searched = (plan.output / "lr_search/toy/moco/lr0.04/calls.txt").read_text()
    assert "DATASETS.TRAIN ('coco:fit.json:images',)" in searched
    assert "DATASETS.TEST ('coco:held.json:images',)" in searched
    final = (plan.output / "toy-own_lr/moco/seed1/calls.txt").read_text()
    assert "SOLVER.BASE_LR 0.02" in final
    assert "DATASETS" not in final
    report = plan_report(plan, stages, outcomes, "command", arguments([str(plan_file)]))
    assert [table.name for table in report.comparison.tables] == ["toy", "toy-own_lr"]
    text = write_report(plan.output, report)["gap.md"].read_text()
    assert "toy/moco: held-out AP 0.01 -> 32.00, 0.02 -> 33.00, 0.04 -> 31.00; chosen 0.02" in text


def test_rate_that_diverges_is_no_choice(plan_file: Path, fake_repo: Path) -> None:
    plan_file.write_text(plan_file.read_text() + "lr: {search: [0.02, 0.04]}\n")
    plan = load_plan(plan_file, settings=["seeds=[0]"])
    diverges = plan.output / "lr_search/toy/random/lr0.02"
    diverges.mkdir(parents=True)
    (diverges / "fail_once").touch()
    stages = [stage for stage in plan_stages(plan) if "moco" not in stage.name and "supervised" not in stage.name]
    outcomes = Runner(stages, plan.output).run(StopSignal())
    assert outcomes["lr_search/toy/random/lr0.02"].status == "failed"
    assert outcomes["toy-own_lr/random/seed0"].status == "finished"
    assert "SOLVER.BASE_LR 0.04" in (plan.output / "toy-own_lr/random/seed0/calls.txt").read_text()


def test_one_rate_of_its_own_is_allowed_in_its_table_only(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["inits.moco.lr=0.01"])
    stages = plan_stages(plan)
    outcomes = Runner(stages, plan.output).run(StopSignal())
    report = plan_report(plan, stages, outcomes, "command", arguments([str(plan_file)]))
    own = next(table for table in report.comparison.tables if table.name == "toy-own_lr")
    assert set(own.inits) == {"moco", "random", "supervised"}  # the others take part as they are
    assert [allowed.key for allowed in own.allowed] == ["SOLVER.BASE_LR"]
    row = own.row("moco", "bbox", "AP")
    assert row is not None
    assert row.gaps["supervised"].difference.mean == pytest.approx(2.0)


def test_shrunk_steps_stay_before_the_end(plan_file: Path, fake_repo: Path) -> None:
    path = fake_repo / "configs" / "toy.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 8\n  STEPS: [6, 7]\n")
    words = schedule_opts(Config("toy", str(path)), 0.25)
    assert words == ("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)")
    assert schedule_opts(Config("toy", str(path)), 1.0) == ()


def test_fraction_and_schedule_reach_the_command(plan_file: Path, fake_repo: Path) -> None:
    text = plan_file.read_text().replace(
        "[toy.yaml]", "[{config: ./configs/toy.yaml, data_fraction: 0.1, schedule_factor: 2}]"
    )
    (fake_repo / "configs" / "toy.yaml").write_text("SOLVER:\n  MAX_ITER: 20\n  STEPS: [10, 15]\n")
    plan_file.write_text(text)
    plan = load_plan(plan_file)
    stages = plan_stages(plan)
    Runner([s for s in stages if "moco" not in s.name and "sup" not in s.name], plan.output).run(StopSignal())
    command = (plan.output / "toy-0.1-2x/random/seed0/calls.txt").read_text()
    assert "SOLVER.MAX_ITER 40 SOLVER.STEPS (20, 30)" in command
    assert "DATASETS.TRAIN ('coco:fit.json:images',)" in command


def test_a_damaged_search_result_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lr0.01").mkdir()
    (tmp_path / "lr0.01" / "result.json").write_text('{"schema": 1, "sta')
    with pytest.raises(UserError, match=r"lr0\.01/result\.json is not a result"):
        chosen_rate(tmp_path, [0.01])


def test_a_search_sees_no_label_outside_the_fraction(plan_file: Path) -> None:
    fraction = ["configs=[{config: toy.yaml, data_fraction: 0.1}]", "lr={search: [0.01, 0.02], held_out: 0.2}"]
    for settings, within in ((fraction, ("--within", "0.1")), (fraction[1:], ())):
        stages = plan_stages(load_plan(plan_file, settings=settings))
        (split,) = [stage for stage in stages if stage.kind == "split" and "+" in stage.name]
        given = [(a, b) for a, b in zip(split.argv, split.argv[1:]) if a == "--within"]
        assert given == ([within] if within else [])
