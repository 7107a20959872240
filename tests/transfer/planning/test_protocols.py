"""``protocol`` of a plan: which keys a run gets, the names of its tables, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.measure_gap import parse
from transfer.planning.measure import plan_report
from transfer.planning.plan import load_plan
from transfer.planning.runner import Runner
from transfer.planning.stages import plan_stages


def frozen_tables(plan_file: Path, *settings: str) -> dict[str, bool]:
    """Table -> whether its runs freeze the backbone."""
    trainings = [s for s in plan_stages(load_plan(plan_file, settings=settings)) if s.kind == "train"]
    pairs = {s.cell.table: list(zip(s.argv, s.argv[1:])) for s in trainings if s.cell}
    return {table: ("MODEL.BACKBONE.FREEZE_AT", "5") in words for table, words in pairs.items()}


def test_a_plan_has_one_protocol_or_both(plan_file: Path) -> None:
    assert frozen_tables(plan_file) == {"toy": False}
    assert frozen_tables(plan_file, "protocol=tuned") == {"toy": False}
    assert frozen_tables(plan_file, "protocol=frozen") == {"toy-frozen": True}
    assert frozen_tables(plan_file, "protocol=[frozen, tuned]") == {"toy-frozen": True, "toy": False}


def test_a_config_has_a_protocol_of_its_own(plan_file: Path) -> None:
    both = "configs=[toy.yaml, {config: toy.yaml, name: fixed, protocol: frozen, data_fraction: 0.5}]"
    assert frozen_tables(plan_file, both) == {"toy": False, "fixed": True}
    each = "configs=[{config: toy.yaml, name: one, protocol: [tuned, frozen]}]"
    assert frozen_tables(plan_file, each, "protocol=tuned") == {"one": False, "one-frozen": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["protocol=half"], "protocol must be frozen or tuned, or a list of both, not 'half'"),
        (["protocol=[]"], r"protocol must be frozen or tuned, or a list of both, not \[\]"),
        (["protocol=[frozen, frozen]"], "or a list of both"),
        (["protocol=[[frozen]]"], "or a list of both"),
        (["protocol=3"], "protocol must be str or list, not 3"),
        (["protocol=frozen", "MODEL.BACKBONE.FREEZE_AT=2"], "overrides has MODEL.BACKBONE.FREEZE_AT, which protocol"),
        (["protocol=tuned", "MODEL.BACKBONE.FREEZE_AT=5"], "protocol: tuned, but the config freezes the whole"),
        (["protocol=frozen", "MODEL.BACKBONE.NAME=build_vit"], "has a backbone that cannot be frozen"),
        (["protocol=frozen", "features=kept"], "features must be one of batch, image, cached"),
        (["features=cached"], "features needs a config with protocol: frozen"),
        (["protocol=frozen", "features=cached", "ENGINE.FEATURES=image"], "overrides has ENGINE.FEATURES, which"),
    ],
)
def test_mistakes_are_one_line(plan_file: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_plan(plan_file, settings=settings)
    assert "\n" not in str(caught.value)


def test_a_plan_keeps_the_features_of_frozen_backbones(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["protocol=[frozen, tuned]", "features=cached"])
    words = {s.cell.table: s.argv for s in plan_stages(plan) if s.kind == "train" and s.cell}
    frozen, tuned = words["toy-frozen"], words["toy"]
    assert frozen[frozen.index("ENGINE.FEATURES") + 1] == "cached"
    assert frozen[frozen.index("ENGINE.FEATURE_FOLDER") + 1] == str(plan.output / "feature_cache")
    assert not any(word.startswith("ENGINE.FEATURE") for word in tuned)
    one = "configs=[toy.yaml, {config: toy.yaml, name: fixed, protocol: frozen, features: image}]"
    stages = plan_stages(load_plan(plan_file, settings=[one]))
    of_fixed = next(s.argv for s in stages if s.cell and s.cell.table == "fixed")
    assert "image" in of_fixed
    assert "ENGINE.FEATURE_FOLDER" not in of_fixed


def test_a_table_that_the_plan_adds_may_exist_already(plan_file: Path) -> None:
    twice = "configs=[{config: toy.yaml, protocol: [tuned, frozen]}, {config: toy.yaml, name: toy-frozen}]"
    with pytest.raises(UserError, match="two configs have the name toy-frozen"):
        load_plan(plan_file, settings=[twice])


def test_both_protocols_are_run_and_reported(plan_file: Path) -> None:
    plan = load_plan(plan_file, settings=["protocol=[frozen, tuned]", "seeds=[0]"])
    stages = plan_stages(plan)
    outcomes = Runner(stages, plan.output).run(StopSignal())
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    report = plan_report(plan, stages, outcomes, "measure_gap.py", parse([str(plan_file), "--no-detections"]))
    assert [table.name for table in report.comparison.tables] == ["toy-frozen", "toy"]
    folder = plan.output / "toy-frozen" / "moco" / "seed0"
    assert "MODEL.BACKBONE.FREEZE_AT 5" in (folder / "calls.txt").read_text()
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"
