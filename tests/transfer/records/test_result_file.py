"""Files that parse but are malformed (result.json, history.json, settings, expectations) are one-line errors."""

import json

import pytest

from runtime.errors import UserError
from runtime.findings import Finding
from tests.transfer.run_store import make_record, write_run
from transfer.comparison.comparison import complete
from transfer.comparison.gap import compare
from transfer.config import default_config
from transfer.config.expectations import check_expectations
from transfer.fine_tuning.initialisation import Init, apply_settings
from transfer.planning.state import stored_result
from transfer.records.fields import FORMS, result_problem
from transfer.records.result_file import History, read_result
from transfer.records.run import find_runs, findings_of

# a malformed value for every field
WRONG = {
    "status": 3,
    "config": "toy",
    "config.name": {"a": 1},
    "config.flat": [1],
    "protocol": "half",
    "init": None,
    "init.name": ["moco"],
    "seed": 1.5,
    "engine": "torchvision",
    "engine.name": 1,
    "engine.versions": [],
    "world_size": "2",
    "changes": [{"iteration": 4, "changed": {"SEED": 1}}],
    "datasets": [1],
    "datasets.train": {"name": "toy"},
    "datasets.test": ["toy"],
    "findings": [{"dataset": "toy", "kind": "a", "count": "3", "example": "", "message": ""}],
    "iterations": "100",
    "backbone_sha256": 3,
    "seconds_per_iteration": "fast",
    "metrics": {"bbox": {"AP": "high"}},
    "history": [5],
    "detections": {"0": "detections_0.npz"},
    "init.kind": 4,
    "init.sha256": True,
    "evaluator": ["coco"],
    "seconds": {"train": "long"},
    "provenance": "here",
    "provenance.argv": "train_net.py",
    "provenance.git": True,
    "provenance.git.commit": 7,
    "provenance.hardware": "a CPU",
    "provenance.hardware.gpus": "none",
    "hardware": 2,
    "hardware.gpus": {"0": "H100"},
}


def with_field(path, value):
    record = make_record()
    *parents, leaf = path.split(".")
    node = record
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    return record


def test_a_result_of_the_schema_has_no_problem():
    assert result_problem(make_record(history=[{"iteration": 5, "metrics": {"bbox": {"AP": None}}}])) is None
    machine = {"cpu": "a CPU", "gpus": []}
    record = {**make_record(), "hardware": machine}
    record["provenance"] = {"argv": [], "git": {"commit": None}, **record["provenance"], "hardware": machine}
    assert result_problem(record, FORMS) is None
    assert set(WRONG) == set(FORMS)


@pytest.mark.parametrize("path", sorted(FORMS))
def test_a_malformed_field_is_named(path, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(with_field(path, WRONG[path])))
    with pytest.raises(UserError, match=f"result.json is not a result .{path} is not "):
        read_result(tmp_path)
    (run,) = find_runs(tmp_path)
    assert (run.status, dict(run.metrics)) == ("failed", {})
    assert f"result.json is not a result ({path} is not " in str(run.error)
    assert stored_result(tmp_path / "result.json") == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics", '{"bbox": {"AP": 1' + 400 * "0" + "}}"),
        ("metrics", '{"bbox": {"AP": 1e308}}'),
        ("metrics", '{"bbox": {"AP": Infinity}}'),
        ("iterations", "1" + 5000 * "0"),  # more digits than Python converts
        ("seed", "1" + 30 * "0"),
        ("seconds_per_iteration", "NaN"),
        ("history", '[{"iteration": 1e308, "metrics": {}}]'),
        ("changes", '[{"iteration": 1, "changed": {"SEED": [0, 1, 2]}}]'),
    ],
)
def test_absurd_numbers_leave_the_run_out_and_the_others_in(path, value, tmp_path):
    write_run(tmp_path, make_record(init="good", seed=0))
    folder = write_run(tmp_path, make_record(init="bad", seed=3))
    text = json.dumps(with_field(path, "HERE")).replace('"HERE"', value)
    (folder / "result.json").write_text(text)
    bad, good = find_runs(tmp_path)
    assert (bad.table, bad.init, bad.seed, bad.status) == ("toy", "bad", 3, "failed")
    assert str(bad.error).startswith(f"{folder / 'result.json'} is not a result (")
    (table,) = compare([bad, good], {"random": "good"})
    assert [(row.init, row.metric) for row in table.rows if row.metric == "AP"] == [("good", "AP")]
    assert [failure.run for failure in complete([table], detections=False).configs[0].failures] == ["bad, seed 3"]


@pytest.mark.parametrize("text", ["7", "[1]", '{"a": 1}', "[" * 100_000, '{"schema": 1, "status": null}'])
def test_other_json_is_refused(text, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json is not a result"):
        read_result(tmp_path)


def test_findings_are_read_back_and_runs_without_them_have_none(tmp_path):
    finding = Finding("image listed twice", 2, "a.jpg", "list it once")
    old = make_record(seed=1)
    del old["findings"]
    for record in (make_record(findings=[{"dataset": "toy_val", **finding.as_record()}]), old):
        write_run(tmp_path, record)
    assert [findings_of(run) for run in find_runs(tmp_path)] == [[("toy_val", finding)], []]


def test_fields_that_are_needed_must_be_there(tmp_path):
    record = make_record()
    del record["datasets"]["test"]
    (tmp_path / "result.json").write_text(json.dumps(record))
    assert read_result(tmp_path) == record
    with pytest.raises(UserError, match=r"it has no datasets\.test"):
        read_result(tmp_path, ("datasets.train", "datasets.test"))


@pytest.mark.parametrize("history", [[1], {"a": 1}, [{"iteration": "1"}], [{"iteration": 1, "metrics": [2]}], None])
def test_a_history_of_another_form_is_refused_on_resume(history, tmp_path):
    (tmp_path / "history.json").write_text(json.dumps({"train_seconds": 1.0, "history": history}))
    with pytest.raises(UserError, match=r"history\.json is damaged"):
        History.load(tmp_path, resume=True)
    assert History.load(tmp_path, resume=False).entries == []


@pytest.mark.parametrize("entry", [5, "bbox", ["bbox", "AP", "x", 1], ["bbox", "AP", 1.0], [1, "AP", 1.0, 1.0]])
def test_promises_of_another_form_are_refused(entry):
    check_expectations([["bbox", "AP", 27.0, 0.5], ("segm", "AP", 27, 0.2, 2)])
    with pytest.raises(UserError, match=r"TEST\.EXPECTED_RESULTS .*write \[task, metric, value, tolerance\]"):
        check_expectations([entry])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], "config is not a mapping"),
        ({"FOO.BAR": 1}, "FOO.BAR is not a key"),
        ({"INPUT": 1}, "INPUT is not a key"),
        ({"MODEL.PIXEL_MEAN": "x"}, "MODEL.PIXEL_MEAN cannot be 'x'"),
        ({"MODEL.PIXEL_MEAN": [1.0, "x", 2.0]}, "MODEL.PIXEL_MEAN cannot be"),
        ({"MODEL.RESNETS.STRIDE_IN_1X1": 0}, "MODEL.RESNETS.STRIDE_IN_1X1 cannot be 0"),
        ({"INPUT.FORMAT": None}, "INPUT.FORMAT cannot be None"),
    ],
)
def test_settings_of_another_form_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        apply_settings(default_config(), Init("x", settings=settings), {})


def test_only_the_renamed_run_itself_is_left_out(tmp_path):
    write_run(tmp_path, make_record(init="moco.old1"))
    kept = write_run(tmp_path, make_record(init="moco"))
    kept.with_name("seed0.old1").mkdir()
    (kept.with_name("seed0.old1") / "result.json").write_bytes((kept / "result.json").read_bytes())
    assert [(run.init, run.folder.name) for run in find_runs(tmp_path)] == [("moco", "seed0"), ("moco.old1", "seed0")]
