"""The shipped rows satisfy the schema, and the schema refuses what it should."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import UserError
from transfer.literature import collection
from transfer.literature.collection import collection_errors, row_key
from transfer.literature.rows import load
from transfer.literature.schema import check, row_errors
from transfer.literature.setups import protocols, setup_of


def a_row() -> dict[str, Any]:
    return copy.deepcopy(next(row for row in load() if "Table 2b" in row["source"] and row["init"] == "MoCo v1"))


def of_another_paper(**changes: Any) -> dict[str, Any]:
    row = {**a_row(), "paper": "Another", **changes}
    del row["printed_gaps"]  # which are to the supervised row of its own paper
    return row


def test_every_shipped_row_is_valid() -> None:
    assert check(list(load()), "numbers.json") == list(load())
    assert collection_errors(load()) == []


def test_no_two_rows_have_equal_keys() -> None:
    assert len({row_key(row) for row in load()}) == len(load())


def test_every_protocol_is_used() -> None:
    assert set(protocols()) == {row["protocol"] for row in load()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("paper"), "needs 'paper'"),
        (lambda row: row.update(extra=1), "'extra' is not a key"),
        (lambda row: row.update(protocol="mine"), "not described in protocols.json"),
        (lambda row: row.update(year=1907), "year 1907"),
        (lambda row: row.update(source=""), "'source' must be a non-empty str"),
        (lambda row: row.update(n_trials=True), "'n_trials' must be"),
        (lambda row: row["metrics"].update(AP=559), "not a number from 0 to 100"),
        (lambda row: row["metrics"].update(mAP=55.9), "no known scale"),
        (lambda row: row.update(spread={"AP": 0}), "spread 'AP'"),
        (lambda row: row.update(spread={"APbb": 0.1}), "spread 'APbb'"),
        (lambda row: row.update(pretrain={"K": 65536}), "pretrain 'K'"),
        (lambda row: row.update(setup={"colour": "BGR"}), "setup 'colour'"),
        (lambda row: row.update(verification="memory"), "verification must be one of"),
        (lambda row: row.update(runs={"AP": [50.0, 51.0]}), "do not average"),
        (lambda row: row.update(runs={"AP": 55.9}), "is not a list of numbers"),
        (lambda row: row.update(runs={"AP": []}), "is not a list of numbers"),
        (lambda row: row.update(runs={"AP": ["55.9"]}), "not numbers of the metric's scale"),
        (lambda row: row.update(runs={"AP": [55.9, math.nan]}), "not numbers of the metric's scale"),
        (lambda row: row.update(runs={"AP": [55.9]}), "n_trials says 5"),
        (lambda row: row["metrics"].update(AP=math.nan), "not a number from 0 to 100"),
        (lambda row: row.update(spread={"AP": math.inf}), "spread 'AP'"),
        (lambda row: row.update(spread={"AP": math.nan}), "spread 'AP'"),
        (lambda row: row.update(printed_gaps={"AP": math.nan}), "printed_gaps 'AP'"),
        (lambda row: row.update(n_trials=0), "'n_trials' is 0, not from 1 to"),
        (lambda row: row.update(pretrain_epochs=-200), "'pretrain_epochs' is -200, not from 1 to"),
        (lambda row: row.update(pretrain={"negatives": True}), "pretrain 'negatives' is True"),
        (lambda row: row.update(pretrain={"momentum": 7}), "not a number from 0 to 1"),
        (lambda row: row.update(pretrain={"temperature": math.nan}), "pretrain 'temperature' is nan"),
        (lambda row: row.update(setup={"lr": [0.1]}), "setup 'lr' is [0.1]"),
        (lambda row: row.update(setup={"batch": "16"}), "setup 'batch' is '16', not a whole number"),
        (lambda row: row.update(setup={"precise_bn": "no"}), "must be true or false"),
        (lambda row: row.update(setup={"input": None}), "setup 'input' must be a text"),
        (lambda row: row.update(init="MoCo\x1b[31m"), "cannot be printed: 'MoCo\\x1b[31m'"),
        (lambda row: row.update(notes="one\ntwo"), "has a line break"),
        (lambda row: row.update(notes="\u202etxet"), "cannot be printed"),
        (lambda row: row.update(init="MoCo v1 "), "has spaces at an end"),
        (lambda row: row.update(notes="x" * 501), "has 501 characters"),
        (lambda row: row.update(setup={"recipe": "x\ty"}), "'setup recipe' has a line break"),
        (lambda row: row.update(task="poetry"), "task must be one of"),
        (lambda row: row.update(dataset="My data"), "dataset must begin with one of"),
        (lambda row: row.update(detector="My detector"), "begins with no name in setups.ARCHITECTURES"),
        (lambda row: row.update(metrics={"AP": 0.559}), "metrics are per cent"),
        (lambda row: row.update(metrics={"AP": 55.9, "AP50": 50.0}), "'AP' is 55.9, more than AP50"),
        (lambda row: row.update(metrics={"AP50": 50.0, "AP75": 62.6}), "'AP75' is 62.6, more than AP50"),
        (lambda row: row.update(metrics={"APbb": 55.9}), "VOC's are AP, AP50, AP75"),
        (lambda row: row.update(dataset="COCO 2017 (train2017 -> val2017)"), "those of other data APbb"),
        (lambda row: row.update(metrics={"APmk": 55.9}), "has no masks"),
    ],
)
def test_a_wrong_row_is_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    row = a_row()
    assert row_errors(row) == []
    change(row)
    assert any(message in error for error in row_errors(row)), row_errors(row)


def test_equal_keys_are_refused_even_when_the_numbers_differ() -> None:
    other = a_row()
    other["metrics"]["AP"] = 1.0
    (error,) = [e for e in collection_errors([*load(), other]) if "has the keys of row" in e]
    assert "MoCo v1" in error


def test_a_name_has_one_spelling() -> None:
    """Otherwise a twin that is written with another case or hyphen would be a row, and a group, of its own."""
    for change in ({"init": "moco V1"}, {"detector": "Faster R-CNN R50 C4"}, {"setup": {"backbone_norm": "frozenbn"}}):
        other = of_another_paper(**change)
        (error,) = collection_errors([*load(), other])
        assert "is spelled" in error, error
    assert collection_errors([*load(), of_another_paper()]) == []


def test_rows_that_only_their_place_tells_apart_have_equal_values() -> None:
    rows = [*load(), of_another_paper()]
    quoted = of_another_paper(source="MoCo v1, Table 99")
    assert collection_errors([*rows, quoted]) == []
    quoted["metrics"]["AP"] -= 1.0
    (error,) = collection_errors([*rows, quoted])
    assert "AP differs from row" in error


def test_a_large_collection_is_checked_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of every table are looked up, not searched: the check of a row must not read all others."""
    calls = 0
    key = collection.group_key

    def counted(row: dict[str, Any]) -> tuple[str, str, str, str]:
        nonlocal calls
        calls += 1
        return key(row)

    monkeypatch.setattr(collection, "group_key", counted)
    rows = [of_another_paper(paper=f"Paper {number}") for number in range(1000)]
    assert collection_errors(rows) == []
    assert calls <= 2 * len(rows)


def test_a_printed_gap_must_be_to_a_row_of_its_paper() -> None:
    rows = copy.deepcopy(list(load()))
    row = next(row for row in rows if row.get("printed_gaps"))
    name = next(iter(row["printed_gaps"]))
    row["printed_gaps"][name] += 0.2
    assert any("is to no supervised row of" in error for error in collection_errors(rows))


def test_a_wrong_file_is_one_line() -> None:
    with pytest.raises(UserError, match="must be a JSON list"):
        check({}, "x.json")
    with pytest.raises(UserError, match="x.json: row 0: needs 'task'"):
        check([{}], "x.json")


def test_setup_is_the_protocol_with_the_rows_own_fields() -> None:
    setup = setup_of(a_row())
    assert (setup["head"], setup["backbone_norm"], setup["input"]) == (
        "res5 with an extra norm",
        "tuned SyncBN",
        "RGB, ImageNet mean and std",
    )
    assert setup["image_size"] == "short side 480-800, max 1333"
    changed = setup_of({**a_row(), "weights": "MSRA", "setup": {"backbone_norm": "FrozenBN"}})
    assert (changed["input"], changed["backbone_norm"]) == ("BGR, std 1", "FrozenBN")
    for row in load():  # Detectron2's RetinaNet has half the rate of the R-CNNs; not every source states it
        if row["detector"].startswith("RetinaNet"):
            assert setup_of(row).get("lr", 0.01) == 0.01, row["source"]
            assert "head" not in setup_of(row)
    linear = next(row for row in load() if row["task"] == "ImageNet linear classification")
    assert "lr" not in setup_of(linear)  # a detector's rate says nothing about a linear classifier
