"""CSV, its Croissant description, and adding rows."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from transfer.literature.exports import add_rows, columns, croissant, csv_text, write_csv
from transfer.literature.rows import FILE, load


def a_new_row(**changes: Any) -> dict[str, Any]:
    row = copy.deepcopy(next(row for row in load() if row["paper"] == "SynCo"))
    return {**row, "init": "NewCo", "method": "NewCo", "paper": "NewCo", **changes}


def test_csv_has_every_row_and_number() -> None:
    lines = list(csv.DictReader(csv_text(load()).splitlines()))
    assert len(lines) == len(load())
    for line, row in zip(lines, load(), strict=True):
        assert (line["init"], line["source"], line["protocol"]) == (row["init"], row["source"], row["protocol"])
        for name, value in row["metrics"].items():
            assert float(line[f"metrics.{name}"]) == value
    assert lines[0]["setup.backbone_norm"] == "tuned SyncBN"  # stated by the protocol, not by the row


def test_csv_holds_no_formula() -> None:
    text = csv_text([a_new_row(init="=SUM(A1)")])
    assert next(csv.DictReader(text.splitlines()))["init"] == "'=SUM(A1)"


def test_croissant_describes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    described = json.loads(write_csv(list(load()), path).read_text())
    (file,) = described["distribution"]
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file["contentUrl"] == "published.csv"
    (records,) = described["recordSet"]
    header = path.read_text().splitlines()[0].split(",")
    assert [field["source"]["extract"]["column"] for field in records["field"]] == header == columns()
    types = {field["name"]: field["dataType"] for field in records["field"]}
    assert (types["metrics.AP"], types["year"], types["init"]) == ("sc:Float", "sc:Integer", "sc:Text")
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert croissant("a", "x.csv")["distribution"][0]["sha256"] != file["sha256"]


def copy_of_the_collection(folder: Path) -> Path:
    target = folder / "numbers.json"
    target.write_bytes(FILE.read_bytes())
    return target


def test_added_rows_come_last_and_leave_the_others_as_they_were(tmp_path: Path) -> None:
    target, source = copy_of_the_collection(tmp_path), tmp_path / "new.json"
    source.write_text(json.dumps(a_new_row()))
    assert add_rows(source, target) == 1
    assert target.read_text().startswith(FILE.read_text()[:-3])  # up to the closing bracket: a readable diff
    assert json.loads(target.read_text())[-1] == a_new_row()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([a_new_row(metrics={"AP": 101})], "row 0: metric 'AP'"),
        ([a_new_row(), a_new_row(metrics={"AP": 50.0})], "has the keys of row"),
        ([a_new_row(init="SynCo", method="SynCo", paper="SynCo")], "has the keys of row"),
        ([], "has no rows"),
        ([a_new_row(printed_gaps={"AP": 1.0})], "printed gap"),
        (3, "must be a JSON list"),
    ],
)
def test_nothing_is_written_when_a_row_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    target, source = copy_of_the_collection(tmp_path), tmp_path / "new.json"
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        add_rows(source, target)
    assert target.read_bytes() == FILE.read_bytes()


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        add_rows(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(UserError, match="not valid JSON"):
        add_rows(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"metrics": {"AP": NaN}}', "NaN is not a number"),
        ('{"metrics": {"AP": 1.0, "AP": 2.0}}', "the key 'AP' is given twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"year": ' + "9" * 5000 + "}", "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_what_python_would_read_otherwise_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "new.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        add_rows(tmp_path / "new.json", copy_of_the_collection(tmp_path))
    assert len(str(error.value)) < 500


def test_a_message_counts_rows_from_the_start_of_their_file(tmp_path: Path) -> None:
    target = copy_of_the_collection(tmp_path)
    (tmp_path / "new.json").write_text(
        json.dumps([a_new_row(), a_new_row(init="SynCo", method="SynCo", paper="SynCo")])
    )
    with pytest.raises(UserError, match=r"row 1 of new.json has the keys of row \d+ of the collection"):
        add_rows(tmp_path / "new.json", target)


def test_a_file_too_large_for_rows_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(UserError, match="larger than 64 MiB"):
        add_rows(tmp_path / "large.json", copy_of_the_collection(tmp_path))


def test_commands(run_cli, tmp_path: Path) -> None:
    done = run_cli(["transfer/published.py", "--paper", "ViTDet, Li", "--csv", str(tmp_path / "a.csv")], check=0)
    assert "wrote 26 rows" in done.stdout
    assert (tmp_path / "a.croissant.json").exists()
    (tmp_path / "bad.json").write_text("[{}]")
    assert "needs 'task'" in run_cli(["transfer/published.py", "--add", str(tmp_path / "bad.json")], check=2).stderr
