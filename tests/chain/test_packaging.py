"""The archives: built, installed into fresh environments, and used from another folder, without a network."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.chain.fresh_environment import build, copy_source, install, run

pytestmark = pytest.mark.slow

SCRIPTS = (
    "gap-cache-images",
    "gap-compare-runs",
    "gap-convert",
    "gap-convert-torchvision",
    "gap-knn",
    "gap-leakage",
    "gap-linear-probe",
    "gap-measure",
    "gap-predict",
    "gap-pretrain",
    "gap-published",
    "gap-show",
    "gap-split",
    "gap-sweep",
    "gap-train",
)
# what the snippets of the docs find in their folder and in their names
BEFORE_SNIPPETS = """
import torch
from pretrain.encoders import build_encoder
encoder = build_encoder("resnet18", outputs=128, mlp=True).state_dict()
state = {f"module.encoder_q.{name}": tensor for name, tensor in encoder.items()}
torch.save({"epoch": 199, "arch": "resnet18", "state_dict": state}, "checkpoint_0199.pth.tar")
loader = [(torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32))]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    return copy_source(repo, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def archives(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    return {kind: build(kind, source, folder) for kind in ("sdist", "wheel")}


@pytest.fixture(scope="module", params=["sdist", "wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, source: Path, archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bin folder of a new environment with this project."""
    what = ["--editable", source] if request.param == "editable" else [archives[request.param]]
    return install(tmp_path_factory.mktemp(request.param), *what)


def test_the_archives_hold_what_they_should(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        names = set(wheel.namelist())
    assert {"transfer/configs/Base_FPN.yaml", "transfer/plans/demo.yaml", "transfer/literature/numbers.json"} <= names
    assert {"transfer/literature/protocols.json", "transfer/report/atlas.js", "transfer/report/atlas.css"} <= names
    assert {f"{package}/py.typed" for package in ("runtime", "convert", "pretrain", "transfer", "demo")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "configs/", "plans/")) for name in names)
    with tarfile.open(archives["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "NOTICE", "CITATION.cff", "runtime/version.py", "tests/conftest.py", "docs/index.md"} <= names
    assert {"configs/Base_FPN.yaml", "plans/demo.yaml", "Makefile", "constraints.txt"} <= names


def test_every_console_script_answers(installed, tmp_path):
    assert sorted(path.name for path in installed.glob("gap-*")) == list(SCRIPTS)
    for name in SCRIPTS:
        assert f"usage: {name}" in run(installed / name, "--help", cwd=tmp_path)
    assert "81.5" in run(installed / "gap-published", "--table", "2", cwd=tmp_path)


@pytest.mark.parametrize("plan", ["demo", "demo.yaml", "plans/demo.yaml"])
def test_plans_and_configs_are_found_from_anywhere(installed, tmp_path, plan):
    assert "--config-file demo_R18_C4.yaml" in run(installed / "gap-measure", plan, "--dry-run", cwd=tmp_path)
    code = "from transfer.config import load_config; print(load_config('coco_R50_FPN').SOLVER.MAX_ITER)"
    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == "90000"


def test_a_user_error_of_a_console_script_is_one_line(installed, tmp_path):
    command = [str(installed / "gap-measure"), "no_such_plan.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_stages_find_their_scripts(installed, tmp_path):
    settings = ["--per-class", "1", "--train-scenes", "1", "--val-scenes", "1"]
    code = "from runtime.repository import REPOSITORY; print(REPOSITORY / 'demo' / 'draw.py')"
    script = run(installed / "python", "-c", code, cwd=tmp_path).strip()
    assert "drew data" in run(installed / "python", script, "data", *settings, cwd=tmp_path)


def test_the_snippets_of_the_docs_run(installed, tmp_path, repo):
    pages = [repo / "README.md", *sorted((repo / "docs").rglob("*.md"))]
    snippets = [s for page in pages for s in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)]
    assert snippets
    run(installed / "python", "-c", "\n".join([BEFORE_SNIPPETS, *snippets]), cwd=tmp_path)
