"""The shipped rows satisfy the schema, and the schema refuses what it should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import UserError
from transfer.literature.rows import load
from transfer.literature.schema import check, collection_errors, row_errors, row_key
from transfer.literature.setups import protocols, setup_of


def a_row() -> dict[str, Any]:
    return copy.deepcopy(next(row for row in load() if "Table 2b" in row["source"] and row["init"] == "MoCo v1"))


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
    linear = next(row for row in load() if row["task"] == "ImageNet linear classification")
    assert "lr" not in setup_of(linear)  # a detector's rate says nothing about a linear classifier
