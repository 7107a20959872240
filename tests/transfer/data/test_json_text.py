"""Parsing of JSON: the same values and errors with orjson and without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from transfer.data import json_text
from transfer.data.coco import load_json
from transfer.data.json_text import parse_json

TEXTS = {
    "numbers": "[0, -0, -0.0, 1.5, 1e5, 1E-7, 0.1, 1e-400, 2.2250738585072011e-308, 123456789.12345678901234567890]",
    "largest of 64 bits": "[9223372036854775807, 18446744073709551615, -9223372036854775808]",
    "beyond 64 bits": "[18446744073709551616, -9223372036854775809]",
    "huge": '{"id": 123456789012345678901234567890}',
    "too many digits": "4" * 5000,
    "digits in text": '["12345678901234567890123", "0.1"]',
    "no finite number": "[NaN, Infinity, -Infinity, 1e999]",
    "keys twice": '{"a": 1, "b": 2, "a": {"c": 1, "c": 2}}',
    "text": '["\\ud83d\\ude00 \\u00fc ü \\/ \\n", "\x7f"]',
    "lone surrogate": '["\\ud800"]',
    "newline in text": '["a\nb"]',
    "lines of Windows": '{"a": 1,\r\n "b": [1,\r\n 2,]}',
    "comma too many": '{"a": 1,}',
    "no colon": '{"a": 1,\n "b" 2}',
    "leading zero": "[01]",
    "two values": "[1] [2]",
    "cut": '{"images": [{"id": 1}, ',
    "quotes": "{'a': 1}",
    "nothing": "",
    "deep": "[" * 100_000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "byte order mark": '\ufeff{"a": 1}',
    "two byte order marks": '\ufeff\ufeff{"a": 1}',
}


@pytest.fixture(params=["orjson", "standard library"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "standard library":
        monkeypatch.setattr(json_text, "orjson", None)
    elif json_text.orjson is None:
        pytest.skip("orjson is not installed")


def outcome(parse: Callable[[], Any]) -> str:
    """repr tells 0 from 0.0 and -0.0, and orders keys; NaN equals itself."""
    try:
        return repr(parse())
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("name", TEXTS)
def test_values_and_errors_are_those_of_the_standard_library(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TEXTS[name].encode())
    expected = outcome(lambda: json.loads(path.read_text(encoding="utf-8-sig")))
    assert outcome(lambda: parse_json(path.read_bytes())) == expected


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("data", [b'["\xff"]', b'["\xed\xa0\x80"]', b"\xff\xfe[\x001\x00]\x00"])
def test_text_that_is_not_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        parse_json(data)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"images": [],\n "annotations": nul}',
            r"not readable JSON \(Expecting value: line 2 column 17 \(char 31\)\)",
        ),
        ('{"images": [{"id": 1}], "categories": [], "images": [{"id": 2}]}', 'has "images" twice'),
        ('{"images": [{"id": 1}]}', 'no list "categories"'),
    ],
)
def test_an_annotation_file_is_refused_in_the_same_words(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_json(tmp_path / "a.json", "x")


@pytest.mark.parametrize("before", [b"", b" ", b"-", b"[", b"x" * 70])
@pytest.mark.parametrize("digits", [18, 19, 20, 40])
def test_long_whole_numbers_are_found_wherever_blocks_end(
    before: bytes, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (1, 2, 18, 19, 20, 64, 1 << 20):
        monkeypatch.setattr(json_text, "_BLOCK", block)
        assert json_text._has_long_integer(before + b"1" * digits) == (digits > 18)
        assert json_text._has_long_integer(before + b"1" * digits + b",") == (digits > 18)
        assert not json_text._has_long_integer(before + b"0." + b"1" * digits + b",")
    assert not json_text._has_long_integer(b"")


def test_ordinary_files_go_to_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and coordinates have up to 17 digits behind the point and their zeros."""
    if json_text.orjson is None:
        pytest.skip("orjson is not installed")
    monkeypatch.setattr(json_text, "text_of", None)
    assert parse_json(b'{"score": 0.00012345678901234567, "id": 123456789012345678}')["id"] == 123456789012345678
