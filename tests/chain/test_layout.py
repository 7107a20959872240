"""What a reader of the source can count on: short files and functions, telling names, no import of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

SOURCE = ("runtime", "convert", "pretrain", "transfer", "demo", "studies", "benchmarks")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
MOST_FILES = 14  # in one folder of commands
EMPTY_NAMES = {"utils", "util", "common", "shared", "helpers", "helper", "misc", "manager", "managers"}


def python_files(repo: Path, folders: tuple[str, ...]) -> list[Path]:
    return [path for folder in folders for path in sorted((repo / folder).rglob("*.py"))]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_no_file_is_long(repo):
    lengths = {str(f.relative_to(repo)): len(f.read_text().splitlines()) for f in python_files(repo, SOURCE)}
    assert len(lengths) > 150
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_is_long(repo):
    found = {}
    for path in python_files(repo, SOURCE):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    found[f"{path.relative_to(repo)}: {node.name}"] = lines
    assert found == {}


def test_names_tell_what_is_inside(repo):
    paths = python_files(repo, (*SOURCE, "tests"))
    parts = {part for path in paths for part in path.relative_to(repo).with_suffix("").parts}
    assert parts & EMPTY_NAMES == set()


@pytest.mark.parametrize("package", ["transfer", "pretrain"])
def test_a_folder_of_commands_stays_small(repo, package):
    assert len(list((repo / package).glob("*.py"))) <= MOST_FILES


def test_the_source_imports_neither_tests_nor_benchmarks(repo):
    packages = python_files(repo, SOURCE[:-1])
    wrong = {
        f"{path.relative_to(repo)} -> {name}"
        for path in packages
        for name in imported_names(path)
        if name.split(".")[0] in ("tests", "benchmarks", "conftest", "pytest", "hypothesis")
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_tests_import_neither_benchmarks_nor_other_test_modules(repo):
    wrong = {
        f"{path.relative_to(repo)} -> {name}"
        for path in python_files(repo, ("tests",))
        for name in imported_names(path)
        if name.split(".")[0] == "benchmarks" or any(part.startswith("test_") for part in name.split("."))
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_the_licence_is_named_everywhere(repo):
    assert "Apache License" in (repo / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (repo / "pyproject.toml").read_text()
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0"
    assert citation["title"] == "transfer-gap"
    values = [identifier["value"] for work in citation["references"] for identifier in work.get("identifiers", ())]
    assert values == ["arXiv:1911.05722", "arXiv:2003.04297"]
