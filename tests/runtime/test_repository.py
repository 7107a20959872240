"""Where configs and plans are found: in a clone, and inside the package of an installed copy."""

from pathlib import Path

import pytest

from runtime.repository import REPOSITORY, data_folder, find_file


@pytest.fixture(params=["plans", "transfer/plans"])
def tree(request, tmp_path):
    """A clone or an installed copy with one plan, below another project's ``plans``."""
    folder = tmp_path / request.param
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text("name: toy\n")
    (tmp_path / "plans").mkdir(exist_ok=True)
    return tmp_path, folder


def test_this_repository():
    assert (REPOSITORY / "runtime" / "repository.py").is_file()
    assert (data_folder("configs") / "Base_FPN.yaml").is_file()
    assert (data_folder("plans") / "demo.yaml").is_file()


@pytest.mark.parametrize("name", ["toy", "toy.yaml", "plans/toy.yaml"])
def test_a_plan_is_found_by_name(tree, tmp_path_factory, monkeypatch, name):
    repository, folder = tree
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert find_file(name, "plans", repository) == folder / "toy.yaml"


def test_a_file_that_exists_comes_first(tree, tmp_path_factory, monkeypatch):
    repository, _ = tree
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Path("toy.yaml").write_text("name: mine\n")
    assert find_file("toy.yaml", "plans", repository) == Path("toy.yaml")


@pytest.mark.parametrize("name", ["gone.yaml", "own/toy.yaml", "/plans/toy.yaml", "../plans/toy.yaml"])
def test_other_paths_are_returned_as_they_are(tree, tmp_path_factory, monkeypatch, name):
    repository, _ = tree
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert find_file(name, "plans", repository) == Path(name)
