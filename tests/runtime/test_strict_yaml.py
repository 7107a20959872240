"""YAML from strangers: plain data of bounded size, and every refusal one line within moments."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from runtime.errors import UserError
from runtime.strict_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
REFUSED = {
    "aliases of aliases": (LAUGHS, "flat list only"),
    "an alias of a mapping": ("a: &a {b: 1}\nc: *a", "flat list only"),
    "a merge key": ("a: &a {b: 1}\nc:\n  <<: *a", "flat list only"),
    "a merge key without alias": ("c:\n  <<: {b: 1}", "plain word"),
    "a mapping in itself": ("a: &a {b: *a}", "flat list only"),
    "a list in itself": ("a: &a [*a]", "flat list only"),
    "a long flat list many times": (
        f"a: &a [{'1,' * 1000}]\nb: [{'*a,' * 100}]",
        f"more than {MAX_VALUES} values",
    ),
    "minus signs": ("- " * 100_000, f"more than {MAX_DEPTH} levels"),
    "brackets": ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
    "braces": ("{" * 100_000, f"more than {MAX_DEPTH} levels"),
    "braces with keys": ("{a: " * 100_000, f"more than {MAX_DEPTH} levels"),
    "question marks": ("? " * 100_000, f"more than {MAX_DEPTH} levels"),
    "many values": ("- 1\n" * 100_000, f"more than {MAX_VALUES} values"),
    "a number to base 60": ("a: " + "1:" * 100_000 + "1", "number of 200001 characters"),
    "a long number": ("a: " + "9" * 5000, "number of 5000 characters"),
    "a long fraction": ("a: 1." + "9" * 5000, "number of 5002 characters"),
    "a tag": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "a tag that does not fit": ("a: !!int ''", "not YAML"),
    "another tag that does not fit": ("a: !!timestamp x", "not YAML"),
    "a boolean that is none": ("a: !!bool x", "not YAML"),
    "an impossible date": ("a: 2024-13-45", "not YAML"),
    "a NUL": ("a: \0", "not YAML"),
    "two documents": ("a: 1\n---\nb: 1", "not YAML"),
    "a key twice": ("a: 1\na: 2", "duplicate key a"),
    "a list as key": ("? [a]\n: 1", "plain word"),
    "an undefined alias": ("a: *b", "undefined alias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_at_once(name: str) -> None:
    text, message = REFUSED[name]
    started = time.process_time()
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, "config x.yaml", aliases=True)
    assert time.process_time() - started < 2
    assert str(caught.value).startswith("config x.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_plans_have_no_aliases() -> None:
    with pytest.raises(UserError, match="aliases are not used in plans"):
        parse_yaml("a: &a 1\nb: *a", "plan")


def test_dumps_with_aliases_of_flat_lists_are_read() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    dumped = yaml.safe_dump({"A": list(weights), "B": [same := [1.0, 2.0], same], "C": same})
    assert "*id001" in dumped
    assert parse_yaml(dumped, "config", aliases=True) == {"A": list(weights), "B": [[1.0, 2.0]] * 2, "C": [1.0, 2.0]}


@pytest.mark.parametrize(
    "text", ["a: {b: [1, 2.5, x, true, null]}", "'a': \"b\\nc\"", "a: |\n  x\n  y\n", "a: 1e-3", ""]
)
def test_plain_yaml_is_what_pyyaml_reads(text: str) -> None:
    assert parse_yaml(text, "x") == yaml.safe_load(text)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")  # some editors begin a file with a mark of its encoding
    assert read_yaml(file, "config a") == {"a": 1}
    file.write_text("")
    assert read_yaml(file, "config a") == {}
    for content, message in (
        (b"\xff\xfe\0a", "not text in UTF-8"),
        (b"- 1", "expected keys and values, found a list"),
        (b"#" * (MAX_BYTES + 1), "bytes, more than"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"config a.*{message}"):
            read_yaml(file, "config a")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "none", "config a")


def test_bases_of_bases_are_counted(tmp_path: Path, repo: Path) -> None:
    """Thirty bases of thirty bases ...: 30 ** 8 files."""
    for level in range(8):
        names = ", ".join(f"{level + 1}_{i}.yaml" for i in range(30))
        for i in range(30):
            (tmp_path / f"{level}_{i}.yaml").write_text(f"_BASE_: [{names}]\n")
    for i in range(30):
        (tmp_path / f"8_{i}.yaml").write_text("SEED: 1\n")
    code = f"from transfer.config import load_config; load_config({str(tmp_path / '0_0.yaml')!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=30)
    assert "its _BASE_ chain reads more than 64 files" in done.stderr
